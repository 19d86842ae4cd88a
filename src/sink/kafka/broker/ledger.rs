//! The ledger: a compacted topic that records what was published last for every instance, and who owns every transactional id.

use std::collections::HashSet;
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
use super::entries::{self, Entries, Entry, OWNER, REDRIVEN};
use super::record::Record;
use crate::notification::InstanceId;
use crate::sink::kafka::options::Options;
use crate::sink::session::SessionError;
use crate::sink::shard::Shard;

const READ_TIMEOUT: Duration = Duration::from_secs(60);
const REQUEST: Duration = Duration::from_secs(10);

/// Records who owns a transactional id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Sentinel {
    /// The process.
    pub owner: Uuid,
    /// How often the process has taken ownership.
    pub acquisition: u64,
    /// The number of shards; earlier versions did not record it.
    #[serde(default = "one")]
    pub shards: u16,
}

fn one() -> u16 {
    1
}

/// The ledger of one shard. All its entries are in one partition, so having read the sentinel means having read all of them.
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

    /// Reads up to our own sentinel. `read_committed` delivers decided records in order, so nothing before the sentinel can still
    /// appear.
    pub(super) fn read_until(&self, sentinel: &Sentinel) -> Result<Entries, SessionError> {
        let mut entries = Entries::default();
        self.read("read_committed", |record| {
            // A commit becomes visible shortly after it was acknowledged.
            let Some(record) = record else { return false };
            entries.take(record);
            self.sentinel_in(record).as_ref() == Some(sentinel)
        })?;
        Ok(entries)
    }

    /// Reads everything that is decided by now.
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

    /// Records that a dead letter, named as in [`redriven`](Self::redriven), was redriven.
    pub(super) fn redriven_mark(&self, letter: &str) -> Result<Record, SessionError> {
        self.record(format!("{REDRIVEN}{letter}"), Ok(b"{}".into()))
    }

    /// The dead letters that were redriven, as far as this is decided by now.
    pub(super) fn redriven(&self) -> Result<HashSet<String>, SessionError> {
        self.wait_until_decided()?;
        let mut letters = HashSet::new();
        self.read("read_committed", |record| {
            let Some(record) = record else { return true };
            let key = record.key().and_then(|key| std::str::from_utf8(key).ok()).unwrap_or_default();
            if let Some(letter) = key.strip_prefix(REDRIVEN)
                && entries::is_of_ledger(record)
            {
                letters.insert(letter.to_owned());
            }
            false
        })?;
        Ok(letters)
    }

    /// Whether another process took ownership of our transactional id after `owner`.
    ///
    /// Nobody did as long as the last sentinel is the owner's, committed or not. Waiting until open transactions are decided
    /// would mean waiting for the timeout of the owner's own transaction if its producer failed in the middle of it.
    pub(super) fn has_another_owner(&self, owner: Uuid) -> Result<bool, SessionError> {
        if !self.may_have_another_owner(owner)? {
            return Ok(false);
        }
        self.wait_until_decided()?;
        Ok(self.last_owner("read_committed")?.is_some_and(|last| last != owner))
    }

    /// Whether another process took ownership, or began to.
    pub(super) fn may_have_another_owner(&self, owner: Uuid) -> Result<bool, SessionError> {
        Ok(self.last_owner("read_uncommitted")?.is_some_and(|last| last != owner))
    }

    fn last_owner(&self, isolation: &str) -> Result<Option<Uuid>, SessionError> {
        Ok(self.last_sentinel(isolation)?.map(|sentinel| sentinel.owner))
    }

    /// The last sentinel of our transactional id.
    pub(super) fn last_sentinel(&self, isolation: &str) -> Result<Option<Sentinel>, SessionError> {
        let mut last = None;
        self.read(isolation, |record| {
            last = record.and_then(|record| self.sentinel_in(record)).or(last);
            record.is_none()
        })?;
        Ok(last)
    }

    /// The number of shards according to the sentinels of this shard, under its own transactional id or the bridge's. It never
    /// decreases.
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

    /// A sentinel record of our transactional id.
    fn sentinel_in(&self, record: &BorrowedMessage<'_>) -> Option<Sentinel> {
        sentinel_of(&self.owner_key, record)
    }

    /// A `read_committed` reader ends before the first open transaction of anybody, so it could miss a sentinel behind that.
    fn wait_until_decided(&self) -> Result<(), SessionError> {
        let written = self.end("read_uncommitted")?;
        let begun = Instant::now();
        while self.end("read_committed")? < written {
            if begun.elapsed() > READ_TIMEOUT {
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

    /// Passes every record, and `None` at the end, to `enough` until that returns true.
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
        while progress.elapsed() < READ_TIMEOUT {
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

    /// A consumer for any topic, which also reports the ends of partitions.
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

/// librdkafka requires a group name and looks up its coordinator, but the group is never used, so no permission is needed.
pub(super) fn is_of_group(error: &KafkaError) -> bool {
    error.rdkafka_error_code() == Some(RDKafkaErrorCode::GroupAuthorizationFailed)
}
