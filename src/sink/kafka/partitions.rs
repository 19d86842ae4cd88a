//! Which partition a key belongs to, for as long as the process runs: partitions that are added to
//! a topic would otherwise move keys, and a reader could see a later notification first.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use murmur2::murmur2;
use tracing::warn;

/// The seed of Kafka's own clients.
const SEED: u32 = 0x9747_b28c;

/// How many partitions of each topic are used, through all acquisitions of a process.
#[derive(Clone, Debug, Default)]
pub(super) struct Partitions(Arc<Mutex<HashMap<String, Used>>>);

#[derive(Clone, Copy, Debug)]
struct Used {
    count: i32,
    /// What the topic had when it was last looked at.
    there: i32,
}

impl Partitions {
    /// The topic has `there` partitions: how many of them are to be used. Says so when that
    /// differs.
    pub(super) fn used(&self, topic: &str, there: i32) -> i32 {
        let mut topics = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let used = topics.entry(topic.to_owned()).or_insert(Used { count: there, there });
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
}

/// The partition of a key among `count`, as Java's producers and `murmur2_random` choose it.
pub(super) fn of_key(key: &str, count: i32) -> i32 {
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
            assert_eq!(of_key(key, i32::MAX), (hash & 0x7fff_ffff) % i32::MAX, "{key}");
        }
    }

    #[test]
    fn added_partitions_stay_unused_and_lost_ones_are_done_without() {
        let partitions = Partitions::default();
        let used: Vec<i32> = [6, 12, 12, 6, 3, 6].map(|there| partitions.used("topic", there)).into();
        assert_eq!(used, [6, 6, 6, 6, 3, 3]);
        assert_eq!(partitions.used("other", 1), 1);
    }
}
