//! Storing groups of notifications in transactions, under one ownership.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use tracing::debug;

use super::entries::{self, Entries, Entry};
use super::errors::Blame;
use super::ledger::{Ledger, Sentinel};
use super::producer::{Attempt, Producer, Refusal};
use super::record::{self, Record};
use super::topic_memory::{TopicMemory, partition_of};
use super::topics::{Ensured, Topics};
use crate::doubt::Memory;
use crate::notification::{InstanceId, Notification};
use crate::sink::cloud_event::{self, Place};
use crate::sink::dead_letter::Folder;
use crate::sink::kafka::options::Options;
use crate::sink::session::{Action, Job, Session, SessionError, extract_kept, extract_malformed};
use crate::sink::{DeadLetter, Reason};

/// The sink under one ownership.
pub(super) struct Kafka<'a> {
    pub(super) producer: Producer,
    pub(super) ledger: Ledger,
    pub(super) topics: Topics,
    pub(super) topic_memory: &'a mut TopicMemory,
    /// When the topics were last looked at, if since the ownership was taken, and how often that is done.
    pub(super) looked: Option<Instant>,
    pub(super) look: Duration,
    pub(super) config: &'a Options,
    pub(super) folder: &'a Folder,
    pub(super) sentinel: Sentinel,
    /// How far from the broker's clock ours may be, as far as a topic was asked.
    pub(super) clock_limits: HashMap<String, (Instant, [Option<i64>; 2])>,
    pub(super) entries: Entries,
    /// When entries that cannot be used were last read again.
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
        self.topics.reach()
    }

    /// All in one transaction. When records are refused it is aborted, the others are stored
    /// without them, and each of them by itself: one bad record stops nobody else.
    fn store(&mut self, jobs: &mut Vec<Job>) -> Result<(), SessionError> {
        self.look_at_partitions();
        self.refuse_unusable(jobs);
        let kept = extract_kept(jobs).into_iter().map(|(job, reason)| (job, Route::Folder(reason)));
        let malformed = extract_malformed(jobs).into_iter().map(|job| (job, Route::DeadLetterTopic(Reason::Malformed)));
        let mut alone: Vec<(Job, Route)> = kept.chain(malformed).collect();
        let mut suspects = self.of_doubtful_topics(jobs);
        let mut outcome = self.store_together(jobs, &mut suspects);
        alone.extend(suspects.into_iter().map(|job| (job, Route::Topic)));
        let mut alone = alone.into_iter();
        while outcome.is_ok()
            && let Some((job, route)) = alone.next()
        {
            outcome = self.store_alone(job, route, jobs);
        }
        jobs.extend(alone.map(|(job, _)| job));
        outcome
    }
}

/// Where a notification is sent.
#[derive(Clone, Copy)]
enum Route {
    Topic,
    DeadLetterTopic(Reason),
    /// Into the folder; only the ledger moves.
    Folder(Reason),
}

impl Route {
    /// Why it is sent as a dead letter, and which key of the config names where to.
    fn dead_letter(self) -> Option<(Reason, &'static str)> {
        match self {
            Self::Topic => None,
            Self::DeadLetterTopic(reason) => Some((reason, "dead_letter_topic")),
            Self::Folder(reason) => Some((reason, "dead_letter_dir")),
        }
    }
}

impl Kafka<'_> {
    /// All of them but those that become suspects on the way. When it fails, the unanswered stay in
    /// `jobs`.
    fn store_together(&mut self, jobs: &mut Vec<Job>, suspects: &mut Vec<Job>) -> Result<(), SessionError> {
        while !jobs.is_empty() {
            for Refused { job, blame, why } in self.commit(jobs, Route::Topic)? {
                match blame {
                    Blame::Record(_) | Blame::SomeTopic => suspects.push(job),
                    Blame::Topic => self.wait_for_topic(job, &why),
                    Blame::Clock => {
                        let topic = self.topic(job.notification());
                        self.wait_for_clock(job, &topic, &why);
                    }
                }
            }
        }
        Ok(())
    }

    /// A whole batch is refused for one bad record in it, so a suspect may be good. A bad one goes
    /// to the dead-letter topic, in the transaction that moves the ledger; when it is too bad for the
    /// topic, to the folder, and it comes again to have the ledger moved. Back into `unanswered` when
    /// nothing can be stored at all.
    fn store_alone(&mut self, job: Job, mut route: Route, unanswered: &mut Vec<Job>) -> Result<(), SessionError> {
        let mut single = vec![job];
        loop {
            let refused = self.commit(&mut single, route);
            unanswered.append(&mut single);
            let Some(Refused { job, blame, why }) = refused?.pop() else { return Ok(()) };
            match (route, blame) {
                (Route::Topic, Blame::Record(reason)) => {
                    route = Route::DeadLetterTopic(reason);
                    single.push(job);
                    continue;
                }
                (Route::Topic, Blame::Topic | Blame::SomeTopic) => self.wait_for_topic(job, &why),
                (Route::Topic, Blame::Clock) => {
                    let topic = self.topic(job.notification());
                    self.wait_for_clock(job, &topic, &why);
                }
                // Of a dead letter neither.
                (Route::DeadLetterTopic(_) | Route::Folder(_), Blame::Clock) => {
                    let topic = self.config.dead_letter_topic.value.clone();
                    self.wait_for_clock(job, &topic, &why);
                }
                (Route::DeadLetterTopic(reason) | Route::Folder(reason), _) => {
                    let place = self.place(&job, Route::Folder(reason));
                    job.keep_in(self.folder, place);
                }
            }
            return Ok(());
        }
    }

    pub(super) fn topic(&self, notification: &Notification) -> String {
        cloud_event::topic(&self.config.topic.value, notification)
    }

    fn place(&self, job: &Job, route: Route) -> Place {
        let notification = job.notification();
        let last = self.entries.of.get(&notification.instance());
        let letter = |(reason, kept_in): (_, &'static str)| DeadLetter {
            reason,
            destination: self.topic(notification),
            kept_in: kept_in.into(),
        };
        Place { sequence: entries::next(last), dead_letter: route.dead_letter().map(letter), ..Place::default() }
    }

    /// Commits the jobs and answers them; or takes out those that were refused, and nothing is stored.
    fn commit(&mut self, jobs: &mut Vec<Job>, route: Route) -> Result<Vec<Refused>, SessionError> {
        let mut group = jobs.drain(..).map(|job| self.prepare(job, route)).collect();
        let refused = self.commit_group(&mut group);
        jobs.extend(group.into_iter().map(|prepared| prepared.job));
        refused
    }

    fn prepare(&self, job: Job, route: Route) -> Prepared {
        if job.action() == Action::Prove {
            return Prepared { job, place: None, record: None };
        }
        let place = self.place(&job, route);
        let in_topic = !matches!(route, Route::Folder(_));
        let record = in_topic.then(|| record::of(job.notification(), &place, self.config));
        Prepared { job, place: Some(place), record }
    }

    fn commit_group(&mut self, group: &mut Vec<Prepared>) -> Result<Vec<Refused>, SessionError> {
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
            // Only proofs: committing anything proves the ownership.
            of_ledger.push(self.ledger.sentinel(&self.sentinel)?);
        }
        let published = group.iter().filter_map(|prepared| prepared.record.as_ref());
        let records: Vec<&Record> = published.chain(&of_ledger).collect();
        // A transaction to which nothing but a forbidden topic was added cannot be aborted.
        let doubtful = records.iter().any(|record| self.topic_memory.is_doubtful(&record.topic));
        let before = if doubtful { Some(self.ledger.sentinel(&self.sentinel)?) } else { None };
        match self.producer.attempt(&records, before.as_ref()) {
            committed @ (Attempt::Committed | Attempt::CommittedSlowly) => {
                debug!(notifications = group.len(), "committed");
                group.drain(..).for_each(|prepared| self.committed(prepared));
                // A commit request that got stuck in the network could end a later transaction of
                // the same producer (KAFKA-17754); of a new one it cannot.
                match committed {
                    Attempt::CommittedSlowly => {
                        Err(SessionError::Renew("a commit was retried or exceeded 5 s: recreating the producer".into()))
                    }
                    _ => Ok(Vec::new()),
                }
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
                for prepared in &*group {
                    self.topic_memory.doubt(self.topic(prepared.job.notification()));
                }
                Err(SessionError::Unavailable(why))
            }
            Attempt::Failed(why) => Err(SessionError::Unavailable(why)),
        }
    }

    fn committed(&mut self, prepared: Prepared) {
        let entry = prepared.entry();
        let Prepared { job, place, .. } = prepared;
        let (Some(place), Some(entry)) = (place, entry) else { return job.stored(None) };
        let notification = job.notification();
        if self.topic_memory.has_doubts() && place.dead_letter.is_none() {
            self.topic_memory.trust(&self.topic(notification));
        }
        self.entries.of.insert(notification.instance(), entry);
        match place.dead_letter {
            None => job.stored(Some(place.sequence)),
            Some(letter) => job.dead_lettered(Some(place.sequence), letter),
        }
    }
}

/// A job of a transaction, with what is stored for it: nothing for a proof, no record for what went
/// into the folder.
struct Prepared {
    job: Job,
    place: Option<Place>,
    record: Option<Record>,
}

impl Prepared {
    /// Of the ledger.
    fn entry(&self) -> Option<Entry> {
        let sequence = self.place.as_ref()?.sequence;
        Some(Entry { sequence, fingerprint: self.job.notification().fingerprint() })
    }
}

/// A job whose record was refused.
struct Refused {
    job: Job,
    blame: Blame,
    why: String,
}

/// Takes them out of the group, whose records came first in the transaction.
fn take_refused(group: &mut Vec<Prepared>, refusals: Vec<Refusal>) -> Vec<Refused> {
    let mut refusals: HashMap<usize, Refusal> = refusals.into_iter().map(|refusal| (refusal.record, refusal)).collect();
    let mut index = 0..;
    let (mut refused, mut others) = (Vec::new(), Vec::new());
    for prepared in group.drain(..) {
        let record = prepared.record.as_ref().and_then(|_| index.next());
        match record.and_then(|index| refusals.remove(&index)) {
            None => others.push(prepared),
            Some(Refusal { blame, why, .. }) => refused.push(Refused { job: prepared.job, blame, why }),
        }
    }
    *group = others;
    refused
}
