//! Topics: created when they are missing and the config says so, otherwise required.

use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::error::RDKafkaErrorCode;
use tokio::runtime::Handle;
use tracing::info;

use super::client::Quiet;
use crate::config;
use crate::sink::owner::Failure;

const PATIENCE: Duration = Duration::from_secs(20);

/// What became of a topic that is needed.
pub(super) enum Ensured {
    Exists,
    /// It cannot be used, and the operator has to mend that.
    Unusable(String),
}

pub(super) struct Topics {
    admin: AdminClient<Quiet>,
    create: Option<config::CreateTopics>,
    ledger: String,
    largest_record: String,
    runtime: Handle,
}

impl Topics {
    pub(super) fn new(client: &ClientConfig, config: &config::Kafka, runtime: Handle) -> Result<Self, Failure> {
        let mut client = client.clone();
        client.remove("transactional.id");
        Ok(Self {
            largest_record: client.get("message.max.bytes").unwrap_or(super::client::LARGEST_RECORD).to_owned(),
            admin: client.create_with_context(Quiet).map_err(|error| Failure::Unavailable(error.to_string()))?,
            create: config.create_topics.clone(),
            ledger: config.ledger_topic.value.clone(),
            runtime,
        })
    }

    /// The ledger's topic exists from here on. Without it nothing goes.
    pub(super) fn ensure_ledger(&self) -> Result<(), Failure> {
        // Small segments, so that compaction keeps what has to be read at a start small.
        let settings = [
            ("cleanup.policy", "compact"),
            ("segment.bytes", "16777216"),
            ("segment.ms", "3600000"),
            ("min.cleanable.dirty.ratio", "0.1"),
        ];
        match self.exists_or_create(&self.ledger, 1, &settings)? {
            Ensured::Exists => Ok(()),
            Ensured::Unusable(why) => Err(Failure::Unavailable(why)),
        }
    }

    /// Whether this topic exists from here on. Fails when the broker does not tell.
    pub(super) fn ensure(&self, topic: &str) -> Result<Ensured, Failure> {
        let partitions = self.create.as_ref().map_or(1, |create| create.partitions.value);
        self.exists_or_create(topic, partitions, &[("max.message.bytes", &self.largest_record)])
    }

    fn exists_or_create(&self, topic: &str, partitions: i32, settings: &[(&str, &str)]) -> Result<Ensured, Failure> {
        let unusable = |why: &str| Ok(Ensured::Unusable(format!("topic {topic}: {why}")));
        let unavailable = |why: &dyn std::fmt::Display| Failure::Unavailable(format!("topic {topic}: {why}"));
        let metadata = self.admin.inner().fetch_metadata(Some(topic), PATIENCE).map_err(|error| unavailable(&error))?;
        let exists = metadata.topics().iter().any(|found| found.name() == topic && found.error().is_none());
        if exists {
            return Ok(Ensured::Exists);
        }
        let Some(create) = &self.create else {
            return unusable("it does not exist, and sink.kafka.create_topics is null: create it");
        };
        let mut new = NewTopic::new(topic, partitions, TopicReplication::Fixed(create.replication.value));
        for (name, value) in settings {
            new = new.set(name, value);
        }
        let options = AdminOptions::new().operation_timeout(Some(PATIENCE)).request_timeout(Some(PATIENCE));
        let created =
            self.runtime.block_on(self.admin.create_topics([&new], &options)).map_err(|error| unavailable(&error))?;
        for result in created {
            match result {
                Ok(_) => info!(topic, partitions, "created a topic"),
                // Somebody else was faster.
                Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
                Err((_, error)) => return unusable(&format!("cannot be created: {error}")),
            }
        }
        Ok(Ensured::Exists)
    }
}
