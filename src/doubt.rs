//! The state of the last published notification, which decides what to do with the head of the queue.
//!
//! The head stays in the queue until it is deleted, so at most one notification of an instance is in doubt: the last one
//! published. This state machine makes all decisions and performs no I/O; [`crate::bridge`] reports to it what happened.

use crate::notification::Fingerprint;

/// What a sink remembers of an instance when its lane is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Memory {
    /// Nothing was ever published for this instance.
    Nothing,
    /// The last notification that it published for this instance.
    Published {
        /// Its sequence number within the instance.
        sequence: u64,
        /// Its fingerprint.
        fingerprint: Fingerprint,
    },
    /// The sink keeps no memory.
    Unknown,
}

/// What to do with the head of the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// Publish it, `marked` if another copy may exist.
    Publish {
        /// Whether to publish it as a possible duplicate.
        marked: bool,
    },
    /// It was published before: prove ownership and delete it without publishing.
    DeleteOnly {
        /// Whether the queue returned it although its delete had been confirmed.
        was_confirmed: bool,
    },
    /// It may be a stale read, and then its receipt may by now belong to another notification, which a delete would remove:
    /// neither publish nor delete it, but receive again after a pause.
    ReceiveAgain {
        /// How many times it was received since the last delete: 1 or 2.
        receives: u8,
    },
}

/// A head whose delete was confirmed is judged from this receive on. At most two receives after a delete are stale (observed of
/// Green API, not documented), so the third one shows what is really in the queue.
const CONCLUSIVE_RECEIVE: u8 = 3;

/// The outcome of a delete.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Deleted {
    /// The queue confirmed it.
    Confirmed,
    /// Any other answer, or none: the notification may still be in the queue.
    Unconfirmed,
}

/// The delivery state of one instance.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Doubt {
    last: Last,
    sequence: Option<u64>,
}

/// The last published notification.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Last {
    /// It is unknown which one it was: the first head is published as a possible duplicate.
    Unknown,
    /// The sink keeps no memory, and this was the first head. It stays marked on every retry, because a mark is never taken
    /// back; any other head is new.
    FirstHead(Fingerprint),
    /// It has left the queue, according to the queue. It is remembered until the next one is stored, because reads may be
    /// stale: see [`Verdict::ReceiveAgain`].
    Clean {
        /// None if no published notification is known.
        last: Option<Fingerprint>,
        /// How often a head with this fingerprint was received since the last delete.
        receives: u8,
    },
    /// Its first delete is unanswered: a head with this fingerprint may be the same notification, returned just before it was
    /// deleted, or a new one with equal bytes.
    Pending(Fingerprint),
    /// It may still be in the queue: a head with this fingerprint is a redelivery.
    InDoubt(Fingerprint),
}

impl Last {
    fn clean(last: Option<Fingerprint>) -> Self {
        Self::Clean { last, receives: 0 }
    }
}

impl Doubt {
    /// The state of a lane that is opened for the first time.
    #[must_use]
    pub fn new(memory: Memory) -> Self {
        let (last, sequence) = match memory {
            Memory::Nothing => (Last::clean(None), None),
            Memory::Published { sequence, fingerprint } => (Last::InDoubt(fingerprint), Some(sequence)),
            Memory::Unknown => (Last::Unknown, None),
        };
        Self { last, sequence }
    }

    /// The lane was reopened. If the sink's last sequence number is the known one, nothing was published in between and the
    /// state is still valid. Comparing fingerprints would be wrong: two notifications may have equal bytes, and the second
    /// would be taken for a redelivery of the first. A sink that has forgotten everything changes nothing either.
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

    /// Whether the next receive may run while the delete of the last stored notification is unanswered. Only a first delete is
    /// overlapped, never one of a notification in doubt.
    #[must_use]
    pub fn may_overlap(&self) -> bool {
        matches!(self.last, Last::Pending(_))
    }

    /// Judges a head from a receive that ran while the delete was unanswered, and returns whether to keep it. Must be called
    /// before [`deleted`](Self::deleted), even if the answer to the delete came first. A head with the fingerprint of the last
    /// notification may have been returned before the delete, or be new: it is discarded, neither published nor deleted, and
    /// the next receive shows which.
    #[must_use]
    pub fn accept_overlapped(&mut self, head: Fingerprint) -> bool {
        match self.last {
            Last::Pending(last) if last == head => false,
            // The last one has left the queue, whatever the answer to its delete will be.
            Last::Pending(last) => {
                self.last = Last::clean(Some(last));
                true
            }
            _ => true,
        }
    }

    /// Judges the head of the queue, once for each receive that returned it. `has_identity` says whether the body identifies
    /// itself; then equal bytes are the same notification.
    #[must_use]
    pub fn judge(&mut self, head: Fingerprint, has_identity: bool) -> Verdict {
        match self.last {
            Last::InDoubt(last) | Last::Pending(last) if last == head => {
                return Verdict::DeleteOnly { was_confirmed: false };
            }
            Last::Clean { last: Some(last), receives } if last == head => {
                return self.judge_confirmed(head, has_identity, receives.saturating_add(1));
            }
            Last::Unknown => self.last = Last::FirstHead(head),
            Last::FirstHead(first) if first == head => {}
            // A different head: the last one has left the queue.
            Last::FirstHead(_) => self.last = Last::clean(None),
            Last::Pending(last) | Last::InDoubt(last) => self.last = Last::clean(Some(last)),
            Last::Clean { .. } => {}
        }
        Verdict::Publish { marked: self.last == Last::FirstHead(head) }
    }

    /// A head with the fingerprint of the last notification, whose delete was confirmed.
    fn judge_confirmed(&mut self, head: Fingerprint, has_identity: bool, receives: u8) -> Verdict {
        self.last = Last::Clean { last: Some(head), receives };
        if receives < CONCLUSIVE_RECEIVE {
            Verdict::ReceiveAgain { receives }
        } else if has_identity {
            self.last = Last::InDoubt(head);
            Verdict::DeleteOnly { was_confirmed: true }
        } else {
            Verdict::Publish { marked: true }
        }
    }

    /// The head is durably stored and its delete is about to be sent. `sequence` is its number, if the sink remembers one.
    pub fn stored(&mut self, head: Fingerprint, sequence: Option<u64>) {
        // A redelivery stays in doubt until its delete is answered.
        if self.last != Last::InDoubt(head) {
            self.last = Last::Pending(head);
        }
        self.sequence = sequence.or(self.sequence);
    }

    /// The delete of the last stored notification was answered or given up.
    pub fn deleted(&mut self, answer: Deleted) {
        if let Last::Pending(last) | Last::InDoubt(last) = self.last {
            self.last = match answer {
                Deleted::Confirmed => Last::clean(Some(last)),
                Deleted::Unconfirmed => Last::InDoubt(last),
            };
        }
    }
}

#[cfg(test)]
mod exploration;

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Verdict = Verdict::Publish { marked: false };
    const MARKED: Verdict = Verdict::Publish { marked: true };
    const DELETE_ONLY: Verdict = Verdict::DeleteOnly { was_confirmed: false };
    const DELETE_AGAIN: Verdict = Verdict::DeleteOnly { was_confirmed: true };
    const AGAIN: [Verdict; 2] = [Verdict::ReceiveAgain { receives: 1 }, Verdict::ReceiveAgain { receives: 2 }];

    fn print(text: &str) -> Fingerprint {
        Fingerprint::of(text.as_bytes())
    }

    fn judge(doubt: &mut Doubt, text: &str) -> Verdict {
        doubt.judge(print(text), true)
    }

    /// Stored and deleted under this sequence.
    fn clean(doubt: &mut Doubt, text: &str, sequence: u64) {
        doubt.stored(print(text), Some(sequence));
        doubt.deleted(Deleted::Confirmed);
    }

    #[test]
    fn a_mark_is_never_taken_back_and_covers_only_the_first_head() {
        let mut doubt = Doubt::new(Memory::Unknown);
        assert_eq!(["a", "a"].map(|text| judge(&mut doubt, text)), [MARKED, MARKED]);
        assert_eq!(["b", "a"].map(|text| judge(&mut doubt, text)), [PLAIN, PLAIN]);
    }

    #[test]
    fn after_a_confirmed_delete_only_the_third_receive_of_equal_bytes_is_judged() {
        let mut doubt = Doubt::new(Memory::Nothing);
        for sequence in 1..4 {
            clean(&mut doubt, "a", sequence);
            assert_eq!(["a", "a", "a"].map(|text| judge(&mut doubt, text)), [AGAIN[0], AGAIN[1], DELETE_AGAIN]);
            assert_eq!(judge(&mut doubt, "a"), DELETE_ONLY, "in doubt until it is answered");
        }
        clean(&mut doubt, "a", 4);
        let anonymous = [(); 4].map(|()| doubt.judge(print("a"), false));
        assert_eq!(anonymous, [AGAIN[0], AGAIN[1], MARKED, MARKED], "without an identity it is new, and stays marked");
    }

    #[test]
    fn the_last_one_is_remembered_until_the_next_is_stored() {
        let mut doubt = Doubt::new(Memory::Nothing);
        clean(&mut doubt, "a", 1);
        assert_eq!(["a", "b", "a", "a"].map(|text| judge(&mut doubt, text)), [AGAIN[0], PLAIN, AGAIN[1], DELETE_AGAIN]);
        let mut doubt = Doubt::new(Memory::Nothing);
        clean(&mut doubt, "a", 1);
        clean(&mut doubt, "b", 2);
        assert_eq!(judge(&mut doubt, "a"), PLAIN);
    }

    #[test]
    fn after_any_other_answer_equal_bytes_are_a_redelivery_until_another_head_is_seen() {
        let mut doubt = Doubt::new(Memory::Published { sequence: 4, fingerprint: print("a") });
        assert_eq!(judge(&mut doubt, "a"), DELETE_ONLY);
        doubt.stored(print("a"), None);
        doubt.deleted(Deleted::Unconfirmed);
        assert_eq!(judge(&mut doubt, "a"), DELETE_ONLY);
        assert_eq!(["b", "a"].map(|text| judge(&mut doubt, text)), [PLAIN, AGAIN[0]]);
    }

    #[test]
    fn only_the_first_delete_overlaps_and_only_another_head_is_kept() {
        let mut doubt = Doubt::new(Memory::Nothing);
        assert!(!doubt.may_overlap());
        doubt.stored(print("a"), Some(1));
        assert!(doubt.may_overlap());
        assert!(!doubt.accept_overlapped(print("a")));
        doubt.deleted(Deleted::Unconfirmed);
        assert_eq!(judge(&mut doubt, "a"), DELETE_ONLY);
        doubt.stored(print("a"), None);
        assert!(!doubt.may_overlap(), "in doubt nothing overlaps");
        doubt.deleted(Deleted::Confirmed);
        doubt.stored(print("b"), Some(2));
        assert!(!doubt.accept_overlapped(print("b")));
        doubt.deleted(Deleted::Confirmed);
        assert_eq!(judge(&mut doubt, "b"), AGAIN[0], "what was thrown away does not count");
        doubt.stored(print("c"), Some(3));
        assert!(doubt.accept_overlapped(print("d")));
        doubt.deleted(Deleted::Unconfirmed);
        assert_eq!(["d", "c"].map(|text| judge(&mut doubt, text)), [PLAIN, AGAIN[0]], "c is gone for certain");
    }

    #[test]
    fn a_lane_opened_again_starts_over_only_if_the_sequence_moved() {
        let fifth = || {
            let mut doubt = Doubt::new(Memory::Published { sequence: 4, fingerprint: print("x") });
            assert_eq!(judge(&mut doubt, "a"), PLAIN);
            clean(&mut doubt, "a", 5);
            doubt
        };
        let mut doubt = fifth();
        doubt.reopened(Memory::Published { sequence: 5, fingerprint: print("a") });
        assert_eq!(judge(&mut doubt, "a"), AGAIN[0], "what is known holds");
        let mut doubt = fifth();
        doubt.reopened(Memory::Published { sequence: 6, fingerprint: print("a") });
        assert_eq!(judge(&mut doubt, "a"), DELETE_ONLY, "the second of two equal ones was committed");
        let mut doubt = fifth();
        doubt.reopened(Memory::Unknown);
        assert_eq!(judge(&mut doubt, "a"), MARKED);
        let mut doubt = Doubt::new(Memory::Nothing);
        doubt.reopened(Memory::Published { sequence: 1, fingerprint: print("a") });
        assert_eq!(judge(&mut doubt, "a"), DELETE_ONLY);
    }
}
