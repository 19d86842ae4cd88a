//! Which topics there are, and how many of their partitions are used: as far as one is missing, forbidden or made anew.

use std::time::Instant;

use super::session::Kafka;
use super::topics::Ensured;
use crate::sink::SinkError;
use crate::sink::session::{Job, SessionError};

impl Kafka {
    /// From time to time, as the client itself refreshes what it knows of topics; and at first, because what ended the
    /// last ownership may have been a topic made anew.
    pub(super) fn look_at_partitions(&mut self) {
        if self.looked.is_some_and(|looked| looked.elapsed() < self.look) {
            return;
        }
        let known: Vec<&str> = self.known_topics.keys().map(String::as_str).collect();
        if !known.is_empty()
            && let Some(there) = self.topics.partitions_of(&known)
        {
            let memory = &self.topic_memory;
            self.known_topics.retain(|topic, used| {
                let Some(there) = there.get(topic) else {
                    memory.forget(topic);
                    return false;
                };
                *used = memory.used(topic, *there);
                memory.know(topic, *used);
                true
            });
        }
        self.looked = Some(Instant::now());
    }

    /// How many partitions of a topic are used; or why the topic cannot be.
    pub(super) fn used_partitions(&mut self, topic: &str) -> Result<Ensured, SessionError> {
        if let Some(&partitions) = self.known_topics.get(topic) {
            return Ok(Ensured::Exists { partitions });
        }
        let ensured = self.topics.ensure(topic)?;
        let Ensured::Exists { partitions: there } = ensured else { return Ok(ensured) };
        // It may have been missing until now, which the producer keeps in mind.
        self.producer.look_at(topic);
        let partitions = self.topic_memory.used(topic, there);
        self.topic_memory.know(topic, partitions);
        self.known_topics.insert(topic.to_owned(), partitions);
        Ok(Ensured::Exists { partitions })
    }

    /// Takes out what goes to a topic that was lately missing or forbidden.
    pub(super) fn of_doubtful_topics(&self, jobs: &mut Vec<Job>) -> Vec<Job> {
        if self.doubtful_topics.is_empty() {
            return Vec::new();
        }
        jobs.extract_if(.., |job| self.doubtful_topics.contains(&self.topic(job.notification()))).collect()
    }

    /// A topic that is missing or forbidden is the operator's to mend: nobody else waits for it.
    pub(super) fn wait_for_topic(&mut self, job: Job, why: &str) {
        let topic = self.topic(job.notification());
        self.known_topics.remove(&topic);
        self.doubt(topic);
        job.fail(SinkError::Refused(why.to_owned()));
    }

    pub(super) fn doubt(&mut self, topic: String) {
        self.topic_memory.doubt(&topic);
        self.doubtful_topics.insert(topic);
    }
}
