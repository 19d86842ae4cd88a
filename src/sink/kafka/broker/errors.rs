//! Every way in which a transaction can go wrong, and its answer.
//!
//! | what happens | how it shows | what is done |
//! |---|---|---|
//! | the coordinator moves, loads, or is still busy with the last transaction | *retriable*, or repeated by the client itself | the same call again, for at most 40 s |
//! | a body is larger than the client sends | before it is sent | into the folder; nobody else notices |
//! | a record is too large for the client with its headers | at once, from `send` | abort; the record alone, then as a dead letter |
//! | a record is too large for the broker, or refused by it | its delivery; *abortable* | abort; the others without it; it alone, then as a dead letter |
//! | the broker refuses the time that the client stamps records with | its delivery; *abortable* | abort; the others without it; it waits, and is told with both clocks; never a dead letter |
//! | a topic is missing or forbidden | its delivery, or all records purged; *abortable* | abort; the others without it, if need be each alone; its instances wait, and try alone. Where the abort is refused too: a new producer, once |
//! | too few replicas, leader moves, connection lost | repeated by the client until `message.timeout.ms` | nothing; then as an unknown outcome |
//! | a refused record left a gap in the sequence numbers, or the broker forgot the producer id after 7 idle days | *abortable*, all records purged | abort, with which the client takes a new epoch; the same again |
//! | the transaction took longer than its timeout | fatal, `_FENCED` or a wrong epoch | the ledger tells that it is no rival: a new producer |
//! | another bridge took over | fatal, `_FENCED` | the ledger names the rival: stop, exit code 79 |
//! | the commit is answered with an error, or not at all | anything but success | never guessed: a new producer asks the ledger |
//! | the commit succeeds after more than one call or 5 s | success | stored; a new producer, because of KAFKA-17754 |
//! | the transactional id or the cluster is forbidden, the timeout too long for the broker | fatal, from `init_transactions` | told with what to change, tried again |
//! | the broker refuses the ledger's record | its delivery | told, tried again with a new producer |
//!
//! A *new producer* means: the old one is dropped, `init_transactions` waits until its transaction
//! is decided, a sentinel is committed, the ledger is read up to it, and every lane starts from
//! what the ledger says.

use std::thread;
use std::time::{Duration, Instant};

use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use tracing::debug;

use crate::sink::Reason;

/// How long a call may go on asking to be repeated. Longer than the transaction's own timeout.
pub(super) const PATIENCE: Duration = Duration::from_secs(40);

/// What is at fault when a record is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Blame {
    /// The record: it will never be taken.
    Record(Reason),
    /// Its topic, which is missing or forbidden.
    Topic,
    /// The bridge's clock or the broker's: the client stamps records with ours.
    Clock,
    /// One of the topics of its transaction, maybe its own.
    SomeTopic,
}

/// What is at fault; `None` when it is neither the record nor its topic.
pub(super) fn blame(error: &KafkaError) -> Option<Blame> {
    match error.rdkafka_error_code()? {
        Code::MessageSizeTooLarge | Code::InvalidMessageSize => Some(Blame::Record(Reason::TooLarge)),
        Code::InvalidMessage | Code::InvalidRecord | Code::PolicyViolation => Some(Blame::Record(Reason::Refused)),
        Code::InvalidTimestamp => Some(Blame::Clock),
        Code::UnknownTopic
        | Code::UnknownTopicOrPartition
        | Code::UnknownPartition
        | Code::InvalidTopic
        | Code::TopicAuthorizationFailed => Some(Blame::Topic),
        _ => None,
    }
}

/// The error, and what the operator can do about it.
pub(super) fn explain(error: &KafkaError) -> String {
    let advice = match error.rdkafka_error_code() {
        Some(Code::TransactionalIdAuthorizationFailed) => {
            "grant WRITE and DESCRIBE on sink.kafka.transactional_id to this user"
        }
        Some(Code::InvalidTimestamp) => {
            let ours = jiff::Timestamp::now();
            return format!("the broker refuses what the bridge's clock says, {ours:.0}: compare it with the broker's");
        }
        Some(Code::TopicAuthorizationFailed) => "grant WRITE and DESCRIBE on the topic to this user",
        Some(Code::ClusterAuthorizationFailed) => "grant IDEMPOTENT_WRITE on the cluster to this user",
        Some(Code::InvalidTransactionTimeout) => {
            "lower transaction.timeout.ms in sink.kafka.properties, or raise the broker's transaction.max.timeout.ms"
        }
        Some(Code::NotEnoughReplicas | Code::NotEnoughReplicasAfterAppend) => {
            "brokers are down, or min.insync.replicas is more than there are"
        }
        Some(Code::OperationTimedOut) => {
            "is the cluster up, and has it transaction.state.log.replication.factor brokers?"
        }
        _ => return error.to_string(),
    };
    format!("{error}: {advice}")
}

/// Repeats the same call as long as it says that it can be resumed.
pub(super) fn persist(mut call: impl FnMut() -> Result<(), KafkaError>) -> Result<(), KafkaError> {
    let begun = Instant::now();
    loop {
        match call() {
            Err(KafkaError::Transaction(error)) if error.is_retriable() && begun.elapsed() < PATIENCE => {
                debug!(error = error.string(), "repeating");
                thread::sleep(Duration::from_millis(100));
            }
            Err(KafkaError::Flush(error)) if begun.elapsed() < PATIENCE => debug!(%error, "repeating"),
            other => return other,
        }
    }
}

#[cfg(test)]
#[path = "error_tests.rs"]
mod tests;
