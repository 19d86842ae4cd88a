//! The channels of one session. When the broker rejects a single message it closes the channel, with everything else
//! that is in flight on it; the connection, and with it the ownership, survives. Messages of an instance whose message
//! closed a channel are therefore published on a channel of their own.
//!
//! lapin 4 may send frames that it had queued for a channel after it acknowledged `channel.close`; RabbitMQ then closes the
//! connection. With a single message in flight nothing is queued.

use std::time::{Duration, Instant};

use lapin::Channel;
use lapin::protocol::AMQPSoftError;
use tracing::warn;

use super::connection::{self, Link};
use super::errors::Closed;
use super::publish::{Batch, Outcome, Published};
use super::{Amqp, QUEUE};
use crate::fault;
use crate::notification::Notification;
use crate::sink::Reason;
use crate::sink::cloud_event::Position;
use crate::sink::session::{Action, Job, SessionError};

/// Accepted by every RabbitMQ: the default limit of version 4, earlier ones accept 128 MiB.
const LARGEST_BODY: usize = 16 << 20;

/// Minimum interval between two channels for messages that closed the last one.
const REOPEN_INTERVAL: Duration = Duration::from_secs(1);

/// When nothing was stored for this long, the rejected messages are not the cause.
const ALL_REFUSED: Duration = Duration::from_secs(10);

/// The channels on which a session publishes, and what it has learned about limits.
pub(super) struct Channels {
    of_all: Channel,
    /// For dead letters and for messages that closed a channel.
    apart: Option<Channel>,
    opened_apart: Option<Instant>,
    largest_body: usize,
    /// Since when every publish was refused, or may have been.
    unproven_since: Option<Instant>,
}

impl Channels {
    pub(super) fn new(channel: Channel) -> Self {
        Self {
            of_all: channel,
            apart: None,
            opened_apart: None,
            largest_body: LARGEST_BODY,
            unproven_since: Some(Instant::now()),
        }
    }

    /// The channel on which batches are published.
    pub(super) fn shared(&mut self, link: &Link) -> Result<&Channel, SessionError> {
        if !self.of_all.status().connected() {
            self.of_all = link.open_channel()?;
        }
        Ok(&self.of_all)
    }

    fn separate(&mut self, link: &Link) -> Result<&Channel, SessionError> {
        let open = self.apart.take().filter(|channel| channel.status().connected());
        let channel = if let Some(channel) = open {
            channel
        } else {
            self.opened_apart = Some(Instant::now());
            link.open_channel()?
        };
        Ok(self.apart.insert(channel))
    }

    /// Whether the broker is known to reject messages of this size.
    pub(super) fn is_too_large(&self, notification: &Notification) -> bool {
        notification.body().len() > self.largest_body
    }

    /// Whether it is too early to open another channel for messages that closed the last one.
    fn must_wait(&self) -> bool {
        let is_open = self.apart.as_ref().is_some_and(|channel| channel.status().connected());
        !is_open && self.opened_apart.is_some_and(|opened| opened.elapsed() < REOPEN_INTERVAL)
    }
}

/// Why messages of an instance are published alone.
pub(super) enum Isolation {
    /// A channel was closed while a batch with its message was in flight.
    OfBatch,
    /// A channel was closed because of its own message, with this reason.
    OfItsOwn(String),
}

impl Amqp<'_> {
    /// Publishes the jobs, either all as dead letters or none, and returns an outcome for each, in the order that `jobs` has
    /// afterwards. When a message makes the broker close the channel, the others of its batch are published again, marked.
    pub(super) fn publish(&mut self, jobs: &mut [Job], dead: Option<Reason>) -> Result<Vec<Outcome>, SessionError> {
        jobs.sort_by_key(|job| self.is_isolated(job));
        let (together, alone) = jobs.split_at(jobs.partition_point(|job| !self.is_isolated(job)));
        let mut outcomes = Vec::with_capacity(jobs.len());
        let Published { outcomes: known, closed } = self.publish_batch(together, dead, false)?;
        if let Some(closed) = closed {
            let unconfirmed = known.iter().filter(|outcome| outcome.is_none()).count();
            warn!(
                event = "channel_closed",
                cause = closed.cause,
                unconfirmed,
                "the broker closed a channel: publishing again what it did not confirm"
            );
            // Kept across sessions: frames that the client had queued for the channel may end the connection.
            let unknown = together.iter().zip(&known).filter(|(_, outcome)| outcome.is_none() && dead.is_none());
            self.isolated.extend(unknown.map(|(job, _)| (job.notification().instance(), Isolation::OfBatch)));
            self.learn(&closed).map_err(with_the_channel)?;
        }
        for (job, outcome) in together.iter().zip(known) {
            outcomes.push(match outcome {
                Some(outcome) => outcome,
                None => self.publish_alone(job, dead).map_err(with_the_channel)?,
            });
        }
        for job in alone {
            outcomes.push(match self.isolated.get(&job.notification().instance()) {
                Some(Isolation::OfItsOwn(cause)) if self.channels.must_wait() => Outcome::Refused(cause.clone()),
                _ => self.publish_alone(job, dead)?,
            });
        }
        self.conclude(&outcomes)?;
        Ok(outcomes)
    }

    /// Whether the job is to be published alone.
    fn is_isolated(&self, job: &Job) -> bool {
        job.action() != Action::Prove && self.isolated.contains_key(&job.notification().instance())
    }

    /// Publishes one message on the separate channel: if the broker closes that channel, this message is the cause.
    fn publish_alone(&mut self, job: &Job, dead: Option<Reason>) -> Result<Outcome, SessionError> {
        let instance = job.notification().instance();
        let mut last = String::new();
        for _ in 0..2 {
            if self.channels.is_too_large(job.notification()) {
                self.isolated.remove(&instance);
                return Ok(Outcome::TooLarge);
            }
            let Published { outcomes, closed } = self.publish_batch(std::slice::from_ref(job), dead, true)?;
            if let Some(outcome) = outcomes.into_iter().flatten().next() {
                self.isolated.remove(&instance);
                return Ok(outcome);
            }
            let Some(closed) = closed else { continue };
            self.learn(&closed)?;
            last = closed.cause;
            match closed.code {
                // Closed before this message was sent: retry.
                None | Some(AMQPSoftError::NOTFOUND) => {}
                Some(_) if self.channels.is_too_large(job.notification()) => {}
                Some(_) => {
                    if dead.is_none() {
                        self.isolated.insert(instance, Isolation::OfItsOwn(last.clone()));
                    }
                    return Ok(Outcome::Refused(last));
                }
            }
        }
        Err(SessionError::Unavailable(last))
    }

    /// Publishes one batch. A message that is published alone is marked, because the batch that it was in may have left a copy.
    fn publish_batch(&mut self, jobs: &[Job], dead: Option<Reason>, alone: bool) -> Result<Published, SessionError> {
        if jobs.is_empty() {
            return Ok(Published { outcomes: Vec::new(), closed: None });
        }
        let position = |job: &Job| {
            let position = self.position(job, dead.map(|reason| self.letter(job.notification(), reason, QUEUE)));
            Position { marked: position.marked || alone, ..position }
        };
        let positions: Vec<Position> = jobs.iter().map(position).collect();
        let channel = match (alone, dead) {
            (false, None) => self.channels.shared(&self.link)?,
            _ => self.channels.separate(&self.link)?,
        };
        let (config, owner_queue, begun) = (self.config, &self.owner_queue, Instant::now());
        let published = self.link.await_answer(async {
            if jobs.iter().any(|job| job.action() == Action::Prove) {
                connection::prove_ownership(channel, owner_queue).await?;
            }
            fault::reached("before_publish");
            let mut batch = Batch::new(channel, config);
            batch.publish(jobs, &positions).await?;
            fault::reached("published");
            let published = batch.confirmed().await;
            fault::reached("confirmed");
            published
        });
        self.proven = begun;
        published.inspect_err(|failure| self.abandon_unless_owned(failure))
    }

    /// Draws conclusions for later messages from why a channel was closed.
    fn learn(&mut self, closed: &Closed) -> Result<(), SessionError> {
        if let Some(limit) = closed.largest_body() {
            self.channels.largest_body = limit;
        }
        match closed.code {
            Some(AMQPSoftError::NOTFOUND) => self.link.prepare(self.config, self.reported),
            _ => Ok(()),
        }
    }

    fn conclude(&mut self, outcomes: &[Outcome]) -> Result<(), SessionError> {
        if outcomes.contains(&Outcome::Nacked) {
            // To a channel, a full quorum queue stays full until a consumer makes room.
            self.channels.of_all = self.link.open_channel()?;
            self.channels.apart = None;
        }
        if outcomes.iter().any(|outcome| matches!(outcome, Outcome::Stored(_))) {
            self.channels.unproven_since = None;
        }
        let all_refused =
            self.isolated.len() > 1 && self.channels.unproven_since.is_some_and(|since| since.elapsed() > ALL_REFUSED);
        match outcomes.first() {
            Some(Outcome::Refused(cause)) if all_refused => Err(SessionError::Unavailable(cause.clone())),
            _ => Ok(()),
        }
    }
}

/// The connection was closed along with a channel: the broker is fine and the cause is known, so the session is renewed.
fn with_the_channel(failure: SessionError) -> SessionError {
    match failure {
        SessionError::Unavailable(cause) => SessionError::Renew(format!("the connection went with a channel: {cause}")),
        other => other,
    }
}
