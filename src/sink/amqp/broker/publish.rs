//! Publishes a batch and determines the outcome of each message.
//!
//! lapin attaches a returned message to whichever confirm comes next. A batch is therefore a barrier: all confirms are awaited
//! and returned messages are matched by our own message id before any outcome is decided. Confirms that arrived before the
//! broker closed the channel stay valid, because a return precedes its confirm.

use std::collections::HashSet;

use lapin::options::BasicPublishOptions;
use lapin::types::{AMQPValue, FieldTable, LongString, ShortString};
use lapin::{BasicProperties, Channel, Confirmation, Error, PublisherConfirm};

use super::errors::{Closed, unavailable};
use crate::notification::Notification;
use crate::sink::amqp::options::Options;
use crate::sink::cloud_event::{self, Position};
use crate::sink::session::SessionError;

const PERSISTENT: u8 = 2;

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

    /// Reserves a place in the batch for a job that needs no publish.
    pub(super) fn nothing(&mut self) {
        self.messages.push(Message::Nothing);
    }

    /// Sends a message without waiting for its confirm; a dead letter goes to its own queue. Sends nothing once the broker has
    /// closed the channel.
    pub(super) async fn publish(
        &mut self,
        notification: &Notification,
        position: &Position,
    ) -> Result<(), SessionError> {
        if self.closed.is_some() {
            self.messages.push(Message::Unsent);
            return Ok(());
        }
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
        let sent = self.channel.basic_publish(exchange, routing_key, options, notification.body(), properties).await;
        let message = match sent {
            Ok(confirm) => Message::Sent { id, sequence: position.sequence, confirm },
            Err(error) => {
                self.is_closed("publish", &error)?;
                Message::Unsent
            }
        };
        self.messages.push(message);
        Ok(())
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
