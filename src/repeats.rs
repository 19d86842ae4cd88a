//! Heads that are returned again although they were published and their deletes confirmed. [`crate::doubt`] decides what to
//! do with each of them; this only slows polling down, because otherwise a queue that returns the same notifications forever
//! would be polled as fast as possible.

use std::collections::VecDeque;
use std::time::Duration;

use crate::backoff::Backoff;
use crate::notification::Fingerprint;

/// How many of the last published notifications are remembered.
const RECENT: usize = 16;
/// From this repeat in a row on, each is followed by a pause.
const SLOW_FROM: u32 = 3;
/// From this repeat in a row on, the queue is reported as stuck.
const STUCK_FROM: u32 = 5;

/// The last published notifications, and how many repeats there were in a row.
#[derive(Debug, Default)]
pub(crate) struct Repeats {
    recent: VecDeque<Fingerprint>,
    in_a_row: u32,
    backoff: Backoff,
}

impl Repeats {
    /// Whether the head is one of the last published.
    pub(crate) fn contains(&self, head: Fingerprint) -> bool {
        self.recent.contains(&head)
    }

    /// The last published notification was returned although its delete was confirmed, and is deleted again.
    pub(crate) fn redelivered(&mut self) {
        self.in_a_row = self.in_a_row.saturating_add(1);
    }

    /// The head was published. One that identifies itself and was published before is a repeat; any other shows that the queue
    /// advances.
    pub(crate) fn published(&mut self, head: Fingerprint, has_identity: bool) {
        if self.contains(head) {
            if has_identity {
                self.redelivered();
            }
            self.recent.retain(|other| *other != head);
        } else {
            self.in_a_row = 0;
            self.backoff = Backoff::new();
        }
        self.recent.truncate(RECENT - 1);
        self.recent.push_front(head);
    }

    /// Whether to slow down.
    pub(crate) fn is_slow(&self) -> bool {
        self.in_a_row >= SLOW_FROM
    }

    /// Whether the queue does not advance.
    pub(crate) fn is_stuck(&self) -> bool {
        self.in_a_row >= STUCK_FROM
    }

    /// The pause before the next receive, growing with each repeat in a row.
    pub(crate) fn pause(&mut self) -> Option<Duration> {
        self.is_slow().then(|| self.backoff.after_failure())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn print(number: u8) -> Fingerprint {
        Fingerprint::of(&[number])
    }

    #[test]
    fn the_third_repeat_in_a_row_slows_down_and_the_fifth_is_stuck() {
        let states = |mut repeat: Box<dyn FnMut(&mut Repeats)>| {
            let mut repeats = Repeats::default();
            (1..=2).for_each(|number| repeats.published(print(number), true));
            let states: Vec<_> = (0..6)
                .map(|_| {
                    repeat(&mut repeats);
                    (repeats.pause().is_some(), repeats.is_stuck())
                })
                .collect();
            repeats.published(print(3), true);
            assert!(!repeats.is_slow(), "another one shows that the queue moves on");
            states
        };
        let slow = [(false, false), (false, false), (true, false), (true, false), (true, true), (true, true)];
        assert_eq!(states(Box::new(Repeats::redelivered)), slow);
        let mut number = 0;
        assert_eq!(
            states(Box::new(move |repeats| {
                number += 1;
                repeats.published(print(1 + number % 2), true);
            })),
            slow,
            "A, B, A, B"
        );
        assert_eq!(states(Box::new(|repeats| repeats.published(print(1), false))), [(false, false); 6]);
    }

    #[test]
    fn sixteen_are_remembered() {
        let mut repeats = Repeats::default();
        (1..=17).for_each(|number| repeats.published(print(number), true));
        assert_eq!([1, 2, 17].map(|number| repeats.contains(print(number))), [false, true, true]);
    }

    #[test]
    fn the_pauses_grow_with_each_repeat() {
        let mut repeats = Repeats::default();
        (0..SLOW_FROM).for_each(|_| repeats.redelivered());
        let pauses: Vec<_> = (0..8).map(|_| repeats.pause().map_or(0, |pause| pause.as_secs())).collect();
        assert!(pauses[0] < 2 && pauses[7] == 60, "{pauses:?}");
    }
}
