//! Topics that are missing, forbidden or recreated, and how many partitions of a topic are used.

use std::time::Instant;

use super::route::Route;
use super::session::Kafka;
use super::topics::Ensured;
use crate::sink::SinkError;
use crate::sink::session::{Job, SessionError};

impl Kafka<'_> {
    /// Checks at the interval of the client's metadata refresh, and at first, because a recreated topic may have ended the last
    /// session.
    pub(super) fn check_partitions(&mut self) {
        if self.checked.is_some_and(|checked| checked.elapsed() < self.check_interval) {
            return;
        }
        let known = self.topic_memory.known();
        if !known.is_empty()
            && let Some(there) = self.topics.partitions_of(&known)
        {
            self.topic_memory.update(&there);
        }
        self.checked = Some(Instant::now());
    }

    /// How many partitions of a topic are used, or why the topic is unusable.
    pub(super) fn used_partitions(&mut self, topic: &str) -> Result<Ensured, SessionError> {
        if let Some(partitions) = self.topic_memory.partitions(topic) {
            return Ok(Ensured::Exists { partitions });
        }
        let ensured = self.topics.ensure(topic)?;
        let Ensured::Exists { partitions: there } = ensured else { return Ok(ensured) };
        // The producer may have cached that it was missing.
        self.producer.refresh_metadata(topic);
        Ok(Ensured::Exists { partitions: self.topic_memory.know(topic, there) })
    }

    /// Removes jobs for topics that were missing or forbidden lately.
    pub(super) fn of_doubtful_topics(&self, jobs: &mut Vec<Job>) -> Vec<Job> {
        if !self.topic_memory.has_doubts() {
            return Vec::new();
        }
        let is_doubtful = |topic: String| self.topic_memory.is_doubtful(&topic);
        jobs.extract_if(.., |job| Route::of(job).topic(self.config, job.notification()).is_some_and(is_doubtful))
            .collect()
    }

    /// A missing or forbidden topic has to be fixed by the operator and delays nobody else.
    pub(super) fn wait_for_topic(&mut self, job: Job, why: &str) {
        if let Some(topic) = Route::Topic.topic(self.config, job.notification()) {
            self.topic_memory.doubt(topic);
        }
        job.fail(SinkError::Refused(why.to_owned()));
    }
}
