//! What the sink has done, all shards of it.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use super::{Histogram, Number, ShardStatus};
use crate::condition::Condition;
use crate::notification::InstanceId;
use crate::sink::shard::Shard;

/// The sink of the process.
#[derive(Debug)]
pub(crate) struct SinkMetrics {
    pub name: &'static str,
    /// From handing over to stored.
    pub publish_seconds: Histogram,
    /// From the time in a notification to stored.
    pub end_to_end_seconds: Histogram,
    /// How many replicas share the instances, as far as the broker tells; 0 where it does not.
    pub replicas: Number,
    /// From being given a shard to work on to having it open.
    pub opening_seconds: Histogram,
    /// Heads that were received and not dealt with, because the ownership had ended.
    pub heads_discarded: Number,
    shards: Mutex<Vec<Weak<ShardStatus>>>,
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
            shards: Mutex::default(),
        }
    }

    /// One shard more, as long as somebody holds it.
    pub fn add_shard(&self) -> Arc<ShardStatus> {
        let status = Arc::default();
        self.shards.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::downgrade(&status));
        status
    }

    /// All that there are, in the order of their beginnings.
    pub fn shards(&self) -> Vec<Arc<ShardStatus>> {
        let mut shards = self.shards.lock().unwrap_or_else(PoisonError::into_inner);
        shards.retain(|status| status.strong_count() > 0);
        shards.iter().filter_map(Weak::upgrade).collect()
    }

    /// Whether it stores what it is given, without getting stuck.
    pub fn works(&self) -> bool {
        let shards = self.shards();
        !shards.is_empty() && shards.iter().all(|shard| shard.works())
    }

    /// Whether another bridge has the ownership of this instance's shard, and serves it meanwhile.
    pub fn stands_by(&self, instance: InstanceId) -> bool {
        let shards = self.shards();
        Shard::of_instance(instance, &shards).is_some_and(|shard| shard.stands_by(shards.len() > 1))
    }

    /// What any of its shards is in, each once.
    pub fn conditions(&self) -> Vec<Condition> {
        let entered: Vec<_> = self.shards().iter().flat_map(|shard| shard.conditions().present()).collect();
        Condition::ALL.into_iter().filter(|condition| entered.contains(condition)).collect()
    }
}
