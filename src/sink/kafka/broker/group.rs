//! Which shards are for this replica to work on: what a consumer group on the ledger topic says.
//!
//! It is a hint and no more. Who may write is decided by the transactional id of each shard, so a mistake of the group costs
//! time, never a duplicate. Nothing is read or committed through it.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::Duration;

use rdkafka::client::ClientContext;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::KafkaError;
use rdkafka::types::RDKafkaRespErr;
use rdkafka::{Offset, TopicPartitionList};
use tokio::sync::watch;
use tracing::{debug, info, warn};

use super::client::Quiet;
use crate::sink::kafka::options::Options;
use crate::sink::shard::Shard;

/// How long a replica that gives shards back lets their transactions come to an end.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(4);

/// How often the group is polled; it must be served within `max.poll.interval.ms`.
const POLL: Duration = Duration::from_millis(100);

/// The part of a replica in the group. Dropping it leaves the group, in the background.
pub(super) struct Group {
    assignment: Arc<Assignment>,
    left: watch::Receiver<bool>,
}

impl Group {
    /// Joins the group of the bridge's transactional id, as soon as the ledger topic is there.
    pub(super) fn join(client: &ClientConfig, config: &Options, assignment: &Arc<Assignment>) -> std::io::Result<Self> {
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
        let (sender, left) = watch::channel(false);
        let (topic, serving) = (config.ledger_topic.value.clone(), Arc::clone(assignment));
        thread::Builder::new().name("shards".into()).spawn(move || {
            serve(&client, &topic, &serving);
            // Nobody may be waiting for it.
            sender.send(true).ok();
        })?;
        Ok(Self { assignment: Arc::clone(assignment), left })
    }

    /// Gives all shards back and leaves the group, so that others take over at once. Waits until that is done.
    pub(super) async fn leave(&self) {
        self.assignment.change(|state| state.stopped = true);
        // An error says that the thread is gone.
        self.left.clone().wait_for(|left| *left).await.ok();
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.assignment.change(|state| state.stopped = true);
    }
}

fn serve(client: &ClientConfig, topic: &str, assignment: &Arc<Assignment>) {
    drop(assignment.wait_until(|state| state.has_ledger || state.stopped));
    let joined = client.create_with_context(Member { assignment: Arc::clone(assignment) });
    let joined = joined.and_then(|consumer: BaseConsumer<Member>| consumer.subscribe(&[topic]).map(|()| consumer));
    let consumer = match joined {
        Ok(consumer) => consumer,
        Err(error) => return warn!(%error, "cannot join the consumer group"),
    };
    while !assignment.lock().stopped {
        match consumer.poll(POLL) {
            // A fetch that was under way when its partition was paused.
            None | Some(Ok(_)) => {}
            Some(Err(error)) => debug!(%error, "the consumer group"),
        }
    }
    // Before the group hands them to others.
    let all: Vec<usize> = (0..assignment.lock().shards.len()).collect();
    assignment.set_held(&all, false);
    assignment.wait_until_closed(&all);
}

/// What is shared between the group and the owners of the shards.
pub(super) struct Assignment {
    state: Mutex<State>,
    changed: Condvar,
    /// Has the session of a shard look whether it may go on.
    probers: OnceLock<Vec<Box<dyn Fn() + Send + Sync>>>,
}

struct State {
    shards: Vec<Part>,
    /// The topic that the group is about exists.
    has_ledger: bool,
    /// The group has said which shards are this replica's, if only none.
    joined: bool,
    stopped: bool,
}

#[derive(Clone, Copy, Default)]
struct Part {
    /// The group gives it to this replica.
    held: bool,
    /// A session works on it.
    open: bool,
}

impl Assignment {
    pub(super) fn new(count: u16) -> Self {
        let shards = vec![Part::default(); count.into()];
        Self {
            state: Mutex::new(State { shards, has_ledger: false, joined: false, stopped: false }),
            changed: Condvar::new(),
            probers: OnceLock::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.lock());
        self.changed.notify_all();
    }

    fn wait_until(&self, is_so: impl Fn(&State) -> bool) -> MutexGuard<'_, State> {
        let waited = self.changed.wait_while(self.lock(), |state| !is_so(state));
        waited.unwrap_or_else(PoisonError::into_inner)
    }

    /// Who is to be asked when a shard is taken away.
    pub(super) fn set_probers(&self, probers: Vec<Box<dyn Fn() + Send + Sync>>) {
        // They are set once.
        drop(self.probers.set(probers));
    }

    /// Whether the group can be joined.
    pub(super) fn has_ledger(&self) -> bool {
        self.lock().has_ledger
    }

    /// From now on it can.
    pub(super) fn ledger_exists(&self) {
        self.change(|state| state.has_ledger = true);
    }

    fn set_held(&self, shards: &[usize], held: bool) {
        self.change(|state| {
            state.joined = true;
            for shard in shards {
                if let Some(part) = state.shards.get_mut(*shard) {
                    part.held = held;
                }
            }
        });
        let probers = self.probers.get().into_iter().filter(|_| !held);
        probers.flat_map(|probers| shards.iter().filter_map(|shard| probers.get(*shard))).for_each(|probe| probe());
    }

    /// A session works on the shard as long as this lives. Waits for the first word of the group.
    pub(super) fn open(self: &Arc<Self>, shard: Shard) -> Opened {
        let index = usize::from(shard.index());
        let mut state = self.wait_until(|state| state.joined || state.stopped);
        if let Some(part) = state.shards.get_mut(index) {
            part.open = true;
        }
        Opened { assignment: Arc::clone(self), index }
    }

    fn wait_until_closed(&self, shards: &[usize]) {
        let is_open =
            |state: &mut State| shards.iter().any(|shard| state.shards.get(*shard).is_some_and(|part| part.open));
        let waited = self.changed.wait_timeout_while(self.lock(), CLOSE_TIMEOUT, is_open);
        if waited.is_ok_and(|(_, waited)| waited.timed_out()) {
            // The next owner ends the transaction that is under way.
            debug!("giving up shards whose transactions are not at their end");
        }
    }
}

impl Opened {
    /// Whether this replica is still to work on the shard.
    pub(super) fn is_held(&self) -> bool {
        let state = self.assignment.lock();
        !state.stopped && state.shards.get(self.index).is_some_and(|part| part.held)
    }
}

/// See [`Assignment::open`].
pub(super) struct Opened {
    assignment: Arc<Assignment>,
    index: usize,
}

impl Drop for Opened {
    fn drop(&mut self) {
        self.assignment.change(|state| {
            if let Some(part) = state.shards.get_mut(self.index) {
                part.open = false;
            }
        });
    }
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
            self.assignment.set_held(&shards, true);
            assigned
        } else {
            self.assignment.set_held(&shards, false);
            if !consumer.assignment_lost() {
                self.assignment.wait_until_closed(&shards);
            }
            consumer.incremental_unassign(partitions)
        };
        if !shards.is_empty() {
            info!(?shards, "{}", if is_assignment { "shards assigned" } else { "shards revoked" });
        }
        if let Err(error) = changed {
            debug!(%error, "the consumer group did not take an assignment");
        }
    }
}
