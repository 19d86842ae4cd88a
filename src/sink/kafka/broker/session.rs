//! Storing groups of notifications in transactions, under one ownership.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use tracing::debug;

use super::entries::{self, Entries, Entry};
use super::errors::Blame;
use super::ledger::{Ledger, Sentinel};
use super::producer::{Attempt, Producer, Refusal};
use super::record;
use super::topic_memory::{TopicMemory, partition_of};
use super::topics::{Ensured, Topics};
use crate::doubt::Memory;
use crate::notification::{InstanceId, Notification};
use crate::sink::cloud_event::{self, Place};
use crate::sink::dead_letter::Folder;
use crate::sink::kafka::options::Options;
use crate::sink::session::{Action, Job, Session, SessionError, extract_malformed};
use crate::sink::{DeadLetter, Reason, SinkError};

/// The sink under one ownership.
pub(super) struct Kafka {
    pub(super) producer: Producer,
    pub(super) ledger: Ledger,
    pub(super) topics: Topics,
    pub(super) topic_memory: TopicMemory,
    /// How many partitions of it are used.
    pub(super) known_topics: HashMap<String, i32>,
    /// Those that were lately missing or forbidden: who needs them is stored alone.
    pub(super) doubtful_topics: HashSet<String>,
    /// When the topics were last looked at, if since the ownership was taken, and how often that is done.
    pub(super) looked: Option<Instant>,
    pub(super) look: Duration,
    pub(super) config: Options,
    pub(super) folder: Folder,
    pub(super) sentinel: Sentinel,
    /// How far from the broker's clock ours may be, as far as a topic was asked.
    pub(super) clock_limits: HashMap<String, (Instant, [Option<i64>; 2])>,
    pub(super) entries: Entries,
    /// When entries that cannot be used were last read again.
    pub(super) reread: Instant,
}

impl Session for Kafka {
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
        let mut malformed = extract_malformed(jobs);
        let mut suspects = self.of_doubtful_topics(jobs);
        let mut outcome = self.store_together(jobs, &mut suspects);
        while outcome.is_ok()
            && let Some(job) = malformed.pop()
        {
            outcome = self.store_alone(job, Route::DeadLetterTopic(Reason::Malformed), jobs);
        }
        while outcome.is_ok()
            && let Some(job) = suspects.pop()
        {
            outcome = self.store_alone(job, Route::Topic, jobs);
        }
        jobs.append(&mut suspects);
        jobs.append(&mut malformed);
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

impl Kafka {
    /// All of them but those that become suspects on the way. When it fails, the unanswered stay in
    /// `jobs`.
    fn store_together(&mut self, jobs: &mut Vec<Job>, suspects: &mut Vec<Job>) -> Result<(), SessionError> {
        while !jobs.is_empty() {
            let refused = self.commit(jobs, Route::Topic)?;
            let mut others = Vec::new();
            for (index, job) in jobs.drain(..).enumerate() {
                match refused.iter().find(|refusal| refusal.record == index) {
                    None => others.push(job),
                    Some(Refusal { blame: Blame::Record(_) | Blame::SomeTopic, .. }) => suspects.push(job),
                    Some(Refusal { blame: Blame::Topic, why, .. }) => self.wait_for_topic(job, why),
                    Some(Refusal { blame: Blame::Clock, why, .. }) => {
                        let topic = self.topic(job.notification());
                        self.wait_for_clock(job, &topic, why);
                    }
                }
            }
            *jobs = others;
        }
        Ok(())
    }

    /// A whole batch is refused for one bad record in it, so a suspect may be good. A bad one goes
    /// to the dead-letter topic, in the transaction that moves the ledger; and to the folder,
    /// before that transaction, when it is too bad for the topic. Back into `unanswered` when
    /// nothing can be stored at all.
    fn store_alone(&mut self, job: Job, mut route: Route, unanswered: &mut Vec<Job>) -> Result<(), SessionError> {
        let mut single = vec![job];
        loop {
            let refused = match self.commit(&mut single, route) {
                Ok(refused) => refused,
                Err(failure) => {
                    unanswered.append(&mut single);
                    return Err(failure);
                }
            };
            let Some(Refusal { blame, why, .. }) = refused.into_iter().next() else { return Ok(()) };
            let Some(job) = single.pop() else { return Ok(()) };
            route = match (route, blame) {
                (Route::Topic, Blame::Record(reason)) => Route::DeadLetterTopic(reason),
                (Route::Topic, Blame::Topic | Blame::SomeTopic) => {
                    self.wait_for_topic(job, &why);
                    return Ok(());
                }
                (Route::Topic, Blame::Clock) => {
                    let topic = self.topic(job.notification());
                    self.wait_for_clock(job, &topic, &why);
                    return Ok(());
                }
                // Of a dead letter neither.
                (Route::DeadLetterTopic(_) | Route::Folder(_), Blame::Clock) => {
                    let topic = self.config.dead_letter_topic.value.clone();
                    self.wait_for_clock(job, &topic, &why);
                    return Ok(());
                }
                (Route::DeadLetterTopic(reason) | Route::Folder(reason), _) => {
                    let place = self.place(&job, Route::Folder(reason));
                    if let Err(error) = self.folder.keep(job.notification(), &place) {
                        job.fail(SinkError::Refused(format!("{why}; dead_letter_dir: {error}")));
                        return Ok(());
                    }
                    Route::Folder(reason)
                }
            };
            single.push(job);
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

    /// Commits the jobs and answers them; or aborts, and tells which of them were refused.
    fn commit(&mut self, jobs: &mut Vec<Job>, route: Route) -> Result<Vec<Refusal>, SessionError> {
        let mut records = Vec::with_capacity(2 * jobs.len());
        // Which job a record is of.
        let mut of_job = Vec::with_capacity(jobs.len());
        let mut places = Vec::with_capacity(jobs.len());
        let mut without_topic = Vec::new();
        for (index, job) in jobs.iter().enumerate() {
            if job.action() == Action::Prove {
                places.push(None);
                continue;
            }
            let place = self.place(job, route);
            if !matches!(route, Route::Folder(_)) {
                let mut record = record::of(job.notification(), &place, &self.config);
                match self.used_partitions(&record.topic)? {
                    Ensured::Exists { partitions } => record.partition = Some(partition_of(&record.key, partitions)),
                    Ensured::Unusable(why) => without_topic.push(Refusal { record: index, blame: Blame::Topic, why }),
                }
                records.push(record);
                of_job.push(index);
            }
            places.push(Some(place));
        }
        if !without_topic.is_empty() {
            return Ok(without_topic);
        }
        for (job, place) in jobs.iter().zip(&places) {
            if let Some(place) = place {
                let entry = Entry { sequence: place.sequence, fingerprint: job.notification().fingerprint() };
                records.push(self.ledger.entry(job.notification().instance(), entry)?);
            }
        }
        if records.is_empty() {
            // Only proofs: committing anything proves the ownership.
            records.push(self.ledger.sentinel(&self.sentinel)?);
        }
        // A transaction to which nothing but a forbidden topic was added cannot be aborted.
        let doubtful = records.iter().any(|record| self.doubtful_topics.contains(&record.topic));
        let before = if doubtful { Some(self.ledger.sentinel(&self.sentinel)?) } else { None };
        match self.producer.attempt(&records, before.as_ref()) {
            committed @ (Attempt::Committed | Attempt::CommittedSlowly) => {
                debug!(notifications = jobs.len(), "committed");
                for (job, place) in jobs.drain(..).zip(places) {
                    self.committed(job, place);
                }
                // A commit request that got stuck in the network could end a later transaction of
                // the same producer (KAFKA-17754); of a new one it cannot.
                match committed {
                    Attempt::CommittedSlowly => {
                        Err(SessionError::Renew("a commit was retried or exceeded 5 s: recreating the producer".into()))
                    }
                    _ => Ok(Vec::new()),
                }
            }
            Attempt::Refused(refused) => {
                let first = refused.first().map(|refusal| refusal.why.clone()).unwrap_or_default();
                let about = |refusal: Refusal| Some(Refusal { record: *of_job.get(refusal.record)?, ..refusal });
                let of_jobs: Vec<Refusal> = refused.into_iter().filter_map(about).collect();
                if of_jobs.is_empty() {
                    return Err(SessionError::Unavailable(format!(
                        "an entry of the ledger_topic was refused: {first}"
                    )));
                }
                Ok(of_jobs)
            }
            Attempt::Forbidden(why) => {
                for job in &*jobs {
                    self.doubt(self.topic(job.notification()));
                }
                Err(SessionError::Unavailable(why))
            }
            Attempt::Failed(why) => Err(SessionError::Unavailable(why)),
        }
    }

    fn committed(&mut self, job: Job, place: Option<Place>) {
        let Some(place) = place else { return job.stored(None) };
        let notification = job.notification();
        if !self.doubtful_topics.is_empty() && place.dead_letter.is_none() {
            let topic = self.topic(notification);
            self.doubtful_topics.remove(&topic);
            self.topic_memory.trust(&topic);
        }
        let entry = Entry { sequence: place.sequence, fingerprint: notification.fingerprint() };
        self.entries.of.insert(notification.instance(), entry);
        match place.dead_letter {
            None => job.stored(Some(place.sequence)),
            Some(letter) => job.dead_lettered(Some(place.sequence), letter),
        }
    }
}
