//! All instances of a process, from start to stop, each in a task of its own so that none disturbs another.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::{interval, sleep};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::backoff::Backoff;
use crate::bridge::Bridge;
use crate::green_api::Queue;
use crate::metrics::Metrics;
use crate::notification::InstanceId;
use crate::sink::{Sink, SinkError};

/// How long a publish or a delete in progress may take after a stop was requested.
const GRACE: Duration = Duration::from_secs(4);
/// The interval between the starts of instances, so that thousands do not connect, and later poll, at the same moment.
const SPACING: Duration = Duration::from_millis(1);

/// How often the fleet shows that it is alive.
const BEAT: Duration = Duration::from_secs(5);

/// A change of the fleet.
#[derive(Debug)]
pub enum Change {
    /// Starts a bridge for this queue, after the one of the same instance, if there is one, has stopped.
    Run(Box<Queue>),
    /// Stops the bridge of this instance.
    Stop(InstanceId),
}

/// Runs a bridge for each queue and for those from `changes` until `stop`, then waits at most 4 seconds for what is in
/// progress. What is cut off after that is as safe as in a crash.
///
/// # Errors
/// The first [`SinkError::Fenced`] or [`SinkError::Closed`]; all bridges have stopped by then.
pub async fn run(
    queues: Vec<Queue>,
    mut changes: mpsc::Receiver<Change>,
    sink: Arc<dyn Sink>,
    metrics: Metrics,
    stop: CancellationToken,
) -> Result<(), SinkError> {
    if queues.is_empty() {
        warn!(event = "no_instances", "there is no instance to run yet: waiting for one");
    }
    let mut fleet = Fleet {
        sink,
        metrics,
        stop: stop.clone(),
        tasks: JoinSet::new(),
        ids: HashMap::new(),
        members: HashMap::new(),
    };
    for (number, queue) in (0..).zip(queues) {
        fleet.start(queue, SPACING * number);
    }
    let mut end = Ok(());
    let mut beat = interval(BEAT);
    while !stop.is_cancelled() {
        tokio::select! {
            () = stop.cancelled() => {}
            _ = beat.tick() => fleet.metrics.beat(),
            Some(change) = changes.recv() => fleet.change(change),
            Some(ended) = fleet.tasks.join_next_with_id() => end = fleet.ended(ended),
        }
        if end.is_err() {
            stop.cancel();
        }
    }
    let ended = async {
        while let Some(ended) = fleet.tasks.join_next_with_id().await {
            let ended = fleet.ended(ended);
            end = std::mem::replace(&mut end, Ok(())).and(ended);
        }
    };
    if tokio::time::timeout(GRACE, ended).await.is_err() {
        warn!(
            event = "shutdown_timed_out",
            "shutdown timed out after 4 s; unfinished notifications will be re-checked at the next start"
        );
    }
    end
}

struct Fleet {
    sink: Arc<dyn Sink>,
    metrics: Metrics,
    stop: CancellationToken,
    tasks: JoinSet<Result<(), SinkError>>,
    ids: HashMap<Id, InstanceId>,
    members: HashMap<InstanceId, Member>,
}

struct Member {
    stop: CancellationToken,
    backoff: Backoff,
    /// To restart the bridge after a panic.
    queue: Queue,
    /// What to do when this bridge has ended.
    next: Next,
}

enum Next {
    Again,
    Replace(Box<Queue>),
    Nothing,
}

impl Fleet {
    fn start(&mut self, queue: Queue, after: Duration) {
        let stop = self.stop.child_token();
        let member = Member { stop, backoff: Backoff::new(), queue, next: Next::Again };
        self.spawn(member, after);
    }

    /// Starts one that was added later, which is logged.
    fn add(&mut self, queue: Queue) {
        info!(event = "instance_started", instance = %queue.instance(), "starting");
        self.start(queue, Duration::ZERO);
    }

    fn spawn(&mut self, member: Member, after: Duration) {
        let (sink, metrics) = (Arc::clone(&self.sink), self.metrics.clone());
        let (stop, queue) = (member.stop.clone(), member.queue.clone());
        let instance = queue.instance();
        let task = self.tasks.spawn(async move {
            if stop.run_until_cancelled(sleep(after)).await.is_some() {
                Bridge::new(queue, &*sink, &metrics, &stop).run().await?;
            }
            Ok(())
        });
        self.ids.insert(task.id(), instance);
        self.members.insert(instance, member);
    }

    fn change(&mut self, change: Change) {
        let (instance, next) = match change {
            Change::Run(queue) => (queue.instance(), Next::Replace(queue)),
            Change::Stop(instance) => (instance, Next::Nothing),
        };
        match (self.members.get_mut(&instance), next) {
            (Some(member), next) => {
                member.next = next;
                member.stop.cancel();
            }
            (None, Next::Replace(queue)) => self.add(*queue),
            (None, Next::Again | Next::Nothing) => {}
        }
    }

    /// A bridge ended: in order, by a panic, or because the sink ends the fleet.
    fn ended(&mut self, ended: Result<(Id, Result<(), SinkError>), JoinError>) -> Result<(), SinkError> {
        let (id, outcome) = match ended {
            Ok((id, outcome)) => (id, Ok(outcome)),
            Err(panic) => (panic.id(), Err(panic)),
        };
        let Some(mut member) = self.ids.remove(&id).and_then(|instance| self.members.remove(&instance)) else {
            return Ok(());
        };
        let instance = member.queue.instance();
        let panicked = match outcome {
            Ok(outcome) => outcome.map(|()| false)?,
            Err(panic) => {
                self.metrics.panicked();
                // The text of a panic may quote a notification.
                let panicked = panic.is_panic();
                error!(
                    event = "bridge_panicked",
                    %instance, panicked,
                    "a bridge ended unexpectedly: it is started again; this is a defect, please report it"
                );
                true
            }
        };
        if self.stop.is_cancelled() {
            return Ok(());
        }
        match std::mem::replace(&mut member.next, Next::Again) {
            Next::Again if panicked => {
                let pause = member.backoff.after_failure();
                self.spawn(member, pause);
            }
            // It stopped because this fleet stopped it.
            Next::Again | Next::Nothing => info!(event = "instance_stopped", %instance, "stopped"),
            Next::Replace(queue) => self.add(*queue),
        }
        Ok(())
    }
}
