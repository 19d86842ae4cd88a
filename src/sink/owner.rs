//! One thread owns a sink: its connection, its transaction, its ownership. The lanes hand it what
//! they want stored; whatever waits while it stores is stored together next.
//!
//! A thread of its own, because the clients of Kafka and of files block.

use std::sync::atomic::Ordering::Relaxed;
use std::thread;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use tokio::sync::{mpsc, oneshot};
use tracing::error;

use super::{Lane, Sink, SinkError, Stored};
use crate::condition::{Condition, Conditions};
use crate::doubt::Memory;
use crate::notification::{InstanceId, Notification};
use crate::pauses::Pauses;
use crate::status::{self, SinkStatus};

/// At most this many notifications are stored together.
const GROUP: usize = 500;

/// How often an idle sink is looked at.
const LOOK_SECS: u64 = 5;

/// Storage under one ownership.
pub(super) trait Owner {
    /// What is remembered of an instance.
    fn memory(&self, instance: InstanceId) -> Memory;

    /// Whether it can still store, asked now and then while there is nothing to store.
    fn look(&mut self) -> Result<(), Failure> {
        Ok(())
    }

    /// Stores all of them, at most one per instance, and answers each. Those left unanswered when
    /// it fails are told to reopen.
    fn store(&mut self, jobs: &mut Vec<Job>) -> Result<(), Failure>;
}

/// Why there is no ownership, or no longer.
#[derive(Debug)]
pub(super) enum Failure {
    /// To be tried again after a growing pause.
    Unavailable(String),
    /// Another bridge holds it; to be tried again every second.
    Owned(String),
    /// Another bridge took it: never to be tried again.
    #[cfg_attr(not(feature = "kafka"), expect(dead_code, reason = "only Kafka fences"))]
    Fenced(String),
    /// Nobody reads any more: never to be tried again.
    Closed(String),
}

/// One notification to store, and who waits for it.
#[derive(Debug)]
pub(super) struct Job {
    ownership: u64,
    notification: Notification,
    action: Action,
    reply: oneshot::Sender<Result<Stored, SinkError>>,
}

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// Store it.
    Publish { marked: bool },
    /// It is stored; prove that the ownership still stands.
    Prove,
}

impl Job {
    pub(super) fn notification(&self) -> &Notification {
        &self.notification
    }

    pub(super) fn action(&self) -> Action {
        self.action
    }

    /// Stored for good, at this place of a sequence that is remembered.
    pub(super) fn succeed(self, sequence: Option<u64>) {
        let stored = Stored::new(&self.notification, sequence);
        self.answer(Ok(stored));
    }

    /// Stored for good, as a dead letter.
    pub(super) fn bury(self, sequence: Option<u64>) {
        let stored = Stored { is_dead_letter: true, ..Stored::new(&self.notification, sequence) };
        self.answer(Ok(stored));
    }

    pub(super) fn fail(self, error: SinkError) {
        self.answer(Err(error));
    }

    fn answer(self, answer: Result<Stored, SinkError>) {
        // Nobody waits any more when the process stops; then there is nobody to tell.
        drop(self.reply.send(answer));
    }
}

/// Takes out what is to be published and is no valid JSON: it is kept as a dead letter.
#[cfg(any(feature = "kafka", feature = "amqp"))]
pub(super) fn extract_malformed(jobs: &mut Vec<Job>) -> Vec<Job> {
    jobs.extract_if(.., |job| job.action != Action::Prove && job.notification.is_malformed()).collect()
}

enum Request {
    Look,
    Open(InstanceId, oneshot::Sender<Result<(u64, Memory), SinkError>>),
    Store(Job),
}

/// The lanes' side of an owner.
pub(super) struct Client {
    status: &'static SinkStatus,
    requests: mpsc::UnboundedSender<Request>,
}

impl Client {
    /// Starts the owner's thread. `acquire` is called for every new ownership; the one before is
    /// gone by then.
    pub(super) fn start<O: Owner>(
        name: &'static str,
        mut acquire: impl FnMut() -> Result<O, Failure> + Send + 'static,
    ) -> std::io::Result<Self> {
        let (requests, mut waiting) = mpsc::unbounded_channel();
        let status = status::sink(name);
        thread::Builder::new().name(format!("sink-{name}")).spawn(move || {
            let _gone = Gone(status);
            let end = serve(&mut acquire, &mut waiting, status);
            if let Err(end) = end {
                while let Some(request) = waiting.blocking_recv() {
                    request.refuse(end.clone());
                }
            }
        })?;
        tokio::spawn(watch_over(status, requests.downgrade()));
        Ok(Self { status, requests })
    }
}

/// However the thread ends, the sink is down.
struct Gone(&'static SinkStatus);

impl Drop for Gone {
    fn drop(&mut self) {
        self.0.up.store(false, Relaxed);
    }
}

impl Request {
    fn refuse(self, error: SinkError) {
        match self {
            Self::Look => {}
            Self::Open(_, reply) => drop(reply.send(Err(error))),
            Self::Store(job) => job.fail(error),
        }
    }
}

/// Serves until all lanes are gone.
fn serve<O: Owner>(
    acquire: &mut impl FnMut() -> Result<O, Failure>,
    requests: &mut mpsc::UnboundedReceiver<Request>,
    status: &SinkStatus,
) -> Result<(), SinkError> {
    let mut pauses = Pauses::new();
    // Since a group could not be stored: taking ownership again does not show that the next one can be.
    let mut doubtful = None::<Doubtful>;
    for ownership in 0.. {
        let mut owner = loop {
            let pause = match acquire() {
                Ok(owner) => break owner,
                Err(failure) => pause_after(failure, &mut status.conditions(), &mut pauses)?,
            };
            thread::sleep(pause);
        };
        if doubtful.is_none() {
            status.conditions().leave_all();
        }
        status.conditions().leave(Condition::WaitingForOwnership);
        status.up.store(true, Relaxed);
        let failure = loop {
            let Some((mut jobs, look)) = gather(requests, &owner, ownership) else { return Ok(()) };
            if jobs.is_empty() && !look {
                continue;
            }
            status.busy_since.set_to_now();
            let only_looks = jobs.is_empty();
            let stored = if only_looks { owner.look() } else { owner.store(&mut jobs) };
            status.up.store(stored.is_ok(), Relaxed);
            status.busy_since.set(0);
            if let Err(failure) = stored {
                // What was answered is stored, whatever failed behind it.
                doubtful = (!jobs.is_empty()).then_some(Doubtful { looks: 0 }).or(doubtful);
                for job in jobs {
                    job.fail(SinkError::Reopen(failure.to_string()));
                }
                break failure;
            }
            if !only_looks {
                pauses = Pauses::new();
            }
            if doubtful.take_if(|doubtful| doubtful.is_over(only_looks)).is_some() {
                status.conditions().leave_all();
            }
        };
        drop(owner);
        let pause = pause_after(failure, &mut status.conditions(), &mut pauses)?;
        thread::sleep(pause);
    }
    Ok(())
}

/// How often in a row the sink was found well after a failure to store.
struct Doubtful {
    looks: u32,
}

impl Doubtful {
    /// After something was stored; or a while later, when nothing is left that would be.
    fn is_over(&mut self, only_looked: bool) -> bool {
        self.looks += 1;
        !only_looked || self.looks >= 3
    }
}

/// Waits for something to store, then takes all that waits, and whether to look. Opens lanes on the
/// way; `None` when all lanes are gone.
fn gather(
    requests: &mut mpsc::UnboundedReceiver<Request>,
    owner: &impl Owner,
    ownership: u64,
) -> Option<(Vec<Job>, bool)> {
    let (mut jobs, mut look) = (Vec::new(), false);
    let mut next = Some(requests.blocking_recv()?);
    while let Some(request) = next {
        match request {
            Request::Look => look = true,
            Request::Open(instance, reply) => drop(reply.send(Ok((ownership, owner.memory(instance))))),
            // A head may be published only under the ownership under which it was received.
            Request::Store(job) if job.ownership != ownership => {
                job.fail(SinkError::Renewed);
            }
            Request::Store(job) => jobs.push(job),
        }
        next = (jobs.len() < GROUP).then(|| requests.try_recv().ok()).flatten();
    }
    Some((jobs, look))
}

/// Says when the sink is stuck, and when it no longer is: its own thread is what is stuck then. And
/// has it look, because without notifications nobody would see that the broker is gone.
async fn watch_over(status: &'static SinkStatus, requests: mpsc::WeakUnboundedSender<Request>) {
    let mut every = tokio::time::interval(Duration::from_secs(1));
    let mut told = false;
    for second in 1_u64.. {
        every.tick().await;
        let Some(requests) = requests.upgrade() else { return };
        if second.is_multiple_of(LOOK_SECS) && status.up.load(Relaxed) && status.busy_since.get() == 0 {
            // Refused only when the thread is gone.
            drop(requests.send(Request::Look));
        }
        let mut conditions = status.conditions();
        if status.is_stuck() {
            if !conditions.contains(Condition::SinkUnavailable) {
                conditions.enter(Condition::SinkUnavailable, &"no answer for more than 10 s");
                told = true;
            }
        } else if std::mem::take(&mut told) && status.up.load(Relaxed) {
            conditions.leave(Condition::SinkUnavailable);
        }
    }
}

fn pause_after(failure: Failure, conditions: &mut Conditions, pauses: &mut Pauses) -> Result<Duration, SinkError> {
    match failure {
        Failure::Unavailable(cause) => {
            conditions.enter(Condition::SinkUnavailable, &cause);
            Ok(pauses.after_failure().min(Duration::from_secs(10)))
        }
        Failure::Owned(cause) => {
            conditions.enter(Condition::WaitingForOwnership, &cause);
            Ok(Duration::from_secs(1))
        }
        Failure::Fenced(cause) => Err(SinkError::Fenced(cause)),
        Failure::Closed(cause) => Err(SinkError::Closed(cause)),
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (Self::Unavailable(cause) | Self::Owned(cause) | Self::Fenced(cause) | Self::Closed(cause)) = self;
        formatter.write_str(cause)
    }
}

#[async_trait]
impl Sink for Client {
    async fn open(&self, instance: InstanceId) -> Result<(Box<dyn Lane>, Memory), SinkError> {
        let (reply, answer) = oneshot::channel();
        let requests = self.requests.clone();
        requests.send(Request::Open(instance, reply)).map_err(|_gone| thread_ended())?;
        let (ownership, memory) = answer.await.map_err(|_gone| thread_ended())??;
        Ok((Box::new(OwnedLane { status: self.status, ownership, requests }), memory))
    }
}

struct OwnedLane {
    status: &'static SinkStatus,
    ownership: u64,
    requests: mpsc::UnboundedSender<Request>,
}

impl OwnedLane {
    async fn ask(&self, notification: &Notification, action: Action) -> Result<Stored, SinkError> {
        let (reply, answer) = oneshot::channel();
        let begun = Instant::now();
        let job = Job { ownership: self.ownership, notification: notification.clone(), action, reply };
        self.requests.send(Request::Store(job)).map_err(|_gone| thread_ended())?;
        let stored = answer.await.map_err(|_gone| thread_ended())??;
        self.status.publish_seconds.observe(begun.elapsed());
        Ok(stored)
    }
}

#[async_trait]
impl Lane for OwnedLane {
    async fn publish(&mut self, notification: &Notification, marked: bool) -> Result<Stored, SinkError> {
        self.ask(notification, Action::Publish { marked }).await
    }

    async fn already_stored(&mut self, notification: &Notification) -> Result<Stored, SinkError> {
        self.ask(notification, Action::Prove).await
    }
}

/// The thread ends only after its lanes, unless it panicked.
fn thread_ended() -> SinkError {
    error!("the sink's thread ended: this is a defect, please report it");
    SinkError::Closed("its thread ended".into())
}
