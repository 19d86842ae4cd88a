//! The metrics of one instance.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use super::Number;
use crate::account::AccountState;
use crate::condition::ConditionSet;
use crate::kinds::{KINDS, listed};

/// Notifications by kind.
#[derive(Debug, Default)]
pub(crate) struct ByKind([Number; KINDS.len()]);

impl ByKind {
    pub fn increase(&self, kind: &str) {
        self.0[listed(&KINDS, kind)].increase();
    }

    pub fn total(&self) -> u64 {
        self.0.iter().map(Number::get).sum()
    }

    /// The kinds that occurred.
    pub fn each(&self) -> impl Iterator<Item = (&'static str, u64)> {
        KINDS.into_iter().zip(self.0.iter().map(Number::get)).filter(|(_, count)| *count > 0)
    }
}

/// The outcome of a poll.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Outcome {
    Notification,
    Empty,
    Error,
}

impl Outcome {
    pub const ALL: [Self; 3] = [Self::Notification, Self::Empty, Self::Error];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Notification => "notification",
            Self::Empty => "empty",
            Self::Error => "error",
        }
    }
}

/// What an instance has done since its bridge was started.
#[derive(Debug, Default)]
pub(crate) struct InstanceMetrics {
    polls: [Number; Outcome::ALL.len()],
    /// Without stale heads of overlapped polls, which are discarded.
    pub received: ByKind,
    pub published: ByKind,
    /// Received and not yet deleted or discarded: 0 or 1.
    pub in_flight: Number,
    /// The size of the body in hand: received, and neither stored nor discarded.
    pub in_flight_bytes: Number,
    pub redelivered: Number,
    /// Certainly not stored, and with an unknown outcome.
    pub publish_refused: Number,
    pub publish_unknown: Number,
    pub deletes_confirmed: Number,
    pub deletes_unconfirmed: Number,
    pub dead_too_large: Number,
    pub dead_refused: Number,
    pub dead_unroutable: Number,
    pub dead_malformed: Number,
    /// The last sequence number, if the sink remembers one.
    pub sequence: Number,
    /// When a notification was last received, and when one was last stored and deleted; Unix seconds.
    pub last_notification: Number,
    pub last_success: Number,
    /// When a request was last sent; Unix seconds.
    pub asked: Number,
    /// Whether the last request got no usable answer.
    pub unanswered: AtomicBool,
    /// 0 if unknown, otherwise one more than the index in [`AccountState::ALL`].
    state: Number,
    pub conditions: Arc<ConditionSet>,
}

impl InstanceMetrics {
    pub fn polls(&self, outcome: Outcome) -> &Number {
        &self.polls[outcome as usize]
    }

    /// Sets the state of the account; `None` if what was known is outdated.
    pub fn set_state(&self, state: Option<AccountState>) {
        self.state.set(state.map_or(0, |state| state as u64 + 1));
    }

    /// The state of the account according to the last `stateInstanceChanged` or `getStateInstance`.
    pub fn state(&self) -> Option<AccountState> {
        let place = usize::try_from(self.state.get()).ok()?.checked_sub(1)?;
        AccountState::ALL.get(place).copied()
    }

    pub fn publish_errors(&self) -> u64 {
        self.publish_refused.get() + self.publish_unknown.get()
    }

    pub fn dead_lettered(&self) -> u64 {
        self.dead_too_large.get() + self.dead_refused.get() + self.dead_unroutable.get() + self.dead_malformed.get()
    }
}
