//! Publishes dead letters again. One transaction holds the record of a letter and a mark in the ledger, so a letter is redriven
//! once however often a run is interrupted or repeated.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::time::{Duration, Instant};

use bytes::Bytes;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::message::{BorrowedMessage, Header, Headers, Message, OwnedHeaders};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};

use super::client::{self, Quiet};
use super::ledger::{Ledger, is_of_group};
use super::producer::{Attempt, Producer};
use super::record::Record;
use crate::error::SetupError;
use crate::notification;
use crate::sink::kafka::options::{Key, Options};
use crate::sink::kafka::template::{self, Types};
use crate::sink::redrive::{Fate, From, Letter, Redrive};
use crate::sink::session::SessionError;
use crate::sink::shard::{Shard, partition_of};

const REQUEST_TIMEOUT: Duration = Duration::from_secs(20);
const READ_TIMEOUT: Duration = Duration::from_secs(60);

/// Publishes the selected letters of the dead-letter topic, or of the folder.
///
/// # Errors
/// If the outcome of a transaction is unknown, or another run takes over.
pub(super) fn redrive(config: &Options, redrive: &mut Redrive, folder: &Path) -> Result<(), SetupError> {
    let mut client = client::configure(config)?;
    // Not the bridge's own, which this must not fence.
    let transactional_id = format!("{}-redrive", config.transactional_id);
    client.set("transactional.id", &transactional_id);
    let ledger = Ledger::new(&client, config, &transactional_id, Shard::new(0));
    let selection = *redrive.selection();
    let consumer = ledger.consumer("read_committed").map_err(text)?;
    // Fails where the producer would wait for the brokers.
    partitions(&consumer, &config.ledger_topic)
        .map_err(|error| SetupError::new(format!("ledger_topic {}", config.ledger_topic), error))?;
    let (dry_run, partitions) = (selection.dry_run, HashMap::new());
    // Otherwise they are read once an interrupted run is fenced, whose transaction would have to be waited for here.
    let redriven = if dry_run { ledger.redriven().map_err(text)? } else { HashSet::new() };
    let mut publisher = Publisher { config, client, ledger, dry_run, producer: None, redriven, partitions };
    match selection.from {
        From::Kafka => publisher.topic(redrive, &consumer),
        From::Dir => redrive.folder(folder, |letter, _| publisher.publish(letter, None, &consumer)),
        From::Amqp | From::Rejected => Err("sink.kafka: dead letters are in its topic or in the folder: \
            use --from kafka or --from dir"
            .into()),
    }
}

#[expect(clippy::needless_pass_by_value, reason = "as `map_err` hands it over")]
fn text(failure: SessionError) -> SetupError {
    failure.to_string().into()
}

struct Publisher<'a> {
    config: &'a Options,
    client: ClientConfig,
    ledger: Ledger,
    dry_run: bool,
    /// None in a dry run, before the first letter, and after a failed or delayed transaction.
    producer: Option<Producer>,
    /// The marks.
    redriven: HashSet<String>,
    /// How many partitions each topic has.
    partitions: HashMap<String, i32>,
}

impl Publisher<'_> {
    /// Each partition up to its current end.
    fn topic(&mut self, redrive: &mut Redrive, consumer: &BaseConsumer<Quiet>) -> Result<(), SetupError> {
        let topic = &self.config.dead_letter_topic;
        let failed = |error: KafkaError| SetupError::new(format!("dead_letter_topic {topic}"), error);
        let count = match partitions(consumer, topic) {
            // It is created with the first dead letter.
            Err(KafkaError::MetadataFetch(Code::UnknownTopicOrPartition | Code::UnknownTopic)) => 0,
            count => count.map_err(failed)?,
        };
        let mut ends = HashMap::new();
        let mut list = TopicPartitionList::new();
        for partition in 0..count {
            let (low, high) = consumer.fetch_watermarks(topic, partition, REQUEST_TIMEOUT).map_err(failed)?;
            if low < high {
                ends.insert(partition, high);
                list.add_partition_offset(topic, partition, Offset::Beginning).map_err(failed)?;
            }
        }
        consumer.assign(&list).map_err(failed)?;
        // For its metadata, while the other one reads.
        let metadata = self.ledger.consumer("read_committed").map_err(text)?;
        let mut progress = Instant::now();
        while !ends.is_empty() {
            match consumer.poll(Duration::from_millis(500)) {
                None if progress.elapsed() > READ_TIMEOUT => {
                    return Err(format!("dead_letter_topic {topic}: no answer within a minute").into());
                }
                None => continue,
                Some(Err(KafkaError::PartitionEOF(partition))) => drop(ends.remove(&partition)),
                Some(Err(error)) if is_of_group(&error) => continue,
                Some(Err(error)) => return Err(failed(error)),
                Some(Ok(record)) => {
                    // What is produced while this runs waits for the next run.
                    if ends.get(&record.partition()).is_some_and(|end| record.offset() < *end) {
                        let key = record.key().map(|key| String::from_utf8_lossy(key).into_owned());
                        redrive.letter(letter(&record), |letter| self.publish(letter, key, &metadata))?;
                    } else {
                        ends.remove(&record.partition());
                    }
                }
            }
            progress = Instant::now();
        }
        Ok(())
    }

    /// Fences other runs, unless this one has done so; only then are all of their marks known.
    fn acquire(&mut self) -> Result<(), SetupError> {
        if self.producer.is_none() && !self.dry_run {
            self.producer = Some(Producer::new(&self.client).map_err(text)?);
            self.redriven = self.ledger.redriven().map_err(text)?;
        }
        Ok(())
    }

    /// Publishes a letter with this key, or with the one that it would have had.
    fn publish(
        &mut self,
        letter: &Letter,
        key: Option<String>,
        metadata: &BaseConsumer<Quiet>,
    ) -> Result<Fate, SetupError> {
        self.acquire()?;
        let get = |name| letter.get(name).unwrap_or_default();
        // A sequence is given once while the ledger is kept, and the marks are in the ledger.
        let mark = format!("{}:{}:{}", get("idinstance"), get("sequence"), get("id"));
        if self.redriven.contains(&mark) {
            return Ok(Fate::AlreadyRedriven);
        }
        let topic = letter.destination();
        if !template::can_become(&self.config.topic, topic, Types::Any) || topic == self.config.ledger_topic {
            return Ok(Fate::Refused(format!("`originaldestination` {topic:?} is no topic of sink.kafka.topic")));
        }
        let count = match self.partitions_of(topic, metadata) {
            Ok(count) => count,
            Err(error) => return Ok(Fate::Refused(format!("topic {topic}: {error}"))),
        };
        let key = key.unwrap_or_else(|| {
            let chat = if self.config.key == Key::Chat { notification::chat(&letter.body) } else { None };
            chat.unwrap_or_else(|| get("idinstance").to_owned())
        });
        let mut headers = OwnedHeaders::new();
        for (name, value) in letter.redriven(false) {
            headers = headers.insert(Header { key: &format!("ce_{name}"), value: Some(value) });
        }
        headers = headers.insert(Header { key: "content-type", value: Some(letter.content_type()) });
        let partition = Some(partition_of(&key, count));
        let value = Bytes::from(letter.body.clone());
        let record = Record { topic: topic.to_owned(), partition, key, value, headers };
        let fate = self.commit(&[&record, &self.ledger.redriven_mark(&mark).map_err(text)?])?;
        if fate == Fate::Redriven {
            self.redriven.insert(mark);
        }
        Ok(fate)
    }

    fn commit(&mut self, records: &[&Record]) -> Result<Fate, SetupError> {
        // None in a dry run.
        let Some(producer) = self.producer.take() else { return Ok(Fate::Redriven) };
        match producer.attempt(records, None) {
            Attempt::Committed(_) => {
                self.producer = Some(producer);
                Ok(Fate::Redriven)
            }
            // A delayed commit request could complete a later transaction of the same producer (KAFKA-17754).
            Attempt::CommittedSlowly(_) => Ok(Fate::Redriven),
            Attempt::Refused(refusals) => {
                self.producer = Some(producer);
                Ok(Fate::Refused(refusals.into_iter().map(|refusal| refusal.why).next().unwrap_or_default()))
            }
            Attempt::Forbidden(why) => Ok(Fate::Refused(why)),
            Attempt::Failed(why) => Err(format!("{why}: run it again, which redrives no letter twice").into()),
        }
    }

    fn partitions_of(&mut self, topic: &str, metadata: &BaseConsumer<Quiet>) -> Result<i32, KafkaError> {
        if let Some(count) = self.partitions.get(topic) {
            return Ok(*count);
        }
        let count = partitions(metadata, topic)?;
        self.partitions.insert(topic.to_owned(), count);
        Ok(count)
    }
}

fn partitions(consumer: &BaseConsumer<Quiet>, topic: &str) -> Result<i32, KafkaError> {
    let metadata = consumer.fetch_metadata(Some(topic), REQUEST_TIMEOUT)?;
    let found = metadata.topics().first();
    if let Some(error) = found.and_then(rdkafka::metadata::MetadataTopic::error) {
        return Err(KafkaError::MetadataFetch(error.into()));
    }
    Ok(found.map_or(0, |topic| i32::try_from(topic.partitions().len()).unwrap_or(i32::MAX)))
}

fn letter(record: &BorrowedMessage<'_>) -> Option<Letter> {
    let attribute = |header: Header<'_, &[u8]>| {
        let name = header.key.strip_prefix("ce_")?.to_owned();
        Some((name, std::str::from_utf8(header.value?).ok()?.to_owned()))
    };
    let attributes: Vec<(String, String)> = record.headers()?.iter().filter_map(attribute).collect();
    let attributes = attributes.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    Letter::new(attributes, record.payload().unwrap_or_default().to_owned())
}
