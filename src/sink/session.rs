//! What a sink implements to be run by a [`Worker`](super::worker::Worker): storage under one ownership.
#![cfg_attr(
    not(any(feature = "kafka", feature = "amqp")),
    allow(dead_code, reason = "files and standard output do not use the folder for dead letters")
)]

use std::fmt;
use std::time::Instant;

use tokio::sync::oneshot;

use super::cloud_event::Position;
use super::dead_letter::Folder;
pub use super::shard::Shard;
use super::{DeadLetter, Pending, Reason, SinkError, Stored};
use crate::doubt::Memory;
use crate::error::{Chain, SetupError};
use crate::notification::{InstanceId, Notification};

/// Opens the sessions of a sink, one after the other, and holds what outlives them: a closure, or a type from which sessions
/// borrow.
pub trait Acquire {
    /// The session type.
    type Session<'a>: Session
    where
        Self: 'a;

    /// Takes ownership of the shard. The previous session has been dropped. May block.
    ///
    /// # Errors
    /// The error determines whether and when it is called again.
    fn acquire(&mut self, shard: Shard) -> Result<Self::Session<'_>, SessionError>;
}

impl<S: Session, A: FnMut(Shard) -> Result<S, SessionError>> Acquire for A {
    type Session<'a>
        = S
    where
        Self: 'a;

    fn acquire(&mut self, shard: Shard) -> Result<S, SessionError> {
        self(shard)
    }
}

/// Storage under one ownership of a shard: a connection and a fence against other owners, such as a lock, a producer epoch or an
/// exclusive queue. Dropping it ends the ownership.
///
/// All methods run on a dedicated thread and may block.
pub trait Session {
    /// What is remembered about an instance. [`Memory::Nothing`] only if nothing was ever stored for it; [`Memory::Unknown`] if that
    /// cannot be known.
    fn memory(&self, instance: InstanceId) -> Memory;

    /// Checks that ownership still holds and that storing is possible. Called every few seconds while there is nothing to store.
    ///
    /// # Errors
    /// Every error ends the session.
    fn probe(&mut self) -> Result<(), SessionError> {
        Ok(())
    }

    /// Stores the jobs, at most one per instance, and answers each: [`Job::stored`], [`Job::dead_lettered`], or [`Job::fail`] with
    /// [`SinkError::Refused`] if it was not stored for a reason of its own. A job must be answered only when its outcome is certain.
    ///
    /// # Errors
    /// Every error ends the session. Jobs that are left in `jobs`, or were dropped without an answer, have an unknown outcome:
    /// their lanes are reopened under the next ownership, or get an error if there will be none.
    fn store(&mut self, jobs: &mut Vec<Job>) -> Result<(), SessionError>;
}

/// Why there is no session, or why it ended. The text contains no secrets.
#[derive(Clone, Debug)]
pub enum SessionError {
    /// Open the next session immediately: nothing is wrong, but this one cannot continue.
    Renew(String),
    /// Retry after a growing pause.
    Unavailable(String),
    /// Another bridge holds ownership; retry every second.
    Owned(String),
    /// The shard is assigned to another replica; check again soon.
    Elsewhere,
    /// Another bridge took ownership; never retry.
    Fenced(String),
    /// The destination is closed; never retry.
    Closed(String),
}

/// What is wrong with the config now may be right when it is tried again: files change.
impl From<SetupError> for SessionError {
    fn from(error: SetupError) -> Self {
        Self::Unavailable(Chain(&error).to_string())
    }
}

impl fmt::Display for SessionError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Renew(cause)
        | Self::Unavailable(cause)
        | Self::Owned(cause)
        | Self::Fenced(cause)
        | Self::Closed(cause)) = self
        else {
            return formatter.write_str("another replica holds the shard");
        };
        formatter.write_str(cause)
    }
}

/// The requested action.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Store it, `marked` as a possible duplicate.
    Publish {
        /// Whether another copy may exist.
        marked: bool,
    },
    /// It is already stored; prove that ownership still holds.
    Prove,
}

/// A notification to store, and the lane that waits for the answer.
#[derive(Debug)]
pub struct Job {
    pub(super) ownership: u64,
    pub(super) pending: Pending,
    pub(super) action: Action,
    /// Set once it was written to the folder for dead letters, for this reason.
    pub(super) kept: Option<Reason>,
    /// Until when ownership is guaranteed.
    pub(super) valid_until: Option<Instant>,
    pub(super) reply: oneshot::Sender<Result<Answer, SinkError>>,
}

/// The answer of a session to a job.
#[derive(Debug)]
pub(super) enum Answer {
    Stored(Stored),
    /// Write it to this folder, then submit it again: a slow disk delays only its own lane.
    Keep {
        pending: Pending,
        folder: Folder,
        position: Position,
    },
}

impl Job {
    /// The notification.
    #[must_use]
    pub fn notification(&self) -> &Notification {
        self.pending.notification()
    }

    /// The requested action.
    #[must_use]
    pub fn action(&self) -> Action {
        self.action
    }

    /// From this time on ownership may have ended unnoticed: see [`Stored::only_until`].
    #[must_use]
    pub fn only_until(self, moment: Instant) -> Self {
        Self { valid_until: Some(moment), ..self }
    }

    /// Answers that it is durably stored, with this sequence number if the sink remembers one, or that ownership was proven.
    pub fn stored(self, sequence: Option<u64>) {
        let stored = self.pending.stored(sequence);
        answer(self.reply, Ok(Answer::Stored(limited(stored, self.valid_until))));
    }

    /// Answers that it is durably stored as a dead letter.
    pub fn dead_lettered(self, sequence: Option<u64>, letter: DeadLetter) {
        let stored = self.pending.stored(sequence).as_dead_letter(letter);
        answer(self.reply, Ok(Answer::Stored(limited(stored, self.valid_until))));
    }

    /// Requests that it be written to the folder as a dead letter, after which it is submitted again.
    pub(super) fn keep_in(self, folder: &Folder, position: Position) {
        answer(self.reply, Ok(Answer::Keep { pending: self.pending, folder: folder.clone(), position }));
    }

    /// Answers that it is not stored, or that the outcome is unknown, depending on the error.
    pub fn fail(self, error: SinkError) {
        answer(self.reply, Err(error));
    }
}

fn limited(stored: Stored, until: Option<Instant>) -> Stored {
    match until {
        None => stored,
        Some(until) => stored.only_until(until),
    }
}

fn answer(reply: oneshot::Sender<Result<Answer, SinkError>>, answer: Result<Answer, SinkError>) {
    // While the process stops nobody may be waiting.
    drop(reply.send(answer));
}

/// Removes the jobs to be published that are not valid JSON: they are stored as dead letters.
pub fn extract_malformed(jobs: &mut Vec<Job>) -> Vec<Job> {
    jobs.extract_if(.., |job| job.action != Action::Prove && job.notification().is_malformed()).collect()
}
