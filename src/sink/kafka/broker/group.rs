//! Which shards are for this replica to work on: what a consumer group on the ledger topic says.
//!
//! It is a hint and no more. Who may write is decided by the transactional id of each shard, so a mistake of the group costs
//! time, never a duplicate. Nothing is read or committed through it.

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

/// How often the group is polled; it must be served within `max.poll.interval.ms`.
const POLL: Duration = Duration::from_millis(100);

/// A shard that was assigned here and did not open for so long is left to other replicas, and the others with it.
const OPEN_TIMEOUT: Duration = Duration::from_secs(120);

/// Then, or when the group could not be joined, it is joined again after so long.
const REJOIN_PAUSE: Duration = Duration::from_secs(60);

/// The part of a replica in the group.
pub(super) struct Group {
    client: ClientConfig,
    topic: String,
    assignment: Arc<Assignment>,
    /// Once it was joined: whether it was left again.
    left: OnceLock<watch::Receiver<bool>>,
}

impl Group {
    /// Not joined yet: the group of the bridge's transactional id.
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

    /// Joins it, in the background. The ledger topic is there by now.
    pub(super) fn join(&self) -> std::io::Result<()> {
        let (sender, left) = watch::channel(false);
        let (client, topic, assignment) = (self.client.clone(), self.topic.clone(), Arc::clone(&self.assignment));
        thread::Builder::new().name("shards".into()).spawn(move || {
            serve(&client, &topic, &assignment);
            // Nobody may be waiting for it.
            sender.send(true).ok();
        })?;
        // It is joined once.
        drop(self.left.set(left));
        Ok(())
    }

    /// The shard, as this replica works on it; waits for the first word of the group.
    pub(super) fn open(&self, shard: Shard) -> Opened {
        self.assignment.wait_for_word();
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
            // An error says that the thread is gone.
            left.clone().wait_for(|left| *left).await.ok();
        }
    }
}

/// Is a member, until it is stopped; not while others may do better.
fn serve(client: &ClientConfig, topic: &str, assignment: &Arc<Assignment>) {
    while !assignment.is_stopped() {
        if let Err(error) = take_part(client, topic, assignment) {
            warn!(%error, "cannot join the consumer group; trying again in 60 s");
        }
        assignment.rest(REJOIN_PAUSE);
    }
}

/// Joins the group and leaves it when it is stopped, or when a shard does not open.
fn take_part(client: &ClientConfig, topic: &str, assignment: &Arc<Assignment>) -> Result<(), KafkaError> {
    let consumer: BaseConsumer<Member> = client.create_with_context(Member { assignment: Arc::clone(assignment) })?;
    consumer.subscribe(&[topic])?;
    while !assignment.is_stopped() {
        match consumer.poll(POLL) {
            // A fetch that was under way when its partition was paused.
            None | Some(Ok(_)) => {}
            Some(Err(error)) => debug!(%error, "the consumer group"),
        }
        if let Some(shard) = assignment.overdue(OPEN_TIMEOUT) {
            warn!(shard, "an assigned shard did not open for 120 s; leaving the consumer group for 60 s");
            break;
        }
    }
    // Before the group hands them to others.
    assignment.end();
    Ok(())
}

/// The consumer's side.
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
    /// Nothing is to be fetched: an assigned partition is paused at its end. A lost assignment is not waited for: whoever has
    /// it now is at work.
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
            debug!(%error, "the consumer group did not take an assignment");
        }
    }
}
