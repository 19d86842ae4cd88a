//! Examines Kafka: login, topics, and the rights to use transactions and, with `shards` above 1, the consumer group.

use std::time::{Duration, Instant};

use rdkafka::admin::{AdminClient, AdminOptions, ResourceSpecifier};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::metadata::{Metadata, MetadataTopic};
use rdkafka::producer::{BaseProducer, Producer};
use rdkafka::{ClientConfig, TopicPartitionList};
use tokio::runtime::Handle;

use super::client::{self, Quiet};
use super::ledger::is_of_group;
use super::rights::{Right, grant};
use super::unreachable;
use crate::doctor::Check;
use crate::error::SetupError;
use crate::sink::kafka::options::Options;

const REQUEST_TIMEOUT: Duration = Duration::from_secs(15);

/// Never uses a transactional id of the bridge, which would fence it, and never joins its group, which would move shards.
pub(super) fn examine(config: &Options, shards: u16) -> Vec<Check> {
    let client = match client::configure(config) {
        Ok(client) => client,
        Err(why) => return vec![Check::of_sink("config", Err(why))],
    };
    let mut checks = vec![Check::of_sink("config", Ok("secrets can be read, properties are usable".into()))];
    match metadata(&client) {
        Err(why) => {
            let why = unreachable::advertised_to(&client)
                .map_or_else(|| SetupError::new("sink.kafka.bootstrap_servers", why), SetupError::from);
            checks.push(Check::of_sink("broker", Err(why)));
        }
        Ok(metadata) => {
            if let Some(why) = unreachable::advertised(&metadata) {
                // Everything else would only time out.
                checks.push(Check::of_sink("broker", Err(why.into())));
                return checks;
            }
            let count = metadata.brokers().len();
            checks.push(Check::of_sink("broker", Ok(format!("logged in; {count} broker(s)"))));
            let topics = [
                ("topic", &config.topic),
                ("ledger_topic", &config.ledger_topic),
                ("dead_letter_topic", &config.dead_letter_topic),
            ];
            checks.extend(topics.map(|(key, name)| {
                let shards = (key == "ledger_topic").then_some(shards);
                Check::of_sink(key, topic(&client, &metadata, config, key, name, shards))
            }));
            checks.push(Check::of_sink("transactions", transactions(&client, config)));
            if shards > 1 {
                checks.push(Check::of_sink("group", group(&client, config)));
                checks
                    .extend(session_timeout(&client, &metadata).map(|found| Check::of_sink("session_timeout", found)));
            }
        }
    }
    checks
}

fn metadata(client: &ClientConfig) -> Result<Metadata, SetupError> {
    let producer = without_transactions(client)?;
    producer.client().fetch_metadata(None, REQUEST_TIMEOUT).map_err(|error| error.to_string().into())
}

fn without_transactions(client: &ClientConfig) -> Result<BaseProducer<Quiet>, SetupError> {
    let mut client = client.clone();
    client.remove("transactional.id");
    client.create_with_context(Quiet).map_err(|error| error.to_string().into())
}

/// With `shards` for the ledger, which has one partition per shard.
fn topic(
    client: &ClientConfig,
    metadata: &Metadata,
    config: &Options,
    key: &str,
    name: &str,
    shards: Option<u16>,
) -> Result<String, SetupError> {
    if name.contains('{') {
        return Ok(format!("{name}: depends on the notification, so it is looked for when one comes"));
    }
    let found = metadata.topics().iter().find(|topic| topic.name() == name);
    match (found, &config.create_topics) {
        (Some(topic), _) => {
            let replicas = topic.partitions().iter().map(|partition| partition.replicas().len()).min().unwrap_or(0);
            let partitions = topic.partitions().len();
            if let Some(shards) = shards.filter(|shards| usize::from(*shards) != partitions) {
                return Err(format!(
                    "{name}: it has {partitions} partition(s), and `shards` is {shards}: set `shards: {partitions}`; or, to raise \
                     it, stop all replicas, give the topic {shards} partitions, and start all"
                )
                .into());
            }
            let advice =
                if replicas < 3 { "; use 3, and `min.insync.replicas=2`, to survive the loss of a broker" } else { "" };
            Ok(format!("{name}: {partitions} partition(s), {replicas} replica(s){advice}"))
        }
        // A request for all topics would omit those that the user may not describe.
        (None, _) if is_forbidden(client, name)? => {
            Err(format!("{name}: forbidden; an administrator allows it with\n{}", grant(Right::Topics, client, config))
                .into())
        }
        (None, Some(_)) => Ok(format!("{name}: will be created")),
        (None, None) => {
            Err(format!("{name}: it is missing, and `create_topics` is null: create it, or correct `sink.kafka.{key}`")
                .into())
        }
    }
}

fn is_forbidden(client: &ClientConfig, topic: &str) -> Result<bool, SetupError> {
    let producer = without_transactions(client)?;
    let metadata = producer
        .client()
        .fetch_metadata(Some(topic), REQUEST_TIMEOUT)
        .map_err(|error| SetupError::new(format!("topic {topic}"), error))?;
    let errors = metadata.topics().iter().filter_map(MetadataTopic::error);
    let forbidden = RDKafkaErrorCode::TopicAuthorizationFailed;
    Ok(errors.map(RDKafkaErrorCode::from).any(|error| error == forbidden))
}

/// An id that starts with the bridge's own: a prefixed grant covers it as well as the ids of all shards.
fn transactions(client: &ClientConfig, config: &Options) -> Result<String, SetupError> {
    let id = format!("{}-doctor", config.transactional_id);
    let mut with_id = client.clone();
    with_id.set("transactional.id", &id);
    let producer: BaseProducer<Quiet> = with_id.create_with_context(Quiet).map_err(|error| error.to_string())?;
    let found = producer.init_transactions(REQUEST_TIMEOUT);
    found.map(|()| "allowed: record and ledger entry commit together, exactly once".into()).map_err(|error| {
        let lines = grant(Right::Transactions, client, config);
        format!(
            "transactional id `{id}`: {error}: allow ids that begin with `transactional_id`; an administrator does it \
             with\n{lines}"
        )
        .into()
    })
}

/// Checks whether the group may be described; whether it may be joined only a member could find out.
fn group(client: &ClientConfig, config: &Options) -> Result<String, SetupError> {
    let mut client = client.clone();
    client.remove("transactional.id");
    client.set("group.id", &config.transactional_id).set("enable.auto.commit", "false");
    let consumer: BaseConsumer<Quiet> = client.create_with_context(Quiet).map_err(|error| error.to_string())?;
    let mut offsets = TopicPartitionList::new();
    offsets.add_partition(&config.ledger_topic, 0);
    let (group, begun) = (&config.transactional_id, Instant::now());
    loop {
        let asked = consumer.committed_offsets(offsets.clone(), Duration::from_secs(1));
        let Err(mut why) = asked else {
            return Ok(format!("group `{group}`: allowed, as far as can be seen without joining it"));
        };
        // The client looks up the group coordinator by itself and reports the result here.
        if let Some(Err(error)) = consumer.poll(Duration::ZERO) {
            why = error;
        }
        if is_of_group(&why) {
            let lines = grant(Right::Group, &client, config);
            return Err(format!("group `{group}`: forbidden; an administrator allows it with\n{lines}").into());
        }
        if begun.elapsed() > REQUEST_TIMEOUT {
            return Err(SetupError::new(format!("group `{group}`"), why));
        }
    }
}

/// Compares `session.timeout.ms` with the brokers' limits; `None` if the right to read those is missing.
fn session_timeout(client: &ClientConfig, metadata: &Metadata) -> Option<Result<String, SetupError>> {
    let mut admin = client.clone();
    admin.remove("transactional.id");
    let admin: AdminClient<Quiet> = admin.create_with_context(Quiet).ok()?;
    let asked = [ResourceSpecifier::Broker(metadata.brokers().first()?.id())];
    let options = AdminOptions::new().request_timeout(Some(REQUEST_TIMEOUT));
    let answer = Handle::current().block_on(admin.describe_configs(&asked, &options)).ok()?;
    let settings = answer.into_iter().next()?.ok()?;
    let bound = |name| settings.get(name)?.value.as_ref()?.parse::<u128>().ok();
    let (least, most) = (bound("group.min.session.timeout.ms")?, bound("group.max.session.timeout.ms")?);
    let ours = client::session_timeout(client).as_millis();
    let detail = format!("`session.timeout.ms` is {ours}, and brokers accept {least} to {most}");
    Some(if (least..=most).contains(&ours) {
        Ok(detail)
    } else {
        Err(format!("{detail}: set it in `sink.kafka.properties`").into())
    })
}
