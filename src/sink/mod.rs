//! The contract between the bridge and a sink, which stores notifications.
//!
//! To write a sink implement [`Session`](session::Session), storage under one ownership, from which [`Worker`](worker::Worker)
//! makes a [`Sink`]; or implement the traits below directly. [`contract_test`] verifies either.

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
pub mod redrive;
mod requests;
pub mod session;
pub(crate) mod shard;
mod shard_watch;
mod shared;
pub mod stdout;
pub mod worker;

/// Durable storage for notifications. One object per process, which owns connections, transactions and grouping, and opens one
/// lane per instance.
#[async_trait]
pub trait Sink: Send + Sync {
    /// Opens the lane of an instance and returns what the sink remembers about it. The lane belongs to the current ownership
    /// (producer epoch, lock); an earlier lane of the same instance must not be used any more.
    ///
    /// Waits while the sink is unavailable, which is logged. Cancel safe.
    ///
    /// # Errors
    /// Only [`SinkError::Fenced`] and [`SinkError::Closed`].
    async fn open(&self, instance: InstanceId) -> Result<(Box<dyn Lane>, Memory), SinkError>;

    /// Called when all lanes have ended and no more will be opened: releases what other replicas can take over.
    async fn close(&self) {}
}

/// The lane of one instance into a sink.
#[async_trait]
pub trait Lane: Send {
    /// Stores the notification, `marked` as a possible duplicate. `Ok` means durably stored: the caller will delete it upstream. May
    /// be called again with the same notification.
    ///
    /// If the future is dropped before it completes the outcome is unknown: the sink may still store the notification. The
    /// [`Memory`] of the next lane says whether it did, unless the sink keeps none.
    ///
    /// # Errors
    /// Each [`SinkError`] defines what the caller has to do.
    async fn publish(&mut self, pending: Pending, marked: bool) -> Result<Stored, SinkError>;

    /// For a notification that was published before: proves that the ownership of this lane still holds, so that it may be
    /// deleted. Publishes nothing.
    ///
    /// # Errors
    /// As [`publish`](Self::publish).
    async fn already_stored(&mut self, pending: Pending) -> Result<Stored, SinkError>;

    /// Completes when the ownership of this lane has ended: from then on it stores nothing and returns [`SinkError::OwnershipLost`] or a
    /// more severe error. Cancel safe.
    async fn lost(&mut self);
}

/// A notification that the bridge submits to a sink. A sink reports that it is stored by turning it into a [`Stored`].
///
/// Only the bridge can create one from a [`Notification`] (and, for tests, [`contract_test::pending`]):
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

    /// Confirms that it is durably stored, with this sequence number of its instance; `None` if the sink keeps no sequence, or if it
    /// was stored before.
    pub fn stored(self, sequence: Option<u64>) -> Stored {
        let (instance, receipt) = (self.0.instance(), self.0.receipt());
        Stored { instance, receipt, sequence, dead_letter: None, valid_until: None }
    }
}

/// Proof that a notification is durably stored; [`Pending::stored`] is the only way to get one. A delete requires it, so deleting
/// a notification that was not stored does not compile:
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
#[must_use = "a stored notification has to be passed to `Queue::delete`"]
pub struct Stored {
    instance: InstanceId,
    receipt: ReceiptId,
    sequence: Option<u64>,
    dead_letter: Option<DeadLetter>,
    valid_until: Option<Instant>,
}

impl Stored {
    /// Records that it was stored as a dead letter.
    pub fn as_dead_letter(mut self, letter: DeadLetter) -> Self {
        self.dead_letter = Some(letter);
        self
    }

    /// Sets a deadline after which the ownership may have ended unnoticed: then the delete is not sent, and the notification is in
    /// doubt.
    pub fn only_until(mut self, moment: Instant) -> Self {
        self.valid_until = Some(moment);
        self
    }

    /// The instance whose queue holds it.
    #[must_use]
    pub fn instance(&self) -> InstanceId {
        self.instance
    }

    /// The receipt with which to delete it.
    #[must_use]
    pub fn receipt(&self) -> ReceiptId {
        self.receipt
    }

    /// Its sequence number, if the sink keeps one; `None` if it was already stored.
    #[must_use]
    pub fn sequence(&self) -> Option<u64> {
        self.sequence
    }

    /// Details if it was stored as a dead letter.
    #[must_use]
    pub fn dead_letter(&self) -> Option<&DeadLetter> {
        self.dead_letter.as_ref()
    }

    /// Until when its delete may be sent; `None` if there is no limit.
    #[must_use]
    pub fn valid_until(&self) -> Option<Instant> {
        self.valid_until
    }
}

/// Details of a notification that was stored as a dead letter.
#[derive(Clone, Debug)]
pub struct DeadLetter {
    /// The reason.
    pub reason: Reason,
    /// The original destination.
    pub destination: String,
    /// Where it is stored, for operators: a key of the config or a path.
    pub kept_in: Cow<'static, str>,
}

/// Why a notification became a dead letter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
#[value(rename_all = "snake_case")]
pub enum Reason {
    /// Larger than the client or the broker accepts.
    TooLarge,
    /// Refused for another reason that is specific to the notification.
    Refused,
    /// Not routed to any queue.
    Unroutable,
    /// Not valid JSON, which consumers would fail to parse.
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

/// Why a notification was not stored, by what the caller has to do. The text contains no secrets.
#[derive(Debug, Clone, thiserror::Error)]
pub enum SinkError {
    /// This notification was certainly not stored; others of its group may be. Retry on this lane after a pause.
    #[error("the sink refused the notification: {0}")]
    Refused(String),
    /// As [`Refused`](Self::Refused), and it could not be written into `dead_letter_dir` either.
    #[error("the dead letter could not be written: {0}")]
    DeadLetterFailed(String),
    /// Not stored, because the lane belongs to an earlier ownership. Discard the head, reopen the lane and receive again.
    #[error("the ownership of the sink was lost")]
    OwnershipLost,
    /// The outcome is unknown. Discard the head, reopen the lane and receive again.
    #[error("whether the notification was stored is unknown: {0}")]
    OutcomeUnknown(String),
    /// Another bridge took over: stop the process and do not restart it.
    #[error("another bridge took over: {0}")]
    Fenced(String),
    /// Nothing can be stored any more: stop the process.
    #[error("the sink is closed: {0}")]
    Closed(String),
}
