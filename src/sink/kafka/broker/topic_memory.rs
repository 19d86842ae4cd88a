//! What a process knows of topics, through all its acquisitions.

use std::collections::{BTreeMap, HashMap, HashSet};

use tracing::warn;

use super::entries::Entries;
use crate::error::SetupError;
use crate::notification::InstanceId;

#[derive(Debug, Default)]
pub(super) struct TopicMemory {
    /// As long as the process runs: partitions that are added would otherwise move keys, and a reader
    /// could see a later notification first.
    partitions: HashMap<String, Partitions>,
    /// Those that were found as they should be: thousands of topics need not be looked at again for
    /// every new producer.
    known: HashSet<String>,
    /// Those that were lately missing or forbidden: who needs them is stored alone.
    doubtful: HashSet<String>,
    /// What was told of the ledger: strange records by kind, and instances without a usable entry.
    strange: BTreeMap<&'static str, u64>,
    unusable: HashSet<InstanceId>,
    /// Whether it was told that settings cannot be read.
    settings_told: bool,
}

/// How many partitions of a topic are used, and how many it had when it was last looked at.
#[derive(Clone, Copy, Debug)]
struct Partitions {
    used: i32,
    there: i32,
}

impl TopicMemory {
    /// The topic is as it should be and has `there` partitions: how many of them are to be used. Says
    /// so when that differs.
    pub(super) fn know(&mut self, topic: &str, there: i32) -> i32 {
        self.known.insert(topic.to_owned());
        let partitions = self.partitions.entry(topic.to_owned()).or_insert(Partitions { used: there, there });
        partitions.change(topic, there);
        partitions.used
    }

    /// How many partitions are used, of a topic that is known to be as it should be.
    pub(super) fn partitions(&self, topic: &str) -> Option<i32> {
        let partitions = self.known.contains(topic).then(|| self.partitions.get(topic))?;
        partitions.map(|partitions| partitions.used)
    }

    /// All that are.
    pub(super) fn known(&self) -> Vec<&str> {
        self.known.iter().map(String::as_str).collect()
    }

    /// How many partitions each known topic has now; one that is not there is known no longer.
    pub(super) fn look_again(&mut self, there: &HashMap<String, i32>) {
        self.known.retain(|topic| {
            let Some(there) = there.get(topic) else { return false };
            if let Some(partitions) = self.partitions.get_mut(topic) {
                partitions.change(topic, *there);
            }
            true
        });
    }

    /// The topic was found missing or forbidden, or is one of several of which one is.
    pub(super) fn doubt(&mut self, topic: String) {
        self.known.remove(&topic);
        self.doubtful.insert(topic);
    }

    /// Something was stored in the topic.
    pub(super) fn trust(&mut self, topic: &str) {
        self.doubtful.remove(topic);
    }

    pub(super) fn is_doubtful(&self, topic: &str) -> bool {
        self.doubtful.contains(topic)
    }

    /// Whether any topic is in doubt.
    pub(super) fn has_doubts(&self) -> bool {
        !self.doubtful.is_empty()
    }

    /// What in the ledger is none of its entries is told once, without its value.
    pub(super) fn tell_strange(&mut self, ledger: &str, entries: &Entries) {
        for (kind, count) in &entries.strange {
            if self.strange.insert(kind, *count) != Some(*count) {
                warn!(
                    ledger,
                    count, kind, "records of the ledger_topic are no entries: keep others from writing to it"
                );
            }
        }
        for (instance, why) in &entries.unusable {
            if self.unusable.insert(*instance) {
                warn!(ledger, %instance, why, "an entry of the ledger_topic cannot be used: its instance waits");
            }
        }
        self.unusable.retain(|instance| entries.unusable.contains_key(instance));
    }

    /// Without a right that the bridge can do without, what it would notice is the operator's to look after.
    pub(super) fn tell_of_settings(&mut self, ledger: &str, why: &SetupError) {
        if !std::mem::replace(&mut self.settings_told, true) {
            warn!(
                ledger,
                %why,
                "whether the ledger_topic is compacted cannot be checked: grant DESCRIBE_CONFIGS on the topics, or see to it \
                 that its cleanup.policy is compact"
            );
        }
    }
}

impl Partitions {
    fn change(&mut self, topic: &str, there: i32) {
        if self.there == there {
            return;
        }
        self.there = there;
        if there > self.used {
            warn!(
                topic,
                there,
                used = self.used,
                "the topic has more partitions than at the start: the new ones stay unused, so that the order holds; \
                 to use them, restart the bridge when all consumers have read everything"
            );
        } else if there < self.used {
            warn!(
                topic,
                there, "the topic has fewer partitions than before: what is older may be read after what is newer"
            );
            self.used = there;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn added_partitions_stay_unused_and_lost_ones_are_done_without() {
        let mut topics = TopicMemory::default();
        assert_eq!(topics.know("topic", 6), 6);
        for (there, used) in [(12, 6), (12, 6), (6, 6), (3, 3), (6, 3)] {
            topics.look_again(&HashMap::from([("topic".to_owned(), there)]));
            assert_eq!(topics.partitions("topic"), Some(used), "{there}");
        }
        assert_eq!(topics.know("other", 1), 1);
    }

    #[test]
    fn a_topic_that_comes_back_is_used_as_before() {
        let mut topics = TopicMemory::default();
        topics.know("topic", 6);
        topics.look_again(&HashMap::new());
        assert_eq!(topics.partitions("topic"), None, "it is gone");
        assert_eq!(topics.know("topic", 12), 6);
        topics.doubt("topic".into());
        assert_eq!(topics.partitions("topic"), None, "it is forbidden");
    }
}
