//! The ledger: a compacted topic that keeps, for every instance, what was published last, and for
//! every transactional id who owns it.

use std::collections::HashMap;
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Message, OwnedHeaders};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::client::Quiet;
use super::record::Record;
use crate::config;
use crate::notification::{Fingerprint, InstanceId};
use crate::sink::owner::Failure;

/// All entries stand in one partition: so the sentinel, once read, says that all of them were.
const PARTITION: i32 = 0;
const PATIENCE: Duration = Duration::from_secs(60);
const REQUEST: Duration = Duration::from_secs(10);

/// What was published last for an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub sequence: u64,
    pub fingerprint: Fingerprint,
}

/// Says who owns the transactional id since when.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Sentinel {
    /// The process.
    pub owner: Uuid,
    /// How many times it has taken ownership.
    pub acquisition: u64,
}

#[derive(Serialize, Deserialize)]
struct EntryValue {
    sequence: u64,
    sha256: String,
}

pub(super) struct Ledger {
    client: ClientConfig,
    topic: String,
    owner_key: String,
}

impl Ledger {
    pub(super) fn new(client: &ClientConfig, config: &config::Kafka) -> Self {
        let mut client = client.clone();
        client.remove("transactional.id");
        client
            .set("group.id", format!("{}-ledger", config.transactional_id))
            .set("enable.auto.commit", "false")
            .set("enable.partition.eof", "true")
            .set("auto.offset.reset", "earliest")
            .set("fetch.wait.max.ms", "100");
        Self {
            client,
            topic: config.ledger_topic.value.clone(),
            owner_key: format!("owner:{}", config.transactional_id),
        }
    }

    pub(super) fn sentinel(&self, sentinel: &Sentinel) -> Result<Record, Failure> {
        self.record(self.owner_key.clone(), sentinel)
    }

    pub(super) fn entry(&self, instance: InstanceId, entry: Entry) -> Result<Record, Failure> {
        let value = EntryValue { sequence: entry.sequence, sha256: entry.fingerprint.to_string() };
        self.record(instance.to_string(), &value)
    }

    fn record(&self, key: String, value: &impl Serialize) -> Result<Record, Failure> {
        let value = serde_json::to_vec(value).map_err(|error| Failure::Unavailable(error.to_string()))?;
        let (topic, headers) = (self.topic.clone(), OwnedHeaders::new_with_capacity(0));
        Ok(Record { topic, partition: Some(PARTITION), key, value: Bytes::from(value), headers })
    }

    /// Everything up to our own sentinel. `read_committed` delivers in order and only what is
    /// decided, so nothing that stands before it can come later.
    pub(super) fn read_until(&self, sentinel: &Sentinel) -> Result<HashMap<InstanceId, Entry>, Failure> {
        let mut entries = HashMap::new();
        self.read(|record| match record {
            Some((key, value)) if key == self.owner_key.as_bytes() => {
                serde_json::from_slice(value).is_ok_and(|read: Sentinel| read == *sentinel)
            }
            Some((key, value)) => {
                if let Some((instance, entry)) = parse(key, value) {
                    entries.insert(instance, entry);
                }
                false
            }
            // A commit is visible a moment after it was answered.
            None => false,
        })?;
        Ok(entries)
    }

    /// Everything that is decided by now.
    pub(super) fn read_all(&self) -> Result<HashMap<InstanceId, Entry>, Failure> {
        self.wait_until_decided()?;
        let mut entries = HashMap::new();
        self.read(|record| {
            entries.extend(record.and_then(|(key, value)| parse(key, value)));
            record.is_none()
        })?;
        Ok(entries)
    }

    /// Who took ownership of our transactional id last.
    pub(super) fn last_owner(&self) -> Result<Option<Uuid>, Failure> {
        self.wait_until_decided()?;
        let mut owner = None;
        self.read(|record| {
            if let Some((key, value)) = record
                && key == self.owner_key.as_bytes()
                && let Ok(Sentinel { owner: last, .. }) = serde_json::from_slice(value)
            {
                owner = Some(last);
            }
            record.is_none()
        })?;
        Ok(owner)
    }

    /// The end of a `read_committed` reader lies before the first open transaction, anybody's:
    /// a sentinel behind it could not be seen.
    fn wait_until_decided(&self) -> Result<(), Failure> {
        let written = self.end("read_uncommitted")?;
        let begun = Instant::now();
        while self.end("read_committed")? < written {
            if begun.elapsed() > PATIENCE {
                return Err(self.unreadable("a transaction of another producer stays open"));
            }
            thread::sleep(Duration::from_millis(100));
        }
        Ok(())
    }

    fn end(&self, isolation: &str) -> Result<i64, Failure> {
        let consumer = self.consumer(isolation)?;
        let (_, end) =
            consumer.fetch_watermarks(&self.topic, PARTITION, REQUEST).map_err(|error| self.unreadable(&error))?;
        Ok(end)
    }

    /// Hands every committed record, and `None` at the end, to `enough`, until that says so.
    fn read(&self, mut enough: impl FnMut(Option<(&[u8], &[u8])>) -> bool) -> Result<(), Failure> {
        let consumer = self.consumer("read_committed")?;
        let mut partitions = TopicPartitionList::new();
        partitions
            .add_partition_offset(&self.topic, PARTITION, Offset::Beginning)
            .map_err(|error| self.unreadable(&error))?;
        consumer.assign(&partitions).map_err(|error| self.unreadable(&error))?;
        let mut progress = Instant::now();
        while progress.elapsed() < PATIENCE {
            let record = match consumer.poll(Duration::from_millis(500)) {
                None => continue,
                Some(Err(KafkaError::PartitionEOF(_))) => None,
                Some(Err(error)) if is_of_group(&error) => continue,
                Some(Ok(record)) => {
                    progress = Instant::now();
                    Some(record)
                }
                Some(Err(error)) => return Err(self.unreadable(&error)),
            };
            let record = record.as_ref();
            if enough(record.map(|record| (record.key().unwrap_or_default(), record.payload().unwrap_or_default()))) {
                return Ok(());
            }
        }
        Err(self.unreadable("no answer within a minute"))
    }

    /// A reader of any topic, which also tells its ends.
    pub(super) fn consumer(&self, isolation: &str) -> Result<BaseConsumer<Quiet>, Failure> {
        let mut client = self.client.clone();
        client.set("isolation.level", isolation);
        client.create_with_context(Quiet).map_err(|error| self.unreadable(&error))
    }

    fn unreadable(&self, why: impl std::fmt::Display) -> Failure {
        Failure::Unavailable(format!("ledger_topic {}: {why}", self.topic))
    }
}

/// librdkafka wants the name of a group and looks for its coordinator, but nothing of it is ever
/// used: no permission for it is needed.
pub(super) fn is_of_group(error: &KafkaError) -> bool {
    error.rdkafka_error_code() == Some(RDKafkaErrorCode::GroupAuthorizationFailed)
}

fn parse(key: &[u8], value: &[u8]) -> Option<(InstanceId, Entry)> {
    let instance = std::str::from_utf8(key).ok()?.parse().ok()?;
    let EntryValue { sequence, sha256 } = serde_json::from_slice(value).ok()?;
    Some((instance, Entry { sequence, fingerprint: Fingerprint::from_hex(&sha256)? }))
}

/// For [`crate::fuzzing`]: what can be read is written so that it reads the same.
#[cfg(any(test, fuzzing))]
pub(crate) fn assert_reads_its_own(key: &[u8], value: &[u8]) {
    let Some((instance, entry)) = parse(key, value) else { return };
    let ledger = Ledger::new(&ClientConfig::new(), &config::Kafka::default());
    let Ok(record) = ledger.entry(instance, entry) else { panic!("{entry:?} cannot be written") };
    assert_eq!(parse(record.key.as_bytes(), &record.value), Some((instance, entry)));
}
