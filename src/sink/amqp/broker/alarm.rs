//! What a connection is told beside the answers. The broker may block publishers, when its memory or
//! its disk runs low: then no confirm comes, the client sends nothing any more, and no heartbeat
//! fails. That is waited out, and told. And it may close a channel, and says why.

use std::pin::{Pin, pin};
use std::time::Duration;

use lapin::{Connection, Event};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_stream::{Stream, StreamExt};

use super::errors::is_of_a_declaration;
use crate::condition::Condition;
use crate::sink::session::SessionError;
use crate::status::{self, ShardStatus};

/// How long the broker may take to confirm a batch, or to answer anything else.
pub(super) const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// Why a channel was closed is known as soon as that it was, or this much later.
const MOMENT: Duration = Duration::from_millis(500);

/// What a connection is told about being blocked, and about its end.
pub(super) struct Alarms {
    events: Pin<Box<dyn Stream<Item = Event> + Send>>,
    blocked: bool,
    /// Why the broker closed something, or the connection ended.
    reason: Option<String>,
}

impl Alarms {
    /// There may be one per connection: two would share the events between them.
    pub(super) fn of(connection: &Connection) -> Self {
        Self::told(connection.events_listener())
    }

    fn told(events: impl Stream<Item = Event> + Send + 'static) -> Self {
        Self { events: Box::pin(events), blocked: false, reason: None }
    }

    /// Waits for `answer`: 30 s, not counting the time for which the broker blocks publishers.
    /// Nothing else is published meanwhile. A failure tells the broker's reason.
    pub(super) async fn patiently<T>(
        &mut self,
        answer: impl Future<Output = Result<T, SessionError>>,
    ) -> Result<T, SessionError> {
        let mut answer = pin!(answer);
        let mut deadline = Instant::now() + ANSWER_TIMEOUT;
        loop {
            tokio::select! {
                biased;
                answer = &mut answer => return match answer {
                    Err(SessionError::Unavailable(cause)) => Err(SessionError::Unavailable(self.with_reason(cause).await)),
                    other => other,
                },
                Some(event) = self.events.next() => {
                    self.learn(&event);
                    deadline = Instant::now() + ANSWER_TIMEOUT;
                }
                () = sleep_until(deadline), if !self.blocked => {
                    return Err(SessionError::Unavailable("the broker did not answer in 30 s".into()));
                }
            }
        }
    }

    fn learn(&mut self, event: &Event) {
        match event {
            Event::ConnectionBlocked(reason) => {
                self.blocked = true;
                let cause = format!("the broker blocks publishers: {reason}");
                each_shard(|shard| shard.conditions().enter(Condition::SinkUnavailable, &cause));
            }
            Event::ConnectionUnblocked => {
                self.blocked = false;
                each_shard(|shard| shard.conditions().leave_all());
            }
            Event::Error(error) if !is_of_a_declaration(error) => {
                self.reason.get_or_insert_with(|| error.to_string());
            }
            _ => {}
        }
    }

    /// Whoever uses a closed channel is told no more than that, unless it was waiting when it happened.
    async fn with_reason(&mut self, cause: String) -> String {
        let ending = async {
            while self.reason.is_none()
                && let Some(event) = self.events.next().await
            {
                self.learn(&event);
            }
        };
        // Not everything that fails has one.
        let _known_or_late = timeout(MOMENT, ending).await;
        match &self.reason {
            Some(reason) if !cause.contains(reason) => format!("{cause}: {reason}"),
            _ => cause,
        }
    }
}

fn each_shard(change: impl Fn(&ShardStatus)) {
    status::the_sink().into_iter().flat_map(status::SinkStatus::shards).for_each(|shard| change(&shard));
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use lapin::ErrorKind;
    use lapin::protocol::{AMQPError, AMQPSoftError};
    use tokio::time::sleep;
    use tokio_stream::iter;

    use super::*;

    const LONG: Duration = Duration::from_secs(24 * 3600);

    /// What becomes of an answer that takes as long, when these events came before it.
    async fn outcome(events: Vec<Event>, answer_after: Duration) -> Result<(), SessionError> {
        let answer = async {
            sleep(answer_after).await;
            Ok(())
        };
        Alarms::told(iter(events)).patiently(answer).await
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_tells_once_why_the_broker_closed_the_channel() {
        let closed = || {
            let error = AMQPError::new(AMQPSoftError::NOTFOUND.into(), "NOT_FOUND - no exchange".into());
            Event::Error(ErrorKind::ProtocolError(error).into())
        };
        let told = async |events: Vec<Event>, cause: &str| {
            let failed = async { Err::<(), _>(SessionError::Unavailable(cause.into())) };
            Alarms::told(iter(events)).patiently(failed).await.unwrap_err().to_string()
        };
        let reason = "protocol error: AMQP soft error: NOT-FOUND: NOT_FOUND - no exchange";
        let unblocked = Event::ConnectionUnblocked;
        assert_eq!(told(vec![unblocked, closed()], "publish: closed").await, format!("publish: closed: {reason}"));
        assert_eq!(told(vec![closed()], &format!("confirm: {reason}")).await, format!("confirm: {reason}"));
        assert_eq!(told(vec![], "connecting: refused").await, "connecting: refused");
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
