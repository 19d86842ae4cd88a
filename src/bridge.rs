//! The way of a notification, from the head of its queue into the sink and out of the queue.

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::condition::Condition;
use crate::doubt::Memory;
use crate::doubt::{Deleted, Doubt, Verdict};
use crate::fault;
use crate::green_api::{Problem, Queue, Received};
use crate::metrics::{self, InstanceMetrics, Outcome};
use crate::monitor::Monitor;
use crate::notification::Notification;
use crate::sink::{Lane, Pending, Sink, SinkError, Stored};
use crate::unreadable::Unreadable;

/// Two empty answers, or an empty one and the next request, are at least this far apart: a server
/// may answer empty at once instead of waiting.
const EMPTY_PACE: Duration = Duration::from_secs(1);
/// How often something that takes long is looked at.
const WORRY: Duration = Duration::from_secs(10);
/// An overlapped receive follows its delete after this long, so that the queue has the delete first.
const HEAD_START: Duration = Duration::from_millis(1);
/// So many more stale heads than useful ones turn overlapping off.
const STALE_LIMIT: u8 = 10;

/// One instance: its queue, and what is known of it.
pub struct Bridge<'a> {
    queue: Queue,
    sink: &'a dyn Sink,
    stop: &'a CancellationToken,
    monitor: Monitor,
    unreadable: Unreadable,
    /// Counts stale heads up and useful ones down; at the limit nothing overlaps until a restart.
    stale: u8,
}

impl<'a> Bridge<'a> {
    /// The bridge from this queue into this sink, until `stop`.
    #[must_use]
    pub fn new(queue: Queue, sink: &'a dyn Sink, stop: &'a CancellationToken) -> Self {
        let monitor = Monitor::of(queue.instance());
        Self { queue, sink, stop, monitor, unreadable: Unreadable::default(), stale: 0 }
    }

    /// Receive → publish → delete, one notification after the other, until it is told to stop.
    /// Then nothing is half done: only a receive or a pause is cut short.
    ///
    /// Dropping it is like a crash: nothing is lost, and the last notification is in doubt.
    ///
    /// # Errors
    /// Only [`SinkError::Fenced`] and [`SinkError::Closed`]; everything else is waited out.
    pub async fn run(mut self) -> Result<(), SinkError> {
        let mut doubt = None::<Doubt>;
        while let Some(opened) = self.open().await {
            let (mut lane, memory) = opened?;
            let doubt = doubt.get_or_insert_with(|| Doubt::new(memory));
            doubt.reopened(memory);
            // Received while the delete before it was unanswered. It never outlives its lane.
            let mut overlapped = None;
            while let Some(head) = self.next_head(&mut *lane, overlapped.take()).await {
                let verdict = doubt.judge(head.fingerprint(), head.facts().has_identity);
                self.monitor.received(&head, verdict);
                let stored = match self.publish(&mut *lane, verdict, &head).await {
                    Ok(Some(stored)) => stored,
                    Ok(None) => continue,
                    Err(refusal @ (SinkError::Refused(_) | SinkError::NoRoom(_))) => {
                        // It is received again; until then its body takes no memory.
                        drop(head);
                        self.monitor.refused(&refusal);
                        sleep_unless(self.stop, self.monitor.pause()).await;
                        continue;
                    }
                    Err(SinkError::Renewed) => {
                        discarded();
                        break;
                    }
                    Err(SinkError::Reopen(cause)) => {
                        discarded();
                        self.monitor.status.publish_unknown.increase();
                        warn!(instance = %head.instance(), receipt = %head.receipt(), cause, "not stored, opening the sink again");
                        drop(head);
                        sleep_unless(self.stop, self.monitor.pause()).await;
                        break;
                    }
                    Err(end @ (SinkError::Fenced(_) | SinkError::Closed(_))) => return Err(end),
                };
                self.monitor.stored(&stored);
                doubt.stored(head.fingerprint(), stored.sequence());
                // Its body may be large, and the next one wants room.
                drop(head);
                fault::reached("stored");
                overlapped = self.delete(&mut *lane, stored, doubt).await;
                if let Some(pause) = self.monitor.pause_after_repeat() {
                    sleep_unless(self.stop, pause).await;
                }
            }
            self.monitor.lane_ended();
        }
        Ok(())
    }

    /// A lane of the sink; waits for it. `None` when it is time to stop.
    async fn open(&mut self) -> Option<Result<(Box<dyn Lane>, Memory), SinkError>> {
        let opening = self.stop.run_until_cancelled(self.sink.open(self.queue.instance()));
        worrying(&mut self.monitor, opening).await
    }

    /// The head in hand, or else the head of the queue; waits for it. `None` when it is time to stop, or the lane has lost its
    /// ownership: whoever has it now polls this queue.
    async fn next_head(&mut self, lane: &mut dyn Lane, in_hand: Option<Notification>) -> Option<Notification> {
        self.queue.renew_connections();
        let head = match in_hand {
            None => until_lost(lane, pin!(self.poll())).await.flatten(),
            in_hand => in_hand,
        };
        head.filter(|_| !self.stop.is_cancelled())
    }

    /// Asks until there is a head. `None` when it is time to stop. Dropping it loses nothing: the queue keeps the head.
    async fn poll(&mut self) -> Option<Notification> {
        let mut head = None;
        while head.is_none() && !self.stop.is_cancelled() {
            let asked = Instant::now();
            self.monitor.asking();
            let answer = self.stop.run_until_cancelled(receive_once(&self.queue, &self.monitor.status)).await?;
            head = self.received(asked, answer).await;
        }
        head
    }

    /// What an answer brought, after the pause that it asks for.
    async fn received(&mut self, asked: Instant, answer: Result<Received, Problem>) -> Option<Notification> {
        match answer {
            Ok(Received::Head(head)) => {
                self.unreadable.ended();
                return Some(head);
            }
            Ok(Received::NoBody(rest, _)) if self.unreadable.is_conclusive(rest.fingerprint()) => return Some(rest),
            Ok(Received::Unreadable(problem)) => {
                let condition = self.unreadable.unreadable();
                self.wait_out(&problem.in_condition(condition)).await;
            }
            Ok(Received::Empty) => {
                self.unreadable.ended();
                let waiting = if self.monitor.take_count_turn() {
                    self.stop.run_until_cancelled(self.queue.waiting()).await.and_then(Result::ok)
                } else {
                    None
                };
                self.monitor.empty(waiting);
                sleep_unless(self.stop, EMPTY_PACE.saturating_sub(asked.elapsed())).await;
            }
            Ok(Received::NoBody(_, problem)) | Err(problem) => self.wait_out(&problem).await,
        }
        None
    }

    /// What is to be done with the head before its delete; `None` when that is not to be sent.
    async fn publish(
        &mut self,
        lane: &mut dyn Lane,
        verdict: Verdict,
        head: &Notification,
    ) -> Result<Option<Stored>, SinkError> {
        match verdict {
            Verdict::Publish { marked } => {
                let stored = worrying(&mut self.monitor, lane.publish(Pending::new(head), marked)).await?;
                self.monitor.published(head, &stored);
                Ok(Some(stored))
            }
            Verdict::DeleteOnly { was_confirmed } => {
                self.monitor.status.redelivered.increase();
                info!(instance = %head.instance(), receipt = %head.receipt(), was_confirmed, "delivered again, already stored: only deleting");
                let stored = worrying(&mut self.monitor, lane.already_stored(Pending::new(head))).await?;
                if was_confirmed {
                    self.monitor.redelivered();
                }
                Ok(Some(stored))
            }
            Verdict::ReceiveAgain { receives } => {
                sleep_unless(self.stop, Duration::from_secs(receives.into())).await;
                Ok(None)
            }
        }
    }

    /// Sends the delete once, and meanwhile the next receive if it may; the head that this brought,
    /// if it is to be kept. Whatever is not a confirmation leaves the notification in doubt.
    async fn delete(&mut self, lane: &mut dyn Lane, stored: Stored, doubt: &mut Doubt) -> Option<Notification> {
        let asked = Instant::now();
        if stored.valid_until().is_some_and(|until| until <= asked) {
            info!(instance = %stored.instance(), receipt = %stored.receipt(), "too late to delete under this ownership: receiving again");
            doubt.deleted(Deleted::Unconfirmed);
            return None;
        }
        self.monitor.status.asked.set_to_now();
        let is_redelivery = !doubt.may_overlap();
        let (answer, next) = if is_redelivery || self.stale == STALE_LIMIT || self.monitor.is_slow() {
            let answer = delete_once(&self.queue, stored).await;
            if is_confirmed(&answer) {
                self.monitor.confirmed();
            }
            (answer, None)
        } else {
            let status = Arc::clone(&self.monitor.status);
            let delete = pin!(delete_once(&self.queue, stored));
            let receive = pin!(self.stop.run_until_cancelled(receive_once(&self.queue, &status)));
            let receive = pin!(until_lost(lane, receive));
            let (answer, next) = delete_and_receive(delete, receive, || self.monitor.confirmed()).await;
            (answer, next.flatten())
        };
        let was_answered = answer.is_ok();
        let answer = match answer {
            Ok(answer) => {
                self.monitor.deleted(answer, is_redelivery);
                if answer == Deleted::Unconfirmed {
                    sleep_unless(self.stop, self.monitor.pause()).await;
                }
                answer
            }
            Err(problem) => {
                self.monitor.lost_sight();
                self.wait_out(&problem).await;
                Deleted::Unconfirmed
            }
        };
        let mut head = None;
        if let Some(received) = next {
            head = self.received(asked, received).await;
            head = head.filter(|head| self.accept_overlapped(head, doubt, was_answered));
        }
        doubt.deleted(answer);
        head
    }

    /// Whether to keep the head of an overlapped receive. A stale one, beside a delete that was
    /// answered, gained nothing: where that is the rule, one thing is asked at a time.
    fn accept_overlapped(&mut self, head: &Notification, doubt: &mut Doubt, answered: bool) -> bool {
        let keeps = doubt.accept_overlapped(head.fingerprint());
        if keeps {
            self.stale = self.stale.saturating_sub(1);
        } else if answered {
            self.stale += 1;
            if self.stale == STALE_LIMIT {
                info!(instance = %head.instance(), "the queue answers with stale heads: receiving only after the delete from now on");
            }
        }
        keeps
    }

    async fn wait_out(&mut self, problem: &Problem) {
        let pause = self.monitor.failed(problem);
        sleep_unless(self.stop, pause).await;
        if problem.condition == Condition::TokenRefused
            && let Some(Err(error)) = self.stop.run_until_cancelled(self.queue.read_token_again()).await
        {
            warn!(instance = %self.queue.instance(), %error, "the token cannot be read again");
        }
    }
}

/// Waits for the sink as long as it takes; meanwhile nobody looks at the queue.
async fn worrying<T>(monitor: &mut Monitor, waiting: impl Future<Output = T>) -> T {
    let mut waiting = pin!(waiting);
    loop {
        if let Ok(done) = timeout(WORRY, &mut waiting).await {
            return done;
        }
        monitor.kept_from_looking(metrics::the_sink().is_some_and(|sink| sink.stands_by(monitor.instance())));
    }
}

/// A head was received under an ownership that has ended; it is received again, by whoever has the next.
fn discarded() {
    if let Some(sink) = metrics::the_sink() {
        sink.heads_discarded.increase();
    }
}

/// `None` when the lane loses its ownership first.
async fn until_lost<T>(lane: &mut dyn Lane, waiting: Pin<&mut impl Future<Output = T>>) -> Option<T> {
    tokio::select! {
        biased;
        () = lane.lost() => None,
        done = waiting => Some(done),
    }
}

/// Asks once, and counts what came of it.
async fn receive_once(queue: &Queue, status: &InstanceMetrics) -> Result<Received, Problem> {
    let asked = Instant::now();
    let answer = queue.receive().await;
    let outcome = match &answer {
        Ok(Received::Head(_)) => Outcome::Notification,
        Ok(Received::Empty) => Outcome::Empty,
        Ok(Received::NoBody(..) | Received::Unreadable(_)) | Err(_) => Outcome::Error,
    };
    status.polled(outcome, asked.elapsed());
    answer
}

async fn delete_once(queue: &Queue, stored: Stored) -> Result<Deleted, Problem> {
    fault::reached("deleting");
    let answer = queue.delete(stored).await;
    fault::reached("deleted");
    answer
}

/// Sends a delete and, a moment later, the next receive. That goes on when the delete is confirmed:
/// then it waits for the next notification, for long maybe. Otherwise it is given up, if it has brought nothing yet.
async fn delete_and_receive<T>(
    mut delete: Pin<&mut impl Future<Output = Result<Deleted, Problem>>>,
    receive: Pin<&mut impl Future<Output = Option<T>>>,
    confirmed: impl FnOnce(),
) -> (Result<Deleted, Problem>, Option<T>) {
    let mut receive = pin!(async {
        sleep(HEAD_START).await;
        receive.await
    });
    tokio::select! {
        biased;
        answer = &mut delete => {
            if is_confirmed(&answer) {
                confirmed();
                (answer, receive.await)
            } else {
                (answer, None)
            }
        }
        next = &mut receive => {
            let answer = delete.await;
            if is_confirmed(&answer) {
                confirmed();
            }
            (answer, next)
        }
    }
}

fn is_confirmed(answer: &Result<Deleted, Problem>) -> bool {
    matches!(answer, Ok(Deleted::Confirmed))
}

async fn sleep_unless(stop: &CancellationToken, pause: Duration) {
    // Either way it is time to go on.
    let _slept_or_stopped = stop.run_until_cancelled(sleep(pause)).await;
}
