//! What happened to an instance, the last of it: a server that runs for days must not grow with every request.

use std::collections::VecDeque;

use serde::Serialize;

use super::fault::Method;

/// How many events a journal keeps.
const KEPT: usize = 100_000;

/// One line of an instance's journal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Event {
    /// When it happened, in Unix milliseconds.
    pub at_ms: u64,
    /// What happened.
    pub event: EventKind,
    /// The receipt that was handed out or named by the client. Absent on other events.
    #[serde(rename = "receiptId", skip_serializing_if = "Option::is_none")]
    pub receipt_id: Option<u64>,
    /// Lower-case hexadecimal SHA-256 of the body's bytes: on pushed, received and deleted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// The method whose answer a fault took: on faulted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub method: Option<Method>,
    /// How many events there were: on dropped.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub count: Option<u64>,
}

impl Event {
    pub(super) fn of(at_ms: u64, event: EventKind) -> Self {
        Self { at_ms, event, receipt_id: None, sha256: None, method: None, count: None }
    }
}

/// What a journal line is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum EventKind {
    /// A notification entered the queue.
    Pushed,
    /// The head was handed out, for the first time or again.
    Received,
    /// The head was deleted.
    Deleted,
    /// A delete named a receipt that is not the head's, or was never handed out.
    DeleteUnknown,
    /// `setSettings` changed the settings.
    Settings,
    /// A fault replaced an answer.
    Faulted,
    /// A notification was older than the retention.
    Expired,
    /// A notification was handed out and not deleted, where that loses it.
    Lost,
    /// The delete of the head was answered `true` and had no effect.
    DeleteIgnored,
    /// The queue was cleared.
    Cleared,
    /// The instance was rebooted.
    Rebooted,
    /// In place of the oldest events, which are no longer kept: the first line, if there are any.
    Dropped,
}

/// The last events, oldest first.
#[derive(Default)]
pub(super) struct Journal {
    events: VecDeque<Event>,
    dropped: u64,
    /// When the last of them happened.
    dropped_ms: u64,
}

impl Journal {
    pub(super) fn record(&mut self, event: Event) {
        if self.events.len() == KEPT
            && let Some(oldest) = self.events.pop_front()
        {
            self.dropped += 1;
            self.dropped_ms = oldest.at_ms;
        }
        self.events.push_back(event);
    }

    /// How many there were, those included that are no longer kept.
    pub(super) fn recorded(&self) -> u64 {
        self.dropped + self.events.len() as u64
    }

    /// An event `dropped` if any are no longer kept, then those that are.
    pub(super) fn lines(&self) -> Vec<Event> {
        let dropped = Event { count: Some(self.dropped), ..Event::of(self.dropped_ms, EventKind::Dropped) };
        let dropped = Some(dropped).filter(|_| self.dropped > 0);
        dropped.into_iter().chain(self.events.iter().cloned()).collect()
    }
}
