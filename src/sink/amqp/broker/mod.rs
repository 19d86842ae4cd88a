//! The sink `amqp`: RabbitMQ with publisher confirms. Ownership is an exclusive queue, declared on the publishing connection:
//! when the broker lets another bridge declare that queue, the connection is gone and no publish of ours can arrive any more.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tracing::info;

use self::channels::{Channels, Isolation};
use self::connection::{Link, Nodes};
use self::publish::Outcome;
use self::replica::{HeldShard, Replica};
use self::topology::ReportedQueues;
use crate::doctor::Check;
use crate::doubt::Memory;
use crate::error::SetupError;
use crate::metrics::Metrics;
use crate::notification::{InstanceId, Notification};
use crate::sink::amqp::options::{OnUnroutable, Options};
use crate::sink::cloud_event::{self, Position};
use crate::sink::dead_letter::Folder;
use crate::sink::driver::Driver;
use crate::sink::redrive::Redrive;
use crate::sink::session::{Acquire, Action, Job, Session, SessionError, Shard, extract_malformed};
use crate::sink::shared::Shared;
use crate::sink::worker::Worker;
use crate::sink::{DeadLetter, Reason, Sink, SinkError};
use crate::verify::Audit;

mod alarm;
mod arguments;
mod channels;
mod connection;
mod doctor;
mod errors;
mod membership;
mod part;
mod publish;
mod published;
mod redrive;
mod replica;
mod topology;

#[cfg(any(test, fuzzing))]
pub(crate) use self::connection::destination;

/// Where a dead letter was stored, as a key of the config.
const QUEUE: &str = "dead_letter_queue";
const DIRECTORY: &str = "dead_letter_dir";

/// How long after the last proof of ownership a stored notification may be deleted.
const VALID: Duration = Duration::from_secs(5);

/// How often the rejected messages are counted.
const REJECTED_INTERVAL: Duration = Duration::from_secs(60);

/// How long a new owner waits in a cluster: publishes of its predecessor through another node may still be in flight.
const CLUSTER_PAUSE: Duration = Duration::from_secs(1);

const FULL: &str = "a queue refused it, as a full one does with `reject-publish`";

impl Driver for Options {
    /// `Ok` from a publish means confirmed and routed. The sink remembers nothing, so the first notification of an instance in
    /// each session is marked as a possible duplicate.
    fn start(&self, folder: Folder, shards: u16, metrics: &Metrics) -> Result<Arc<dyn Sink>, SetupError> {
        connection::Secrets::read(self)?;
        let reported = ReportedQueues::default();
        let replica = (shards > 1).then(|| Arc::new(Replica::new(reported.clone(), shards, metrics.clone())));
        let acquisition = |_shard| Acquisition {
            config: self.clone(),
            folder: folder.clone(),
            nodes: Nodes::new(self.clone(), reported.clone(), metrics.clone()),
            reported: reported.clone(),
            isolated: HashMap::new(),
            replica: replica.clone(),
            metrics: metrics.clone(),
        };
        let worker = Worker::start_each(metrics, (0..shards).map(acquisition))
            .map_err(|error| SetupError::new("the sink's threads cannot be started", error))?;
        Ok(match replica {
            None => Arc::new(worker),
            Some(replica) => Arc::new(Shared::new(worker, replica)),
        })
    }

    fn examine(&self, _shards: u16) -> Vec<Check> {
        doctor::examine(self)
    }

    fn audit(&self, drain: bool, audit: &mut Audit) -> Result<bool, SetupError> {
        published::audit(self, drain, audit)
    }

    fn redrive(&self, redrive: &mut Redrive, dead_letters: &Path) -> Result<(), SetupError> {
        redrive::redrive(self, redrive, dead_letters)
    }
}

/// Opens sessions, one after the other.
struct Acquisition {
    config: Options,
    folder: Folder,
    nodes: Nodes,
    reported: ReportedQueues,
    isolated: HashMap<InstanceId, Isolation>,
    /// Knows which shards are assigned to this replica; `None` with `shards: 1`.
    replica: Option<Arc<Replica>>,
    metrics: Metrics,
}

impl Acquire for Acquisition {
    type Session<'a> = Amqp<'a>;

    fn acquire(&mut self, shard: Shard) -> Result<Amqp<'_>, SessionError> {
        let (link, channel, here) = match &self.replica {
            None => {
                let (link, channel) = self.nodes.own()?;
                (Arc::new(link), channel, None)
            }
            Some(replica) => {
                let (link, channel, mut here) = replica.open(shard, &mut self.nodes)?;
                here.begin();
                (link, channel, Some(here))
            }
        };
        if self.nodes.are_several() {
            // If the connection fails meanwhile, the first publish reports it.
            link.rest(CLUSTER_PAUSE, std::future::pending());
        }
        let epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        info!(
            event = "sink_owned",
            name = self.config.name,
            exchange = self.config.exchange,
            shard = here.is_some().then_some(shard.index()),
            "owning the AMQP sink"
        );
        Ok(Amqp {
            link,
            channels: Channels::new(channel),
            isolated: &mut self.isolated,
            config: &self.config,
            folder: &self.folder,
            reported: &self.reported,
            owner_queue: connection::owner_queue(&self.config, here.is_some().then_some(shard)),
            here,
            metrics: &self.metrics,
            // One replica is enough.
            count_rejected: (shard.index() == 0).then(Instant::now),
            proven: Instant::now(),
            epoch: u64::try_from(epoch.as_millis()).unwrap_or(u64::MAX),
            sequences: HashMap::new(),
        })
    }
}

/// A session.
struct Amqp<'a> {
    link: Arc<Link>,
    channels: Channels,
    /// Instances whose messages are published alone until one of them is confirmed.
    isolated: &'a mut HashMap<InstanceId, Isolation>,
    config: &'a Options,
    folder: &'a Folder,
    reported: &'a ReportedQueues,
    /// Declaring it proves ownership.
    owner_queue: String,
    /// With `shards` above 1.
    here: Option<HeldShard>,
    metrics: &'a Metrics,
    /// When the rejected messages are to be counted; `None`: not in this session.
    count_rejected: Option<Instant>,
    /// When ownership was last proven.
    proven: Instant,
    epoch: u64,
    /// The last sequence number of each instance in this session.
    sequences: HashMap<InstanceId, u64>,
}

impl Session for Amqp<'_> {
    fn memory(&self, _instance: InstanceId) -> Memory {
        Memory::Unknown
    }

    fn probe(&mut self) -> Result<(), SessionError> {
        let proved = self.require_shard().and_then(|()| self.prove());
        proved.inspect(|()| self.count_rejected()).map_err(|failure| self.ended_by(failure))
    }

    fn store(&mut self, jobs: &mut Vec<Job>) -> Result<(), SessionError> {
        let stored = self.require_shard().and_then(|()| self.store_each(jobs));
        stored.inspect(|()| self.count_rejected()).map_err(|failure| self.ended_by(failure))
    }
}

impl Drop for Amqp<'_> {
    /// Another replica may count the rejected messages from now on.
    fn drop(&mut self) {
        if let Some(queue) = self.config.queue.as_ref().filter(|_| self.here.is_some() && self.count_rejected.is_some())
        {
            self.metrics.sink().set_rejected(&arguments::rejected(queue), None);
        }
    }
}

impl Amqp<'_> {
    /// Fails if the shard is no longer assigned to this replica.
    fn require_shard(&self) -> Result<(), SessionError> {
        if self.here.as_ref().is_some_and(|here| !here.is_held()) { Err(SessionError::Elsewhere) } else { Ok(()) }
    }

    fn ended_by(&self, failure: SessionError) -> SessionError {
        match &self.here {
            None => failure,
            Some(here) => here.failed(&self.link, failure),
        }
    }

    /// Counts the messages in the queue of rejected ones, now and then. If there is none, or it is forbidden, it is not asked for
    /// again in this session: each time would be an error in the broker's log.
    fn count_rejected(&mut self) {
        let Some(queue) =
            self.config.queue.as_ref().filter(|_| self.count_rejected.is_some_and(|due| due <= Instant::now()))
        else {
            return;
        };
        let depth = self.link.rejected(self.config).ok().flatten();
        self.metrics.sink().set_rejected(&arguments::rejected(queue), depth);
        self.count_rejected = depth.map(|_| Instant::now() + REJECTED_INTERVAL);
    }

    fn prove(&mut self) -> Result<(), SessionError> {
        let proved =
            self.link.await_answer(connection::prove_ownership(self.channels.shared(&self.link)?, &self.owner_queue));
        proved.inspect_err(|failure| self.abandon_unless_owned(failure))
    }

    /// A publish in flight must not outlive the ownership, which ends with the connection.
    fn abandon_unless_owned(&self, failure: &SessionError) {
        if !matches!(failure, SessionError::Owned(_)) {
            self.link.abandon(failure);
        }
    }

    fn store_each(&mut self, jobs: &mut Vec<Job>) -> Result<(), SessionError> {
        let kept = jobs.extract_if(.., |job| job.kept.is_some()).filter_map(|job| job.kept.map(|reason| (job, reason)));
        for (job, reason) in kept.collect::<Vec<_>>() {
            self.dead_lettered(job, reason, DIRECTORY);
        }
        let too_large = |job: &mut Job| job.action() != Action::Prove && self.channels.is_too_large(job.notification());
        for job in jobs.extract_if(.., too_large).collect::<Vec<_>>() {
            self.dead_letter(job, Reason::TooLarge);
        }
        let mut malformed = extract_malformed(jobs);
        let published = self.publish_dead_letters(&mut malformed, Reason::Malformed);
        jobs.append(&mut malformed);
        published?;
        self.publish_and_answer(jobs)?;
        if !jobs.is_empty() && self.config.declare {
            // The topology may have been deleted since it was declared.
            self.link.prepare(self.config, self.reported)?;
            self.publish_and_answer(jobs)?;
        }
        match self.config.on_unroutable {
            OnUnroutable::DeadLetter => self.publish_dead_letters(jobs, Reason::Unroutable),
            OnUnroutable::Wait => {
                let exchange = &self.config.exchange;
                let cause = format!("no queue takes it: bind one to the exchange {exchange}");
                jobs.drain(..).for_each(|job| job.fail(SinkError::Refused(cause.clone())));
                Ok(())
            }
        }
    }

    /// Publishes the jobs and answers each. Unroutable ones stay in `jobs`.
    fn publish_and_answer(&mut self, jobs: &mut Vec<Job>) -> Result<(), SessionError> {
        let outcomes = self.publish(jobs, None)?;
        for (job, outcome) in std::mem::take(jobs).into_iter().zip(outcomes) {
            match outcome {
                Outcome::Stored(sequence) => self.stored(job, sequence),
                // If several queues are bound another one may have stored it.
                Outcome::Nacked => job.fail(SinkError::OutcomeUnknown(FULL.into())),
                Outcome::Unroutable => jobs.push(job),
                Outcome::TooLarge => self.dead_letter(job, Reason::TooLarge),
                Outcome::Refused(cause) => job.fail(SinkError::Refused(cause)),
            }
        }
        Ok(())
    }

    /// Publishes dead letters. Those that their queue does not accept are written to the folder.
    fn publish_dead_letters(&mut self, jobs: &mut Vec<Job>, reason: Reason) -> Result<(), SessionError> {
        let outcomes = self.publish(&mut *jobs, Some(reason))?;
        for (job, outcome) in jobs.drain(..).zip(outcomes) {
            match outcome {
                Outcome::Stored(_) => self.dead_lettered(job, reason, QUEUE),
                Outcome::Unroutable | Outcome::Nacked | Outcome::TooLarge | Outcome::Refused(_) => {
                    self.dead_letter(job, reason);
                }
            }
        }
        Ok(())
    }

    /// Has the notification written to the folder.
    fn dead_letter(&self, job: Job, reason: Reason) {
        let position = self.position(&job, Some(self.letter(job.notification(), reason, DIRECTORY)));
        job.keep_in(self.folder, position);
    }

    fn dead_lettered(&mut self, job: Job, reason: Reason, kept_in: &'static str) {
        let instance = job.notification().instance();
        self.sequences.insert(instance, self.next_sequence(instance));
        let letter = self.letter(job.notification(), reason, kept_in);
        self.limited(job).dead_lettered(None, letter);
    }

    fn stored(&mut self, job: Job, sequence: Option<u64>) {
        if let Some(sequence) = sequence {
            self.sequences.insert(job.notification().instance(), sequence);
        }
        self.limited(job).stored(None);
    }

    /// With `shards` above 1 another replica may hold the shard some time after the proof.
    fn limited(&self, job: Job) -> Job {
        if self.here.is_some() { job.only_until(self.proven + VALID) } else { job }
    }

    fn letter(&self, notification: &Notification, reason: Reason, kept_in: &'static str) -> DeadLetter {
        let routing_key = cloud_event::fill(&self.config.routing_key, notification);
        let destination = format!("{}/{routing_key}", self.config.exchange);
        DeadLetter { reason, destination, kept_in: kept_in.into() }
    }

    fn position(&self, job: &Job, dead_letter: Option<DeadLetter>) -> Position {
        let marked = job.action() == Action::Publish { marked: true };
        Position {
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
