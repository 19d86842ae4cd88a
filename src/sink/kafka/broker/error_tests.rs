//! The rows of the table that need no real broker: librdkafka's mock answers with the error in
//! question. It knows no isolation and fences nobody: those rows are tried on the real one.

use bytes::Bytes;
use rdkafka::ClientConfig;
use rdkafka::message::OwnedHeaders;
use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;
use rdkafka::types::{RDKafkaApiKey as Api, RDKafkaRespErr as Answer};

use super::*;
use crate::sink::kafka::broker::producer::{Attempt, Producer};
use crate::sink::kafka::broker::record::Record;
use crate::sink::session::SessionError;

struct Mock {
    cluster: MockCluster<'static, DefaultProducerContext>,
    config: ClientConfig,
}

impl Mock {
    fn new() -> Self {
        let cluster = MockCluster::new(1).expect("a mock cluster");
        cluster.create_topic("topic", 1, 1).expect("a topic");
        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", cluster.bootstrap_servers())
            .set("transactional.id", "id")
            .set("linger.ms", "0");
        config.set("transaction.timeout.ms", "4000").set("message.timeout.ms", "2000").set("socket.timeout.ms", "2000");
        config.set("message.max.bytes", "2000");
        Self { cluster, config }
    }

    fn producer(&self) -> Producer {
        Producer::new(&self.config).map_err(|failure| failure.to_string()).expect("a producer")
    }

    /// What becomes of a transaction of two records when the broker answers this.
    fn attempt(api: Api, answers: &[Answer]) -> (Self, Producer, Attempt) {
        let mock = Self::new();
        let producer = mock.producer();
        mock.cluster.request_errors(api, answers);
        let attempt = producer.attempt(&[&record(1), &record(1)], None);
        (mock, producer, attempt)
    }
}

fn record(bytes: usize) -> Record {
    let value = Bytes::from(vec![b'x'; bytes]);
    Record { topic: "topic".into(), partition: Some(0), key: "key".into(), value, headers: OwnedHeaders::new() }
}

fn is_committed(attempt: &Attempt) -> bool {
    matches!(attempt, Attempt::Committed(_))
}

fn refused(attempt: Attempt) -> Vec<(usize, Blame)> {
    let Attempt::Refused(refused) = attempt else { panic!("not refused: {attempt:?}") };
    refused.into_iter().map(|refusal| (refusal.record, refusal.blame)).collect()
}

#[test]
fn a_coordinator_that_is_busy_or_moves_is_asked_again() {
    let busy = [
        Answer::RD_KAFKA_RESP_ERR_COORDINATOR_LOAD_IN_PROGRESS,
        Answer::RD_KAFKA_RESP_ERR_NOT_COORDINATOR,
        Answer::RD_KAFKA_RESP_ERR_CONCURRENT_TRANSACTIONS,
    ];
    let mock = Mock::new();
    mock.cluster.request_errors(Api::InitProducerId, &busy);
    assert!(is_committed(&mock.producer().attempt(&[&record(1)], None)));
    for api in [Api::AddPartitionsToTxn, Api::EndTxn] {
        let (_mock, _producer, attempt) = Mock::attempt(api, &busy);
        assert!(is_committed(&attempt), "{api:?}: {attempt:?}");
    }
}

#[test]
fn a_record_too_large_for_the_client_is_refused_and_nothing_else() {
    let mock = Mock::new();
    let producer = mock.producer();
    let attempt = producer.attempt(&[&record(1), &record(3000), &record(1)], None);
    assert_eq!(refused(attempt), [(1, Blame::Record(Reason::TooLarge))]);
    assert!(is_committed(&producer.attempt(&[&record(1), &record(1)], None)));
}

#[test]
fn what_the_broker_refuses_is_blamed_on_the_record_or_its_topic_and_the_producer_goes_on() {
    for (answer, blame) in [
        (Answer::RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE, Blame::Record(Reason::TooLarge)),
        (Answer::RD_KAFKA_RESP_ERR_INVALID_RECORD, Blame::Record(Reason::Refused)),
        (Answer::RD_KAFKA_RESP_ERR_INVALID_TIMESTAMP, Blame::Clock),
        (Answer::RD_KAFKA_RESP_ERR_POLICY_VIOLATION, Blame::Record(Reason::Refused)),
        (Answer::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED, Blame::Topic),
    ] {
        let (_mock, producer, attempt) = Mock::attempt(Api::Produce, &[answer]);
        assert!(refused(attempt).iter().all(|(_, blamed)| *blamed == blame), "{answer:?}");
        // The client keeps a forbidden topic in mind until it hears of it again. Of the others only the sequence number
        // is missing, for which the broker refuses the next transaction once.
        if blame != Blame::Topic {
            let attempt = producer.attempt(&[&record(1)], None);
            assert!(is_committed(&attempt), "{answer:?}: {attempt:?}");
        }
    }
}

#[test]
fn too_few_replicas_are_waited_for_and_then_the_outcome_is_unknown() {
    let few = Answer::RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS;
    let (_mock, _producer, attempt) = Mock::attempt(Api::Produce, &[few, few]);
    assert!(is_committed(&attempt), "{attempt:?}");
    let (_mock, _producer, attempt) = Mock::attempt(Api::Produce, &[few; 100]);
    assert!(matches!(attempt, Attempt::Failed(_)), "{attempt:?}");
}

#[test]
fn a_producer_that_the_broker_forgot_or_fenced_is_of_no_further_use() {
    use Answer::{
        RD_KAFKA_RESP_ERR_INVALID_PRODUCER_EPOCH as EPOCH, RD_KAFKA_RESP_ERR_INVALID_PRODUCER_ID_MAPPING as MAPPING,
        RD_KAFKA_RESP_ERR_INVALID_TXN_STATE as STATE, RD_KAFKA_RESP_ERR_PRODUCER_FENCED as FENCED,
        RD_KAFKA_RESP_ERR_UNKNOWN_PRODUCER_ID as UNKNOWN,
    };
    for (api, answer) in [
        (Api::AddPartitionsToTxn, EPOCH),
        (Api::Produce, UNKNOWN),
        (Api::Produce, EPOCH),
        // Of a commit nothing but success is believed.
        (Api::EndTxn, EPOCH),
        (Api::EndTxn, FENCED),
        (Api::EndTxn, MAPPING),
        (Api::EndTxn, STATE),
    ] {
        let (_mock, _producer, attempt) = Mock::attempt(api, &[answer]);
        assert!(matches!(attempt, Attempt::Failed(_)), "{api:?} {answer:?}: {attempt:?}");
    }
}

#[test]
fn a_producer_id_that_the_broker_forgot_is_renewed() {
    let (_mock, _producer, attempt) =
        Mock::attempt(Api::AddPartitionsToTxn, &[Answer::RD_KAFKA_RESP_ERR_INVALID_PRODUCER_ID_MAPPING]);
    assert!(is_committed(&attempt), "{attempt:?}");
}

#[test]
fn what_the_operator_has_to_permit_or_change_is_reported_and_tried_again() {
    for (answer, advice) in [
        (Answer::RD_KAFKA_RESP_ERR_TRANSACTIONAL_ID_AUTHORIZATION_FAILED, "sink.kafka.transactional_id"),
        (Answer::RD_KAFKA_RESP_ERR_CLUSTER_AUTHORIZATION_FAILED, "IDEMPOTENT_WRITE"),
        (Answer::RD_KAFKA_RESP_ERR_INVALID_TRANSACTION_TIMEOUT, "transaction.max.timeout.ms"),
    ] {
        let mock = Mock::new();
        mock.cluster.request_errors(Api::InitProducerId, &[answer]);
        match Producer::new(&mock.config) {
            Err(SessionError::Unavailable(why)) => assert!(why.contains(advice), "{answer:?}: {why}"),
            other => panic!("{answer:?}: {:?}", other.err()),
        }
        assert!(is_committed(&mock.producer().attempt(&[&record(1)], None)), "{answer:?}");
    }
}
