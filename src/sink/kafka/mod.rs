//! The sink `kafka`: one transactional producer, owned by one thread. A transaction holds the
//! records of all instances that wait and, for each, an entry in the ledger: the compacted topic
//! that remembers what was published last.

use std::collections::{HashMap, HashSet};

use rdkafka::ClientConfig;
use tokio::runtime::Handle;
use tracing::info;
use uuid::Uuid;

use self::ledger::{Entry, Ledger, Sentinel};
use self::producer::{Attempt, Producer};
use super::owner::{Action, Client, Failure, Job, Owner};
use super::{Sink, SinkError};
use crate::config;
use crate::doubt::Memory;
use crate::notification::InstanceId;

mod client;
mod ledger;
mod producer;
mod record;
mod topics;

/// A sink that publishes into Kafka. `Ok` from a publish means committed.
///
/// # Errors
/// When a property or one of its files is unusable, or no thread can be started; the text names
/// what to change.
pub fn start(config: &config::Kafka) -> Result<impl Sink + use<>, String> {
    let client = client::configure(config)?;
    let mut acquisition =
        Acquisition { client, config: config.clone(), runtime: Handle::current(), owner: Uuid::new_v4(), count: 0 };
    Client::start("kafka", move || acquisition.acquire())
        .map_err(|error| format!("the sink's thread cannot be started: {error}"))
}

/// Takes ownership, again and again in the life of a process.
struct Acquisition {
    client: ClientConfig,
    config: config::Kafka,
    /// Only the admin client needs it: its answers are futures.
    runtime: Handle,
    owner: Uuid,
    count: u64,
}

impl Acquisition {
    /// Fences the former owner, proves that the transactional id is ours by committing a sentinel
    /// into the ledger, and reads the ledger up to that sentinel: what stands before it is decided
    /// for good.
    fn acquire(&mut self) -> Result<Kafka, Failure> {
        let topics = topics::Topics::new(&self.client, &self.config, self.runtime.clone())?;
        let ledger = Ledger::new(&self.client, &self.config);
        topics.ensure_ledger()?;
        if self.count > 0 {
            self.look_for_a_rival(&ledger)?;
        }
        self.count += 1;
        let sentinel = Sentinel { owner: self.owner, acquisition: self.count };
        let producer = Producer::new(&self.client)?;
        match producer.attempt(&[ledger.sentinel(&sentinel)?]) {
            Attempt::Committed => {}
            Attempt::Refused(refused) => {
                let (_, why) = refused.into_iter().next().unwrap_or_default();
                return Err(Failure::Unavailable(format!("ledger_topic: {why}")));
            }
            Attempt::Failed(why) => return Err(Failure::Unavailable(why)),
        }
        let entries = ledger.read_until(&sentinel)?;
        info!(instances = entries.len(), transactional_id = self.config.transactional_id, "owning the Kafka sink");
        let config = self.config.clone();
        Ok(Kafka { producer, ledger, topics, known_topics: HashSet::new(), config, sentinel, entries })
    }

    /// `_FENCED` has two causes: a rival, and our own transaction that took too long. The ledger
    /// tells them apart, and has to be asked before we fence the rival in turn.
    fn look_for_a_rival(&self, ledger: &Ledger) -> Result<(), Failure> {
        match ledger.last_owner()? {
            Some(owner) if owner != self.owner => Err(Failure::Fenced(format!(
                "another process uses the transactional_id `{}`: look for a second bridge with this config",
                self.config.transactional_id
            ))),
            _ => Ok(()),
        }
    }
}

/// The sink under one ownership.
struct Kafka {
    producer: Producer,
    ledger: Ledger,
    topics: topics::Topics,
    known_topics: HashSet<String>,
    config: config::Kafka,
    sentinel: Sentinel,
    entries: HashMap<InstanceId, Entry>,
}

impl Owner for Kafka {
    fn memory(&self, instance: InstanceId) -> Memory {
        match self.entries.get(&instance) {
            None => Memory::Nothing,
            Some(&Entry { sequence, fingerprint }) => Memory::Published { sequence, fingerprint },
        }
    }

    /// All in one transaction. When the broker refuses records, the transaction is aborted, and
    /// what was refused is tried again by itself: one bad record stops nobody else.
    fn store(&mut self, jobs: &mut Vec<Job>) -> Result<(), Failure> {
        let mut refused = self.commit(jobs)?;
        refused.sort_unstable_by_key(|(index, _)| *index);
        // A whole batch is refused for one bad record in it.
        let alone = refused.len() == 1 && jobs.len() == 1;
        for (index, why) in refused.into_iter().rev() {
            let job = jobs.swap_remove(index);
            if alone {
                job.fail(SinkError::Refused(why));
                continue;
            }
            let mut single = vec![job];
            let outcome = self.store(&mut single);
            jobs.append(&mut single);
            outcome?;
        }
        if jobs.is_empty() { Ok(()) } else { self.store(jobs) }
    }
}

impl Kafka {
    /// Commits the jobs and answers them; or aborts, and tells which were refused and why.
    fn commit(&mut self, jobs: &mut Vec<Job>) -> Result<Vec<(usize, String)>, Failure> {
        let mut records = Vec::with_capacity(2 * jobs.len());
        let mut entries = Vec::with_capacity(jobs.len());
        for job in &*jobs {
            let notification = job.notification();
            match job.action() {
                Action::Prove => entries.push(None),
                Action::Publish { marked: _ } => {
                    let last = self.entries.get(&notification.instance());
                    let entry = Entry {
                        sequence: last.map_or(1, |last| last.sequence + 1),
                        fingerprint: notification.fingerprint(),
                    };
                    let record = record::of(notification, entry.sequence, &self.config);
                    if !self.known_topics.contains(&record.topic) {
                        self.topics.ensure(&record.topic)?;
                        self.known_topics.insert(record.topic.clone());
                    }
                    records.push(record);
                    entries.push(Some(entry));
                }
            }
        }
        // The index of a refused record must be that of its job.
        let record_to_job: Vec<usize> =
            entries.iter().enumerate().filter_map(|(index, entry)| entry.map(|_| index)).collect();
        for (job, entry) in jobs.iter().zip(&entries) {
            if let Some(entry) = entry {
                records.push(self.ledger.entry(job.notification().instance(), *entry)?);
            }
        }
        if records.is_empty() {
            // Only proofs: committing anything proves the ownership.
            records.push(self.ledger.sentinel(&self.sentinel)?);
        }
        match self.producer.attempt(&records) {
            Attempt::Committed => {
                for (job, entry) in jobs.drain(..).zip(entries) {
                    if let Some(entry) = entry {
                        self.entries.insert(job.notification().instance(), entry);
                    }
                    job.succeed(entry.map(|entry| entry.sequence));
                }
                Ok(Vec::new())
            }
            Attempt::Refused(refused) => {
                let of_jobs: Vec<_> =
                    refused.into_iter().filter_map(|(record, why)| Some((*record_to_job.get(record)?, why))).collect();
                if of_jobs.is_empty() {
                    return Err(Failure::Unavailable("the broker refused an entry of the ledger_topic".into()));
                }
                Ok(of_jobs)
            }
            Attempt::Failed(why) => Err(Failure::Unavailable(why)),
        }
    }
}
