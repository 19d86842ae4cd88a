//! Validation of the options of RabbitMQ.

use std::collections::HashSet;

use secrecy::ExposeSecret;

use super::options::{Argument, Options, QueueType};
use crate::address;
use crate::mistake::Found;
use crate::sink::cloud_event::check_placeholders;

/// Adds what parses but cannot work.
pub(super) fn check(amqp: &Options, found: &mut Found<'_>) {
    for (index, uri) in amqp.uri.iter().enumerate().filter(|_| amqp.uri_file.is_none()) {
        if let Err(form) = address::amqp(uri.expose_secret()) {
            found.add(&["uri", &index.to_string()], format!("`uri` {form}"));
        }
    }
    if amqp.uri.is_empty() && amqp.uri_file.is_none() {
        found.add(&["uri"], "`uri` is empty: name at least one broker");
    }
    let names = [("name", &amqp.name), ("exchange", &amqp.exchange), ("dead_letter_queue", &amqp.dead_letter_queue)];
    let unusable = |name: &str| name.is_empty() || name.len() > 200 || name.contains(char::is_control);
    for (key, name) in names.into_iter().chain(amqp.queue.iter().map(|name| ("queue", name))) {
        if unusable(name) {
            // The value may be anything, such as a password pasted into the wrong place: only the key is reported.
            let text = format!("`{key}` of sink.amqp must be 1 to 200 bytes long and contain no control characters");
            found.add(&[key], text);
        }
    }
    check_queues(amqp, found);
    if amqp.routing_key.len() > 150 {
        found.add(&["routing_key"], "`routing_key` must be at most 150 bytes long");
    }
    check_placeholders(&amqp.routing_key, "routing_key", found);
}

/// No queue may play two roles, and no argument may make a queue lose messages that the bridge promises to keep.
fn check_queues(amqp: &Options, found: &mut Found<'_>) {
    let rejected = amqp.queue.as_ref().map(|queue| format!("{queue}.rejected"));
    let mut used = HashSet::from([format!("{}.owner", amqp.name)]);
    for name in amqp.queue.iter().chain(&rejected).chain([&amqp.dead_letter_queue]) {
        if !used.insert(name.clone()) {
            let text =
                "`queue`, `{queue}.rejected`, `dead_letter_queue` and `{name}.owner` must be four different queues";
            found.add(&["queue"], text);
        }
    }
    for (name, value) in &amqp.queue_arguments {
        let why = match (&amqp.queue, name.as_str(), value) {
            (None, ..) => "applies to no queue, because `queue` is null: remove it",
            (_, "x-queue-type", _) => "is set by `queue_type`: remove it",
            (_, name, _) if !name.starts_with("x-") || name.len() > 100 => {
                "must begin with `x-`, as all optional queue arguments do"
            }
            (Some(queue), name, value) if amqp.queue_type == QueueType::Quorum => match (name, value) {
                ("x-overflow", value) if *value != Argument::Text("reject-publish".into()) => {
                    "would lose rejected messages: at-least-once dead lettering requires reject-publish"
                }
                ("x-dead-letter-strategy", value) if *value != Argument::Text("at-least-once".into()) => {
                    "would lose rejected messages: use at-least-once"
                }
                ("x-dead-letter-exchange", Argument::Flag(_) | Argument::Number(_)) => {
                    "must be the name of an exchange"
                }
                ("x-dead-letter-routing-key", value) if !matches!(value, Argument::Text(key) if !key.is_empty() && key != queue) => {
                    "must be a string other than `queue`"
                }
                ("x-delivery-limit", value) if !matches!(value, Argument::Number(-1..)) => {
                    "must be a number, or -1 for no limit"
                }
                _ => continue,
            },
            _ => continue,
        };
        found.add(&["queue_arguments", name], format!("`queue_arguments` {name}: it {why}"));
    }
}
