//! The channels of one ownership. The broker closes a channel over a single message that it does not
//! take, under everything else that is in flight there; the connection, and with it the ownership,
//! stays. So a message that closed a channel is published alone from then on.
//!
//! lapin 4 may send what it had queued for a channel after it has agreed to its end; RabbitMQ then closes the connection.
//! Published alone, nothing is queued.

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
use crate::sink::cloud_event::Place;
use crate::sink::session::{Action, Job, SessionError};

/// What every RabbitMQ takes: version 4 allows no more by default, earlier ones 128 MiB.
const LARGEST_BODY: usize = 16 << 20;

/// A channel for what closed the last one is opened at most this often.
const REOPEN_INTERVAL: Duration = Duration::from_secs(1);

/// When nothing at all was stored for so long, what is refused is not to blame.
const ALL_REFUSED: Duration = Duration::from_secs(10);

/// The channels on which an ownership publishes, and what it has learned of them.
pub(super) struct Channels {
    of_all: Channel,
    /// For dead letters, and for what closed a channel.
    apart: Option<Channel>,
    opened_apart: Option<Instant>,
    largest_body: usize,
    /// Since when the broker has refused whatever was published, or may have.
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

    /// The one on which everything is published together.
    pub(super) fn of_all(&mut self, link: &Link) -> Result<&Channel, SessionError> {
        if !self.of_all.status().connected() {
            self.of_all = link.another_channel()?;
        }
        Ok(&self.of_all)
    }

    fn apart(&mut self, link: &Link) -> Result<&Channel, SessionError> {
        let open = self.apart.take().filter(|channel| channel.status().connected());
        let channel = if let Some(channel) = open {
            channel
        } else {
            self.opened_apart = Some(Instant::now());
            link.another_channel()?
        };
        Ok(self.apart.insert(channel))
    }

    /// Whether the broker is known to close the channel over it.
    pub(super) fn is_too_large(&self, notification: &Notification) -> bool {
        notification.body().len() > self.largest_body
    }

    /// Whether it is too soon to open another one for what closed the last.
    fn rests(&self) -> bool {
        let is_open = self.apart.as_ref().is_some_and(|channel| channel.status().connected());
        !is_open && self.opened_apart.is_some_and(|opened| opened.elapsed() < REOPEN_INTERVAL)
    }
}

/// Why an instance is published alone.
pub(super) enum Suspicion {
    /// A channel was closed over its batch.
    OfBatch,
    /// A channel was closed over its own message, for this reason.
    OfItsOwn(String),
}

impl Amqp<'_> {
    /// Publishes them, all of them dead letters or none, and tells what became of each, in the order
    /// in which they are then. A message over which the broker closes the channel costs the others of
    /// its batch a mark, once.
    pub(super) fn publish(&mut self, jobs: &mut [Job], dead: Option<Reason>) -> Result<Vec<Outcome>, SessionError> {
        jobs.sort_by_key(|job| self.is_suspect(job));
        let (together, alone) = jobs.split_at(jobs.partition_point(|job| !self.is_suspect(job)));
        let mut outcomes = Vec::with_capacity(jobs.len());
        let Published { outcomes: known, closed } = self.publish_batch(together, dead, false)?;
        if let Some(closed) = closed {
            let unconfirmed = known.iter().filter(|outcome| outcome.is_none()).count();
            warn!(
                cause = closed.cause,
                unconfirmed, "the broker closed a channel: publishing again what it did not confirm"
            );
            // Known also to the next ownership: what the client had still queued for the channel may end the connection.
            let unknown = together.iter().zip(&known).filter(|(_, outcome)| outcome.is_none() && dead.is_none());
            self.suspects.extend(unknown.map(|(job, _)| (job.notification().instance(), Suspicion::OfBatch)));
            self.learn(&closed).map_err(with_the_channel)?;
        }
        for (job, outcome) in together.iter().zip(known) {
            outcomes.push(match outcome {
                Some(outcome) => outcome,
                None => self.publish_alone(job, dead).map_err(with_the_channel)?,
            });
        }
        for job in alone {
            outcomes.push(match self.suspects.get(&job.notification().instance()) {
                Some(Suspicion::OfItsOwn(cause)) if self.channels.rests() => Outcome::Refused(cause.clone()),
                _ => self.publish_alone(job, dead)?,
            });
        }
        self.conclude(&outcomes)?;
        Ok(outcomes)
    }

    /// Whether it is published alone.
    fn is_suspect(&self, job: &Job) -> bool {
        job.action() != Action::Prove && self.suspects.contains_key(&job.notification().instance())
    }

    /// By itself, on the channel for that: when the broker closes it now, it is over this message.
    fn publish_alone(&mut self, job: &Job, dead: Option<Reason>) -> Result<Outcome, SessionError> {
        let instance = job.notification().instance();
        let mut last = String::new();
        for _ in 0..2 {
            if self.channels.is_too_large(job.notification()) {
                self.suspects.remove(&instance);
                return Ok(Outcome::TooLarge);
            }
            let Published { outcomes, closed } = self.publish_batch(std::slice::from_ref(job), dead, true)?;
            if let Some(outcome) = outcomes.into_iter().flatten().next() {
                self.suspects.remove(&instance);
                return Ok(outcome);
            }
            let Some(closed) = closed else { continue };
            self.learn(&closed)?;
            last = closed.cause;
            match closed.code {
                // Closed before, or for all: once more.
                None | Some(AMQPSoftError::NOTFOUND) => {}
                Some(_) if self.channels.is_too_large(job.notification()) => {}
                Some(_) => {
                    if dead.is_none() {
                        self.suspects.insert(instance, Suspicion::OfItsOwn(last.clone()));
                    }
                    return Ok(Outcome::Refused(last));
                }
            }
        }
        Err(SessionError::Unavailable(last))
    }

    /// One batch. What is published alone is marked: another copy may be left of the batch that it was in.
    fn publish_batch(&mut self, jobs: &[Job], dead: Option<Reason>, alone: bool) -> Result<Published, SessionError> {
        if jobs.is_empty() {
            return Ok(Published { outcomes: Vec::new(), closed: None });
        }
        let place = |job: &Job| {
            let place = self.place(job, dead.map(|reason| self.letter(job.notification(), reason, QUEUE)));
            Place { marked: place.marked || alone, ..place }
        };
        let places: Vec<Place> = jobs.iter().map(place).collect();
        let channel = match (alone, dead) {
            (false, None) => self.channels.of_all(&self.link)?,
            _ => self.channels.apart(&self.link)?,
        };
        let (config, owner_queue, begun) = (self.config, &self.owner_queue, Instant::now());
        let published = self.link.patiently(async {
            if jobs.iter().any(|job| job.action() == Action::Prove) {
                connection::prove_ownership(channel, owner_queue).await?;
            }
            fault::reached("before_publish");
            let mut batch = Batch::new(channel, config);
            for (job, place) in jobs.iter().zip(&places) {
                match job.action() {
                    Action::Prove => batch.nothing(),
                    Action::Publish { .. } => batch.publish(job.notification(), place).await?,
                }
            }
            fault::reached("published");
            let published = batch.confirmed().await;
            fault::reached("confirmed");
            published
        });
        self.proven = begun;
        published.inspect_err(|failure| self.give_up_unless_owned(failure))
    }

    /// What the end of a channel says of the next message.
    fn learn(&mut self, closed: &Closed) -> Result<(), SessionError> {
        if let Some(limit) = closed.largest_body() {
            self.channels.largest_body = limit;
        }
        match closed.code {
            Some(AMQPSoftError::NOTFOUND) => self.link.prepare(self.config, self.told),
            _ => Ok(()),
        }
    }

    fn conclude(&mut self, outcomes: &[Outcome]) -> Result<(), SessionError> {
        if outcomes.contains(&Outcome::Nacked) {
            // A quorum queue that was full stays full to a channel, unless a consumer made the room.
            self.channels.of_all = self.link.another_channel()?;
            self.channels.apart = None;
        }
        if outcomes.iter().any(|outcome| matches!(outcome, Outcome::Stored(_))) {
            self.channels.unproven_since = None;
        }
        let all_refused =
            self.suspects.len() > 1 && self.channels.unproven_since.is_some_and(|since| since.elapsed() > ALL_REFUSED);
        match outcomes.first() {
            Some(Outcome::Refused(cause)) if all_refused => Err(SessionError::Unavailable(cause.clone())),
            _ => Ok(()),
        }
    }
}

/// A connection that went with a channel: nothing is wrong with the broker, and what closed the channel is known.
fn with_the_channel(failure: SessionError) -> SessionError {
    match failure {
        SessionError::Unavailable(cause) => SessionError::Renew(format!("the connection went with a channel: {cause}")),
        other => other,
    }
}
