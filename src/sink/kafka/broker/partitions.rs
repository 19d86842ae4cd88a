//! Which topics there are, and how many of their partitions are used: as far as one is missing, forbidden or made anew.

use std::time::Instant;

use super::route::Route;
use super::session::Kafka;
use super::topics::Ensured;
use crate::sink::SinkError;
use crate::sink::session::{Job, SessionError};

impl Kafka<'_> {
    /// From time to time, as the client itself refreshes what it knows of topics; and at first, because what ended the
    /// last ownership may have been a topic made anew.
    pub(super) fn look_at_partitions(&mut self) {
        if self.looked.is_some_and(|looked| looked.elapsed() < self.look) {
            return;
        }
        let known = self.topic_memory.known();
        if !known.is_empty()
            && let Some(there) = self.topics.partitions_of(&known)
        {
            self.topic_memory.look_again(&there);
        }
        self.looked = Some(Instant::now());
    }

    /// How many partitions of a topic are used; or why the topic cannot be.
    pub(super) fn used_partitions(&mut self, topic: &str) -> Result<Ensured, SessionError> {
        if let Some(partitions) = self.topic_memory.partitions(topic) {
            return Ok(Ensured::Exists { partitions });
        }
        let ensured = self.topics.ensure(topic)?;
        let Ensured::Exists { partitions: there } = ensured else { return Ok(ensured) };
        // It may have been missing until now, which the producer keeps in mind.
        self.producer.look_at(topic);
        Ok(Ensured::Exists { partitions: self.topic_memory.know(topic, there) })
    }

    /// Takes out what goes to a topic that was lately missing or forbidden.
    pub(super) fn of_doubtful_topics(&self, jobs: &mut Vec<Job>) -> Vec<Job> {
        if !self.topic_memory.has_doubts() {
            return Vec::new();
        }
        let is_doubtful = |topic: String| self.topic_memory.is_doubtful(&topic);
        jobs.extract_if(.., |job| Route::of(job).topic(self.config, job.notification()).is_some_and(is_doubtful))
            .collect()
    }

    /// A topic that is missing or forbidden is the operator's to mend: nobody else waits for it.
    pub(super) fn wait_for_topic(&mut self, job: Job, why: &str) {
        if let Some(topic) = Route::Topic.topic(self.config, job.notification()) {
            self.topic_memory.doubt(topic);
        }
        job.fail(SinkError::Refused(why.to_owned()));
    }
}
