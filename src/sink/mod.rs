//! Where notifications are stored: the contract between the line and a sink.
//!
//! A sink of your own implements [`Session`](session::Session), storage under one ownership, and
//! [`Worker`](worker::Worker) makes a [`Sink`] of it; or it implements the traits below by itself.
//! [`contract_test`] holds either against what they promise.

use std::borrow::Cow;
use std::fmt;
use std::time::Instant;

use async_trait::async_trait;

use crate::doubt::Memory;
use crate::notification::{InstanceId, Notification, ReceiptId};

pub mod amqp;
mod assignment;
pub mod cloud_event;
pub mod contract_test;
mod dead_letter;
mod driver;
pub mod file;
mod json_line;
pub mod kafka;
pub mod kind;
mod one_stream;
mod requests;
pub mod session;
pub(crate) mod shard;
mod shard_watch;
mod shared;
pub mod stdout;
pub mod worker;

/// A place that stores notifications durably. One object per process: it owns connections,
/// transactions and grouping, and hands out one lane per instance.
#[async_trait]
pub trait Sink: Send + Sync {
    /// Opens the lane of an instance and tells what the sink remembers of it. A lane belongs to
    /// the ownership (producer epoch, lock) of this moment; an earlier lane of the same instance
    /// must no longer be used.
    ///
    /// Waits as long as the sink is unavailable, and says so in the log. Cancel safe.
    ///
    /// # Errors
    /// Only [`SinkError::Fenced`] and [`SinkError::Closed`].
    async fn open(&self, instance: InstanceId) -> Result<(Box<dyn Lane>, Memory), SinkError>;

    /// Nobody opens a lane any more, and all have come to their end: whatever others may take over is given to them.
    async fn close(&self) {}
}

/// The way of one instance's notifications into a sink.
#[async_trait]
pub trait Lane: Send {
    /// Stores the notification; `marked` as a possible duplicate. `Ok` means durably stored: it
    /// *will* be deleted upstream. May be called again with the same notification.
    ///
    /// When it is dropped before it ends, the outcome is unknown: the sink may still store the
    /// notification. The lane that is opened next knows whether it did.
    ///
    /// # Errors
    /// Each [`SinkError`] says what its caller has to do.
    async fn publish(&mut self, pending: Pending, marked: bool) -> Result<Stored, SinkError>;

    /// For a notification that was published before: proves that this lane still has the
    /// ownership that it was opened with, so that deleting it is right. Publishes nothing.
    ///
    /// # Errors
    /// As [`publish`](Self::publish).
    async fn already_stored(&mut self, pending: Pending) -> Result<Stored, SinkError>;

    /// Ends when the ownership that this lane was opened with has ended: from then on the lane
    /// stores nothing, and answers [`SinkError::Renewed`] or a harder error. Cancel safe.
    async fn lost(&mut self);
}

/// A notification in the line's hand, given to a sink to be stored. Turning it into a [`Stored`]
/// is how a sink says that it is.
///
/// Only the line makes one, and a [`Notification`] alone is none:
///
/// ```compile_fail,E0624
/// # use green_api_bridge::{notification::Notification, sink::Pending};
/// fn pretend(notification: &Notification) -> Pending {
///     Pending::new(notification)
/// }
/// ```
#[derive(Debug)]
pub struct Pending(Notification);

impl Pending {
    pub(crate) fn new(notification: &Notification) -> Self {
        Self(notification.clone())
    }

    /// The notification to store.
    #[must_use]
    pub fn notification(&self) -> &Notification {
        &self.0
    }

    /// It is durably stored, at this place of the instance's sequence; `None` where the sink
    /// remembers none, or where it was stored before.
    pub fn stored(self, sequence: Option<u64>) -> Stored {
        let (instance, receipt) = (self.0.instance(), self.0.receipt());
        Stored { instance, receipt, sequence, dead_letter: None, valid_until: None }
    }
}

/// Proof that a notification is durably stored; [`Pending::stored`] is the only way to one. It is
/// what a delete asks for, so that deleting what was not stored does not compile:
///
/// ```
/// # use green_api_bridge::{green_api::Queue, sink::Stored};
/// async fn delete_stored(queue: &Queue, stored: Stored) {
///     queue.delete(stored).await.ok();
/// }
/// ```
///
/// ```compile_fail,E0308
/// # use green_api_bridge::{green_api::Queue, notification::Notification};
/// async fn delete_unstored(queue: &Queue, notification: Notification) {
///     queue.delete(notification).await;
/// }
/// ```
#[derive(Debug)]
#[must_use = "a stored notification has to be deleted upstream"]
pub struct Stored {
    instance: InstanceId,
    receipt: ReceiptId,
    sequence: Option<u64>,
    dead_letter: Option<DeadLetter>,
    valid_until: Option<Instant>,
}

impl Stored {
    /// It was stored as a dead letter.
    pub fn as_dead_letter(mut self, letter: DeadLetter) -> Self {
        self.dead_letter = Some(letter);
        self
    }

    /// From this moment on the ownership that it was stored under may have ended unseen: the
    /// delete is not sent any more, and the notification is in doubt.
    pub fn only_until(mut self, moment: Instant) -> Self {
        self.valid_until = Some(moment);
        self
    }

    /// The instance whose queue holds it.
    #[must_use]
    pub fn instance(&self) -> InstanceId {
        self.instance
    }

    /// The receipt to delete it with.
    #[must_use]
    pub fn receipt(&self) -> ReceiptId {
        self.receipt
    }

    /// Its place in the instance's sequence, from a sink that remembers; none if it was already stored.
    #[must_use]
    pub fn sequence(&self) -> Option<u64> {
        self.sequence
    }

    /// What it is kept as, if it is a dead letter.
    #[must_use]
    pub fn dead_letter(&self) -> Option<&DeadLetter> {
        self.dead_letter.as_ref()
    }

    /// When a delete for it may last be sent; `None`: there is no limit.
    #[must_use]
    pub fn valid_until(&self) -> Option<Instant> {
        self.valid_until
    }
}

/// A notification that is kept apart from the others, because it cannot go where they go.
#[derive(Clone, Debug)]
pub struct DeadLetter {
    /// Why.
    pub reason: Reason,
    /// Where it should have gone.
    pub destination: String,
    /// Where it is kept, for people: a key of the config or a path.
    pub kept_in: Cow<'static, str>,
}

/// Why a notification became a dead letter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Larger than the client or the broker takes.
    TooLarge,
    /// Refused for another reason that lies in the notification.
    Refused,
    /// No queue takes it.
    Unroutable,
    /// It is not valid JSON, which consumers parse.
    Malformed,
}

impl fmt::Display for Reason {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::TooLarge => "too_large",
            Self::Refused => "refused",
            Self::Unroutable => "unroutable",
            Self::Malformed => "malformed",
        })
    }
}

/// Why a notification was not stored, by what the caller has to do. The text names no secret.
#[derive(Debug, Clone, thiserror::Error)]
pub enum SinkError {
    /// It was not stored, for certain; others may be. Try it again on this lane, after a pause.
    #[error("the sink refused the notification: {0}")]
    Refused(String),
    /// As [`Refused`](Self::Refused); and there is no room for it as a dead letter either.
    #[error("no room for a dead letter: {0}")]
    NoRoom(String),
    /// It was not stored, because the lane belongs to an earlier ownership. Throw the head away, open
    /// the lane anew and receive again.
    #[error("the sink's ownership was renewed")]
    Renewed,
    /// Whether it was stored is unknown. Throw the head away, open the lane anew and receive again.
    #[error("the sink has to be opened again: {0}")]
    Reopen(String),
    /// Another bridge took over: stop the process, and do not start it again.
    #[error("another bridge took over: {0}")]
    Fenced(String),
    /// Nobody can store anything any more: stop the process.
    #[error("the sink is closed: {0}")]
    Closed(String),
}
