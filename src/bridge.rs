//! The path of a notification: received from the head of its queue, published to the sink, deleted from the queue.

use std::pin::{Pin, pin};
use std::time::{Duration, Instant};

use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::account::AccountState;
use crate::condition::Condition;
use crate::doubt::{Deleted, Doubt, Memory, Verdict};
use crate::error::Chain;
use crate::fault;
use crate::green_api::{Problem, Queue, Received};
use crate::metrics::{Metrics, Outcome, Recorder};
use crate::monitor::Monitor;
use crate::notification::Notification;
use crate::overlap::{self, Overlap};
use crate::sink::{Lane, Pending, Sink, SinkError, Stored};
use crate::unreadable::Unreadable;

/// The minimum interval between a request that is answered empty and the next one: a server may answer at once instead of
/// waiting for a notification.
const EMPTY_POLL_INTERVAL: Duration = Duration::from_secs(1);
/// How often a wait for the sink is reported to the monitor.
const SINK_CHECK_INTERVAL: Duration = Duration::from_secs(10);
/// How long to wait for the state of the account, while nothing is received.
const STATE_TIMEOUT: Duration = Duration::from_secs(5);

/// The bridge of one instance.
pub struct Bridge<'a> {
    queue: Queue,
    sink: &'a dyn Sink,
    stop: &'a CancellationToken,
    metrics: Recorder,
    monitor: Monitor,
    unreadable: Unreadable,
    overlap: Overlap,
}

/// The outcome of the publish step.
enum Published {
    /// The sink has stored the head, so it can be deleted.
    Stored(Stored),
    /// It is neither stored nor to be deleted now: receive again.
    ReceiveAgain,
    /// The ownership under which it was received has ended: reopen the lane.
    LaneLost,
}

impl<'a> Bridge<'a> {
    /// A bridge from this queue to this sink that runs until `stop`.
    #[must_use]
    pub fn new(queue: Queue, sink: &'a dyn Sink, metrics: &Metrics, stop: &'a CancellationToken) -> Self {
        let metrics = metrics.of_instance(queue.instance());
        let monitor = Monitor::new(queue.instance(), metrics.clone());
        Self { queue, sink, stop, metrics, monitor, unreadable: Unreadable::default(), overlap: Overlap::default() }
    }

    /// Processes notifications one at a time until it is stopped. A stop interrupts only a receive or a pause, never a
    /// publish or a delete.
    ///
    /// Dropping the future is like a crash: nothing is lost, and the last notification is in doubt.
    ///
    /// # Errors
    /// Only [`SinkError::Fenced`] and [`SinkError::Closed`]; everything else is retried.
    pub async fn run(&mut self) -> Result<(), SinkError> {
        let mut doubt = None::<Doubt>;
        while let Some(opened) = self.open().await {
            let (mut lane, memory) = opened?;
            let doubt = doubt.get_or_insert_with(|| Doubt::new(memory));
            doubt.reopened(memory);
            self.carry(&mut *lane, doubt).await?;
            self.monitor.lane_ended();
        }
        Ok(())
    }

    /// Receive → publish → delete, in a loop until the lane is lost or the bridge is stopped.
    async fn carry(&mut self, lane: &mut dyn Lane, doubt: &mut Doubt) -> Result<(), SinkError> {
        // A head that was received while the previous delete was unanswered. It never outlives its lane.
        let mut next = None;
        while let Some(head) = self.receive(lane, next.take()).await {
            match self.publish(lane, doubt, head).await? {
                Published::Stored(stored) => next = self.delete(lane, doubt, stored).await,
                Published::ReceiveAgain => continue,
                Published::LaneLost => break,
            }
            if let Some(pause) = self.monitor.pause_after_repeat() {
                sleep_unless(self.stop, pause).await;
            }
        }
        Ok(())
    }

    /// Waits for a lane of the sink. `None` when the bridge is stopped.
    async fn open(&mut self) -> Option<Result<(Box<dyn Lane>, Memory), SinkError>> {
        let opening = self.stop.run_until_cancelled(self.sink.open(self.queue.instance()));
        monitored(&mut self.monitor, opening).await
    }

    /// Waits for the head of the queue, unless one is in hand. `None` when the bridge is stopped or the lane has lost its
    /// ownership: the new owner polls this queue.
    async fn receive(&mut self, lane: &mut dyn Lane, in_hand: Option<Notification>) -> Option<Notification> {
        let head = match in_hand {
            None => until_lost(lane, pin!(self.poll())).await.flatten(),
            in_hand => in_hand,
        };
        head.filter(|_| !self.stop.is_cancelled())
    }

    /// Stores the head in the sink or, if it was stored before, proves the ownership that its delete requires.
    async fn publish(
        &mut self,
        lane: &mut dyn Lane,
        doubt: &mut Doubt,
        head: Notification,
    ) -> Result<Published, SinkError> {
        let verdict = doubt.judge(head.fingerprint(), head.facts().has_identity);
        self.monitor.received(&head, verdict);
        let storing = match verdict {
            Verdict::Publish { marked } => lane.publish(Pending::new(&head), marked),
            Verdict::DeleteOnly { was_confirmed } => {
                info!(
                    event = "delivered_again",
                    instance = %head.instance(), receipt = %head.receipt(), was_confirmed,
                    "delivered again, already stored: only deleting"
                );
                lane.already_stored(Pending::new(&head))
            }
            Verdict::ReceiveAgain { receives } => {
                sleep_unless(self.stop, Duration::from_secs(receives.into())).await;
                return Ok(Published::ReceiveAgain);
            }
        };
        match monitored(&mut self.monitor, storing).await {
            Ok(stored) => {
                self.monitor.stored(&head, verdict, &stored);
                doubt.stored(head.fingerprint(), stored.sequence());
                // Frees the body, which may be large, before the next one is received.
                drop(head);
                fault::reached("stored");
                Ok(Published::Stored(stored))
            }
            Err(refusal @ (SinkError::Refused(_) | SinkError::DeadLetterFailed(_))) => {
                // It will be received again; until then its body takes no memory.
                drop(head);
                self.monitor.refused(&refusal);
                sleep_unless(self.stop, self.monitor.pause()).await;
                Ok(Published::ReceiveAgain)
            }
            Err(SinkError::OwnershipLost) => {
                self.monitor.discarded();
                Ok(Published::LaneLost)
            }
            Err(SinkError::OutcomeUnknown(cause)) => {
                self.monitor.discarded();
                self.metrics.publish_unknown.increase();
                warn!(
                    event = "outcome_unknown",
                    instance = %head.instance(), receipt = %head.receipt(), cause,
                    "publish outcome unknown; reopening the sink"
                );
                drop(head);
                sleep_unless(self.stop, self.monitor.pause()).await;
                Ok(Published::LaneLost)
            }
            Err(end @ (SinkError::Fenced(_) | SinkError::Closed(_))) => Err(end),
        }
    }

    /// Sends the delete once, concurrently with the next receive if that is allowed; returns the head of that receive if it is to
    /// be kept. Without a confirmation the notification is in doubt.
    async fn delete(&mut self, lane: &mut dyn Lane, doubt: &mut Doubt, stored: Stored) -> Option<Notification> {
        let asked = Instant::now();
        if stored.valid_until().is_some_and(|until| until <= asked) {
            info!(
                event = "delete_too_late",
                instance = %stored.instance(), receipt = %stored.receipt(),
                "too late to delete under this ownership: receiving again"
            );
            doubt.deleted(Deleted::Unconfirmed);
            return None;
        }
        self.metrics.asked.set_to_now();
        let is_first = doubt.may_overlap();
        let overlaps = is_first && self.overlap.is_useful() && !self.monitor.is_slow();
        let (answer, next) = {
            // Pinned here and passed by reference: a future that is moved into another is stored twice in the task.
            let delete = pin!(delete_once(&self.queue, &mut self.monitor, stored, is_first));
            if overlaps {
                let receive = pin!(self.stop.run_until_cancelled(receive_once(&self.queue, &self.metrics)));
                let receive = pin!(until_lost(lane, receive));
                overlap::delete_and_receive(delete, receive).await
            } else {
                (delete.await, None)
            }
        };
        let was_answered = answer.is_ok();
        let answer = match answer {
            Ok(Deleted::Confirmed) => Deleted::Confirmed,
            Ok(Deleted::Unconfirmed) => {
                sleep_unless(self.stop, self.monitor.pause()).await;
                Deleted::Unconfirmed
            }
            Err(problem) => {
                self.pause_after(&problem).await;
                Deleted::Unconfirmed
            }
        };
        let mut head = None;
        if let Some(next) = next.flatten() {
            head = self.received(asked, next).await;
            head = head.filter(|head| self.overlap.accept(doubt, head, was_answered));
        }
        doubt.deleted(answer);
        head
    }

    /// Polls until there is a head. `None` when the bridge is stopped. Cancel safe: the queue keeps the head.
    async fn poll(&mut self) -> Option<Notification> {
        let mut head = None;
        while head.is_none() && !self.stop.is_cancelled() {
            self.ask_for_state().await;
            let asked = Instant::now();
            self.monitor.asking();
            let answer = self.stop.run_until_cancelled(receive_once(&self.queue, &self.metrics)).await?;
            head = self.received(asked, answer).await;
        }
        head
    }

    /// Asks for the state of the account, if it is time to. Without an answer nothing changes.
    async fn ask_for_state(&mut self) {
        if self.monitor.take_state_turn() {
            let asking = timeout(STATE_TIMEOUT, self.queue.state());
            if let Some(Ok(Ok(state))) = self.stop.run_until_cancelled(asking).await {
                self.monitor.account(AccountState::named(&state));
            }
        }
    }

    /// Handles the answer to a receive: returns its head, or pauses as the answer requires.
    async fn received(&mut self, asked: Instant, answer: Result<Received, Problem>) -> Option<Notification> {
        match answer {
            Ok(Received::Head(head)) => {
                self.unreadable.ended();
                return Some(head);
            }
            Ok(Received::NoBody(rest, _)) if self.unreadable.is_conclusive(rest.fingerprint()) => return Some(rest),
            Ok(Received::Unreadable(problem)) => {
                let condition = self.unreadable.unreadable();
                self.pause_after(&problem.in_condition(condition)).await;
            }
            Ok(Received::Empty) => {
                self.unreadable.ended();
                let waiting = if self.monitor.take_count_turn() {
                    self.stop.run_until_cancelled(self.queue.waiting()).await.and_then(Result::ok)
                } else {
                    None
                };
                self.monitor.empty(waiting);
                sleep_unless(self.stop, EMPTY_POLL_INTERVAL.saturating_sub(asked.elapsed())).await;
            }
            Ok(Received::NoBody(_, problem)) | Err(problem) => self.pause_after(&problem).await,
        }
        None
    }

    async fn pause_after(&mut self, problem: &Problem) {
        let pause = self.monitor.failed(problem);
        sleep_unless(self.stop, pause).await;
        if problem.condition == Condition::TokenRefused
            && let Some(Err(error)) = self.stop.run_until_cancelled(self.queue.read_token_again()).await
        {
            warn!(
                event = "token_unreadable",
                instance = %self.queue.instance(), error = %Chain(&error),
                "the token cannot be read again"
            );
        }
    }
}

/// Waits for the sink as long as it takes, and reports to the monitor that the queue is not polled meanwhile.
async fn monitored<T>(monitor: &mut Monitor, waiting: impl Future<Output = T>) -> T {
    let mut waiting = pin!(waiting);
    loop {
        if let Ok(done) = timeout(SINK_CHECK_INTERVAL, &mut waiting).await {
            return done;
        }
        monitor.waiting_for_sink();
    }
}

/// `None` if the lane loses its ownership first.
async fn until_lost<T>(lane: &mut dyn Lane, waiting: Pin<&mut impl Future<Output = T>>) -> Option<T> {
    tokio::select! {
        biased;
        () = lane.lost() => None,
        done = waiting => Some(done),
    }
}

/// Sends one receive and counts its outcome.
async fn receive_once(queue: &Queue, metrics: &Recorder) -> Result<Received, Problem> {
    let asked = Instant::now();
    let answer = queue.receive().await;
    let outcome = match &answer {
        Ok(Received::Head(_)) => Outcome::Notification,
        Ok(Received::Empty) => Outcome::Empty,
        Ok(Received::NoBody(..) | Received::Unreadable(_)) | Err(_) => Outcome::Error,
    };
    metrics.polled(outcome, asked.elapsed());
    answer
}

/// Sends one delete and reports its outcome at once, because an overlapped receive may take long.
async fn delete_once(queue: &Queue, monitor: &mut Monitor, stored: Stored, is_first: bool) -> Result<Deleted, Problem> {
    fault::reached("deleting");
    let answer = queue.delete(stored).await;
    fault::reached("deleted");
    monitor.deleted(answer.as_ref().ok().copied(), is_first);
    answer
}

async fn sleep_unless(stop: &CancellationToken, pause: Duration) {
    // Both outcomes mean the same to the caller.
    let _slept_or_stopped = stop.run_until_cancelled(sleep(pause)).await;
}
