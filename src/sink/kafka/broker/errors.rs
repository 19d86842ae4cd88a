//! Every way in which a transaction can fail, and the reaction to it.
//!
//! | cause | symptom | reaction |
//! |---|---|---|
//! | the coordinator moves, loads, or is still completing the last transaction | *retriable*, or retried by the client itself | retry the call for at most 40 s |
//! | a body is larger than the client sends | before it is sent | write it to the folder; no other notification is affected |
//! | a record with its headers is too large for the client | at once, from `send` | abort; retry the record alone, then as a dead letter |
//! | the broker refuses a record, for example as too large | its delivery report; *abortable* | abort; commit the others; retry the record alone, then as a dead letter |
//! | the broker refuses the timestamp of a record | its delivery report; *abortable* | abort; commit the others; the record waits, and both clocks are reported; never a dead letter |
//! | a topic is missing or forbidden | delivery report, or all records purged; *abortable* | abort; commit the others, each alone if necessary; instances that need the topic wait and retry alone. If the abort is refused as well: a new producer, once |
//! | too few in-sync replicas, leader change, connection lost | retried by the client until `message.timeout.ms` | none; after that an unknown outcome |
//! | a refused record left a gap in the sequence numbers, or the broker expired the producer id after 7 idle days | *abortable*, all records purged | abort, by which the client bumps its epoch; retry |
//! | the transaction exceeded its timeout | fatal, `_FENCED` or a wrong epoch | a new producer, because the ledger shows no other owner |
//! | another bridge took over | fatal, `_FENCED` | stop with exit code 79, because the ledger shows another owner |
//! | the commit fails or is not answered | anything but success | never guess: a new producer, and the ledger decides |
//! | the commit succeeds after a retry or more than 5 s | success | stored; a new producer, because of KAFKA-17754 |
//! | the transactional id or the cluster is forbidden, or the timeout too long for the broker | fatal, from `init_transactions` | report what to change; retry |
//! | the broker refuses the ledger record | its delivery report | report; retry with a new producer |
//!
//! A *new producer* means: the old one is dropped, `init_transactions` waits until its transaction is decided, a sentinel is
//! committed, the ledger is read up to that sentinel, and every lane starts from the ledger's contents.

use std::thread;
use std::time::{Duration, Instant};

use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use tracing::debug;

use crate::sink::Reason;

/// How long a retriable call is retried: longer than the transaction timeout, so that the broker has aborted before we give up.
pub(super) const RETRY_TIMEOUT: Duration = Duration::from_secs(40);

/// The cause of a refused record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Blame {
    /// The record itself: retrying cannot succeed.
    Record(Reason),
    /// Its topic, which is missing or forbidden.
    Topic,
    /// The clock of the bridge or of the broker.
    Clock,
    /// One of the topics of its transaction, possibly its own.
    SomeTopic,
}

/// The cause; `None` if it is neither the record nor its topic.
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

/// The error with advice for the operator.
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

/// Retries a call for as long as its error is retriable.
pub(super) fn retry_while_retriable(mut call: impl FnMut() -> Result<(), KafkaError>) -> Result<(), KafkaError> {
    let begun = Instant::now();
    loop {
        match call() {
            Err(KafkaError::Transaction(error)) if error.is_retriable() && begun.elapsed() < RETRY_TIMEOUT => {
                debug!(error = error.string(), "retrying");
                thread::sleep(Duration::from_millis(100));
            }
            Err(KafkaError::Flush(error)) if begun.elapsed() < RETRY_TIMEOUT => debug!(%error, "retrying"),
            other => return other,
        }
    }
}

#[cfg(test)]
#[path = "error_tests.rs"]
mod tests;
