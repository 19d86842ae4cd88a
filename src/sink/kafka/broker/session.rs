//! A session: stores groups of notifications in transactions.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use tracing::debug;

use super::entries::{self, Entries, Entry};
use super::errors::Blame;
use super::ledger::{Ledger, Sentinel};
use super::producer::{Attempt, Producer, Refusal};
use super::record::{self, Record};
use super::route::Route;
use super::topic_memory::TopicMemory;
use super::topics::{Ensured, Topics};
use crate::doubt::Memory;
use crate::fault;
use crate::notification::InstanceId;
use crate::sink::assignment::Opened;
use crate::sink::cloud_event::{self, Position};
use crate::sink::dead_letter::Folder;
use crate::sink::kafka::options::Options;
use crate::sink::session::{Job, Session, SessionError};
use crate::sink::shard::partition_of;
use crate::sink::{DeadLetter, Reason, SinkError};

/// A session.
pub(super) struct Kafka<'a> {
    pub(super) producer: Producer,
    pub(super) ledger: Ledger,
    pub(super) topics: Topics,
    pub(super) topic_memory: &'a mut TopicMemory,
    /// When the topics were last checked in this session, and the interval between checks.
    pub(super) checked: Option<Instant>,
    pub(super) check_interval: Duration,
    pub(super) config: &'a Options,
    /// With `shards` above 1: the assignment, and how long a commit proves ownership.
    pub(super) opened: Option<Opened>,
    pub(super) valid_for: Option<Duration>,
    /// The largest body that the client sends.
    pub(super) largest: usize,
    pub(super) folder: &'a Folder,
    pub(super) sentinel: Sentinel,
    /// Limits of timestamps by topic, as far as they were requested.
    pub(super) clock_limits: HashMap<String, (Instant, [Option<i64>; 2])>,
    pub(super) entries: Entries,
    /// When unusable entries were last read again.
    pub(super) reread: Instant,
}

impl Session for Kafka<'_> {
    fn memory(&self, instance: InstanceId) -> Memory {
        match self.entries.of.get(&instance) {
            None => Memory::Nothing,
            Some(&Entry { sequence, fingerprint }) => Memory::Published { sequence, fingerprint },
        }
    }

    fn probe(&mut self) -> Result<(), SessionError> {
        self.require_assignment()?;
        self.topics.reach()
    }

    /// Stores all in one transaction. If records are refused it is aborted, the others are stored without them, and each
    /// refused one is retried by itself: a bad record delays nobody else.
    fn store(&mut self, jobs: &mut Vec<Job>) -> Result<(), SessionError> {
        self.require_assignment().inspect_err(|_| jobs.drain(..).for_each(|job| job.fail(SinkError::OwnershipLost)))?;
        self.check_partitions();
        self.refuse_unusable(jobs);
        self.dead_letter_too_large(jobs);
        let mut suspects = self.of_doubtful_topics(jobs);
        let mut outcome = self.store_together(jobs, &mut suspects);
        let mut suspects = suspects.into_iter();
        while outcome.is_ok()
            && let Some(job) = suspects.next()
        {
            outcome = self.store_alone(job, jobs);
        }
        jobs.extend(suspects);
        outcome
    }
}

impl Kafka<'_> {
    /// Stores all jobs except those that become suspects on the way. On failure unanswered ones stay in `jobs`.
    fn store_together(&mut self, jobs: &mut Vec<Job>, suspects: &mut Vec<Job>) -> Result<(), SessionError> {
        while !jobs.is_empty() {
            for Refused { job, route, blame, why } in self.commit(jobs, Route::of)? {
                match (route, blame) {
                    (_, Blame::Clock) => self.wait_for_clock(job, route, &why),
                    (Route::Topic, Blame::Topic) => self.wait_for_topic(job, &why),
                    _ => suspects.push(job),
                }
            }
        }
        Ok(())
    }

    /// A group may be refused because of one bad record, so a suspect may be good. A bad record goes to the dead-letter topic in
    /// the transaction that advances the ledger; if that topic refuses it as well it is written to the folder, after which it
    /// is submitted again to advance the ledger. Moved back to `unanswered` when nothing can be stored at all.
    fn store_alone(&mut self, job: Job, unanswered: &mut Vec<Job>) -> Result<(), SessionError> {
        let mut route = Route::of(&job);
        let mut single = vec![job];
        loop {
            let refused = self.commit(&mut single, |_| route);
            unanswered.append(&mut single);
            let Some(Refused { job, blame, why, .. }) = refused?.pop() else { return Ok(()) };
            match (route, blame) {
                (Route::Topic, Blame::Record(reason)) => {
                    route = Route::DeadLetterTopic(reason);
                    single.push(job);
                    continue;
                }
                // Refused as a dead letter as well.
                (_, Blame::Clock) => self.wait_for_clock(job, route, &why),
                (Route::Nowhere | Route::Topic, _) => self.wait_for_topic(job, &why),
                (Route::DeadLetterTopic(reason) | Route::Folder(reason), _) => {
                    if !matches!(blame, Blame::Record(_)) {
                        self.topic_memory.doubt(self.config.dead_letter_topic.clone());
                    }
                    let position = self.position(&job, Route::Folder(reason));
                    job.keep_in(self.folder, position);
                }
            }
            return Ok(());
        }
    }

    /// Removes bodies that the client would not send to any topic: trying would cost the others an aborted transaction for each
    /// possible topic.
    fn dead_letter_too_large(&mut self, jobs: &mut Vec<Job>) {
        let is_too_large = |job: &mut Job| {
            let is_new = matches!(Route::of(job), Route::Topic | Route::DeadLetterTopic(_));
            is_new && job.notification().body().len() > self.largest
        };
        let too_large: Vec<Job> = jobs.extract_if(.., is_too_large).collect();
        for job in too_large {
            let reason = if job.notification().is_malformed() { Reason::Malformed } else { Reason::TooLarge };
            let position = self.position(&job, Route::Folder(reason));
            job.keep_in(self.folder, position);
        }
    }

    fn position(&self, job: &Job, route: Route) -> Position {
        let notification = job.notification();
        let last = self.entries.of.get(&notification.instance());
        let letter = |(reason, kept_in): (_, &'static str)| DeadLetter {
            reason,
            destination: cloud_event::topic(&self.config.topic, notification),
            kept_in: kept_in.into(),
        };
        Position { sequence: entries::next(last), dead_letter: route.dead_letter().map(letter), ..Position::default() }
    }

    /// Commits and answers the jobs; or stores nothing and removes the refused ones.
    fn commit(&mut self, jobs: &mut Vec<Job>, route: impl Fn(&Job) -> Route) -> Result<Vec<Refused>, SessionError> {
        let prepare = |job| {
            let route = route(&job);
            self.prepare(job, route)
        };
        let mut group = jobs.drain(..).map(prepare).collect();
        let refused = self.commit_group(&mut group);
        jobs.extend(group.into_iter().map(|prepared| prepared.job));
        refused
    }

    fn prepare(&self, job: Job, route: Route) -> Prepared {
        let position = (!matches!(route, Route::Nowhere)).then(|| self.position(&job, route));
        let topic = route.topic(self.config, job.notification());
        let record = topic
            .zip(position.as_ref())
            .map(|(topic, position)| record::of(job.notification(), topic, position, self.config));
        Prepared { job, route, position, record }
    }

    fn require_assignment(&self) -> Result<(), SessionError> {
        if self.opened.as_ref().is_some_and(|opened| !opened.is_held()) { Err(SessionError::Elsewhere) } else { Ok(()) }
    }

    fn commit_group(&mut self, group: &mut Vec<Prepared>) -> Result<Vec<Refused>, SessionError> {
        self.require_assignment()?;
        let mut without_topic = Vec::new();
        for (index, record) in group.iter_mut().filter_map(|prepared| prepared.record.as_mut()).enumerate() {
            match self.used_partitions(&record.topic)? {
                Ensured::Exists { partitions } => record.partition = Some(partition_of(&record.key, partitions)),
                Ensured::Unusable(why) => without_topic.push(Refusal { record: index, blame: Blame::Topic, why }),
            }
        }
        if !without_topic.is_empty() {
            return Ok(take_refused(group, without_topic));
        }
        let mut of_ledger = Vec::with_capacity(group.len());
        for prepared in &*group {
            if let Some(entry) = prepared.entry() {
                of_ledger.push(self.ledger.entry(prepared.job.notification().instance(), entry)?);
            }
        }
        if of_ledger.is_empty() {
            // Proofs only: any commit proves ownership.
            of_ledger.push(self.ledger.sentinel(&self.sentinel)?);
        }
        let published = group.iter().filter_map(|prepared| prepared.record.as_ref());
        let records: Vec<&Record> = published.chain(&of_ledger).collect();
        // A transaction that contains only a forbidden topic cannot be aborted.
        let doubtful = records.iter().any(|record| self.topic_memory.is_doubtful(&record.topic));
        let before = if doubtful { Some(self.ledger.sentinel(&self.sentinel)?) } else { None };
        match self.producer.attempt(&records, before.as_ref()) {
            // The shard now belongs to whoever fenced it.
            Attempt::Forbidden(_) | Attempt::Failed(_) if self.require_assignment().is_err() => {
                Err(SessionError::Elsewhere)
            }
            Attempt::Committed(since) => {
                self.committed(group, since);
                Ok(Vec::new())
            }
            Attempt::CommittedSlowly(since) => {
                self.committed(group, since);
                // A delayed commit request could complete a later transaction of the same producer
                // (KAFKA-17754), but not one of a new producer.
                Err(SessionError::Renew("a commit was retried or exceeded 5 s: recreating the producer".into()))
            }
            Attempt::Refused(refusals) => {
                let first = refusals.first().map(|refusal| refusal.why.clone()).unwrap_or_default();
                let refused = take_refused(group, refusals);
                if refused.is_empty() {
                    return Err(SessionError::Unavailable(format!(
                        "an entry of the ledger_topic was refused: {first}"
                    )));
                }
                Ok(refused)
            }
            Attempt::Forbidden(why) => {
                for record in group.iter().filter_map(|prepared| prepared.record.as_ref()) {
                    self.topic_memory.doubt(record.topic.clone());
                }
                Err(SessionError::Unavailable(why))
            }
            Attempt::Failed(why) => Err(SessionError::Unavailable(why)),
        }
    }

    /// Answers all jobs of the group.
    fn committed(&mut self, group: &mut Vec<Prepared>, since: Instant) {
        debug!(event = "committed", notifications = group.len(), "committed");
        fault::reached("committed");
        let valid_until = self.valid_for.map(|valid| since + valid);
        group.drain(..).for_each(|prepared| self.answer(prepared, valid_until));
    }

    fn answer(&mut self, prepared: Prepared, valid_until: Option<Instant>) {
        let entry = prepared.entry();
        let Prepared { mut job, position, record, .. } = prepared;
        if let Some(valid_until) = valid_until {
            job = job.only_until(valid_until);
        }
        let (Some(position), Some(entry)) = (position, entry) else { return job.stored(None) };
        if let Some(record) = record {
            self.topic_memory.trust(&record.topic);
        }
        self.entries.of.insert(job.notification().instance(), entry);
        match position.dead_letter {
            None => job.stored(Some(position.sequence)),
            Some(letter) => job.dead_lettered(Some(position.sequence), letter),
        }
    }
}

/// A job of a transaction and what is stored for it: nothing for a proof, no record for a dead letter in the folder.
struct Prepared {
    job: Job,
    route: Route,
    position: Option<Position>,
    record: Option<Record>,
}

impl Prepared {
    /// The ledger entry.
    fn entry(&self) -> Option<Entry> {
        let sequence = self.position.as_ref()?.sequence;
        Some(Entry { sequence, fingerprint: self.job.notification().fingerprint() })
    }
}

/// A job whose record was refused.
struct Refused {
    job: Job,
    route: Route,
    blame: Blame,
    why: String,
}

/// Removes refused jobs from the group, whose records came first in the transaction.
fn take_refused(group: &mut Vec<Prepared>, refusals: Vec<Refusal>) -> Vec<Refused> {
    let mut refusals: HashMap<usize, Refusal> = refusals.into_iter().map(|refusal| (refusal.record, refusal)).collect();
    let mut index = 0..;
    let (mut refused, mut others) = (Vec::new(), Vec::new());
    for prepared in group.drain(..) {
        let record = prepared.record.as_ref().and_then(|_| index.next());
        match record.and_then(|index| refusals.remove(&index)) {
            None => others.push(prepared),
            Some(Refusal { blame, why, .. }) => {
                let Prepared { job, route, .. } = prepared;
                refused.push(Refused { job, route, blame, why });
            }
        }
    }
    *group = others;
    refused
}
