//! A transactional producer: one transaction from begin to its known outcome.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use rdkafka::ClientConfig;
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseRecord, DeliveryResult, Producer as _, ProducerContext, ThreadedProducer};
use rdkafka::util::Timeout;
use tracing::debug;

use super::client::Quiet;
use super::errors::{Blame, RETRY_TIMEOUT, blame, explain, retry_while_retriable};
use super::record::Record;
use super::unreachable;
use crate::fault;
use crate::sink::session::SessionError;

/// How often a transaction is retried when its records were purged.
const ATTEMPTS: usize = 3;

/// A commit that takes longer counts as delayed.
const SLOW_COMMIT: Duration = Duration::from_secs(5);

pub(super) struct Producer {
    client: ThreadedProducer<Deliveries>,
    deliveries: Receiver<(usize, Option<KafkaError>)>,
}

/// The outcome of a transaction.
#[derive(Debug)]
pub(super) enum Attempt {
    /// Everything is durably stored; the commit was requested at this time.
    Committed(Instant),
    /// The same, but the commit was retried or delayed.
    CommittedSlowly(Instant),
    /// Aborted because of these records: nothing is stored.
    Refused(Vec<Refusal>),
    /// One of the topics is forbidden, and the producer is unusable.
    Forbidden(String),
    /// Unknown, or the producer is unusable: create a new one and consult the ledger.
    Failed(String),
}

/// Aborted because the client purged the records unsent. This follows a refused record, whose sequence number is missing at
/// the broker until the epoch is bumped. The abort bumps it, and succeeds only while nobody else took over (KIP-360).
struct Purged;

/// A record that the client or the broker refused.
#[derive(Clone, Debug)]
pub(super) struct Refusal {
    /// Its index in the transaction.
    pub record: usize,
    pub blame: Blame,
    pub why: String,
}

impl Producer {
    /// Fences every earlier producer of the same transactional id and waits until its last transaction is decided.
    pub(super) fn new(config: &ClientConfig) -> Result<Self, SessionError> {
        let unavailable = |error: KafkaError| {
            let why = unreachable::explain(config, &error);
            SessionError::Unavailable(why.unwrap_or_else(|| format!("init_transactions: {}", explain(&error))))
        };
        let (sender, deliveries) = channel();
        let client: ThreadedProducer<Deliveries> =
            config.create_with_context(Deliveries(sender)).map_err(unavailable)?;
        retry_while_retriable(|| client.init_transactions(Timeout::Never)).map_err(unavailable)?;
        Ok(Self { client, deliveries })
    }

    /// Refreshes the metadata of a topic: otherwise the client would cache for five minutes that it was missing or had more
    /// partitions.
    pub(super) fn refresh_metadata(&self, topic: &str) {
        if let Err(error) = self.client.client().fetch_metadata(Some(topic), RETRY_TIMEOUT) {
            debug!(topic, %error, "cannot refresh the metadata of the topic");
        }
    }

    /// Produces all records in one transaction. Every delivery report is awaited and checked before the commit, because a
    /// commit succeeds even if records were never sent. `before` is delivered before the others are sent.
    pub(super) fn attempt(&self, records: &[&Record], before: Option<&Record>) -> Attempt {
        for _ in 0..ATTEMPTS {
            match self.attempt_once(records, before) {
                Err(Purged) => debug!("retrying the transaction"),
                Ok(attempt) => return attempt,
            }
        }
        Attempt::Failed("the transaction was aborted again and again".into())
    }

    fn attempt_once(&self, records: &[&Record], before: Option<&Record>) -> Result<Attempt, Purged> {
        fault::reached("before_begin");
        if let Err(error) = self.client.begin_transaction() {
            return Ok(Attempt::Failed(format!("begin_transaction: {}", explain(&error))));
        }
        if let Some(before) = before {
            match self.send(0, before).map(|()| self.deliveries.recv_timeout(RETRY_TIMEOUT)) {
                Ok(Ok((_, None))) => {}
                Err(error) | Ok(Ok((_, Some(error)))) => return Ok(Attempt::Failed(explain(&error))),
                Ok(Err(_late)) => return Ok(Attempt::Failed("a delivery was not reported".into())),
            }
        }
        let mut sent = 0;
        let mut refused = Vec::new();
        for (index, record) in records.iter().enumerate() {
            match self.send(index, record) {
                Ok(()) => sent += 1,
                Err(error) => refused.push((index, error)),
            }
        }
        fault::reached("produced");
        for _ in 0..sent {
            match self.deliveries.recv_timeout(RETRY_TIMEOUT) {
                Ok((_, None)) => {}
                Ok((index, Some(error))) => refused.push((index, error)),
                Err(_late) => return Ok(Attempt::Failed("a delivery was not reported".into())),
            }
        }
        fault::reached("delivered");
        if refused.is_empty() { Ok(self.commit()) } else { self.abort(records.len(), refused) }
    }

    fn send(&self, index: usize, record: &Record) -> Result<(), KafkaError> {
        let mut base = BaseRecord::with_opaque_to(&record.topic, index)
            .key(record.key.as_bytes())
            .payload(record.value.as_ref())
            .headers(record.headers.clone());
        base.partition = record.partition;
        // A full queue drains on the client's own thread while delivery reports are awaited.
        loop {
            match self.client.send(base) {
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), again)) => {
                    thread::sleep(Duration::from_millis(1));
                    base = again;
                }
                other => return other.map_err(|(error, _)| error),
            }
        }
    }

    fn commit(&self) -> Attempt {
        // rust-rdkafka flushes first, in slices of 100 ms until all delivery events are freed, which takes microseconds.
        while self.client.in_flight_count() > 0 {
            thread::yield_now();
        }
        fault::reached("before_commit");
        let (begun, mut calls) = (Instant::now(), 0);
        // No timeout of our own: a commit that is given up on has an unknown outcome. The client retries until the coordinator
        // answers; the broker aborts after `transaction.timeout.ms`, and `ShardWatch` reports the wait after 10 s.
        let committed = retry_while_retriable(|| {
            calls += 1;
            self.client.commit_transaction(Timeout::Never)
        });
        match committed {
            Ok(()) if calls > 1 || begun.elapsed() >= SLOW_COMMIT => Attempt::CommittedSlowly(begun),
            Ok(()) => Attempt::Committed(begun),
            // Never guess: the broker may have applied what the client reports as failed.
            Err(error) => Attempt::Failed(format!("commit_transaction: {}", explain(&error))),
        }
    }

    /// Aborts. Before a commit was requested, a successful abort leaves nothing behind.
    fn abort(&self, records: usize, refused: Vec<(usize, KafkaError)>) -> Result<Attempt, Purged> {
        let first = refused.first().map(|(_, error)| explain(error)).unwrap_or_default();
        if let Some((_, why)) = self.client.client().fatal_error() {
            return Ok(Attempt::Failed(why));
        }
        let is_purged = |error: &KafkaError| error.rdkafka_error_code() == Some(RDKafkaErrorCode::PurgeQueue);
        let all_purged = refused.iter().all(|(_, error)| is_purged(error));
        let refusal = |(record, error): (usize, KafkaError)| {
            Some(Refusal { record, blame: blame(&error)?, why: explain(&error) })
        };
        let mut bad: Vec<Refusal> = refused.into_iter().filter_map(refusal).collect();
        let mut forbidden = None;
        if all_purged {
            // A failed producer cannot begin another transaction, and its error does not name the topic.
            let failed = self.client.begin_transaction();
            forbidden = failed.err().filter(|why| blame(why) == Some(Blame::Topic)).map(|why| explain(&why));
            if let Some(why) = &forbidden {
                let refusal = |record| Refusal { record, blame: Blame::SomeTopic, why: why.clone() };
                bad = (0..records).map(refusal).collect();
            }
        } else if bad.is_empty() {
            return Ok(Attempt::Failed(first));
        }
        match (retry_while_retriable(|| self.client.abort_transaction(Timeout::Never)), forbidden) {
            (Ok(()), _) if bad.is_empty() => Err(Purged),
            (Ok(()), _) => Ok(Attempt::Refused(bad)),
            (Err(error), Some(why)) => Ok(Attempt::Forbidden(format!("{why} (abort_transaction: {error})"))),
            (Err(error), None) => Ok(Attempt::Failed(format!("abort_transaction: {}", explain(&error)))),
        }
    }
}

/// Passes every delivery report to the waiting thread.
struct Deliveries(Sender<(usize, Option<KafkaError>)>);

impl ClientContext for Deliveries {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        Quiet.log(level, facility, line);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        Quiet.error(error, reason);
    }
}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, index: usize) {
        let error = result.as_ref().err().map(|(error, _)| error.clone());
        // Nobody is waiting while the producer is being dropped.
        drop(self.0.send((index, error)));
    }
}
