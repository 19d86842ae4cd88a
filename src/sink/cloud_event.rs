//! The attributes of a notification: `CloudEvents` 1.0, binary mode, all values strings.

use std::borrow::Cow;

use super::DeadLetter;
use crate::kinds;
use crate::mistake::Found;
use crate::notification::Notification;

/// The media type of a body.
#[must_use]
pub fn content_type(notification: &Notification) -> &'static str {
    if notification.is_malformed() { "application/octet-stream" } else { "application/json" }
}

/// The position of a notification in the stream of its instance.
#[derive(Clone, Debug, Default)]
pub struct Place {
    /// Starts with 1, without gaps within an epoch.
    pub sequence: u64,
    /// When ownership was taken, in Unix milliseconds; `None` in a sink with memory.
    pub epoch: Option<u64>,
    /// Whether another copy may exist.
    pub marked: bool,
    /// Set if it is published as a dead letter.
    pub dead_letter: Option<DeadLetter>,
}

/// The attributes of a notification, in the order in which they are written.
#[must_use]
pub fn attributes<'a>(notification: &'a Notification, place: &'a Place) -> Vec<(&'static str, Cow<'a, str>)> {
    let (instance, facts) = (notification.instance(), notification.facts());
    let mut attributes = vec![
        ("specversion", Cow::Borrowed("1.0")),
        ("id", notification.id().to_string().into()),
        ("source", format!("/green-api/waInstance{instance}").into()),
        ("type", format!("com.green-api.{}", facts.kind).into()),
        ("time", Cow::Borrowed(facts.time.as_str())),
        ("sequence", format!("{:020}", place.sequence).into()),
        ("idinstance", instance.to_string().into()),
        ("receiptid", notification.receipt().to_string().into()),
    ];
    if let Some(epoch) = place.epoch {
        attributes.push(("epoch", epoch.to_string().into()));
    }
    if place.marked {
        attributes.push(("possibleduplicate", Cow::Borrowed("true")));
    }
    if let Some(letter) = &place.dead_letter {
        attributes.push(("deadletterreason", letter.reason.to_string().into()));
        attributes.push(("originaldestination", Cow::Borrowed(&letter.destination)));
    }
    attributes
}

/// Expands the placeholders of a topic.
#[cfg_attr(not(feature = "kafka"), allow(dead_code, reason = "only Kafka has topics"))]
pub(super) fn topic(template: &str, notification: &Notification) -> String {
    let kind = kinds::in_topic(&notification.facts().kind);
    template.replace("{instance}", &notification.instance().to_string()).replace("{type}", kind)
}

/// Expands the placeholders of a routing key.
#[cfg_attr(not(feature = "amqp"), allow(dead_code, reason = "only RabbitMQ has routing keys"))]
pub(super) fn fill(template: &str, notification: &Notification) -> String {
    template.replace("{instance}", &notification.instance().to_string()).replace("{type}", &notification.facts().kind)
}

/// Checks that a template has only known placeholders.
pub(super) fn check_placeholders(template: &str, key: &str, found: &mut Found<'_>) {
    let rest = template.replace("{instance}", "").replace("{type}", "");
    if rest.contains(['{', '}']) {
        found.add(&[key], format!("`{key}` knows the placeholders {{instance}} and {{type}} only"));
    }
}
