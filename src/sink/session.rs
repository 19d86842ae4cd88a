//! What a sink implements to be served by a [`Worker`](super::worker::Worker): storage under one
//! ownership.
#![cfg_attr(
    not(any(feature = "kafka", feature = "amqp")),
    allow(dead_code, reason = "files and standard output need no folder for dead letters")
)]

use std::fmt;
use std::time::Instant;

use tokio::sync::oneshot;

use super::cloud_event::Place;
use super::dead_letter::Folder;
pub use super::shard::Shard;
use super::{DeadLetter, Pending, Reason, SinkError, Stored};
use crate::doubt::Memory;
use crate::error::{Chain, SetupError};
use crate::notification::{InstanceId, Notification};

/// Takes the ownerships of a sink, one after the other, and keeps what outlives them: a closure, or a
/// type whose sessions borrow from it.
pub trait Acquire {
    /// What an ownership gives.
    type Session<'a>: Session
    where
        Self: 'a;

    /// Takes a new ownership of the shard; the session before is dropped by then. It may block.
    ///
    /// # Errors
    /// As they say, it is called again, or never.
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

/// Storage under one ownership of a shard: a connection and what keeps rivals out, such as a lock, a
/// producer epoch or an exclusive queue. It is gone when it is dropped.
///
/// All of it runs on a thread of its own and may block.
pub trait Session {
    /// What is remembered of an instance. [`Memory::Nothing`] only if nothing was ever stored for
    /// it; [`Memory::Unknown`] where that cannot be known.
    fn memory(&self, instance: InstanceId) -> Memory;

    /// Whether it still has its ownership and could store, asked every few seconds while there is
    /// nothing to store.
    ///
    /// # Errors
    /// Any of them ends the session.
    fn probe(&mut self) -> Result<(), SessionError> {
        Ok(())
    }

    /// Stores all of them, at most one per instance, and answers each: [`Job::stored`],
    /// [`Job::dead_lettered`], or [`Job::fail`] with [`SinkError::Refused`] for one that was not
    /// stored for a reason of its own. A job is answered only when its fate is certain.
    ///
    /// # Errors
    /// Any of them ends the session. What is left in `jobs`, or was dropped without an answer, is
    /// taken as unknown: its lanes are opened anew, under the next ownership, or learn there that
    /// there will be none.
    fn store(&mut self, jobs: &mut Vec<Job>) -> Result<(), SessionError>;
}

/// Why there is no session, or no longer. The text names no secret.
#[derive(Clone, Debug)]
pub enum SessionError {
    /// The next session is to be started at once: nothing is wrong, but this one cannot go on.
    Renew(String),
    /// To be tried again after a growing pause.
    Unavailable(String),
    /// Another bridge holds the ownership; to be tried again every second.
    Owned(String),
    /// The shard is for another replica to work on: nothing is wrong. To be asked again soon.
    Elsewhere,
    /// Another bridge took the ownership: never to be tried again.
    Fenced(String),
    /// Nobody reads any more: never to be tried again.
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
            return formatter.write_str("another replica works on the shard");
        };
        formatter.write_str(cause)
    }
}

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Store it; `marked` as a possible duplicate.
    Publish {
        /// Another copy may exist.
        marked: bool,
    },
    /// It is stored; prove that the ownership still stands.
    Prove,
}

/// One notification to store, and the lane that waits for it.
#[derive(Debug)]
pub struct Job {
    pub(super) ownership: u64,
    pub(super) pending: Pending,
    pub(super) action: Action,
    /// It lies in the folder for dead letters by now, for this reason.
    pub(super) kept: Option<Reason>,
    /// How long the ownership is sure to last.
    pub(super) valid_until: Option<Instant>,
    pub(super) reply: oneshot::Sender<Result<Answer, SinkError>>,
}

/// What a session has to say of a notification.
#[derive(Debug)]
pub(super) enum Answer {
    Stored(Stored),
    /// It is to be kept in this folder, and then handed in again: a slow disk stops its own lane alone.
    Keep {
        pending: Pending,
        folder: Folder,
        place: Place,
    },
}

impl Job {
    /// What it is about.
    #[must_use]
    pub fn notification(&self) -> &Notification {
        self.pending.notification()
    }

    /// What is to be done.
    #[must_use]
    pub fn action(&self) -> Action {
        self.action
    }

    /// From this moment on another may have the ownership without anybody's having noticed: see [`Stored::only_until`].
    #[must_use]
    pub fn only_until(self, moment: Instant) -> Self {
        Self { valid_until: Some(moment), ..self }
    }

    /// It is durably stored, at this place of a sequence that is remembered; or the ownership is
    /// proved.
    pub fn stored(self, sequence: Option<u64>) {
        let stored = self.pending.stored(sequence);
        answer(self.reply, Ok(Answer::Stored(limited(stored, self.valid_until))));
    }

    /// It is durably stored, as a dead letter.
    pub fn dead_lettered(self, sequence: Option<u64>, letter: DeadLetter) {
        let stored = self.pending.stored(sequence).as_dead_letter(letter);
        answer(self.reply, Ok(Answer::Stored(limited(stored, self.valid_until))));
    }

    /// It is to be kept in the folder at this place, as a dead letter, and comes again when it is.
    pub(super) fn keep_in(self, folder: &Folder, place: Place) {
        answer(self.reply, Ok(Answer::Keep { pending: self.pending, folder: folder.clone(), place }));
    }

    /// It is not stored, or that is unknown, as the error says.
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
    // Nobody waits any more when the process stops; then there is nobody to tell.
    drop(reply.send(answer));
}

/// Takes out what is to be published and is not valid JSON: it is kept as a dead letter.
pub fn extract_malformed(jobs: &mut Vec<Job>) -> Vec<Job> {
    jobs.extract_if(.., |job| job.action != Action::Prove && job.notification().is_malformed()).collect()
}
