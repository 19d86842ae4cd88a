//! Validation of the options of Kafka.

use secrecy::ExposeSecret;

use super::options::Options;
use super::template::{self, Types};
use crate::address;
use crate::mistake::Found;
use crate::sink::cloud_event::{check_placeholders, without_placeholders};

/// Properties that the sink sets itself: other values would break a promise.
const RESERVED: [&str; 15] = [
    "bootstrap.servers",
    "metadata.broker.list",
    "transactional.id",
    "enable.idempotence",
    "isolation.level",
    "group.id",
    "group.instance.id",
    "group.protocol",
    "partition.assignment.strategy",
    "enable.auto.commit",
    "enable.auto.offset.store",
    "max.poll.interval.ms",
    "partitioner",
    "allow.auto.create.topics",
    "delivery.report.only.error",
];

/// The values of `security.protocol`.
const PROTOCOLS: [&str; 4] = ["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"];

/// Adds what parses but cannot work.
pub(super) fn check(kafka: &Options, found: &mut Found<'_>) {
    if kafka.bootstrap_servers.is_empty() {
        found.add(&["bootstrap_servers"], "`bootstrap_servers` is empty: name at least one HOST:PORT");
    }
    let protocol = match kafka.properties.get("security.protocol") {
        Some(given) => given.expose_secret(),
        // The file is read at startup.
        None if kafka.properties_files.contains_key("security.protocol") => "",
        None => "PLAINTEXT",
    };
    if !PROTOCOLS.iter().any(|known| protocol.is_empty() || protocol.eq_ignore_ascii_case(known)) {
        let text = format!("`security.protocol` must be one of {}", PROTOCOLS.join(", "));
        found.add(&["properties", "security.protocol"], text);
    }
    for (index, server) in kafka.bootstrap_servers.iter().enumerate() {
        if let Err(form) = address::kafka(server, protocol) {
            found.add(&["bootstrap_servers", &index.to_string()], format!("`bootstrap_servers` {form}"));
        }
    }
    if kafka.transactional_id.is_empty() {
        found.add(&["transactional_id"], "`transactional_id` is empty: it identifies this bridge to the brokers");
    }
    if kafka.topic.starts_with('{') {
        found.add(&["topic"], "`topic` must begin with literal text before a placeholder");
    }
    // Values of placeholders are legal and at most 64 bytes long.
    let topic = without_placeholders(&kafka.topic);
    let names =
        [("topic", &topic), ("ledger_topic", &kafka.ledger_topic), ("dead_letter_topic", &kafka.dead_letter_topic)];
    for (key, name) in names {
        let legal = |byte: u8| byte.is_ascii_alphanumeric() || b"._-{}".contains(&byte);
        if (name.is_empty() && key != "topic") || name.len() > 120 || !name.bytes().all(legal) {
            found.add(&[key], format!("`{key}` must consist of 1 to 120 letters, digits, `.`, `_` or `-`"));
        }
    }
    check_placeholders(&kafka.topic, "topic", found);
    for (key, name) in [("ledger_topic", &kafka.ledger_topic), ("dead_letter_topic", &kafka.dead_letter_topic)] {
        if name.contains(['{', '}']) {
            found.add(&[key], format!("`{key}` does not support placeholders"));
        }
    }
    check_topics(kafka, found);
    if let Some(create) = &kafka.create_topics {
        if create.partitions < 1 {
            found.add(&["create_topics", "partitions"], "`partitions` must be at least 1");
        }
        if create.replication < 1 && create.replication != -1 {
            let text = "`replication` must be at least 1, or -1 for the broker's default";
            found.add(&["create_topics", "replication"], text);
        }
    }
    let given = kafka.properties.keys().map(|name| ("properties", name));
    let in_files = kafka.properties_files.keys().map(|name| ("properties_files", name));
    for (key, name) in given.chain(in_files) {
        if RESERVED.contains(&name.as_str()) {
            found.add(&[key, name], format!("the property `{name}` is set by the bridge itself: remove it"));
        }
    }
}

/// Properties that disable the verification of certificates, by the values that librdkafka accepts.
pub(super) fn unverified(kafka: &Options) -> Vec<&str> {
    let switches_off = |name: &str, value: &str| match name {
        "enable.ssl.certificate.verification" => ["false", "f", "0"].contains(&&*value.to_ascii_lowercase()),
        "ssl.endpoint.identification.algorithm" => value == "none",
        _ => false,
    };
    let given = kafka.properties.iter().map(|(name, value)| (name, value.expose_secret()));
    given.filter(|(name, value)| switches_off(name, value)).map(|(name, _)| name.as_str()).collect()
}

/// Notifications must not be published to the ledger or to the dead-letter topic.
fn check_topics(kafka: &Options, found: &mut Found<'_>) {
    for (key, own) in [("ledger_topic", &kafka.ledger_topic), ("dead_letter_topic", &kafka.dead_letter_topic)] {
        if template::can_become(&kafka.topic, own, Types::Documented) {
            found.add(&[key], format!("`topic` can expand to `{key}`: choose a name that no notification can produce"));
        }
    }
    if kafka.ledger_topic == kafka.dead_letter_topic {
        found.add(&["dead_letter_topic"], "`dead_letter_topic` and `ledger_topic` are the same: use different topics");
    }
}
