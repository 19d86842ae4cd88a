//! What is known of the last published notification, and so what to do with the head of the queue.
//!
//! The head stays in the queue until it is deleted, so at most one notification of an instance is
//! in doubt: the last one published. This machine does the thinking, without any I/O; the line in
//! [`crate::bridge`] tells it what happened.

use crate::notification::Fingerprint;

/// What a sink remembers of an instance when its lane is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Memory {
    /// It never published for this instance.
    Nothing,
    /// The last notification that it published for this instance.
    Published {
        /// Its place in the sequence of the instance.
        sequence: u64,
        /// Its identity.
        fingerprint: Fingerprint,
    },
    /// It has no memory.
    Unknown,
}

/// What to do with the head of the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// Publish it; `marked` when another copy may exist.
    Publish {
        /// Whether to publish it as a possible duplicate.
        marked: bool,
    },
    /// It has been published before: prove ownership, delete it, publish nothing.
    DeleteOnly,
}

/// How a delete ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Deleted {
    /// The queue answered that it deleted the notification.
    Confirmed,
    /// Any other answer, or none: the notification may still be there.
    Unconfirmed,
}

/// The state of one lane. The rules are those of the contract, "How nothing is lost or doubled".
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Doubt {
    last: Last,
    sequence: Option<u64>,
}

/// The last published notification.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Last {
    /// Nobody knows which it was: the first head is published marked.
    Unknown,
    /// Nobody knows which it was, and this first head has been judged: it stays marked however
    /// often it is tried, because a mark is never taken back; any other head is new.
    FirstHead(Fingerprint),
    /// It is gone from the queue: every head is new, even one with equal bytes.
    Clean,
    /// Its first delete is unanswered: a head with its fingerprint may be itself, handed out just
    /// before it was deleted, or a new one of equal bytes.
    Pending(Fingerprint),
    /// It may be in the queue still: a head with its fingerprint is a redelivery.
    InDoubt(Fingerprint),
}

impl Doubt {
    /// The state of a lane that was just opened for the first time.
    #[must_use]
    pub fn new(memory: Memory) -> Self {
        let (last, sequence) = match memory {
            Memory::Nothing => (Last::Clean, None),
            Memory::Published { sequence, fingerprint } => (Last::InDoubt(fingerprint), Some(sequence)),
            Memory::Unknown => (Last::Unknown, None),
        };
        Self { last, sequence }
    }

    /// The lane was opened again. When the sink's last sequence is the one we know, nothing was
    /// published in between and what we know holds. Not the fingerprint: two notifications may
    /// have equal bytes, and starting over would take the second for a redelivery of the first.
    /// A sink that forgot everything teaches nothing either.
    pub fn reopened(&mut self, memory: Memory) {
        let unchanged = match memory {
            Memory::Nothing => true,
            Memory::Published { sequence, .. } => self.sequence == Some(sequence),
            Memory::Unknown => false,
        };
        if !unchanged {
            *self = Self::new(memory);
        }
    }

    /// Whether the next receive may run while the delete of the notification last stored is
    /// unanswered. Only a first delete is overlapped: in doubt nothing is.
    #[must_use]
    pub fn may_overlap(&self) -> bool {
        matches!(self.last, Last::Pending(_))
    }

    /// Whether to keep a head from a receive that ran while the delete was unanswered. To be asked
    /// before [`deleted`](Self::deleted) is told, even if the answer came first: one with the
    /// fingerprint of the last may have been handed out before that was deleted, or be new. It is
    /// thrown away, neither published nor deleted, and the next receive tells.
    #[must_use]
    pub fn keeps(&mut self, head: Fingerprint) -> bool {
        let is_another = self.last != Last::Pending(head);
        if is_another {
            // The last is gone, whatever its delete will be answered.
            self.last = Last::Clean;
        }
        is_another
    }

    /// Judges the head of the queue. Judging it again is allowed.
    #[must_use]
    pub fn head(&mut self, head: Fingerprint) -> Verdict {
        match self.last {
            Last::InDoubt(last) | Last::Pending(last) if last == head => return Verdict::DeleteOnly,
            Last::Unknown => self.last = Last::FirstHead(head),
            Last::FirstHead(first) if first == head => {}
            // Another head than the last: the last is gone.
            Last::FirstHead(_) | Last::Clean | Last::Pending(_) | Last::InDoubt(_) => self.last = Last::Clean,
        }
        Verdict::Publish { marked: self.last == Last::FirstHead(head) }
    }

    /// The head is stored for good and its delete is about to be sent. `sequence` is its place,
    /// when the sink remembers one.
    pub fn stored(&mut self, head: Fingerprint, sequence: Option<u64>) {
        // A redelivery stays in doubt until its delete is answered.
        if self.last != Last::InDoubt(head) {
            self.last = Last::Pending(head);
        }
        self.sequence = sequence.or(self.sequence);
    }

    /// The delete of the notification last stored was answered, or given up.
    pub fn deleted(&mut self, answer: Deleted) {
        if let Last::Pending(last) | Last::InDoubt(last) = self.last {
            self.last = match answer {
                Deleted::Confirmed => Last::Clean,
                Deleted::Unconfirmed => Last::InDoubt(last),
            };
        }
    }
}

#[cfg(test)]
#[path = "doubt_exploration.rs"]
mod exploration;

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Verdict = Verdict::Publish { marked: false };
    const MARKED: Verdict = Verdict::Publish { marked: true };

    fn print(text: &str) -> Fingerprint {
        Fingerprint::of(text.as_bytes())
    }

    #[test]
    fn a_mark_is_never_taken_back_and_covers_only_the_first_head() {
        let mut doubt = Doubt::new(Memory::Unknown);
        assert_eq!([doubt.head(print("a")), doubt.head(print("a"))], [MARKED, MARKED]);
        assert_eq!([doubt.head(print("b")), doubt.head(print("a"))], [PLAIN, PLAIN]);
    }

    #[test]
    fn after_a_confirmed_delete_equal_bytes_are_new() {
        let mut doubt = Doubt::new(Memory::Nothing);
        assert_eq!(doubt.head(print("a")), PLAIN);
        doubt.stored(print("a"), Some(1));
        doubt.deleted(Deleted::Confirmed);
        assert_eq!(doubt.head(print("a")), PLAIN);
    }

    #[test]
    fn after_any_other_answer_equal_bytes_are_a_redelivery_until_another_head_is_seen() {
        let mut doubt = Doubt::new(Memory::Published { sequence: 4, fingerprint: print("a") });
        assert_eq!(doubt.head(print("a")), Verdict::DeleteOnly);
        doubt.stored(print("a"), None);
        doubt.deleted(Deleted::Unconfirmed);
        assert_eq!(doubt.head(print("a")), Verdict::DeleteOnly);
        assert_eq!([doubt.head(print("b")), doubt.head(print("a"))], [PLAIN, PLAIN]);
    }

    #[test]
    fn only_the_first_delete_overlaps_and_only_another_head_is_kept() {
        let mut doubt = Doubt::new(Memory::Nothing);
        assert!(!doubt.may_overlap());
        doubt.stored(print("a"), Some(1));
        assert!(doubt.may_overlap());
        assert!(!doubt.keeps(print("a")));
        doubt.deleted(Deleted::Unconfirmed);
        assert_eq!(doubt.head(print("a")), Verdict::DeleteOnly);
        doubt.stored(print("a"), None);
        assert!(!doubt.may_overlap(), "in doubt nothing overlaps");
        doubt.deleted(Deleted::Confirmed);
        doubt.stored(print("b"), Some(2));
        assert!(doubt.keeps(print("c")));
        doubt.deleted(Deleted::Unconfirmed);
        assert_eq!([doubt.head(print("c")), doubt.head(print("b"))], [PLAIN, PLAIN], "b is gone for certain");
    }

    #[test]
    fn a_lane_opened_again_starts_over_only_if_the_sequence_moved() {
        let clean = || {
            let mut doubt = Doubt::new(Memory::Published { sequence: 4, fingerprint: print("x") });
            assert_eq!(doubt.head(print("a")), PLAIN);
            doubt.stored(print("a"), Some(5));
            doubt.deleted(Deleted::Confirmed);
            doubt
        };
        let mut doubt = clean();
        doubt.reopened(Memory::Published { sequence: 5, fingerprint: print("a") });
        assert_eq!(doubt.head(print("a")), PLAIN, "the second of two equal ones, of which the commit failed");
        let mut doubt = clean();
        doubt.reopened(Memory::Published { sequence: 6, fingerprint: print("a") });
        assert_eq!(doubt.head(print("a")), Verdict::DeleteOnly, "the second of two equal ones was committed");
        let mut doubt = clean();
        doubt.reopened(Memory::Unknown);
        assert_eq!(doubt.head(print("a")), MARKED);
        let mut doubt = Doubt::new(Memory::Nothing);
        doubt.reopened(Memory::Published { sequence: 1, fingerprint: print("a") });
        assert_eq!(doubt.head(print("a")), Verdict::DeleteOnly);
    }
}
