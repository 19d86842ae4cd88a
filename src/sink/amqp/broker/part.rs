//! How much of the whole a replica takes.

use std::time::{Duration, Instant};

/// A shard that was free so often in a row is taken above the part: whoever should have it does not.
const NEGLECTED: u32 = 10;

/// So long it is not given back then.
const KEPT: Duration = Duration::from_secs(60);

/// What a replica has seen of the shards.
pub(super) struct Part {
    /// In how many looks running each was free.
    free: Vec<u32>,
    kept_until: Vec<Option<Instant>>,
    /// In how many looks running it had too many.
    above: u32,
}

/// What to do after a look.
#[derive(Debug, Default)]
pub(super) struct Decision {
    /// In this order, until there is no room; those that are neglected in any case.
    pub take: Vec<usize>,
    pub room: usize,
    pub neglected: Vec<usize>,
    pub give_back: Vec<usize>,
}

impl Part {
    pub(super) fn new(shards: u16) -> Self {
        Self { free: vec![0; shards.into()], kept_until: vec![None; shards.into()], above: 0 }
    }

    /// `replicas` share, as far as is known, this one has `held`, and nobody has `free`. Others look at the same: so free ones
    /// are taken in any order, and not all at once.
    pub(super) fn decide(&mut self, replicas: Option<u32>, held: &[usize], free: &[usize], now: Instant) -> Decision {
        for (shard, looks) in self.free.iter_mut().enumerate() {
            *looks = if free.contains(&shard) { *looks + 1 } else { 0 };
        }
        let neglected: Vec<usize> = free.iter().copied().filter(|shard| self.free[*shard] >= NEGLECTED).collect();
        for shard in &neglected {
            self.kept_until[*shard] = Some(now + KEPT);
        }
        let mut take = free.to_vec();
        fastrand::shuffle(&mut take);
        // What is not known is no reason to leave anything to nobody, nor to give anything back.
        let replicas = replicas.and_then(|replicas| usize::try_from(replicas).ok()).filter(|replicas| *replicas > 0);
        let wanted = replicas.map_or(self.free.len(), |replicas| self.free.len().div_ceil(replicas));
        self.above = if held.len() > wanted { self.above + 1 } else { 0 };
        let mut give_back = Vec::new();
        if self.above >= 2 {
            self.above = 0;
            let is_kept = |shard: usize| self.kept_until[shard].is_some_and(|until| until > now);
            give_back.extend(held.iter().rev().copied().filter(|shard| !is_kept(*shard)).take(held.len() - wanted));
        }
        Decision { take, room: wanted.saturating_sub(held.len()), neglected, give_back }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_takes_its_part_and_gives_back_what_it_has_above_it() {
        let (mut part, now) = (Part::new(12), Instant::now());
        let all: Vec<usize> = (0..12).collect();
        assert_eq!(part.decide(Some(1), &[], &all, now).room, 12);
        assert_eq!(part.decide(Some(5), &[], &all, now).room, 3, "a part is rounded up: none stays free");
        assert_eq!(part.decide(Some(13), &[], &all, now).room, 1);
        assert_eq!(part.decide(None, &[0], &all[1..], now).room, 11, "unknown: what is free is taken");
        assert_eq!(part.decide(Some(3), &all, &[], now).give_back, [0; 0], "not yet: somebody may just be restarting");
        assert_eq!(part.decide(Some(3), &all, &[], now).give_back, [11, 10, 9, 8, 7, 6, 5, 4]);
        assert_eq!(part.decide(Some(3), &all[..4], &[], now).give_back, [0; 0]);
        part.decide(Some(4), &all[..4], &[], now);
        part.decide(None, &all[..4], &[], now);
        assert_eq!(part.decide(Some(4), &all[..4], &[], now).give_back, [0; 0], "two looks running");
    }

    #[test]
    fn what_stays_free_is_taken_above_the_part_and_kept_for_a_minute() {
        let (mut part, now) = (Part::new(4), Instant::now());
        for _ in 1..NEGLECTED {
            let decision = part.decide(Some(2), &[0, 1], &[2, 3], now);
            assert_eq!((decision.room, decision.neglected), (0, Vec::new()));
        }
        assert_eq!(part.decide(Some(2), &[0, 1], &[3], now).neglected, [3], "the other was taken meanwhile");
        let mut given_back = |after: u64| {
            let now = now + Duration::from_secs(after);
            part.decide(Some(2), &[0, 1, 3], &[], now);
            part.decide(Some(2), &[0, 1, 3], &[], now).give_back
        };
        assert_eq!(given_back(59), [1]);
        assert_eq!(given_back(61), [3]);
    }
}
