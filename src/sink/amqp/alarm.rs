//! The broker may block publishers, when its memory or its disk runs low: then no confirm comes, the
//! client sends nothing any more, and no heartbeat fails. That is waited out, and told.

use std::pin::{Pin, pin};

use lapin::{Connection, Event};
use tokio::time::{Instant, sleep_until};
use tokio_stream::{Stream, StreamExt};

use super::PATIENCE;
use crate::condition::{Condition, Conditions};
use crate::sink::owner::Failure;

/// What a connection is told about being blocked.
pub(super) struct Alarms {
    events: Pin<Box<dyn Stream<Item = Event> + Send>>,
    blocked: bool,
    conditions: Conditions,
}

impl Alarms {
    /// There may be one per connection: two would share the events between them.
    pub(super) fn of(connection: &Connection) -> Self {
        Self::told(connection.events_listener())
    }

    fn told(events: impl Stream<Item = Event> + Send + 'static) -> Self {
        Self { events: Box::pin(events), blocked: false, conditions: Conditions::default() }
    }

    /// Waits for `answer`: 30 s, not counting the time for which the broker blocks publishers.
    /// Nothing else is published meanwhile.
    pub(super) async fn patiently<T>(
        &mut self,
        answer: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        let mut answer = pin!(answer);
        let mut deadline = Instant::now() + PATIENCE;
        loop {
            tokio::select! {
                biased;
                answer = &mut answer => return answer,
                Some(event) = self.events.next() => {
                    self.learn(&event);
                    deadline = Instant::now() + PATIENCE;
                }
                () = sleep_until(deadline), if !self.blocked => {
                    return Err(Failure::Unavailable("the broker did not answer in 30 s".into()));
                }
            }
        }
    }

    fn learn(&mut self, event: &Event) {
        match event {
            Event::ConnectionBlocked(reason) => {
                self.blocked = true;
                let cause = format!("the broker blocks publishers: {reason}");
                self.conditions.enter(Condition::SinkUnavailable, &cause);
            }
            Event::ConnectionUnblocked => {
                self.blocked = false;
                self.conditions.leave_all();
            }
            // The rest ends what is waited for.
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::sleep;
    use tokio_stream::iter;

    use super::*;

    const LONG: Duration = Duration::from_secs(24 * 3600);

    /// What becomes of an answer that takes as long, when these events came before it.
    async fn outcome(events: Vec<Event>, answer_after: Duration) -> Result<(), Failure> {
        let answer = async {
            sleep(answer_after).await;
            Ok(())
        };
        Alarms::told(iter(events)).patiently(answer).await
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_is_awaited_for_30_s_and_for_as_long_as_publishers_are_blocked() {
        let blocked = || Event::ConnectionBlocked("low on memory".into());
        assert!(outcome(vec![], Duration::from_secs(29)).await.is_ok());
        assert!(outcome(vec![], Duration::from_secs(31)).await.is_err());
        assert!(outcome(vec![blocked()], LONG).await.is_ok());
        assert!(outcome(vec![blocked(), Event::ConnectionUnblocked], LONG).await.is_err());
        assert!(outcome(vec![blocked(), Event::ConnectionUnblocked, blocked()], LONG).await.is_ok());
    }
}
