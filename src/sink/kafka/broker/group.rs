//! The consumer group on the ledger topic that assigns shards to replicas.
//!
//! It is only a hint: who may write is decided by the transactional id of each shard, so a wrong assignment costs time but never
//! a duplicate. Nothing is read or committed through the group.

use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::Duration;

use async_trait::async_trait;
use rdkafka::client::ClientContext;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::KafkaError;
use rdkafka::types::RDKafkaRespErr;
use rdkafka::{Offset, TopicPartitionList};
use tokio::sync::watch;
use tracing::{debug, warn};

use super::client::Quiet;
use crate::sink::assignment::{Assignment, Opened};
use crate::sink::kafka::options::Options;
use crate::sink::session::Shard;
use crate::sink::shared::Sharing;

/// Timeout of a poll; polls must follow each other within `max.poll.interval.ms`.
const POLL: Duration = Duration::from_millis(100);

/// When an assigned shard did not open for this long, all shards are left to other replicas.
const OPEN_TIMEOUT: Duration = Duration::from_secs(120);

/// How long the replica then stays out of the group. Also the pause after a failure to join.
const REJOIN_PAUSE: Duration = Duration::from_secs(60);

/// Membership of this replica.
pub(super) struct Group {
    client: ClientConfig,
    topic: String,
    assignment: Arc<Assignment>,
    /// Set on joining: becomes true when the group was left.
    left: OnceLock<watch::Receiver<bool>>,
}

impl Group {
    /// The group named like the transactional id of the bridge. Does not join it yet.
    pub(super) fn new(client: &ClientConfig, config: &Options, shards: u16) -> Self {
        let mut client = client.clone();
        client.remove("transactional.id");
        client
            .set("group.id", &config.transactional_id)
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("partition.assignment.strategy", "cooperative-sticky")
            .set("group.protocol", "classic")
            .set("max.poll.interval.ms", "60000");
        for (name, value) in [("session.timeout.ms", "10000"), ("heartbeat.interval.ms", "1000")] {
            if client.get(name).is_none() {
                client.set(name, value);
            }
        }
        let (topic, assignment) = (config.ledger_topic.clone(), Arc::new(Assignment::new(shards)));
        Self { client, topic, assignment, left: OnceLock::new() }
    }

    pub(super) fn has_joined(&self) -> bool {
        self.left.get().is_some()
    }

    /// Joins in the background. The ledger topic must exist.
    pub(super) fn join(&self) -> std::io::Result<()> {
        let (sender, left) = watch::channel(false);
        let (client, topic, assignment) = (self.client.clone(), self.topic.clone(), Arc::clone(&self.assignment));
        thread::Builder::new().name("shards".into()).spawn(move || {
            serve(&client, &topic, &assignment);
            // Perhaps nobody is waiting for it.
            sender.send(true).ok();
        })?;
        // Joined once.
        drop(self.left.set(left));
        Ok(())
    }

    /// Marks the shard as being opened. Waits for the first assignment.
    pub(super) fn open(&self, shard: Shard) -> Opened {
        self.assignment.wait_for_assignment();
        self.assignment.open(shard)
    }
}

#[async_trait]
impl Sharing for Group {
    fn assignment(&self) -> &Assignment {
        &self.assignment
    }

    async fn leave(&self) {
        self.assignment.stop();
        if let Some(left) = self.left.get() {
            // An error means that the thread is gone.
            left.clone().wait_for(|left| *left).await.ok();
        }
    }
}

/// Stays a member until it is stopped, with pauses in which other replicas take over.
fn serve(client: &ClientConfig, topic: &str, assignment: &Arc<Assignment>) {
    while !assignment.is_stopped() {
        if let Err(error) = take_part(client, topic, assignment) {
            warn!(event = "group_join_failed", %error, "cannot join the consumer group; trying again in 60 s");
        }
        assignment.rest(REJOIN_PAUSE);
    }
}

/// Joins the group; leaves it when it is stopped or when a shard does not open.
fn take_part(client: &ClientConfig, topic: &str, assignment: &Arc<Assignment>) -> Result<(), KafkaError> {
    let consumer: BaseConsumer<Member> = client.create_with_context(Member { assignment: Arc::clone(assignment) })?;
    consumer.subscribe(&[topic])?;
    while !assignment.is_stopped() {
        match consumer.poll(POLL) {
            // A record fetched before its partition was paused.
            None | Some(Ok(_)) => {}
            Some(Err(error)) => debug!(%error, "consumer group error"),
        }
        if let Some(shard) = assignment.overdue(OPEN_TIMEOUT) {
            warn!(
                event = "shard_not_opened",
                shard, "an assigned shard did not open for 120 s; leaving the consumer group for 60 s"
            );
            break;
        }
    }
    // Before the group assigns the shards to others.
    assignment.end();
    Ok(())
}

/// Callbacks of the consumer.
struct Member {
    assignment: Arc<Assignment>,
}

impl ClientContext for Member {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        Quiet.log(level, facility, line);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        Quiet.error(error, reason);
    }
}

impl ConsumerContext for Member {
    /// Assigned partitions are paused at their ends, because nothing is to be fetched. A lost assignment is given up without
    /// waiting: another replica already has it.
    fn rebalance(&self, consumer: &BaseConsumer<Self>, event: RDKafkaRespErr, partitions: &mut TopicPartitionList) {
        let shards: Vec<usize> =
            partitions.elements().iter().filter_map(|element| usize::try_from(element.partition()).ok()).collect();
        let is_assignment = event == RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS;
        let changed = if is_assignment {
            let assigned = partitions
                .set_all_offsets(Offset::End)
                .and_then(|()| consumer.incremental_assign(partitions))
                .and_then(|()| consumer.pause(partitions));
            if shards.iter().any(|shard| *shard >= self.assignment.count()) {
                warn!(
                    event = "surplus_ledger_partitions",
                    "the ledger_topic has more partitions than there are shards: stop all replicas, then start all with the same number"
                );
            }
            self.assignment.set_held(&shards, true);
            assigned
        } else {
            self.assignment.set_held(&shards, false);
            if !consumer.assignment_lost() {
                self.assignment.wait_until_closed(&shards);
            }
            consumer.incremental_unassign(partitions)
        };
        if let Err(error) = changed {
            debug!(%error, "cannot apply the assignment");
        }
    }
}
