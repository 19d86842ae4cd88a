//! The sink `amqp`: RabbitMQ with publisher confirms. One thread owns the connection on which it
//! publishes and, on the same connection, the exclusive queue that is the ownership: when the broker
//! lets another bridge have that queue, nothing of ours can arrive any more.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use tracing::info;

use self::channels::{Channels, Suspicion};
use self::connection::{Link, Nodes};
use self::publish::Outcome;
use crate::doctor::Check;
use crate::doubt::Memory;
use crate::notification::{InstanceId, Notification};
use crate::sink::amqp::options::{OnUnroutable, Options};
use crate::sink::cloud_event::{self, Place};
use crate::sink::dead_letter::Folder;
use crate::sink::driver::Driver;
use crate::sink::session::{Acquire, Action, Job, Session, SessionError, Shard, extract_malformed};
use crate::sink::worker::Worker;
use crate::sink::{DeadLetter, Reason, Sink, SinkError};
use crate::verify::Audit;

mod alarm;
mod arguments;
mod channels;
mod connection;
mod doctor;
mod errors;
mod publish;
mod published;
mod topology;

#[cfg(any(test, fuzzing))]
pub(crate) use self::connection::destination;

/// Where dead letters are kept, as keys of the config.
const QUEUE: &str = "dead_letter_queue";
const DIRECTORY: &str = "dead_letter_dir";

const FULL: &str = "a queue refused it, as a full one does with `reject-publish`";

impl Driver for Options {
    /// `Ok` from a publish means confirmed and routed. It remembers nothing, so the first
    /// notification of an instance under each ownership is marked as a possible duplicate.
    fn start(&self, folder: Folder, _shards: u16) -> Result<Arc<dyn Sink>, String> {
        connection::Secrets::read(self)?;
        let acquisition =
            Acquisition { config: self.clone(), folder, nodes: Nodes::new(self.clone()), suspects: HashMap::new() };
        let worker = Worker::start("amqp", acquisition);
        Ok(Arc::new(worker.map_err(|error| format!("the sink's thread cannot be started: {error}"))?))
    }

    fn examine(&self) -> Vec<Check> {
        doctor::examine(self)
    }

    fn audit(&self, drain: bool, audit: &mut Audit) -> Result<bool, String> {
        published::audit(self, drain, audit)
    }
}

/// Takes ownership, again and again in the life of a process.
struct Acquisition {
    config: Options,
    folder: Folder,
    nodes: Nodes,
    suspects: HashMap<InstanceId, Suspicion>,
}

impl Acquire for Acquisition {
    type Session<'a> = Amqp<'a>;

    fn acquire(&mut self, _shard: Shard) -> Result<Amqp<'_>, SessionError> {
        let (link, channel) = self.nodes.own()?;
        let epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        info!(name = self.config.name, exchange = self.config.exchange, "owning the AMQP sink");
        Ok(Amqp {
            link,
            channels: Channels::new(channel),
            suspects: &mut self.suspects,
            config: &self.config,
            folder: &self.folder,
            told: self.nodes.told(),
            epoch: u64::try_from(epoch.as_millis()).unwrap_or(u64::MAX),
            sequences: HashMap::new(),
        })
    }
}

/// The sink under one ownership.
struct Amqp<'a> {
    link: Link,
    channels: Channels,
    /// The instances that are published alone, until one of theirs was.
    suspects: &'a mut HashMap<InstanceId, Suspicion>,
    config: &'a Options,
    folder: &'a Folder,
    told: topology::Told,
    epoch: u64,
    /// The last of each instance under this ownership.
    sequences: HashMap<InstanceId, u64>,
}

impl Session for Amqp<'_> {
    fn memory(&self, _instance: InstanceId) -> Memory {
        Memory::Unknown
    }

    fn probe(&mut self) -> Result<(), SessionError> {
        self.link.patiently(connection::prove_ownership(self.channels.of_all(&self.link)?, self.config))
    }

    fn store(&mut self, jobs: &mut Vec<Job>) -> Result<(), SessionError> {
        let kept = jobs.extract_if(.., |job| job.kept.is_some()).filter_map(|job| job.kept.map(|reason| (job, reason)));
        for (job, reason) in kept.collect::<Vec<_>>() {
            self.buried(job, reason, DIRECTORY);
        }
        let too_large = |job: &mut Job| job.action() != Action::Prove && self.channels.is_too_large(job.notification());
        for job in jobs.extract_if(.., too_large).collect::<Vec<_>>() {
            self.keep(job, Reason::TooLarge);
        }
        let mut malformed = extract_malformed(jobs);
        let buried = self.bury(&mut malformed, Reason::Malformed);
        jobs.append(&mut malformed);
        buried?;
        self.settle(jobs)?;
        if !jobs.is_empty() && self.config.declare {
            // What was declared may have been deleted since.
            self.link.prepare(self.config, &self.told)?;
            self.settle(jobs)?;
        }
        match self.config.on_unroutable {
            OnUnroutable::DeadLetter => self.bury(jobs, Reason::Unroutable),
            OnUnroutable::Wait => {
                let exchange = &self.config.exchange;
                let cause = format!("no queue takes it: bind one to the exchange {exchange}");
                jobs.drain(..).for_each(|job| job.fail(SinkError::Refused(cause.clone())));
                Ok(())
            }
        }
    }
}

impl Amqp<'_> {
    /// Publishes them and answers each. Those that no queue takes stay in `jobs`.
    fn settle(&mut self, jobs: &mut Vec<Job>) -> Result<(), SessionError> {
        let outcomes = self.publish(jobs, None)?;
        for (job, outcome) in std::mem::take(jobs).into_iter().zip(outcomes) {
            match outcome {
                Outcome::Stored(sequence) => self.stored(job, sequence),
                // Where several queues are bound, another one may have taken it.
                Outcome::Nacked => job.fail(SinkError::Reopen(FULL.into())),
                Outcome::Unroutable => jobs.push(job),
                Outcome::TooLarge => self.keep(job, Reason::TooLarge),
                Outcome::Refused(cause) => job.fail(SinkError::Refused(cause)),
            }
        }
        Ok(())
    }

    /// Publishes dead letters; into the folder goes what even their queue does not take.
    fn bury(&mut self, jobs: &mut Vec<Job>, reason: Reason) -> Result<(), SessionError> {
        let outcomes = self.publish(&mut *jobs, Some(reason))?;
        for (job, outcome) in jobs.drain(..).zip(outcomes) {
            match outcome {
                Outcome::Stored(_) => self.buried(job, reason, QUEUE),
                Outcome::Unroutable | Outcome::Nacked | Outcome::TooLarge | Outcome::Refused(_) => {
                    self.keep(job, reason);
                }
            }
        }
        Ok(())
    }

    /// Sends a notification into the folder.
    fn keep(&self, job: Job, reason: Reason) {
        let place = self.place(&job, Some(self.letter(job.notification(), reason, DIRECTORY)));
        job.keep_in(self.folder, place);
    }

    fn buried(&mut self, job: Job, reason: Reason, kept_in: &'static str) {
        let instance = job.notification().instance();
        self.sequences.insert(instance, self.next_sequence(instance));
        let letter = self.letter(job.notification(), reason, kept_in);
        job.dead_lettered(None, letter);
    }

    fn stored(&mut self, job: Job, sequence: Option<u64>) {
        if let Some(sequence) = sequence {
            self.sequences.insert(job.notification().instance(), sequence);
        }
        job.stored(None);
    }

    fn letter(&self, notification: &Notification, reason: Reason, kept_in: &'static str) -> DeadLetter {
        let routing_key = cloud_event::fill(&self.config.routing_key.value, notification);
        let destination = format!("{}/{routing_key}", self.config.exchange);
        DeadLetter { reason, destination, kept_in: kept_in.into() }
    }

    fn place(&self, job: &Job, dead_letter: Option<DeadLetter>) -> Place {
        let marked = job.action() == Action::Publish { marked: true };
        Place {
            sequence: self.next_sequence(job.notification().instance()),
            epoch: Some(self.epoch),
            marked,
            dead_letter,
        }
    }

    fn next_sequence(&self, instance: InstanceId) -> u64 {
        self.sequences.get(&instance).map_or(1, |last| last + 1)
    }
}
