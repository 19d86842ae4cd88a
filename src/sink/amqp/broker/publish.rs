//! Publishes a batch and finds out what became of each message.
//!
//! lapin attaches a returned message to whichever confirm comes next. So a batch is a barrier:
//! all confirms are awaited, and returns are matched by our own message id, before anything is
//! decided.

use std::collections::HashSet;

use lapin::options::BasicPublishOptions;
use lapin::types::{AMQPValue, FieldTable, LongString, ShortString};
use lapin::{BasicProperties, Channel, Confirmation, PublisherConfirm};

use super::errors::unavailable;
use crate::notification::Notification;
use crate::sink::amqp::options::Options;
use crate::sink::cloud_event::{self, Place};
use crate::sink::session::SessionError;

const PERSISTENT: u8 = 2;

/// What became of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Every queue that it was routed to has it, at this place of the sequence; or it was there.
    Stored(Option<u64>),
    /// No queue took it, for certain.
    Unroutable,
    /// At least one queue refused it.
    Nacked,
}

pub(super) struct Batch<'a> {
    channel: &'a Channel,
    config: &'a Options,
    sent: Vec<Option<Sent>>,
}

struct Sent {
    id: ShortString,
    sequence: u64,
    confirm: PublisherConfirm,
}

impl<'a> Batch<'a> {
    pub(super) fn new(channel: &'a Channel, config: &'a Options) -> Self {
        Self { channel, config, sent: Vec::new() }
    }

    /// A place in the batch for what needs no publish.
    pub(super) fn nothing(&mut self) {
        self.sent.push(None);
    }

    /// Sends it, without waiting for its confirm. A dead letter goes to its own queue.
    pub(super) async fn publish(&mut self, notification: &Notification, place: &Place) -> Result<(), SessionError> {
        let mut headers = FieldTable::default();
        let mut properties = BasicProperties::default();
        for (name, value) in cloud_event::attributes(notification, place) {
            match name {
                "id" => properties = properties.with_message_id(short(&value)),
                "type" => properties = properties.with_type(short(&value)),
                _ => {}
            }
            headers
                .insert(short(&format!("cloudEvents_{name}")), AMQPValue::LongString(LongString::from(value.as_ref())));
        }
        let properties = properties
            .with_headers(headers)
            .with_content_type(cloud_event::content_type(notification).into())
            .with_delivery_mode(PERSISTENT)
            .with_timestamp(notification.facts().unix_seconds)
            .with_app_id("green-api-bridge".into());
        let id = properties.message_id().clone().unwrap_or_default();
        // Without `mandatory` the broker confirms what it throws away.
        let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
        let (exchange, routing_key) = match place.dead_letter {
            None => {
                (short(&self.config.exchange), short(&cloud_event::fill(&self.config.routing_key.value, notification)))
            }
            // The default exchange routes to the queue of that name.
            Some(_) => (ShortString::default(), short(&self.config.dead_letter_queue)),
        };
        let confirm = self
            .channel
            .basic_publish(exchange, routing_key, options, notification.body(), properties)
            .await
            .map_err(|error| unavailable("publish", &error))?;
        self.sent.push(Some(Sent { id, sequence: place.sequence, confirm }));
        Ok(())
    }

    /// Waits for every confirm, then tells the outcomes in the order of the batch.
    pub(super) async fn confirmed(self) -> Result<Vec<Outcome>, SessionError> {
        let mut returned = HashSet::new();
        let mut answers = Vec::with_capacity(self.sent.len());
        for sent in self.sent {
            let Some(Sent { id, sequence, confirm }) = sent else {
                answers.push(None);
                continue;
            };
            let confirmation = confirm.await.map_err(|error| unavailable("confirm", &error))?;
            let acknowledged = match &confirmation {
                Confirmation::Ack(_) => true,
                Confirmation::Nack(_) => false,
                Confirmation::NotRequested => {
                    return Err(SessionError::Unavailable("the channel does not confirm".into()));
                }
            };
            if let Some(message) = confirmation.take_message() {
                returned.extend(message.delivery.properties.message_id().clone());
            }
            answers.push(Some((id, sequence, acknowledged)));
        }
        let outcome = |answer: Option<(ShortString, u64, bool)>| match answer {
            None => Outcome::Stored(None),
            Some((id, ..)) if returned.contains(&id) => Outcome::Unroutable,
            Some((_, sequence, true)) => Outcome::Stored(Some(sequence)),
            Some((_, _, false)) => Outcome::Nacked,
        };
        Ok(answers.into_iter().map(outcome).collect())
    }
}

/// Names are checked with the config, and the rest is short by construction; what is too long all
/// the same is cut rather than a reason to panic.
fn short(text: &str) -> ShortString {
    ShortString::try_new(text.get(..255).unwrap_or(text)).unwrap_or_default()
}
