//! Topics: created if they are missing and the config says so, otherwise required.

use std::collections::HashMap;
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::metadata::{Metadata, MetadataTopic};
use tokio::runtime::Handle;
use tracing::{debug, info, warn};

use super::client::Quiet;
use super::topic_memory::TopicMemory;
use super::unreachable;
use crate::error::SetupError;
use crate::sink::kafka::options::{CreateTopics, Options};
use crate::sink::session::SessionError;

const REQUEST_TIMEOUT: Duration = Duration::from_secs(20);

/// The state of a required topic.
pub(super) enum Ensured {
    Exists {
        partitions: i32,
    },
    /// It is unusable until the operator changes something.
    Unusable(String),
}

pub(super) struct Topics {
    admin: AdminClient<Quiet>,
    client: ClientConfig,
    create: Option<CreateTopics>,
    ledger: String,
    largest_record: String,
    runtime: Handle,
}

impl Topics {
    pub(super) fn new(client: &ClientConfig, config: &Options, runtime: Handle) -> Result<Self, SessionError> {
        let mut client = client.clone();
        client.remove("transactional.id");
        Ok(Self {
            largest_record: client.get("message.max.bytes").unwrap_or(super::client::LARGEST_RECORD).to_owned(),
            admin: client.create_with_context(Quiet).map_err(|error| SessionError::Unavailable(error.to_string()))?,
            client,
            create: config.create_topics.clone(),
            ledger: config.ledger_topic.clone(),
            runtime,
        })
    }

    /// Ensures that the ledger topic exists and is compacted. Required by everything else.
    pub(super) fn ensure_ledger(&self, shards: u16, memory: &mut TopicMemory) -> Result<(), SessionError> {
        // Small segments, so that compaction keeps what has to be read at startup small.
        let settings = [
            ("cleanup.policy", "compact"),
            ("segment.bytes", "16777216"),
            ("segment.ms", "3600000"),
            ("min.cleanable.dirty.ratio", "0.1"),
        ];
        let topic = &self.ledger;
        match self.exists_or_create(topic, shards.into(), &settings)? {
            Ensured::Exists { partitions } if partitions == i32::from(shards) => {}
            Ensured::Exists { partitions } => {
                return Err(SessionError::Unavailable(format!(
                    "ledger_topic {topic}: it has {partitions} partition(s), and `shards` is {shards}: set `shards: \
                     {partitions}`; or, to raise it, stop all replicas, give the topic {shards} partitions \
                     (kafka-topics.sh --alter --topic {topic} --partitions {shards}), and start all"
                )));
            }
            Ensured::Unusable(why) => return Err(SessionError::Unavailable(why)),
        }
        match self.setting(topic, "cleanup.policy").as_deref() {
            Ok("compact") => Ok(()),
            Err(why) => {
                memory.report_unreadable_settings(topic, why);
                Ok(())
            }
            Ok(policy) => Err(SessionError::Unavailable(format!(
                "topic {topic}: its cleanup.policy is {policy}, so it forgets what was published last, and an instance \
                 that was quiet for long could get a notification twice: {}",
                advice(topic, "compact")
            ))),
        }
    }

    /// Ensures that the topic exists and is not compacted. Fails if the broker does not answer.
    pub(super) fn ensure(&self, topic: &str) -> Result<Ensured, SessionError> {
        let partitions = self.create.as_ref().map_or(1, |create| create.partitions);
        let ensured = self.exists_or_create(topic, partitions, &[("max.message.bytes", &self.largest_record)])?;
        match self.setting(topic, "cleanup.policy") {
            Ok(policy) if policy.contains("compact") => Ok(Ensured::Unusable(format!(
                "topic {topic}: it is compacted, so of each key only the last notification would be kept: {}",
                advice(topic, "delete")
            ))),
            _ => {
                self.compare_with_ledger(topic);
                Ok(ensured)
            }
        }
    }

    /// Whether any broker answers.
    pub(super) fn reach(&self) -> Result<(), SessionError> {
        self.metadata(&self.ledger).map(drop)
    }

    /// The partition counts of those topics that exist, in one request. `None` if the broker does not answer.
    pub(super) fn partitions_of(&self, topics: &[&str]) -> Option<HashMap<String, i32>> {
        let only = if let [topic] = topics { Some(*topic) } else { None };
        let metadata = self.admin.inner().fetch_metadata(only, REQUEST_TIMEOUT).ok()?;
        let found = metadata.topics().iter().filter(|found| found.error().is_none());
        let count = |found: &MetadataTopic| i32::try_from(found.partitions().len()).ok();
        Some(found.filter_map(|found| Some((found.name().to_owned(), count(found)?))).collect())
    }

    /// Warns if the ledger is less durable than the topic: losing it would cause duplicates.
    fn compare_with_ledger(&self, topic: &str) {
        let in_sync = |topic: &str| self.setting(topic, "min.insync.replicas").ok()?.parse::<u32>().ok();
        if let (Some(of_topic), Some(of_ledger)) = (in_sync(topic), in_sync(&self.ledger))
            && of_ledger < of_topic
        {
            let ledger = &self.ledger;
            warn!(
                event = "ledger_less_durable",
                topic,
                ledger,
                of_topic,
                of_ledger,
                "the ledger_topic has a lower min.insync.replicas than the topic: raise it"
            );
        }
    }

    /// The value of a topic setting, or why it cannot be read: that needs a permission of its own.
    pub(super) fn setting(&self, topic: &str, name: &str) -> Result<String, SetupError> {
        let options = AdminOptions::new().request_timeout(Some(REQUEST_TIMEOUT));
        let asked = [ResourceSpecifier::Topic(topic)];
        let described = self.runtime.block_on(self.admin.describe_configs(&asked, &options));
        let answer = described.map_err(|error| error.to_string())?.into_iter().next();
        let answer = answer.map(|answer| answer.map_err(|error| error.to_string())).transpose();
        let answer = answer.inspect_err(|error| debug!(topic, error, "cannot read settings"))?;
        let value = answer.and_then(|settings| settings.get(name)?.value.clone());
        value.ok_or_else(|| "the broker does not report it".into())
    }

    fn metadata(&self, topic: &str) -> Result<Metadata, SessionError> {
        self.admin.inner().fetch_metadata(Some(topic), REQUEST_TIMEOUT).map_err(|error| {
            match unreachable::why(&self.client) {
                None => SessionError::Unavailable(format!("topic {topic}: {error}")),
                Some(why) => SessionError::Unavailable(format!("sink.kafka.bootstrap_servers: {why}")),
            }
        })
    }

    fn exists_or_create(
        &self,
        topic: &str,
        partitions: i32,
        settings: &[(&str, &str)],
    ) -> Result<Ensured, SessionError> {
        let unusable = |why: &str| Ok(Ensured::Unusable(format!("topic {topic}: {why}")));
        let metadata = self.metadata(topic)?;
        let found = metadata.topics().iter().find(|found| found.name() == topic && found.error().is_none());
        if let Some(found) = found {
            return Ok(Ensured::Exists { partitions: i32::try_from(found.partitions().len()).unwrap_or(1) });
        }
        let Some(create) = &self.create else {
            return unusable("it does not exist, and sink.kafka.create_topics is null: create it");
        };
        let mut new = NewTopic::new(topic, partitions, TopicReplication::Fixed(create.replication));
        for (name, value) in settings {
            new = new.set(name, value);
        }
        let options =
            AdminOptions::new().operation_timeout(Some(REQUEST_TIMEOUT)).request_timeout(Some(REQUEST_TIMEOUT));
        let created = self.runtime.block_on(self.admin.create_topics([&new], &options)).map_err(|error| {
            let why = unreachable::explain(&self.client, &error);
            SessionError::Unavailable(why.unwrap_or_else(|| format!("topic {topic}: {error}")))
        })?;
        for result in created {
            match result {
                Ok(_) => info!(event = "topic_created", topic, partitions, "created a topic"),
                // Somebody else created it meanwhile, perhaps with other settings.
                Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {
                    return Ok(Ensured::Exists {
                        partitions: self
                            .partitions_of(&[topic])
                            .and_then(|mut there| there.remove(topic))
                            .unwrap_or(partitions),
                    });
                }
                Err((_, error)) => return unusable(&format!("cannot be created: {error}")),
            }
        }
        Ok(Ensured::Exists { partitions })
    }
}

fn advice(topic: &str, policy: &str) -> String {
    format!(
        "set it with kafka-configs.sh --alter --entity-type topics --entity-name {topic} --add-config \
         cleanup.policy={policy}, or name another topic"
    )
}
