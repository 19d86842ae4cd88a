//! Answers that are not notifications: when one is accepted as the content of the queue, and when they are reported.

use std::time::Duration;

use tokio::time::Instant;

use crate::condition::Condition;
use crate::notification::Fingerprint;

/// An answer without a readable body is accepted as the content of the queue once it came this often
const CONCLUSIVE_TIMES: u32 = 3;
/// over at least this long.
const CONCLUSIVE_AFTER: Duration = Duration::from_secs(60);
/// From this unreadable answer in a row on it is not considered transient.
const PERSISTENT_FROM: u32 = 3;

/// The unreadable answers since the last readable one.
#[derive(Debug, Default)]
pub(crate) struct Unreadable {
    same: Option<Same>,
    in_a_row: u32,
}

#[derive(Debug)]
struct Same {
    fingerprint: Fingerprint,
    since: Instant,
    times: u32,
}

impl Unreadable {
    /// A notification or an empty answer was received.
    pub(crate) fn ended(&mut self) {
        *self = Self::default();
    }

    /// An answer with a receipt and no readable body was received. Returns whether it is conclusive: the same bytes came often
    /// enough to rule out a transmission error.
    pub(crate) fn is_conclusive(&mut self, fingerprint: Fingerprint) -> bool {
        self.in_a_row = 0;
        let same = self.same.take().filter(|same| same.fingerprint == fingerprint);
        let mut same = same.unwrap_or_else(|| Same { fingerprint, since: Instant::now(), times: 0 });
        same.times = same.times.saturating_add(1);
        let is_conclusive = same.times >= CONCLUSIVE_TIMES && same.since.elapsed() >= CONCLUSIVE_AFTER;
        self.same = Some(same);
        is_conclusive
    }

    /// An answer that cannot be interpreted was received. Returns the condition that it causes.
    pub(crate) fn unreadable(&mut self) -> Condition {
        self.same = None;
        self.in_a_row = self.in_a_row.saturating_add(1);
        if self.in_a_row < PERSISTENT_FROM { Condition::UpstreamUnavailable } else { Condition::UnreadableAnswer }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_same_answer_is_conclusive_the_third_time_and_after_a_minute() {
        let (one, other) = (Fingerprint::of(b"1"), Fingerprint::of(b"2"));
        let mut answers = Unreadable::default();
        let all: Vec<bool> = (0..10).map(|_| answers.is_conclusive(one)).collect();
        assert_eq!(all, [false; 10], "all at once");
        advance(CONCLUSIVE_AFTER).await;
        assert!(answers.is_conclusive(one));
        assert!(!answers.is_conclusive(other), "another");
        advance(CONCLUSIVE_AFTER).await;
        assert_eq!([(); 2].map(|()| answers.is_conclusive(other)), [false, true], "the second and the third");
        answers.ended();
        assert!(!answers.is_conclusive(other), "something else came in between");
        advance(CONCLUSIVE_AFTER).await;
        assert_eq!(answers.unreadable(), Condition::UpstreamUnavailable);
        assert_eq!([(); 2].map(|()| answers.is_conclusive(other)), [false, false]);
    }

    #[test]
    fn the_third_unreadable_answer_in_a_row_is_reported_as_such() {
        let mut answers = Unreadable::default();
        let conditions = [(); 4].map(|()| answers.unreadable());
        assert_eq!(conditions[..2], [Condition::UpstreamUnavailable; 2]);
        assert_eq!(conditions[2..], [Condition::UnreadableAnswer; 2]);
        answers.ended();
        assert_eq!(answers.unreadable(), Condition::UpstreamUnavailable);
    }
}
