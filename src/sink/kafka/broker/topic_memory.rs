//! What a process knows of topics, through all its acquisitions.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use murmur2::murmur2;
use tracing::warn;

use super::entries::Entries;
use crate::notification::InstanceId;

/// The seed of Kafka's own clients.
const SEED: u32 = 0x9747_b28c;

/// Shared by its clones.
#[derive(Clone, Debug, Default)]
pub(super) struct TopicMemory(Arc<Mutex<Topics>>);

#[derive(Debug, Default)]
struct Topics {
    /// How many partitions are used, as long as the process runs: partitions that are added would
    /// otherwise move keys, and a reader could see a later notification first.
    used: HashMap<String, Used>,
    /// Those that were found as they should be, and how many of their partitions are used: thousands of topics need
    /// not be looked at again for every new producer.
    known: HashMap<String, i32>,
    /// Those that were lately missing or forbidden.
    doubtful: HashSet<String>,
    /// What was told of the ledger: strange records by kind, and instances without a usable entry.
    strange: BTreeMap<&'static str, u64>,
    unusable: HashSet<InstanceId>,
    /// Whether it was told that settings cannot be read.
    settings_told: bool,
}

#[derive(Clone, Copy, Debug)]
struct Used {
    count: i32,
    /// What the topic had when it was last looked at.
    there: i32,
}

impl TopicMemory {
    /// The topic has `there` partitions: how many of them are to be used. Says so when that
    /// differs.
    pub(super) fn used(&self, topic: &str, there: i32) -> i32 {
        let mut topics = self.topics();
        let used = topics.used.entry(topic.to_owned()).or_insert(Used { count: there, there });
        if used.there != there {
            used.there = there;
            if there > used.count {
                warn!(
                    topic,
                    there,
                    used = used.count,
                    "the topic has more partitions than at the start: the new ones stay unused, so that the order holds; \
                     to use them, restart the bridge when all consumers have read everything"
                );
            } else if there < used.count {
                warn!(
                    topic,
                    there, "the topic has fewer partitions than before: what is older may be read after what is newer"
                );
                used.count = there;
            }
        }
        used.count
    }

    /// The topic is as it should be.
    pub(super) fn know(&self, topic: &str, count: i32) {
        self.topics().known.insert(topic.to_owned(), count);
    }

    /// The topic is gone, for now.
    pub(super) fn forget(&self, topic: &str) {
        self.topics().known.remove(topic);
    }

    /// All that are.
    pub(super) fn known(&self) -> HashMap<String, i32> {
        self.topics().known.clone()
    }

    /// The topic was found missing or forbidden, or is one of several of which one is.
    pub(super) fn doubt(&self, topic: &str) {
        let mut topics = self.topics();
        topics.known.remove(topic);
        topics.doubtful.insert(topic.to_owned());
    }

    /// Something was stored in the topic.
    pub(super) fn trust(&self, topic: &str) {
        self.topics().doubtful.remove(topic);
    }

    /// All that are in doubt.
    pub(super) fn doubtful(&self) -> HashSet<String> {
        self.topics().doubtful.clone()
    }

    /// What in the ledger is none of its entries is told once, without its value.
    pub(super) fn tell_strange(&self, ledger: &str, entries: &Entries) {
        let mut topics = self.topics();
        for (kind, count) in &entries.strange {
            if topics.strange.insert(kind, *count) != Some(*count) {
                warn!(
                    ledger,
                    count, kind, "records of the ledger_topic are no entries: keep others from writing to it"
                );
            }
        }
        for (instance, why) in &entries.unusable {
            if topics.unusable.insert(*instance) {
                warn!(ledger, %instance, why, "an entry of the ledger_topic cannot be used: its instance waits");
            }
        }
        topics.unusable.retain(|instance| entries.unusable.contains_key(instance));
    }

    /// Without a right that the bridge can do without, what it would notice is the operator's to look after.
    pub(super) fn tell_of_settings(&self, ledger: &str, why: &str) {
        if !std::mem::replace(&mut self.topics().settings_told, true) {
            warn!(
                ledger,
                why,
                "whether the ledger_topic is compacted cannot be checked: grant DESCRIBE_CONFIGS on the topics, or see to it \
                 that its cleanup.policy is compact"
            );
        }
    }

    fn topics(&self) -> MutexGuard<'_, Topics> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The partition of a key among `count`, as Java's producers and `murmur2_random` choose it.
pub(super) fn partition_of(key: &str, count: i32) -> i32 {
    let hash = i32::try_from(murmur2(key.as_bytes(), SEED) & 0x7fff_ffff).unwrap_or(0);
    hash % count.max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_meet_those_of_java_producers() {
        // From the tests of Apache Kafka (UtilsTest.testMurmur2), made positive as its partitioner does it.
        for (key, hash) in [("21", -973_932_308), ("foobar", -790_332_482), ("a-little-bit-long-string", -985_981_536)]
        {
            assert_eq!(partition_of(key, i32::MAX), (hash & 0x7fff_ffff) % i32::MAX, "{key}");
        }
    }

    #[test]
    fn added_partitions_stay_unused_and_lost_ones_are_done_without() {
        let topics = TopicMemory::default();
        let used: Vec<i32> = [6, 12, 12, 6, 3, 6].map(|there| topics.used("topic", there)).into();
        assert_eq!(used, [6, 6, 6, 6, 3, 3]);
        assert_eq!(topics.used("other", 1), 1);
    }
}
