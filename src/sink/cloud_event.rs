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
pub struct Position {
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
pub fn attributes<'a>(notification: &'a Notification, position: &'a Position) -> Vec<(&'static str, Cow<'a, str>)> {
    let (instance, facts) = (notification.instance(), notification.facts());
    let mut attributes = vec![
        ("specversion", Cow::Borrowed("1.0")),
        ("id", notification.id().to_string().into()),
        ("source", format!("/green-api/waInstance{instance}").into()),
        ("type", format!("com.green-api.{}", facts.kind).into()),
        ("time", Cow::Borrowed(facts.time.as_str())),
        ("sequence", format!("{:020}", position.sequence).into()),
        ("idinstance", instance.to_string().into()),
        ("receiptid", notification.receipt().to_string().into()),
    ];
    let of_message = [("idmessage", &facts.message), ("typemessage", &facts.message_kind)];
    attributes
        .extend(of_message.into_iter().filter_map(|(name, value)| Some((name, Cow::Borrowed(value.as_deref()?)))));
    attributes.push(("chatkind", Cow::Borrowed(facts.chat_kind.name())));
    if let Some(epoch) = position.epoch {
        attributes.push(("epoch", epoch.to_string().into()));
    }
    if position.marked {
        attributes.push(("possibleduplicate", Cow::Borrowed("true")));
    }
    if let Some(letter) = &position.dead_letter {
        attributes.push(("deadletterreason", letter.reason.to_string().into()));
        attributes.push(("originaldestination", Cow::Borrowed(&letter.destination)));
    }
    attributes
}

/// Expands the placeholders of a topic.
#[cfg_attr(not(feature = "kafka"), allow(dead_code, reason = "only Kafka has topics"))]
pub(super) fn topic(template: &str, notification: &Notification) -> String {
    let facts = notification.facts();
    expand(template, notification, kinds::in_topic(&facts.kind), kinds::message_in_topic(facts.message_kind.as_deref()))
}

/// Expands the placeholders of a routing key.
#[cfg_attr(not(feature = "amqp"), allow(dead_code, reason = "only RabbitMQ has routing keys"))]
pub(super) fn fill(template: &str, notification: &Notification) -> String {
    let facts = notification.facts();
    expand(template, notification, &facts.kind, facts.message_kind.as_deref().unwrap_or(kinds::NONE))
}

fn expand(template: &str, notification: &Notification, kind: &str, message: &str) -> String {
    if !template.contains('{') {
        return template.to_owned();
    }
    let instance = notification.instance().to_string();
    let values = [instance.as_str(), kind, message, notification.facts().chat_kind.name()];
    // No value contains a brace.
    PLACEHOLDERS
        .iter()
        .zip(values)
        .fold(template.to_owned(), |text, (placeholder, value)| text.replace(placeholder, value))
}

/// The placeholders of topics and routing keys.
const PLACEHOLDERS: [&str; 4] = ["{instance}", "{type}", "{message}", "{chat}"];

/// The literal text of a template.
pub(super) fn without_placeholders(template: &str) -> String {
    PLACEHOLDERS.iter().fold(template.to_owned(), |text, placeholder| text.replace(placeholder, ""))
}

/// Checks that a template has only known placeholders.
pub(super) fn check_placeholders(template: &str, key: &str, found: &mut Found<'_>) {
    if without_placeholders(template).contains(['{', '}']) {
        found.add(&[key], format!("`{key}` knows the placeholders {} only", PLACEHOLDERS.join(", ")));
    }
}
