//! Instances whose ledger entry is unusable: they wait, and delay nobody else.

use std::time::{Duration, Instant};

use tracing::debug;

use super::entries::Entries;
use super::session::Kafka;
use crate::sink::SinkError;
use crate::sink::session::Job;

/// How often unusable entries are read again.
const REREAD: Duration = Duration::from_secs(10);

impl Kafka<'_> {
    /// Nothing may be published for an instance while it is unknown what was published last. The ledger is read again from time
    /// to time because the operator may have fixed the entry.
    pub(super) fn refuse_unusable(&mut self, jobs: &mut Vec<Job>) {
        let is_unusable = |entries: &Entries, job: &Job| entries.unusable.contains_key(&job.notification().instance());
        if self.entries.unusable.is_empty() || !jobs.iter().any(|job| is_unusable(&self.entries, job)) {
            return;
        }
        if self.reread.elapsed() > REREAD {
            self.reread = Instant::now();
            let read =
                self.ledger.read_all().inspect_err(|failure| debug!(%failure, "the ledger cannot be read again"));
            if let Ok(read) = read {
                let is_fixed = |job: &mut Job| is_unusable(&self.entries, job) && !is_unusable(&read, job);
                let fixed: Vec<Job> = jobs.extract_if(.., is_fixed).collect();
                for job in fixed {
                    let instance = job.notification().instance();
                    self.entries.unusable.remove(&instance);
                    self.entries.of.extend(read.of.get(&instance).map(|entry| (instance, *entry)));
                    // With the entry as it is now.
                    job.fail(SinkError::OutcomeUnknown("its entry in the ledger_topic was fixed".into()));
                }
            }
        }
        let ledger = &self.config.ledger_topic;
        for job in jobs.extract_if(.., |job| is_unusable(&self.entries, job)) {
            let instance = job.notification().instance();
            let why = self.entries.unusable.get(&instance).copied().unwrap_or_default();
            job.fail(SinkError::Refused(format!(
                "ledger_topic {ledger}: the last entry with the key {instance} cannot be used: {why}: write the right one, or \
                 one without a value to begin at 1 (what was published last may then come once more)"
            )));
        }
    }
}
