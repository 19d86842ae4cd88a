//! The way of a notification, from the head of its queue into the sink and out of the queue.

use std::time::{Duration, Instant};

use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::condition::{Condition, Conditions};
use crate::doubt::{Deleted, Doubt, Verdict};
use crate::fault;
use crate::green_api::{Problem, Queue, Received};
use crate::notification::Notification;
use crate::pauses::Pauses;
use crate::sink::{Lane, Sink, SinkError, Stored};

/// Two empty answers, or an empty one and the next request, are at least this far apart: a server
/// may answer empty at once instead of waiting.
const EMPTY_PACE: Duration = Duration::from_secs(1);

/// One instance: its queue, and what is known of it.
pub struct Bridge<'a> {
    queue: Queue,
    sink: &'a dyn Sink,
    stop: &'a CancellationToken,
    conditions: Conditions,
    pauses: Pauses,
}

impl<'a> Bridge<'a> {
    /// The bridge from this queue into this sink, until `stop`.
    #[must_use]
    pub fn new(queue: Queue, sink: &'a dyn Sink, stop: &'a CancellationToken) -> Self {
        let conditions = Conditions::of(queue.instance());
        Self { queue, sink, stop, conditions, pauses: Pauses::new() }
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
        let mut last_head = None;
        while let Some(opened) = self.stop.run_until_cancelled(self.sink.open(self.queue.instance())).await {
            let (mut lane, memory) = opened?;
            let doubt = doubt.get_or_insert_with(|| Doubt::new(memory));
            doubt.reopened(memory);
            while let Some(head) = self.receive().await {
                if last_head.replace(head.fingerprint()) != Some(head.fingerprint()) {
                    // The queue moves on, whatever its answers to deletes say.
                    self.pauses = Pauses::new();
                }
                let stored = match self.publish(&mut *lane, doubt, &head).await {
                    Ok(stored) => stored,
                    Err(SinkError::Refused(cause)) => {
                        self.pause(Condition::SinkUnavailable, &cause).await;
                        continue;
                    }
                    Err(SinkError::Reopen(cause)) => {
                        warn!(instance = %head.instance(), receipt = %head.receipt(), cause, "not stored, opening the sink again");
                        sleep_unless(self.stop, self.pauses.after_failure()).await;
                        break;
                    }
                    Err(end @ (SinkError::Fenced(_) | SinkError::Closed(_))) => return Err(end),
                };
                doubt.stored(head.fingerprint(), stored.sequence());
                fault::reached("stored");
                doubt.deleted(self.delete(stored).await);
                fault::reached("deleted");
            }
        }
        Ok(())
    }

    /// The head of the queue; waits for it. `None` when it is time to stop.
    async fn receive(&mut self) -> Option<Notification> {
        loop {
            let asked = Instant::now();
            match self.stop.run_until_cancelled(self.queue.receive()).await? {
                Ok(Received::Head(head)) => return Some(head),
                Ok(Received::Empty) => {
                    self.recovered();
                    sleep_unless(self.stop, EMPTY_PACE.saturating_sub(asked.elapsed())).await;
                }
                Err(problem) => self.wait_out(&problem).await,
            }
        }
    }

    async fn publish(&self, lane: &mut dyn Lane, doubt: &mut Doubt, head: &Notification) -> Result<Stored, SinkError> {
        match doubt.head(head.fingerprint()) {
            Verdict::Publish { marked } => lane.publish(head, marked).await,
            Verdict::DeleteOnly => {
                info!(instance = %head.instance(), receipt = %head.receipt(), "delivered again, already stored: only deleting");
                lane.already_stored(head).await
            }
        }
    }

    /// Sends the delete once. Whatever is not a confirmation leaves the notification in doubt, and
    /// the next receive tells.
    async fn delete(&mut self, stored: Stored) -> Deleted {
        match self.queue.delete(stored).await {
            Ok(Deleted::Confirmed) => {
                self.recovered();
                Deleted::Confirmed
            }
            Ok(Deleted::Unconfirmed) => {
                sleep_unless(self.stop, self.pauses.after_failure()).await;
                Deleted::Unconfirmed
            }
            Err(problem) => {
                self.wait_out(&problem).await;
                Deleted::Unconfirmed
            }
        }
    }

    async fn wait_out(&mut self, problem: &Problem) {
        self.conditions.enter(problem.condition, problem);
        let pause = self.pauses.after_failure().max(problem.retry_after.unwrap_or_default());
        sleep_unless(self.stop, pause).await;
        if problem.condition == Condition::TokenRefused
            && let Err(error) = self.queue.read_token_again()
        {
            warn!(instance = %self.queue.instance(), %error, "the token cannot be read again");
        }
    }

    async fn pause(&mut self, condition: Condition, cause: &str) {
        self.conditions.enter(condition, &cause);
        sleep_unless(self.stop, self.pauses.after_failure()).await;
    }

    fn recovered(&mut self) {
        self.conditions.leave();
        self.pauses = Pauses::new();
    }
}

async fn sleep_unless(stop: &CancellationToken, pause: Duration) {
    // Either way it is time to go on.
    let _slept_or_stopped = stop.run_until_cancelled(sleep(pause)).await;
}
