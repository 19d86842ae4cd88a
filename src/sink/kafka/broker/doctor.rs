//! Looks at Kafka: login, topics, and the right to use transactions.

use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::metadata::Metadata;
use rdkafka::producer::{BaseProducer, Producer};

use super::client::{self, Quiet};
use crate::doctor::Check;
use crate::sink::kafka::options::Options;

const PATIENCE: Duration = Duration::from_secs(15);

/// Never with the transactional id of the bridge: that would fence it.
pub(super) fn examine(config: &Options) -> Vec<Check> {
    let client = match client::configure(config) {
        Ok(client) => client,
        Err(why) => return vec![Check::of_sink("config", Err(why))],
    };
    let mut checks = vec![Check::of_sink("config", Ok("secrets can be read, properties are usable".into()))];
    match metadata(&client) {
        Err(why) => checks.push(Check::of_sink("broker", Err(format!("sink.kafka.bootstrap_servers: {why}")))),
        Ok(metadata) => {
            let count = metadata.brokers().len();
            checks.push(Check::of_sink("broker", Ok(format!("logged in; {count} broker(s)"))));
            let topics = [
                ("topic", &config.topic.value),
                ("ledger_topic", &config.ledger_topic.value),
                ("dead_letter_topic", &config.dead_letter_topic.value),
            ];
            checks.extend(topics.map(|(key, name)| Check::of_sink(key, topic(&metadata, config, key, name))));
            checks.push(Check::of_sink("transactions", transactions(&client, &config.transactional_id)));
        }
    }
    checks
}

fn metadata(client: &ClientConfig) -> Result<Metadata, String> {
    let mut client = client.clone();
    client.remove("transactional.id");
    let producer: BaseProducer<Quiet> = client.create_with_context(Quiet).map_err(|error| error.to_string())?;
    producer.client().fetch_metadata(None, PATIENCE).map_err(|error| error.to_string())
}

fn topic(metadata: &Metadata, config: &Options, key: &str, name: &str) -> Result<String, String> {
    if name.contains('{') {
        return Ok(format!("{name}: depends on the notification, so it is looked for when one comes"));
    }
    let found = metadata.topics().iter().find(|topic| topic.name() == name);
    match (found, &config.create_topics) {
        (Some(topic), _) => {
            let replicas = topic.partitions().iter().map(|partition| partition.replicas().len()).min().unwrap_or(0);
            let partitions = topic.partitions().len();
            let advice =
                if replicas < 3 { "; use 3, and `min.insync.replicas=2`, to survive the loss of a broker" } else { "" };
            Ok(format!("{name}: {partitions} partition(s), {replicas} replica(s){advice}"))
        }
        (None, Some(_)) => Ok(format!("{name}: will be created")),
        (None, None) => {
            Err(format!("{name}: it is missing, and `create_topics` is null: create it, or correct `sink.kafka.{key}`"))
        }
    }
}

/// An id beside the bridge's own; with a prefixed grant the same right covers both.
fn transactions(client: &ClientConfig, id: &str) -> Result<String, String> {
    let id = format!("{id}-doctor");
    let mut client = client.clone();
    client.set("transactional.id", &id);
    let producer: BaseProducer<Quiet> = client.create_with_context(Quiet).map_err(|error| error.to_string())?;
    producer
        .init_transactions(PATIENCE)
        .map(|()| "allowed: record and ledger entry commit together, exactly once".into())
        .map_err(|error| format!("transactional id `{id}`: {error}: allow ids that begin with `transactional_id`"))
}
