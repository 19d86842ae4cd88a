//! How many shards a replica acquires.

use std::time::{Duration, Instant};

/// A shard that was free in this many scans in a row is acquired beyond the fair share: whoever should have it does not.
const NEGLECTED_SCANS: u32 = 10;

/// How long such a shard is kept before it may be released.
const MIN_HOLD: Duration = Duration::from_secs(60);

/// Decides which shards to acquire and to release.
pub(super) struct FairShare {
    /// For each shard, in how many scans in a row it was free.
    free: Vec<u32>,
    kept_until: Vec<Option<Instant>>,
    /// In how many scans in a row this replica held too many.
    above: u32,
}

/// What to do after a scan.
#[derive(Debug, Default)]
pub(super) struct Decision {
    /// Free shards in the order in which to try them, up to `room` of them, and all that are `neglected`.
    pub acquire: Vec<usize>,
    pub room: usize,
    pub neglected: Vec<usize>,
    pub release: Vec<usize>,
}

impl FairShare {
    pub(super) fn new(shards: u16) -> Self {
        Self { free: vec![0; shards.into()], kept_until: vec![None; shards.into()], above: 0 }
    }

    /// Decides for `replicas`, if known, with `held` shards here and `free` ones. Other replicas see the same, so free shards
    /// are tried in random order.
    pub(super) fn decide(&mut self, replicas: Option<u32>, held: &[usize], free: &[usize], now: Instant) -> Decision {
        for (shard, looks) in self.free.iter_mut().enumerate() {
            *looks = if free.contains(&shard) { *looks + 1 } else { 0 };
        }
        let neglected: Vec<usize> = free.iter().copied().filter(|shard| self.free[*shard] >= NEGLECTED_SCANS).collect();
        for shard in &neglected {
            self.kept_until[*shard] = Some(now + MIN_HOLD);
        }
        let mut acquire = free.to_vec();
        fastrand::shuffle(&mut acquire);
        // An unknown count is no reason to leave shards free, nor to release any.
        let replicas = replicas.and_then(|replicas| usize::try_from(replicas).ok()).filter(|replicas| *replicas > 0);
        let wanted = replicas.map_or(self.free.len(), |replicas| self.free.len().div_ceil(replicas));
        self.above = if held.len() > wanted { self.above + 1 } else { 0 };
        let mut release = Vec::new();
        if self.above >= 2 {
            self.above = 0;
            let is_kept = |shard: usize| self.kept_until[shard].is_some_and(|until| until > now);
            release.extend(held.iter().rev().copied().filter(|shard| !is_kept(*shard)).take(held.len() - wanted));
        }
        Decision { acquire, room: wanted.saturating_sub(held.len()), neglected, release }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replica_acquires_its_fair_share_and_releases_the_surplus() {
        let (mut part, now) = (FairShare::new(12), Instant::now());
        let all: Vec<usize> = (0..12).collect();
        assert_eq!(part.decide(Some(1), &[], &all, now).room, 12);
        assert_eq!(part.decide(Some(5), &[], &all, now).room, 3, "a share is rounded up: no shard stays free");
        assert_eq!(part.decide(Some(13), &[], &all, now).room, 1);
        assert_eq!(part.decide(None, &[0], &all[1..], now).room, 11, "unknown count: free shards are acquired");
        assert_eq!(part.decide(Some(3), &all, &[], now).release, [0; 0], "not yet: a replica may just be restarting");
        assert_eq!(part.decide(Some(3), &all, &[], now).release, [11, 10, 9, 8, 7, 6, 5, 4]);
        assert_eq!(part.decide(Some(3), &all[..4], &[], now).release, [0; 0]);
        part.decide(Some(4), &all[..4], &[], now);
        part.decide(None, &all[..4], &[], now);
        assert_eq!(part.decide(Some(4), &all[..4], &[], now).release, [0; 0], "two scans in a row");
    }

    #[test]
    fn a_neglected_shard_is_acquired_beyond_the_share_and_kept_for_a_minute() {
        let (mut part, now) = (FairShare::new(4), Instant::now());
        for _ in 1..NEGLECTED_SCANS {
            let decision = part.decide(Some(2), &[0, 1], &[2, 3], now);
            assert_eq!((decision.room, decision.neglected), (0, Vec::new()));
        }
        assert_eq!(part.decide(Some(2), &[0, 1], &[3], now).neglected, [3], "the other was acquired meanwhile");
        let mut given_back = |after: u64| {
            let now = now + Duration::from_secs(after);
            part.decide(Some(2), &[0, 1, 3], &[], now);
            part.decide(Some(2), &[0, 1, 3], &[], now).release
        };
        assert_eq!(given_back(59), [1]);
        assert_eq!(given_back(61), [3]);
    }
}
