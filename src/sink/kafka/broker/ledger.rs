//! The ledger: a compacted topic that keeps, for every instance, what was published last, and for
//! every transactional id who owns it.

use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Message};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::client::Quiet;
use super::entries::{self, Entries, Entry, OWNER};
use super::record::Record;
use crate::notification::InstanceId;
use crate::sink::kafka::options::Options;
use crate::sink::session::SessionError;
use crate::sink::shard::Shard;

const PATIENCE: Duration = Duration::from_secs(60);
const REQUEST: Duration = Duration::from_secs(10);

/// Says who owns the transactional id since when.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Sentinel {
    /// The process.
    pub owner: Uuid,
    /// How many times it has taken ownership.
    pub acquisition: u64,
    /// Into how many shards the instances are divided; an earlier bridge does not say.
    #[serde(default = "one")]
    pub shards: u16,
}

fn one() -> u16 {
    1
}

/// What is known of the instances of one shard. All their entries stand in one partition: so the sentinel, once read, says
/// that all of them were.
pub(super) struct Ledger {
    client: ClientConfig,
    topic: String,
    partition: i32,
    owner_key: String,
}

impl Ledger {
    pub(super) fn new(client: &ClientConfig, config: &Options, transactional_id: &str, shard: Shard) -> Self {
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
            topic: config.ledger_topic.clone(),
            partition: shard.index().into(),
            owner_key: format!("{OWNER}{transactional_id}"),
        }
    }

    pub(super) fn sentinel(&self, sentinel: &Sentinel) -> Result<Record, SessionError> {
        self.record(self.owner_key.clone(), serde_json::to_vec(sentinel))
    }

    pub(super) fn entry(&self, instance: InstanceId, entry: Entry) -> Result<Record, SessionError> {
        self.record(instance.to_string(), entry.value())
    }

    fn record(&self, key: String, value: serde_json::Result<Vec<u8>>) -> Result<Record, SessionError> {
        let value = value.map_err(|error| SessionError::Unavailable(error.to_string()))?;
        let (topic, headers) = (self.topic.clone(), entries::headers());
        Ok(Record { topic, partition: Some(self.partition), key, value: Bytes::from(value), headers })
    }

    /// Everything up to our own sentinel. `read_committed` delivers in order and only what is
    /// decided, so nothing that stands before it can come later.
    pub(super) fn read_until(&self, sentinel: &Sentinel) -> Result<Entries, SessionError> {
        let mut entries = Entries::default();
        self.read("read_committed", |record| {
            // A commit is visible a moment after it was answered.
            let Some(record) = record else { return false };
            entries.take(record);
            self.sentinel_in(record).as_ref() == Some(sentinel)
        })?;
        Ok(entries)
    }

    /// Everything that is decided by now.
    pub(super) fn read_all(&self) -> Result<Entries, SessionError> {
        self.wait_until_decided()?;
        let mut entries = Entries::default();
        self.read("read_committed", |record| {
            if let Some(record) = record {
                entries.take(record);
            }
            record.is_none()
        })?;
        Ok(entries)
    }

    /// Whether somebody else took ownership of our transactional id after `owner`.
    ///
    /// As long as the last sentinel is the owner's nobody did, whether it is committed or not. Waiting for the end of what
    /// is open would be waiting for the timeout of the owner's own transaction, when its producer gave up in the middle of it.
    pub(super) fn has_another_owner(&self, owner: Uuid) -> Result<bool, SessionError> {
        if !self.may_have_another_owner(owner)? {
            return Ok(false);
        }
        self.wait_until_decided()?;
        Ok(self.last_owner("read_committed")?.is_some_and(|last| last != owner))
    }

    /// Whether somebody else took it, or began to.
    pub(super) fn may_have_another_owner(&self, owner: Uuid) -> Result<bool, SessionError> {
        Ok(self.last_owner("read_uncommitted")?.is_some_and(|last| last != owner))
    }

    fn last_owner(&self, isolation: &str) -> Result<Option<Uuid>, SessionError> {
        Ok(self.last_sentinel(isolation)?.map(|sentinel| sentinel.owner))
    }

    /// The last that stands under our transactional id.
    pub(super) fn last_sentinel(&self, isolation: &str) -> Result<Option<Sentinel>, SessionError> {
        let mut last = None;
        self.read(isolation, |record| {
            last = record.and_then(|record| self.sentinel_in(record)).or(last);
            record.is_none()
        })?;
        Ok(last)
    }

    /// Into how many shards the instances are divided, by the word of whoever owned this one, under its id or that of them all:
    /// they are never fewer later.
    pub(super) fn division(&self, of_all: &str) -> Result<Option<u16>, SessionError> {
        let of_all = format!("{OWNER}{of_all}");
        let mut shards = None;
        self.read("read_committed", |record| {
            let Some(record) = record else { return true };
            let sentinel = sentinel_of(&self.owner_key, record).or_else(|| sentinel_of(&of_all, record));
            shards = sentinel.map(|sentinel| sentinel.shards).max(shards);
            false
        })?;
        Ok(shards)
    }

    /// A sentinel of our transactional id.
    fn sentinel_in(&self, record: &BorrowedMessage<'_>) -> Option<Sentinel> {
        sentinel_of(&self.owner_key, record)
    }

    /// The end of a `read_committed` reader lies before the first open transaction, anybody's:
    /// a sentinel behind it could not be seen.
    fn wait_until_decided(&self) -> Result<(), SessionError> {
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

    fn end(&self, isolation: &str) -> Result<i64, SessionError> {
        let consumer = self.consumer(isolation)?;
        let (_, end) =
            consumer.fetch_watermarks(&self.topic, self.partition, REQUEST).map_err(|error| self.unreadable(&error))?;
        Ok(end)
    }

    /// Hands every record, and `None` at the end, to `enough`, until that says so.
    fn read(
        &self,
        isolation: &str,
        mut enough: impl FnMut(Option<&BorrowedMessage<'_>>) -> bool,
    ) -> Result<(), SessionError> {
        let consumer = self.consumer(isolation)?;
        let mut partitions = TopicPartitionList::new();
        partitions
            .add_partition_offset(&self.topic, self.partition, Offset::Beginning)
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
            if enough(record.as_ref()) {
                return Ok(());
            }
        }
        Err(self.unreadable("no answer within a minute"))
    }

    /// A reader of any topic, which also tells its ends.
    pub(super) fn consumer(&self, isolation: &str) -> Result<BaseConsumer<Quiet>, SessionError> {
        let mut client = self.client.clone();
        client.set("isolation.level", isolation);
        client.create_with_context(Quiet).map_err(|error| self.unreadable(&error))
    }

    fn unreadable(&self, why: impl std::fmt::Display) -> SessionError {
        SessionError::Unavailable(format!("ledger_topic {}: {why}", self.topic))
    }
}

fn sentinel_of(key: &str, record: &BorrowedMessage<'_>) -> Option<Sentinel> {
    let is_one = record.key() == Some(key.as_bytes()) && entries::is_of_ledger(record);
    is_one.then(|| serde_json::from_slice(record.payload().unwrap_or_default()).ok()).flatten()
}

/// librdkafka wants the name of a group and looks for its coordinator, but nothing of it is ever
/// used: no permission for it is needed.
pub(super) fn is_of_group(error: &KafkaError) -> bool {
    error.rdkafka_error_code() == Some(RDKafkaErrorCode::GroupAuthorizationFailed)
}
