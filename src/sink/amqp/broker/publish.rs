//! Publishes a batch and determines the outcome of each message.
//!
//! lapin attaches a returned message to whichever confirm comes next. A batch is therefore a barrier: all confirms are awaited
//! and returned messages are matched by our own message id before any outcome is decided. Confirms that arrived before the
//! broker closed the channel stay valid, because a return precedes its confirm.

use std::collections::HashSet;
use std::iter::from_fn;

use futures_util::future::join_all;
use lapin::options::BasicPublishOptions;
use lapin::types::{AMQPValue, FieldTable, LongString, ShortString};
use lapin::{BasicProperties, Channel, Confirmation, Error, PublisherConfirm};

use super::errors::{Closed, unavailable};
use crate::sink::amqp::options::Options;
use crate::sink::cloud_event::{self, Position};
use crate::sink::session::{Action, Job, SessionError};

const PERSISTENT: u8 = 2;

/// How many bytes of bodies are handed to the client at once, which copies them.
const AT_ONCE: usize = 256 << 10;

/// The outcome of publishing a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Confirmed by every queue that it was routed to, with this sequence number; `None` if it was stored before.
    Stored(Option<u64>),
    /// Returned: no queue is bound for it. Certainly not stored.
    Unroutable,
    /// Rejected by at least one queue.
    Nacked,
    /// Larger than the broker accepts. Certainly not stored.
    TooLarge,
    /// The broker closed the channel because of it. Certainly not stored.
    Refused(String),
}

/// Messages that are published together.
pub(super) struct Batch<'a> {
    channel: &'a Channel,
    config: &'a Options,
    messages: Vec<Message>,
    closed: Option<Closed>,
}

/// The outcomes of a batch, in its order.
pub(super) struct Published {
    /// `None` if unknown: the channel was closed before the confirm arrived.
    pub outcomes: Vec<Option<Outcome>>,
    pub closed: Option<Closed>,
}

enum Message {
    /// Nothing to publish.
    Nothing,
    Sent {
        id: ShortString,
        sequence: u64,
        confirm: PublisherConfirm,
    },
    /// The channel was closed earlier or meanwhile.
    Unsent,
}

impl<'a> Batch<'a> {
    pub(super) fn new(channel: &'a Channel, config: &'a Options) -> Self {
        Self { channel, config, messages: Vec::new(), closed: None }
    }

    /// Sends the messages of the jobs without waiting for their confirms, dead letters to their own queue. Sends nothing more once
    /// the broker has closed the channel. A job that is only to be proven needs no message.
    pub(super) async fn publish(&mut self, jobs: &[Job], positions: &[Position]) -> Result<(), SessionError> {
        let mut rest = jobs.iter().zip(positions).peekable();
        while rest.peek().is_some() {
            let mut bytes = 0;
            let mut fits = |(job, _): &(&Job, _)| {
                let fits = bytes < AT_ONCE;
                bytes += job.notification().body().len();
                fits
            };
            // Together, because each wait for the client's own thread is a context switch. Nothing runs between the number that
            // the client gives a message and its place in the client's queue, so their confirms are not mixed up.
            let sends = from_fn(|| rest.next_if(&mut fits)).map(|(job, position)| self.send(job, position));
            for sent in join_all(sends).await {
                let message = sent.or_else(|error| self.is_closed("publish", &error).map(|()| Message::Unsent))?;
                self.messages.push(message);
            }
        }
        Ok(())
    }

    async fn send(&self, job: &Job, position: &Position) -> Result<Message, Error> {
        if job.action() == Action::Prove {
            return Ok(Message::Nothing);
        }
        if self.closed.is_some() {
            return Ok(Message::Unsent);
        }
        let notification = job.notification();
        let attributes = cloud_event::attributes(notification, position);
        let attributes = attributes.iter().map(|(name, value)| (*name, value.as_ref()));
        let content_type = cloud_event::content_type(notification);
        let properties = properties(attributes, content_type, notification.facts().unix_seconds);
        let id = properties.message_id().clone().unwrap_or_default();
        // Without `mandatory` the broker confirms messages that it drops.
        let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
        let (exchange, routing_key) = match position.dead_letter {
            None => (short(&self.config.exchange), short(&cloud_event::fill(&self.config.routing_key, notification))),
            // The default exchange routes by queue name.
            Some(_) => (ShortString::default(), short(&self.config.dead_letter_queue)),
        };
        let confirm =
            self.channel.basic_publish(exchange, routing_key, options, notification.body(), properties).await?;
        Ok(Message::Sent { id, sequence: position.sequence, confirm })
    }

    /// Waits for all confirms, or for those that arrive before the broker closes the channel.
    pub(super) async fn confirmed(mut self) -> Result<Published, SessionError> {
        let mut returned = HashSet::new();
        let mut answers = Vec::with_capacity(self.messages.len());
        for message in std::mem::take(&mut self.messages) {
            answers.push(match message {
                Message::Nothing => Answer::Nothing,
                Message::Unsent => Answer::Unknown,
                Message::Sent { id, sequence, confirm } => match confirm.await {
                    Err(error) => {
                        self.is_closed("confirm", &error)?;
                        Answer::Unknown
                    }
                    Ok(confirmation) => {
                        let answer = match &confirmation {
                            Confirmation::Ack(_) => Answer::Ack { id, sequence },
                            Confirmation::Nack(_) => Answer::Nack { id },
                            Confirmation::NotRequested => {
                                return Err(SessionError::Unavailable("the channel does not confirm".into()));
                            }
                        };
                        if let Some(message) = confirmation.take_message() {
                            returned.extend(message.delivery.properties.message_id().clone());
                        }
                        answer
                    }
                },
            });
        }
        let outcome = |answer: Answer| match answer {
            Answer::Nothing => Some(Outcome::Stored(None)),
            Answer::Unknown => None,
            Answer::Ack { id, .. } | Answer::Nack { id } if returned.contains(&id) => Some(Outcome::Unroutable),
            Answer::Ack { sequence, .. } => Some(Outcome::Stored(Some(sequence))),
            Answer::Nack { .. } => Some(Outcome::Nacked),
        };
        Ok(Published { outcomes: answers.into_iter().map(outcome).collect(), closed: self.closed })
    }

    /// Records the first error that explains why the broker closed the channel. Any other error affects more than the
    /// channel and is returned.
    fn is_closed(&mut self, what: &str, error: &Error) -> Result<(), SessionError> {
        let closed = Closed::read(error).ok_or_else(|| unavailable(what, error))?;
        if self.closed.as_ref().is_none_or(|known| known.code.is_none()) {
            self.closed = Some(closed);
        }
        Ok(())
    }
}

/// The broker's answer to a message.
enum Answer {
    Nothing,
    Ack { id: ShortString, sequence: u64 },
    Nack { id: ShortString },
    Unknown,
}

/// The properties of a message with these attributes.
pub(super) fn properties<'a>(
    attributes: impl IntoIterator<Item = (&'a str, &'a str)>,
    content_type: &str,
    unix_seconds: u64,
) -> BasicProperties {
    let mut headers = FieldTable::default();
    let mut properties = BasicProperties::default();
    for (name, value) in attributes {
        match name {
            "id" => properties = properties.with_message_id(short(value)),
            "type" => properties = properties.with_type(short(value)),
            _ => {}
        }
        headers.insert(short(&format!("cloudEvents_{name}")), AMQPValue::LongString(LongString::from(value)));
    }
    properties
        .with_headers(headers)
        .with_content_type(content_type.into())
        .with_delivery_mode(PERSISTENT)
        .with_timestamp(unix_seconds)
        .with_app_id("green-api-bridge".into())
}

/// Names are validated with the config and everything else is short by construction; truncating avoids a panic.
pub(super) fn short(text: &str) -> ShortString {
    ShortString::try_new(text.get(..255).unwrap_or(text)).unwrap_or_default()
}
