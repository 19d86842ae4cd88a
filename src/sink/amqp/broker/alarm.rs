//! What a connection is told beside the answers. The broker may block publishers, when its memory or
//! its disk runs low: then no confirm comes, the client sends nothing any more, and no heartbeat
//! fails. That is waited out, and told. And it may close a channel, and says why.

use std::pin::pin;
use std::time::Duration;

use lapin::{Connection, Event};
use tokio::runtime::Handle;
use tokio::sync::watch;
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
pub(super) struct Alarms(watch::Receiver<State>);

#[derive(Default)]
struct State {
    blocked: bool,
    /// Why the broker closed something, or the connection ended.
    reason: Option<String>,
}

impl Alarms {
    /// There may be one per connection: two would share the events between them. Listens on `runtime`, as long as that lasts.
    pub(super) fn of(connection: &Connection, runtime: &Handle) -> Self {
        let (sender, state) = watch::channel(State::default());
        runtime.spawn(follow(connection.events_listener(), sender));
        Self(state)
    }

    /// Waits for `answer`: 30 s, not counting the time for which the broker blocks publishers.
    /// A failure tells the broker's reason.
    pub(super) async fn patiently<T>(
        &self,
        answer: impl Future<Output = Result<T, SessionError>>,
    ) -> Result<T, SessionError> {
        let mut answer = pin!(answer);
        let mut state = self.0.clone();
        let mut deadline = Instant::now() + ANSWER_TIMEOUT;
        loop {
            let blocked = state.borrow_and_update().blocked;
            tokio::select! {
                biased;
                answer = &mut answer => return match answer {
                    Err(SessionError::Unavailable(cause)) => Err(SessionError::Unavailable(self.with_reason(cause).await)),
                    other => other,
                },
                Ok(()) = state.changed() => deadline = Instant::now() + ANSWER_TIMEOUT,
                () = sleep_until(deadline), if !blocked => {
                    return Err(SessionError::Unavailable("the broker did not answer in 30 s".into()));
                }
            }
        }
    }

    /// Whoever uses a closed channel is told no more than that, unless it was waiting when it happened.
    async fn with_reason(&self, cause: String) -> String {
        let mut state = self.0.clone();
        // Not everything that fails has one.
        let _known_or_late = timeout(MOMENT, state.wait_for(|state| state.reason.is_some())).await;
        match &self.0.borrow().reason {
            Some(reason) if !cause.contains(reason) => format!("{cause}: {reason}"),
            _ => cause,
        }
    }
}

/// Learns of the events of a connection, until it ends.
async fn follow(events: impl Stream<Item = Event>, state: watch::Sender<State>) {
    let mut events = pin!(events);
    while let Some(event) = events.next().await {
        match event {
            Event::ConnectionBlocked(reason) => {
                state.send_modify(|state| state.blocked = true);
                let cause = format!("the broker blocks publishers: {reason}");
                each_shard(|shard| shard.conditions().enter(Condition::SinkUnavailable, &cause));
            }
            Event::ConnectionUnblocked => {
                state.send_modify(|state| state.blocked = false);
                each_shard(|shard| shard.conditions().leave_all());
            }
            Event::Error(error) if !is_of_a_declaration(&error) => state.send_modify(|state| {
                state.reason.get_or_insert_with(|| error.to_string());
            }),
            _ => {}
        }
    }
}

/// Of those that are worked on here.
fn each_shard(change: impl Fn(&ShardStatus)) {
    status::the_sink()
        .into_iter()
        .flat_map(status::SinkStatus::shards)
        .filter(|shard| shard.state().0 != status::State::Elsewhere)
        .for_each(|shard| change(&shard));
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

    fn alarms(events: Vec<Event>) -> Alarms {
        let (sender, state) = watch::channel(State::default());
        tokio::spawn(follow(iter(events), sender));
        Alarms(state)
    }

    /// What becomes of an answer that takes as long, when these events came before it.
    async fn outcome(events: Vec<Event>, answer_after: Duration) -> Result<(), SessionError> {
        let answer = async {
            sleep(answer_after).await;
            Ok(())
        };
        alarms(events).patiently(answer).await
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_tells_once_why_the_broker_closed_the_channel() {
        let closed = || {
            let error = AMQPError::new(AMQPSoftError::NOTFOUND.into(), "NOT_FOUND - no exchange".into());
            Event::Error(ErrorKind::ProtocolError(error).into())
        };
        let told = async |events: Vec<Event>, cause: &str| {
            let failed = async { Err::<(), _>(SessionError::Unavailable(cause.into())) };
            alarms(events).patiently(failed).await.unwrap_err().to_string()
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
