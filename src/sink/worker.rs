//! The engine of the built-in sinks, usable for others as well: a dedicated thread holds ownership and stores. Lanes submit their
//! notifications to it, and those that wait while it stores become the next group.
//!
//! It is a thread because the Kafka client and files block.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::thread;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use super::cloud_event::Position;
use super::dead_letter::Folder;
use super::requests::{Ownership, Request, Requests};
use super::session::{Acquire, Action, Answer, Job, Session, SessionError, Shard};
use super::shard_watch::ShardWatch;
use super::{Lane, Pending, Reason, Sink, SinkError, Stored};
use crate::backoff::Backoff;
use crate::condition::{Condition, Conditions};
use crate::doubt::Memory;
use crate::metrics::{Metrics, ShardStatus, SinkMetrics};
use crate::notification::InstanceId;

/// Maximum number of notifications in a group.
const GROUP: usize = 500;

/// How often a thread checks whether its shard was assigned to this replica.
const STAND_BY_PAUSE: Duration = Duration::from_millis(50);

/// A [`Sink`] that runs sessions, one at a time per shard.
pub struct Worker {
    metrics: Metrics,
    /// By shard.
    requests: Vec<mpsc::UnboundedSender<Request>>,
}

impl Worker {
    /// Starts the thread, which begins at once to take an ownership of the shard, again and again as
    /// long as it takes. It ends when the sink and all its lanes are gone. The thread's name is that of the sink in `metrics`.
    ///
    /// # Errors
    /// When no thread can be started.
    ///
    /// # Panics
    /// Outside a Tokio runtime.
    pub fn start(metrics: &Metrics, acquire: impl Acquire + Send + 'static) -> std::io::Result<Self> {
        Self::start_each(metrics, [acquire])
    }

    /// As [`start`](Self::start), with a thread for each of several shards, in their order.
    ///
    /// # Errors
    /// When no thread can be started.
    ///
    /// # Panics
    /// Outside a Tokio runtime.
    pub fn start_each(
        metrics: &Metrics,
        shards: impl IntoIterator<Item = impl Acquire + Send + 'static>,
    ) -> std::io::Result<Self> {
        let shards: Vec<_> = (0..).zip(shards).collect();
        let is_shared = shards.len() > 1;
        let start = |(shard, acquire)| {
            start(Shard::new(shard), acquire, metrics.clone(), metrics.sink().add_shard(), is_shared)
        };
        Ok(Self { metrics: metrics.clone(), requests: shards.into_iter().map(start).collect::<Result<_, _>>()? })
    }
}

impl Worker {
    /// For each shard a function that probes its session immediately, to be called when its ownership may have ended.
    #[must_use]
    pub fn probers(&self) -> Vec<Box<dyn Fn() + Send + Sync>> {
        let prober = |requests: &mpsc::UnboundedSender<Request>| -> Box<dyn Fn() + Send + Sync> {
            let requests = requests.downgrade();
            Box::new(move || {
                if let Some(requests) = requests.upgrade() {
                    // Fails only if the thread is gone.
                    drop(requests.send(Request::Probe));
                }
            })
        };
        self.requests.iter().map(prober).collect()
    }
}

/// Starts the thread of one shard.
fn start(
    shard: Shard,
    mut acquire: impl Acquire + Send + 'static,
    metrics: Metrics,
    status: Arc<ShardStatus>,
    is_shared: bool,
) -> std::io::Result<mpsc::UnboundedSender<Request>> {
    let (requests, mut waiting) = Requests::new();
    let gone = Gone(Arc::clone(&status));
    let name = format!("sink-{}", metrics.sink().name);
    thread::Builder::new().name(name).spawn(move || {
        let Gone(status) = &gone;
        if let Err(end) = serve(shard, &mut acquire, &mut waiting, metrics.sink(), status) {
            while let Some(request) = waiting.wait() {
                request.refuse(end.clone());
            }
        }
    })?;
    tokio::spawn(ShardWatch::new(shard, is_shared).watch_over(status, requests.downgrade()));
    Ok(requests)
}

/// Reports the sink as down when the thread ends, in whatever way.
struct Gone(Arc<ShardStatus>);

impl Drop for Gone {
    fn drop(&mut self) {
        self.0.up.store(false, Relaxed);
    }
}

/// Serves until all lanes are gone.
fn serve(
    shard: Shard,
    sessions: &mut impl Acquire,
    requests: &mut Requests,
    sink: &SinkMetrics,
    status: &ShardStatus,
) -> Result<(), SinkError> {
    let mut backoff = Backoff::new();
    // Set when a group could not be stored: taking ownership again does not prove that the next group can be.
    let mut doubtful = None::<Doubtful>;
    for number in 0.. {
        let mut session = loop {
            status.asks();
            let pause = match sessions.acquire(shard) {
                Ok(session) => break session,
                Err(SessionError::Elsewhere) => {
                    status.stand_by();
                    if !requests.stand_by() {
                        return Ok(());
                    }
                    STAND_BY_PAUSE
                }
                Err(failure) => {
                    status.failed();
                    pause_after(failure, &mut status.conditions(), &mut backoff)?
                }
            };
            thread::sleep(pause);
        };
        // Before the conditions are cleared, so that the watch does not raise them again.
        if let Some(took) = status.opened() {
            sink.opening_seconds.observe(took);
        }
        if doubtful.is_none() {
            status.conditions().leave_all();
        }
        status.conditions().leave(Condition::WaitingForOwnership);
        let ownership = Ownership { number, ended: CancellationToken::new() };
        let ends = ownership.ended.clone().drop_guard();
        let failure = loop {
            let Some((mut jobs, probe)) = gather(requests, &session, &ownership) else { return Ok(()) };
            if jobs.is_empty() && !probe {
                continue;
            }
            status.busy_since.set_to_now();
            let only_probes = jobs.is_empty();
            let stored = if only_probes { session.probe() } else { session.store(&mut jobs) };
            if matches!(stored, Err(SessionError::Elsewhere)) {
                status.left.increase();
                // Immediately: a shard held elsewhere does not affect readiness.
                status.stand_by();
            }
            status.up.store(matches!(stored, Ok(()) | Err(SessionError::Renew(_))), Relaxed);
            status.busy_since.set(0);
            if let Err(failure) = stored {
                // Answered jobs are stored, whatever failed after them.
                doubtful = (!jobs.is_empty()).then_some(Doubtful { probes: 0 }).or(doubtful);
                for job in jobs {
                    job.fail(SinkError::OutcomeUnknown(failure.to_string()));
                }
                break failure;
            }
            if !only_probes {
                backoff = Backoff::new();
            }
            if doubtful.take_if(|doubtful| doubtful.is_over(only_probes)).is_some() {
                status.conditions().leave_all();
            }
        };
        drop(ends);
        drop(session);
        match failure {
            SessionError::Elsewhere => {}
            SessionError::Renew(_) => status.asks(),
            _ => status.failed(),
        }
        let pause = pause_after(failure, &mut status.conditions(), &mut backoff)?;
        thread::sleep(pause);
    }
    Ok(())
}

/// Counts successful probes after a failure to store.
struct Doubtful {
    probes: u32,
}

impl Doubtful {
    /// True after something was stored, or after several probes if there is nothing to store.
    fn is_over(&mut self, only_probed: bool) -> bool {
        self.probes += 1;
        !only_probed || self.probes >= 3
    }
}

/// Waits for a request, then takes all waiting ones: returns the jobs and whether to probe. Opens lanes on the way. `None` when
/// all lanes are gone.
fn gather(requests: &mut Requests, session: &impl Session, ownership: &Ownership) -> Option<(Vec<Job>, bool)> {
    let (mut jobs, mut instances, mut probe) = (Vec::<Job>::new(), HashSet::new(), false);
    let mut next = Some(requests.wait()?);
    while let Some(request) = next {
        // A second request of an instance follows a publish that was dropped. Its answer depends on this group, so it has to
        // wait.
        if request.instance().is_some_and(|instance| instances.contains(&instance)) {
            requests.put_back(request);
            break;
        }
        match request {
            Request::Probe => probe = true,
            Request::Open(instance, reply) => {
                drop(reply.send(Ok((ownership.clone(), session.memory(instance)))));
            }
            // A head may be published only under the ownership under which it was received.
            Request::Store(job) if job.ownership != ownership.number => {
                job.fail(SinkError::OwnershipLost);
            }
            Request::Store(job) => {
                instances.insert(job.notification().instance());
                jobs.push(job);
            }
        }
        next = (jobs.len() < GROUP).then(|| requests.next()).flatten();
    }
    Some((jobs, probe))
}

fn pause_after(
    failure: SessionError,
    conditions: &mut Conditions,
    backoff: &mut Backoff,
) -> Result<Duration, SinkError> {
    match failure {
        SessionError::Renew(cause) => {
            info!(event = "sink_reopened", cause, "renewing the ownership of the sink");
            Ok(Duration::ZERO)
        }
        SessionError::Unavailable(cause) => {
            conditions.enter(Condition::SinkUnavailable, &cause);
            Ok(backoff.after_failure().min(Duration::from_secs(10)))
        }
        SessionError::Owned(cause) => {
            conditions.enter(Condition::WaitingForOwnership, &cause);
            Ok(Duration::from_secs(1))
        }
        SessionError::Elsewhere => Ok(Duration::ZERO),
        SessionError::Fenced(cause) => Err(SinkError::Fenced(cause)),
        SessionError::Closed(cause) => Err(SinkError::Closed(cause)),
    }
}

#[async_trait]
impl Sink for Worker {
    async fn open(&self, instance: InstanceId) -> Result<(Box<dyn Lane>, Memory), SinkError> {
        let (reply, answer) = oneshot::channel();
        let requests = Shard::of_instance(instance, &self.requests).cloned().ok_or_else(thread_ended)?;
        requests.send(Request::Open(instance, reply)).map_err(|_gone| thread_ended())?;
        let (ownership, memory) = answer.await.map_err(|_gone| thread_ended())??;
        // Thousands of lanes wait for it: a child token for each, because waiters of one token share a lock.
        let (metrics, lost) = (self.metrics.clone(), ownership.ended.child_token());
        let lane = OwnedLane { metrics, lost, ownership: ownership.number, requests };
        Ok((Box::new(lane), memory))
    }
}

struct OwnedLane {
    metrics: Metrics,
    ownership: u64,
    lost: CancellationToken,
    requests: mpsc::UnboundedSender<Request>,
}

impl OwnedLane {
    async fn ask(&self, mut pending: Pending, action: Action) -> Result<Stored, SinkError> {
        let begun = Instant::now();
        let mut kept = None;
        loop {
            let (reply, answer) = oneshot::channel();
            let job = Job { ownership: self.ownership, pending, action, kept, valid_until: None, reply };
            self.requests.send(Request::Store(job)).map_err(|_gone| thread_ended())?;
            match answer.await {
                Ok(Ok(Answer::Stored(stored))) => {
                    self.metrics.sink().publish_seconds.observe(begun.elapsed());
                    return Ok(stored);
                }
                Ok(Ok(Answer::Keep { pending: dead, folder, position })) => {
                    kept = position.dead_letter.as_ref().map(|letter| letter.reason);
                    pending = write_dead_letter(dead, folder, position).await?;
                }
                Ok(Err(error)) => return Err(error),
                Err(_) if self.requests.is_closed() => return Err(thread_ended()),
                Err(_) => {
                    return Err(SinkError::OutcomeUnknown("the session left a notification without an answer".into()));
                }
            }
        }
    }
}

/// Writes it on a blocking thread, so that other lanes are not delayed.
async fn write_dead_letter(pending: Pending, folder: Folder, position: Position) -> Result<Pending, SinkError> {
    let written = tokio::task::spawn_blocking(move || {
        let written = folder.write(pending.notification(), &position);
        let reason = position.dead_letter.map_or(Reason::Refused, |letter| letter.reason);
        written.map_err(|error| SinkError::DeadLetterFailed(format!("{reason}; dead_letter_dir {folder}: {error}")))?;
        Ok(pending)
    });
    written.await.unwrap_or_else(|_stopping| Err(SinkError::OwnershipLost))
}

#[async_trait]
impl Lane for OwnedLane {
    async fn publish(&mut self, pending: Pending, marked: bool) -> Result<Stored, SinkError> {
        self.ask(pending, Action::Publish { marked }).await
    }

    async fn already_stored(&mut self, pending: Pending) -> Result<Stored, SinkError> {
        self.ask(pending, Action::Prove).await
    }

    async fn lost(&mut self) {
        self.lost.cancelled().await;
    }
}

/// The thread ends only after its lanes, unless it panicked.
fn thread_ended() -> SinkError {
    error!(event = "sink_thread_ended", "the sink's thread ended: this is a defect, please report it");
    SinkError::Closed("its thread ended".into())
}

#[cfg(test)]
#[path = "worker_tests.rs"]
mod tests;
