//! What a process remembers about topics across sessions.

use std::collections::{BTreeMap, HashMap, HashSet};

use tracing::warn;

use super::entries::Entries;
use crate::error::SetupError;
use crate::notification::InstanceId;

#[derive(Debug, Default)]
pub(super) struct TopicMemory {
    /// Partition counts are fixed while the process runs: using added partitions would move keys, and a consumer could see a
    /// later notification first.
    partitions: HashMap<String, Partitions>,
    /// Topics that were verified: thousands of them need not be checked again for every new producer.
    known: HashSet<String>,
    /// Topics that were missing or forbidden lately: jobs that need them are stored alone.
    doubtful: HashSet<String>,
    /// What was reported about the ledger: foreign records by kind, and instances without a usable entry.
    foreign: BTreeMap<&'static str, u64>,
    unusable: HashSet<InstanceId>,
    /// Whether it was reported that settings cannot be read.
    settings_reported: bool,
}

/// How many partitions of a topic are used, and how many it had when it was last checked.
#[derive(Clone, Copy, Debug)]
struct Partitions {
    used: i32,
    there: i32,
}

impl TopicMemory {
    /// Records that the topic is usable and has `there` partitions. Returns how many of them to use, and logs a difference.
    pub(super) fn know(&mut self, topic: &str, there: i32) -> i32 {
        self.known.insert(topic.to_owned());
        let partitions = self.partitions.entry(topic.to_owned()).or_insert(Partitions { used: there, there });
        partitions.change(topic, there);
        partitions.used
    }

    /// How many partitions of a verified topic are used.
    pub(super) fn partitions(&self, topic: &str) -> Option<i32> {
        let partitions = self.known.contains(topic).then(|| self.partitions.get(topic))?;
        partitions.map(|partitions| partitions.used)
    }

    /// All verified topics.
    pub(super) fn known(&self) -> Vec<&str> {
        self.known.iter().map(String::as_str).collect()
    }

    /// Updates the partition counts of known topics; a topic that is gone is forgotten.
    pub(super) fn update(&mut self, there: &HashMap<String, i32>) {
        self.known.retain(|topic| {
            let Some(there) = there.get(topic) else { return false };
            if let Some(partitions) = self.partitions.get_mut(topic) {
                partitions.change(topic, *there);
            }
            true
        });
    }

    /// Records that the topic is missing or forbidden, or one of several of which one is.
    pub(super) fn doubt(&mut self, topic: String) {
        self.known.remove(&topic);
        self.doubtful.insert(topic);
    }

    /// Records that something was stored in the topic.
    pub(super) fn trust(&mut self, topic: &str) {
        self.doubtful.remove(topic);
    }

    pub(super) fn is_doubtful(&self, topic: &str) -> bool {
        self.doubtful.contains(topic)
    }

    /// Whether any topic may be missing or forbidden.
    pub(super) fn has_doubts(&self) -> bool {
        !self.doubtful.is_empty()
    }

    /// Reports foreign records in the ledger once, without their values.
    pub(super) fn report_foreign(&mut self, ledger: &str, entries: &Entries) {
        for (kind, count) in &entries.foreign {
            if self.foreign.insert(kind, *count) != Some(*count) {
                warn!(
                    event = "foreign_ledger_records",
                    ledger, count, kind, "records of the ledger_topic are no entries: keep others from writing to it"
                );
            }
        }
        for (instance, why) in &entries.unusable {
            if self.unusable.insert(*instance) {
                warn!(
                    event = "unusable_ledger_entry",
                    ledger, %instance, why,
                    "an entry of the ledger_topic cannot be used: its instance waits"
                );
            }
        }
        self.unusable.retain(|instance| entries.unusable.contains_key(instance));
    }

    /// Reports once that an optional permission is missing, so that the operator has to watch the settings.
    pub(super) fn report_unreadable_settings(&mut self, ledger: &str, why: &SetupError) {
        if !std::mem::replace(&mut self.settings_reported, true) {
            warn!(
                event = "ledger_compaction_unknown",
                ledger,
                %why,
                "whether the ledger_topic is compacted cannot be checked: grant DESCRIBE_CONFIGS on the topics, or ensure that \
                 its cleanup.policy is compact"
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
                event = "partitions_added",
                topic,
                there,
                used = self.used,
                "the topic has more partitions than at the start: the new ones stay unused, so that the order holds; \
                 to use them, restart the bridge when all consumers have read everything"
            );
        } else if there < self.used {
            warn!(
                event = "partitions_removed",
                topic,
                there,
                "the topic has fewer partitions than before: what is older may be read after what is newer"
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
            topics.update(&HashMap::from([("topic".to_owned(), there)]));
            assert_eq!(topics.partitions("topic"), Some(used), "{there}");
        }
        assert_eq!(topics.know("other", 1), 1);
    }

    #[test]
    fn a_topic_that_comes_back_is_used_as_before() {
        let mut topics = TopicMemory::default();
        topics.know("topic", 6);
        topics.update(&HashMap::new());
        assert_eq!(topics.partitions("topic"), None, "it is gone");
        assert_eq!(topics.know("topic", 12), 6);
        topics.doubt("topic".into());
        assert_eq!(topics.partitions("topic"), None, "it is forbidden");
    }
}
