//! The metrics of the sink, over all its shards.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use super::{Histogram, Number, ShardStatus};
use crate::condition::{Condition, Conditions};
use crate::notification::InstanceId;
use crate::sink::shard::Shard;

/// What the sink has done.
#[derive(Debug)]
pub(crate) struct SinkMetrics {
    pub name: &'static str,
    /// From publish to stored.
    pub publish_seconds: Histogram,
    /// From the timestamp in a notification to stored.
    pub end_to_end_seconds: Histogram,
    /// How many replicas share the instances; 0 if the broker does not report it.
    pub replicas: Number,
    /// From the assignment of a shard until it is open.
    pub opening_seconds: Histogram,
    /// Heads that were received and discarded because the ownership had ended.
    pub heads_discarded: Number,
    /// The size of the dead letters in `dead_letter_dir`.
    pub dead_letter_dir_bytes: Number,
    rejected: Mutex<Rejected>,
    shards: Mutex<Vec<Weak<ShardStatus>>>,
}

/// The queue of messages that consumers rejected.
#[derive(Debug, Default)]
struct Rejected {
    depth: Option<u32>,
    conditions: Conditions,
}

impl SinkMetrics {
    pub fn new(name: &'static str) -> Self {
        Self {
            name,
            publish_seconds: Histogram::new(&[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0]),
            end_to_end_seconds: Histogram::new(&[
                1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3600.0, 21600.0, 64800.0,
            ]),
            replicas: Number::default(),
            opening_seconds: Histogram::new(&[0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0]),
            heads_discarded: Number::default(),
            dead_letter_dir_bytes: Number::default(),
            rejected: Mutex::default(),
            shards: Mutex::default(),
        }
    }

    /// Registers the next shard, which is listed for as long as its status lives.
    pub fn add_shard(&self) -> Arc<ShardStatus> {
        let status = Arc::default();
        self.shards.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::downgrade(&status));
        status
    }

    /// All shards, in the order in which they were registered.
    pub fn shards(&self) -> Vec<Arc<ShardStatus>> {
        let mut shards = self.shards.lock().unwrap_or_else(PoisonError::into_inner);
        shards.retain(|status| status.strong_count() > 0);
        shards.iter().filter_map(Weak::upgrade).collect()
    }

    /// Whether all shards that are held here can store.
    pub fn works(&self) -> bool {
        let shards = self.shards();
        !shards.is_empty() && shards.iter().all(|shard| shard.works())
    }

    /// Whether another bridge owns the shard of this instance and serves it.
    pub fn stands_by(&self, instance: InstanceId) -> bool {
        let shards = self.shards();
        Shard::of_instance(instance, &shards).is_some_and(|shard| shard.stands_by(shards.len() > 1))
    }

    /// The depth of this queue of rejected messages; `None` if it is no longer asked for here.
    #[cfg_attr(not(feature = "amqp"), allow(dead_code, reason = "only RabbitMQ has one"))]
    pub fn set_rejected(&self, queue: &str, depth: Option<u32>) {
        let mut rejected = self.rejected.lock().unwrap_or_else(PoisonError::into_inner);
        rejected.depth = depth;
        if depth.is_some_and(|depth| depth > 0) {
            rejected.conditions.enter(Condition::RejectedMessages, &format_args!("there are messages in {queue}"));
        } else {
            rejected.conditions.leave(Condition::RejectedMessages);
        }
    }

    /// The depth of the queue of rejected messages, as far as there is one and this replica asks for it.
    pub fn rejected(&self) -> Option<u32> {
        self.rejected.lock().unwrap_or_else(PoisonError::into_inner).depth
    }

    /// The conditions that it or any of its shards is in.
    pub fn conditions(&self) -> Vec<Condition> {
        let mut entered: Vec<_> = self.shards().iter().flat_map(|shard| shard.conditions().present()).collect();
        entered.extend(self.rejected.lock().unwrap_or_else(PoisonError::into_inner).conditions.present());
        Condition::ALL.into_iter().filter(|condition| entered.contains(condition)).collect()
    }
}
