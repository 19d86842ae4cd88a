//! Mistakes of meaning: what is well written and cannot be right. All of them are told together.

use std::collections::HashSet;
use std::path::Path;

use secrecy::ExposeSecret;
use serde_saphyr::Location;

use super::mistake::{Mistake, Mistakes, unknown};
use super::topics::Types;
use super::{Amqp, Api, Argument, Config, Instance, Kafka, QueueType, Sink};
use super::{address, topics};

/// The switches of `setSettings` that put kinds of notification into the queue.
const SWITCHES: [&str; 15] = [
    "incomingWebhook",
    "outgoingWebhook",
    "outgoingMessageWebhook",
    "outgoingAPIMessageWebhook",
    "stateWebhook",
    "statusInstanceWebhook",
    "deviceWebhook",
    "pollMessageWebhook",
    "editedMessageWebhook",
    "deletedMessageWebhook",
    "incomingCallWebhook",
    "outgoingCallWebhook",
    "incomingBlockWebhook",
    "catalogWebhook",
    "statusInstanceChangedWebhook",
];

/// What the sink sets itself: another value would break a promise.
const RESERVED: [&str; 9] = [
    "bootstrap.servers",
    "metadata.broker.list",
    "transactional.id",
    "enable.idempotence",
    "isolation.level",
    "group.id",
    "partitioner",
    "allow.auto.create.topics",
    "delivery.report.only.error",
];

struct Found<'a> {
    file: Option<&'a Path>,
    mistakes: Vec<Mistake>,
}

impl Found<'_> {
    fn add(&mut self, location: Location, text: impl Into<String>) {
        self.mistakes.push(Mistake::at(self.file, location, text.into()));
    }
}

pub(super) fn check(config: Config, file: Option<&Path>) -> Result<Config, Mistakes> {
    let mut found = Found { file, mistakes: Vec::new() };
    if config.instances.is_empty() && config.instances_dir.is_none() {
        found.add(Location::UNKNOWN, "no instance: add one to `instances`, or name an `instances_dir`");
    }
    let mut seen = HashSet::new();
    for instance in &config.instances {
        found.file = instance.file.as_deref().or(file);
        check_instance(instance, &mut found);
        if !seen.insert(instance.id.value) {
            let text =
                format!("instance {} is given twice: two readers of one queue disturb each other", instance.id.value);
            found.add(instance.id.referenced, text);
        }
    }
    found.file = file;
    check_api(&config.api, &mut found);
    match &config.sink {
        Sink::Kafka(kafka) => check_kafka(kafka, &mut found),
        Sink::Amqp(amqp) => check_amqp(amqp, &mut found),
        Sink::File(_) | Sink::Stdout(_) => {}
    }
    let mistakes = found.mistakes;
    if mistakes.is_empty() { Ok(config) } else { Err(Mistakes(mistakes)) }
}

/// One that is read by itself.
pub(super) fn instance(instance: Instance, file: &Path) -> Result<Instance, Mistakes> {
    let mut found = Found { file: Some(file), mistakes: Vec::new() };
    check_instance(&instance, &mut found);
    if found.mistakes.is_empty() { Ok(instance) } else { Err(Mistakes(found.mistakes)) }
}

fn check_instance(instance: &Instance, found: &mut Found<'_>) {
    let id = instance.id.value;
    match (&instance.api_token, &instance.api_token_file) {
        (None, None) => {
            found.add(instance.id.referenced, format!("instance {id} needs `api_token_file` or `api_token`"));
        }
        (Some(_), Some(_)) => {
            found.add(
                instance.id.referenced,
                format!("instance {id} has both `api_token_file` and `api_token`: keep one"),
            );
        }
        (Some(token), None) if token.expose_secret().trim().is_empty() => {
            found.add(instance.id.referenced, format!("instance {id}: `api_token` is empty"));
        }
        _ => {}
    }
}

fn check_api(api: &Api, found: &mut Found<'_>) {
    let seconds = &api.receive_timeout_secs;
    if !(5..=60).contains(&seconds.value) {
        found.add(seconds.referenced, format!("`receive_timeout_secs` must be 5 to 60, not {}", seconds.value));
    }
    for switch in &api.webhooks {
        if !SWITCHES.contains(&switch.value.as_str()) {
            found.add(switch.referenced, unknown("kind", &switch.value, &SWITCHES));
        }
    }
}

fn check_kafka(kafka: &Kafka, found: &mut Found<'_>) {
    if kafka.bootstrap_servers.is_empty() {
        found.add(kafka.topic.referenced, "`bootstrap_servers` is empty: name at least one HOST:PORT");
    }
    let protocol = match kafka.properties.get("security.protocol") {
        Some(given) => given.value.expose_secret(),
        // What a file says is read at the start.
        None if kafka.properties_files.contains_key("security.protocol") => "",
        None => "PLAINTEXT",
    };
    for server in &kafka.bootstrap_servers {
        if let Err(form) = address::kafka(&server.value, protocol) {
            found.add(server.referenced, format!("`bootstrap_servers` {form}"));
        }
    }
    if kafka.transactional_id.is_empty() {
        found.add(kafka.topic.referenced, "`transactional_id` is empty: it names this bridge at the brokers");
    }
    if kafka.topic.value.starts_with('{') {
        found.add(kafka.topic.referenced, "`topic` needs a literal beginning before a placeholder");
    }
    // What a placeholder can become is legal, and 64 bytes at most.
    let topic = kafka.topic.value.replace("{instance}", "").replace("{type}", "");
    let names = [
        ("topic", topic.as_str(), &kafka.topic),
        ("ledger_topic", &kafka.ledger_topic.value, &kafka.ledger_topic),
        ("dead_letter_topic", &kafka.dead_letter_topic.value, &kafka.dead_letter_topic),
    ];
    for (key, name, written) in names {
        let legal = |byte: u8| byte.is_ascii_alphanumeric() || b"._-{}".contains(&byte);
        if (name.is_empty() && key != "topic") || name.len() > 120 || !name.bytes().all(legal) {
            found.add(written.referenced, format!("`{key}` must have 1 to 120 letters, digits, `.`, `_` or `-`"));
        }
    }
    check_placeholders(&kafka.topic.value, kafka.topic.referenced, "topic", found);
    for (key, name) in [("ledger_topic", &kafka.ledger_topic), ("dead_letter_topic", &kafka.dead_letter_topic)] {
        if name.value.contains(['{', '}']) {
            found.add(name.referenced, format!("`{key}` knows no placeholders"));
        }
    }
    check_topics(kafka, found);
    if let Some(create) = &kafka.create_topics {
        if create.partitions.value < 1 {
            found.add(create.partitions.referenced, "`partitions` must be at least 1");
        }
        if create.replication.value < 1 && create.replication.value != -1 {
            found
                .add(create.replication.referenced, "`replication` must be at least 1, or -1 for the broker's default");
        }
    }
    let given = kafka.properties.iter().map(|(name, value)| (name, value.referenced));
    let in_files = kafka.properties_files.iter().map(|(name, path)| (name, path.referenced));
    for (name, location) in given.chain(in_files) {
        if RESERVED.contains(&name.as_str()) {
            found.add(location, format!("the property `{name}` is set by the bridge itself: take it out"));
        }
    }
}

/// A notification in the ledger would be taken for what was published last.
fn check_topics(kafka: &Kafka, found: &mut Found<'_>) {
    for (key, own) in [("ledger_topic", &kafka.ledger_topic), ("dead_letter_topic", &kafka.dead_letter_topic)] {
        if topics::can_become(&kafka.topic.value, &own.value, Types::Documented) {
            found.add(
                own.referenced,
                format!("`topic` can become `{key}`: name another, out of reach of notifications"),
            );
        }
    }
    if kafka.ledger_topic.value == kafka.dead_letter_topic.value {
        found.add(kafka.dead_letter_topic.referenced, "`dead_letter_topic` is `ledger_topic`: name another");
    }
}

fn check_amqp(amqp: &Amqp, found: &mut Found<'_>) {
    for uri in amqp.uri.iter().filter(|_| amqp.uri_file.is_none()) {
        if let Err(form) = address::amqp(uri.value.expose_secret()) {
            found.add(uri.referenced, format!("`uri` {form}"));
        }
    }
    if amqp.uri.is_empty() && amqp.uri_file.is_none() {
        found.add(amqp.routing_key.referenced, "`uri` is empty: name at least one broker");
    }
    let names = [("name", &amqp.name), ("exchange", &amqp.exchange), ("dead_letter_queue", &amqp.dead_letter_queue)];
    let unusable = |name: &str| name.is_empty() || name.len() > 200 || name.contains(char::is_control);
    for (key, name) in names.into_iter().chain(amqp.queue.iter().map(|name| ("queue", name))) {
        if unusable(name) {
            // It may be anything that somebody pasted there: only its key is told.
            let text = format!("`{key}` of sink.amqp must have 1 to 200 bytes, no control character among them");
            found.add(amqp.routing_key.referenced, text);
        }
    }
    check_queues(amqp, found);
    if amqp.routing_key.value.len() > 150 {
        found.add(amqp.routing_key.referenced, "`routing_key` must have at most 150 bytes");
    }
    check_placeholders(&amqp.routing_key.value, amqp.routing_key.referenced, "routing_key", found);
}

/// No queue may stand in for another, nor be told to lose what the bridge is to keep.
fn check_queues(amqp: &Amqp, found: &mut Found<'_>) {
    let rejected = amqp.queue.as_ref().map(|queue| format!("{queue}.rejected"));
    let mut used = HashSet::from([format!("{}.owner", amqp.name)]);
    for name in amqp.queue.iter().chain(&rejected).chain([&amqp.dead_letter_queue]) {
        if !used.insert(name.clone()) {
            let text = "`queue`, `{queue}.rejected`, `dead_letter_queue` and `{name}.owner` must be four queues";
            found.add(amqp.routing_key.referenced, text);
        }
    }
    for (name, value) in &amqp.queue_arguments {
        let why = match (&amqp.queue, name.as_str(), &value.value) {
            (None, ..) => "is for no queue, because `queue` is null: take it out",
            (_, "x-queue-type", _) => "is what `queue_type` says: take it out",
            (_, name, _) if !name.starts_with("x-") || name.len() > 100 => "must begin with x-, as RabbitMQ names it",
            (Some(queue), name, value) if amqp.queue_type == QueueType::Quorum => match (name, value) {
                ("x-overflow", value) if *value != Argument::Text("reject-publish".into()) => {
                    "would let rejected messages get lost: only reject-publish dead-letters at least once"
                }
                ("x-dead-letter-strategy", value) if *value != Argument::Text("at-least-once".into()) => {
                    "would let rejected messages get lost: only at-least-once keeps them"
                }
                ("x-dead-letter-exchange", Argument::Flag(_) | Argument::Number(_)) => {
                    "must be the name of an exchange"
                }
                ("x-dead-letter-routing-key", value) if !matches!(value, Argument::Text(key) if !key.is_empty() && key != queue) => {
                    "must be a text, and not `queue` itself"
                }
                ("x-delivery-limit", value) if !matches!(value, Argument::Number(-1..)) => {
                    "must be a number, or -1 for no limit"
                }
                _ => continue,
            },
            _ => continue,
        };
        found.add(value.referenced, format!("`queue_arguments` {name}: it {why}"));
    }
}

fn check_placeholders(template: &str, location: Location, key: &str, found: &mut Found<'_>) {
    let rest = template.replace("{instance}", "").replace("{type}", "");
    if rest.contains(['{', '}']) {
        found.add(location, format!("`{key}` knows the placeholders {{instance}} and {{type}} only"));
    }
}
