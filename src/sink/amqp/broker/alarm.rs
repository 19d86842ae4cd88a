//! Asynchronous events of a connection. When its memory or disk runs low the broker blocks publishers: no confirms
//! arrive, the client stops sending, and heartbeats do not fail. The bridge waits until that is over and reports it. The
//! broker may also close a channel, giving the reason.

use std::pin::pin;
use std::time::Duration;

use lapin::{Connection, Event};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_stream::{Stream, StreamExt};

use super::errors::is_of_a_declaration;
use crate::condition::Condition;
use crate::metrics::{Metrics, ShardStatus, State as ShardState};
use crate::sink::session::SessionError;

/// How long the broker may take to confirm a batch, or to answer anything else.
pub(super) const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// How long the reason for closing a channel may arrive after the error that it caused.
const REASON_TIMEOUT: Duration = Duration::from_millis(500);

/// Whether a connection is blocked, and why it was closed.
pub(super) struct Alarms(watch::Receiver<State>);

#[derive(Default)]
struct State {
    blocked: bool,
    /// Why the broker closed something, or the connection ended.
    reason: Option<String>,
}

impl Alarms {
    /// At most one per connection, because two would split the events between them. Listens on `runtime` until that shuts
    /// down.
    pub(super) fn of(connection: &Connection, runtime: &Handle, metrics: Metrics) -> Self {
        let (sender, state) = watch::channel(State::default());
        runtime.spawn(follow(connection.events_listener(), sender, metrics));
        Self(state)
    }

    /// Waits up to 30 s for `answer`; while the broker blocks publishers without limit, and 30 s anew when it no longer does. An
    /// error carries the broker's reason.
    pub(super) async fn await_answer<T>(
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

    /// An error on a channel that was closed earlier does not carry the broker's reason; this adds it.
    async fn with_reason(&self, cause: String) -> String {
        let mut state = self.0.clone();
        // Not every failure has one.
        let _known_or_late = timeout(REASON_TIMEOUT, state.wait_for(|state| state.reason.is_some())).await;
        match &self.0.borrow().reason {
            Some(reason) if !cause.contains(reason) => format!("{cause}: {reason}"),
            _ => cause,
        }
    }
}

/// Follows the events of a connection until it ends.
async fn follow(events: impl Stream<Item = Event>, state: watch::Sender<State>, metrics: Metrics) {
    let mut events = pin!(events);
    while let Some(event) = events.next().await {
        match event {
            Event::ConnectionBlocked(reason) => {
                state.send_modify(|state| state.blocked = true);
                let cause = format!("the broker blocks publishers: {reason}");
                each_shard(&metrics, |shard| shard.conditions().enter(Condition::SinkUnavailable, &cause));
            }
            Event::ConnectionUnblocked => {
                state.send_modify(|state| state.blocked = false);
                each_shard(&metrics, |shard| shard.conditions().leave_all());
            }
            Event::Error(error) if !is_of_a_declaration(&error) => state.send_modify(|state| {
                state.reason.get_or_insert_with(|| error.to_string());
            }),
            _ => {}
        }
    }
}

/// For each shard that this replica holds.
fn each_shard(metrics: &Metrics, change: impl Fn(&ShardStatus)) {
    let shards = metrics.sink().shards();
    shards.iter().filter(|shard| shard.state().0 != ShardState::Elsewhere).for_each(|shard| change(shard));
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
        tokio::spawn(follow(iter(events), sender, Metrics::new("amqp")));
        Alarms(state)
    }

    /// The outcome of an answer that takes this long after these events.
    async fn outcome(events: Vec<Event>, answer_after: Duration) -> Result<(), SessionError> {
        let answer = async {
            sleep(answer_after).await;
            Ok(())
        };
        alarms(events).await_answer(answer).await
    }

    #[tokio::test(start_paused = true)]
    async fn an_error_carries_the_reason_for_closing_the_channel_once() {
        let closed = || {
            let error = AMQPError::new(AMQPSoftError::NOTFOUND.into(), "NOT_FOUND - no exchange".into());
            Event::Error(ErrorKind::ProtocolError(error).into())
        };
        let described = async |events: Vec<Event>, cause: &str| {
            let failed = async { Err::<(), _>(SessionError::Unavailable(cause.into())) };
            alarms(events).await_answer(failed).await.unwrap_err().to_string()
        };
        let reason = "protocol error: AMQP soft error: NOT-FOUND: NOT_FOUND - no exchange";
        let unblocked = Event::ConnectionUnblocked;
        assert_eq!(described(vec![unblocked, closed()], "publish: closed").await, format!("publish: closed: {reason}"));
        assert_eq!(described(vec![closed()], &format!("confirm: {reason}")).await, format!("confirm: {reason}"));
        assert_eq!(described(vec![], "connecting: refused").await, "connecting: refused");
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
