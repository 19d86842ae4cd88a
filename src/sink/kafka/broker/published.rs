//! Reads back what was published, for `verify`.

use std::collections::HashMap;
use std::panic::resume_unwind;
use std::thread;
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode as Code};
use rdkafka::message::{BorrowedMessage, Headers, Message};
use rdkafka::metadata::MetadataPartition;
use rdkafka::{Offset, TopicPartitionList};

use super::client::{self, Quiet};
use super::entries::{Entries, Entry};
use super::ledger::{Ledger, is_of_group};
use crate::error::SetupError;
use crate::notification::InstanceId;
use crate::sink::kafka::options::Options;
use crate::sink::kafka::template::{self, Types};
use crate::sink::session::SessionError;
use crate::sink::shard::Shard;
use crate::verify::{Audit, Lane, Published};

const REQUEST_TIMEOUT: Duration = Duration::from_secs(20);
const READ_TIMEOUT: Duration = Duration::from_secs(60);
/// Of the ledger: each takes clients of its own, which spend their time waiting.
const SHARDS_AT_ONCE: usize = 8;

/// Reads the ledger, and all topics of notifications and dead letters up to their ends, as a `read_committed` consumer. Returns
/// whether the topics still have their beginnings.
///
/// # Errors
/// Names what cannot be read.
pub(super) fn audit(config: &Options, audit: &mut Audit) -> Result<bool, SetupError> {
    let text = |failure: SessionError| SetupError::from(failure.to_string());
    let client = client::configure(config)?;
    let ledger = |shard| Ledger::new(&client, config, &config.transactional_id, Shard::new(shard));
    let consumer = || ledger(0).consumer("read_committed").map_err(text);
    let metadata =
        consumer()?.fetch_metadata(None, REQUEST_TIMEOUT).map_err(|error| SetupError::new("sink.kafka", error))?;
    let of_ledger = metadata.topics().iter().find(|topic| topic.name() == config.ledger_topic);
    let shards = of_ledger.map_or(0, |topic| u16::try_from(topic.partitions().len()).unwrap_or(u16::MAX));
    let topics: Vec<_> = metadata.topics().iter().filter(|topic| is_ours(topic.name(), config)).collect();
    if topics.is_empty() {
        return Err(format!("sink.kafka.topic {}: there is no such topic", config.topic).into());
    }
    let remembered = || {
        let mut all = HashMap::<InstanceId, Entry>::new();
        let shards: Vec<u16> = (0..shards).collect();
        for some in shards.chunks(SHARDS_AT_ONCE) {
            let read: Vec<Result<Entries, SessionError>> = thread::scope(|threads| {
                let reading: Vec<_> = some.iter().map(|shard| threads.spawn(|| ledger(*shard).read_all())).collect();
                reading.into_iter().map(|thread| thread.join().unwrap_or_else(|panic| resume_unwind(panic))).collect()
            });
            for entries in read {
                for (instance, entry) in entries.map_err(text)?.of {
                    // An instance whose shard has changed leaves an older entry behind.
                    let known = all.entry(instance).or_insert(entry);
                    *known = if entry.sequence > known.sequence { entry } else { *known };
                }
            }
        }
        Ok::<_, SetupError>(all)
    };
    // What the ledger records before must be in the topics; instances whose entry changes meanwhile are being worked on.
    let before = remembered()?;
    let (mut lanes, mut from_the_beginning) = (0, true);
    for topic in topics {
        let name = topic.name();
        let partitions: Vec<i32> = topic.partitions().iter().map(MetadataPartition::id).collect();
        let read = read(&consumer()?, name, &partitions, lanes, audit);
        from_the_beginning &= read.map_err(|error| format!("topic {name}: {error}"))?;
        lanes += partitions.len();
    }
    for (instance, Entry { sequence, .. }) in remembered()? {
        let known = before.get(&instance).map_or(0, |entry| entry.sequence);
        audit.remembered(instance, known, known != sequence);
    }
    Ok(from_the_beginning)
}

/// Includes topics of undocumented types, to which earlier versions wrote.
fn is_ours(topic: &str, config: &Options) -> bool {
    let fits = template::can_become(&config.topic, topic, Types::Any) && topic != config.ledger_topic;
    fits || topic == config.dead_letter_topic
}

/// Reads each partition up to its current end, as the lanes from `lane` on.
fn read(
    consumer: &BaseConsumer<Quiet>,
    topic: &str,
    partitions: &[i32],
    lane: Lane,
    audit: &mut Audit,
) -> KafkaResult<bool> {
    let mut list = TopicPartitionList::new();
    let mut from_the_beginning = true;
    for (partition, lane) in partitions.iter().zip(lane..) {
        let (low, _) = consumer.fetch_watermarks(topic, *partition, REQUEST_TIMEOUT)?;
        if low > 0 {
            from_the_beginning = false;
            audit.cut(lane);
        }
        list.add_partition_offset(topic, *partition, Offset::Beginning)?;
    }
    consumer.assign(&list)?;
    let mut unfinished: HashMap<i32, Lane> = partitions.iter().copied().zip(lane..).collect();
    let mut progress = Instant::now();
    while !unfinished.is_empty() {
        match consumer.poll(Duration::from_millis(500)) {
            None if progress.elapsed() > READ_TIMEOUT => {
                return Err(KafkaError::MessageConsumption(Code::OperationTimedOut));
            }
            None => continue,
            Some(Err(KafkaError::PartitionEOF(partition))) => drop(unfinished.remove(&partition)),
            Some(Err(error)) if is_of_group(&error) => continue,
            Some(Err(error)) => return Err(error),
            Some(Ok(record)) => {
                if let Some(lane) = unfinished.get(&record.partition())
                    && let Some(published) = published(&record)
                {
                    audit.message(&published, *lane, record.payload().unwrap_or_default());
                }
            }
        }
        progress = Instant::now();
    }
    Ok(from_the_beginning)
}

fn published(record: &BorrowedMessage<'_>) -> Option<Published> {
    let headers = record.headers()?.iter();
    Published::from_attributes(
        headers.filter_map(|header| Some((header.key.strip_prefix("ce_")?, std::str::from_utf8(header.value?).ok()?))),
    )
}
