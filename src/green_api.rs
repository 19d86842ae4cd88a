//! The client of Green API's HTTP queue, the only place that knows HTTP and the token.

use std::panic::resume_unwind;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hyper::body::Body;
use hyper::http::uri::PathAndQuery;
use hyper::{HeaderMap, header};
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Map, Value};
use tokio::task::spawn_blocking;
use tokio::time::timeout;
use url::Url;

use crate::condition::Condition;
use crate::doubt::Deleted;
use crate::notification::{self, Fingerprint, InstanceId, Notification};
use crate::rate_limit::RateLimit;
use crate::sink::Stored;
use crate::token::{TokenSource, UnreadableSecret};

mod addresses;
mod answer;
mod connections;
mod connector;
pub mod doctor;
mod large;
mod paths;
pub(crate) mod settings;

use self::answer::form;
pub use self::answer::{Call, Meaning, meaning};
use self::connections::{Connections, RequestError};
pub use self::connector::ClientError;
use self::connector::Connector;
use self::large::{LARGEST_ANSWER, LargeAnswers, NotRead, Reading, SMALL};
use self::paths::Paths;

/// How much longer than the requested waiting time an answer may take.
const MARGIN: Duration = Duration::from_secs(15);
/// The maximum `Retry-After` that is honoured.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(300);

/// The HTTP client of all instances. Clones share it.
#[derive(Clone, Debug)]
pub struct GreenApi {
    connector: Connector,
    large: LargeAnswers,
    receive_timeout: Duration,
}

impl GreenApi {
    /// `receive_timeout` is how long the server waits for a notification. No proxy other than `proxy` is used, and
    /// `certificates` (PEM) are trusted in addition to the system's.
    ///
    /// # Errors
    /// If a certificate or the proxy cannot be used.
    pub fn new(
        receive_timeout: Duration,
        proxy: Option<&Url>,
        certificates: Option<&[u8]>,
    ) -> Result<Self, ClientError> {
        let connector = Connector::new(proxy, certificates)?;
        Ok(Self { connector, large: LargeAnswers::default(), receive_timeout })
    }
}

/// The queue and the settings of one instance.
#[derive(Clone, Debug)]
pub struct Queue {
    api: GreenApi,
    connections: Connections,
    instance: InstanceId,
    source: TokenSource,
    /// Shared by clones.
    paths: Arc<Paths>,
    receives: RateLimit,
    deletes: RateLimit,
}

/// The answer to a receive.
#[derive(Debug)]
pub enum Received {
    /// The head of the queue.
    Head(Notification),
    /// Empty, according to the server.
    Empty,
    /// A receipt without a readable body: a transmission error, to be received again; or the content of the queue, if the same
    /// answer comes repeatedly.
    NoBody(Notification, Problem),
    /// Anything else.
    Unreadable(Problem),
}

/// A failed request. Its text contains neither token nor URL, and never repeats the answer, which may.
#[derive(Debug, thiserror::Error)]
#[error("{method}: {detail}")]
pub struct Problem {
    method: &'static str,
    detail: String,
    source: Option<RequestError>,
    /// The condition that it causes.
    pub condition: Condition,
    /// `Retry-After`, if the server sent one.
    pub retry_after: Option<Duration>,
}

impl Problem {
    /// The same problem under another condition.
    pub(crate) fn in_condition(self, condition: Condition) -> Self {
        Self { condition, ..self }
    }
}

struct Answer {
    status: u16,
    retry_after: Option<Duration>,
    body: Bytes,
}

impl Queue {
    /// The queue of `instance` at `base`, its `apiUrl`. Reads the token, which may block for 5 seconds.
    ///
    /// # Errors
    /// If the token cannot be read.
    pub fn new(api: GreenApi, instance: InstanceId, base: Url, source: TokenSource) -> Result<Self, UnreadableSecret> {
        let connections = Connections::new(api.connector.clone(), &base);
        let paths = Paths::new(base, instance, source.read()?, api.receive_timeout).into();
        Ok(Self {
            api,
            connections,
            instance,
            source,
            paths,
            receives: RateLimit::default(),
            deletes: RateLimit::default(),
        })
    }

    /// The instance whose queue this is.
    #[must_use]
    pub fn instance(&self) -> InstanceId {
        self.instance
    }

    /// Reads the token again, because its file may have changed. Cancel safe.
    ///
    /// # Errors
    /// If it cannot be read; the current token stays in use.
    pub async fn read_token_again(&mut self) -> Result<(), UnreadableSecret> {
        let token = self.source.read_aside().await?;
        self.paths = self.paths.with_token(token).into();
        Ok(())
    }

    /// Waits for the head of the queue, which stays there until it is deleted. At most 100 requests per second are sent, as the
    /// service allows. Cancel safe.
    ///
    /// # Errors
    /// Any answer that is not the queue's, or that is larger than 64 MiB.
    pub async fn receive(&self) -> Result<Received, Problem> {
        let call = Call::Receive;
        self.receives.turn().await;
        let answer = self.send(call, self.paths.receive(), None).await?;
        match meaning(call, answer.status, &answer.body) {
            Meaning::Empty => Ok(Received::Empty),
            Meaning::Success => Ok(received(self.instance, answer.body).await),
            other => Err(self.trouble(call, other, &answer)),
        }
    }

    /// Deletes a stored notification. Sent only once with this receipt, because receipts may restart. At most 100 requests per
    /// second are sent. Not cancel safe: the outcome would be unknown.
    ///
    /// # Errors
    /// Any problem; then the outcome is as unknown as with [`Deleted::Unconfirmed`].
    pub async fn delete(&self, stored: Stored) -> Result<Deleted, Problem> {
        let call = Call::Delete;
        self.deletes.turn().await;
        let answer = self.send(call, &self.paths.delete(stored.receipt()), None).await?;
        match meaning(call, answer.status, &answer.body) {
            Meaning::Success => Ok(Deleted::Confirmed),
            Meaning::NotThere => Ok(Deleted::Unconfirmed),
            other => Err(self.trouble(call, other, &answer)),
        }
    }

    /// The settings of the instance.
    ///
    /// # Errors
    /// If the answer is not a JSON object.
    pub async fn settings(&self) -> Result<Map<String, Value>, Problem> {
        self.object(Call::GetSettings, None).await
    }

    /// Changes at least one setting. The instance restarts, and the settings apply within 5 minutes.
    ///
    /// # Errors
    /// If the server does not confirm that they are saved.
    pub async fn change_settings(&self, changes: &Map<String, Value>) -> Result<(), Problem> {
        let answer = self.object(Call::SetSettings, Some(changes)).await?;
        match answer.get("saveSettings") {
            Some(Value::Bool(true)) => Ok(()),
            _ => Err(self.problem(Call::SetSettings, Condition::UpstreamUnavailable, "the settings were not saved")),
        }
    }

    /// How many notifications wait, according to the server, which has answered 0 with a full queue.
    ///
    /// # Errors
    /// If the answer contains no number.
    pub async fn waiting(&self) -> Result<u64, Problem> {
        let answer = self.object(Call::GetCount, None).await?;
        let no_number = || self.problem(Call::GetCount, Condition::UpstreamUnavailable, "the answer has no `count`");
        answer.get("count").and_then(Value::as_u64).ok_or_else(no_number)
    }

    /// The state of the account: `authorized`, `notAuthorized`, `starting` and others.
    ///
    /// # Errors
    /// If the answer contains no state.
    pub async fn state(&self) -> Result<String, Problem> {
        let answer = self.object(Call::GetState, None).await?;
        match answer.get("stateInstance") {
            Some(Value::String(state)) => Ok(state.clone()),
            _ => Err(self.problem(Call::GetState, Condition::UpstreamUnavailable, "the answer holds no state")),
        }
    }

    async fn object(&self, call: Call, body: Option<&Map<String, Value>>) -> Result<Map<String, Value>, Problem> {
        let body = body.map(|body| serde_json::to_vec(body).unwrap_or_default().into());
        let answer = self.send(call, &self.paths.call(call), body).await?;
        match meaning(call, answer.status, &answer.body) {
            Meaning::Success => serde_json::from_slice(&answer.body).map_err(|_may_quote_the_body| {
                self.problem(call, Condition::UpstreamUnavailable, &format!("the answer is {}", form(&answer.body)))
            }),
            other => Err(self.trouble(call, other, &answer)),
        }
    }

    async fn send(&self, call: Call, path: &SecretString, json: Option<Bytes>) -> Result<Answer, Problem> {
        let limit = if call == Call::Receive { self.api.receive_timeout + MARGIN } else { MARGIN };
        let late = || Err(self.failed(call, RequestError::TimedOut(limit)));
        // Boxed: it is large, and a task that may run two of them would be larger than all else of an idle instance.
        timeout(limit, Box::pin(self.exchange(call, path, json))).await.unwrap_or_else(|_late| late())
    }

    async fn exchange(&self, call: Call, path: &SecretString, json: Option<Bytes>) -> Result<Answer, Problem> {
        let unavailable = |error| self.failed(call, error);
        // It contains the token, and goes nowhere but into the request.
        let path = PathAndQuery::try_from(path.expose_secret())
            .map_err(|_the_token| self.problem(call, Condition::TokenRefused, "the token cannot be part of a URL"))?;
        let (mut connection, response) = self.connections.send(call.verb(), path, json).await.map_err(unavailable)?;
        let (head, mut body) = response.into_parts();
        let (status, retry_after) = (head.status.as_u16(), retry_after(&head.headers));
        let largest = if call == Call::Receive { LARGEST_ANSWER } else { SMALL };
        let too_large = || {
            let is_head = call == Call::Receive && (200..=299).contains(&status);
            let condition = if is_head { Condition::UnreadableAnswer } else { Condition::UpstreamUnavailable };
            let limit = if largest == SMALL { "256 KiB" } else { "64 MiB" };
            self.problem(call, condition, &format!("the answer is larger than {limit}"))
        };
        let not_read = |why: NotRead| match why {
            NotRead::TooLarge => too_large(),
            NotRead::OverMemoryLimit => {
                let cause = "answers over 256 KiB take 256 MiB together by now, which the sink has to store first";
                self.problem(call, Condition::UpstreamUnavailable, cause)
            }
        };
        let mut reading = Reading::start(&self.api.large, body.size_hint().exact(), largest).await.map_err(not_read)?;
        while let Some(part) = connection.part(&mut body).await.map_err(unavailable)? {
            reading.push(part).await.map_err(not_read)?;
        }
        self.connections.give_back(connection);
        Ok(Answer { status, retry_after, body: reading.finish() })
    }

    fn trouble(&self, call: Call, meaning: Meaning, answer: &Answer) -> Problem {
        let condition = match meaning {
            Meaning::Trouble(condition) => condition,
            Meaning::Success | Meaning::Empty | Meaning::NotThere => Condition::UpstreamUnavailable,
        };
        let detail = match answer.status {
            status @ 200..=299 => format!("HTTP {status} with an answer that is {}", form(&answer.body)),
            status => format!("HTTP {status}"),
        };
        Problem { retry_after: answer.retry_after, ..self.problem(call, condition, &detail) }
    }

    fn failed(&self, call: Call, error: RequestError) -> Problem {
        let problem = self.problem(call, Condition::UpstreamUnavailable, "the request failed");
        Problem { source: Some(error), ..problem }
    }

    fn problem(&self, call: Call, condition: Condition, detail: &str) -> Problem {
        problem(self.instance, call, condition, detail)
    }
}

fn problem(instance: InstanceId, call: Call, condition: Condition, detail: &str) -> Problem {
    let detail = format!("instance {instance}: {detail}");
    Problem { method: call.method(), detail, source: None, condition, retry_after: None }
}

/// Parses the answer to a receive; a large one on a blocking thread, because others serve all instances.
async fn received(instance: InstanceId, answer: Bytes) -> Received {
    if answer.len() <= SMALL {
        return read(instance, &answer);
    }
    match spawn_blocking(move || read(instance, &answer)).await {
        Ok(received) => received,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => resume_unwind(panic),
            // The runtime shuts down, so nobody reads this.
            Err(_) => Received::Empty,
        },
    }
}

fn read(instance: InstanceId, answer: &Bytes) -> Received {
    // The answer is private: only its length and digest may be logged.
    let unreadable = |what: &str| {
        let (length, digest) = (answer.len(), Fingerprint::of(answer));
        let detail = format!("the answer {what}: {length} bytes, SHA-256 {digest}");
        problem(instance, Call::Receive, Condition::UpstreamUnavailable, &detail)
    };
    match notification::Answer::read(instance, answer) {
        notification::Answer::Empty => Received::Empty,
        notification::Answer::Head(head) => Received::Head(head),
        notification::Answer::NoBody(rest) => Received::NoBody(rest, unreadable("has a receipt and no readable body")),
        notification::Answer::Unreadable => {
            Received::Unreadable(unreadable(&format!("is no notification but {}", form(answer))))
        }
    }
}

fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    pause_of(headers.get(header::RETRY_AFTER)?.to_str().ok()?)
}

fn pause_of(retry_after: &str) -> Option<Duration> {
    let seconds = retry_after.trim().parse().ok()?;
    Some(Duration::from_secs(seconds).min(LONGEST_RETRY_AFTER))
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use tokio::io::AsyncWriteExt;
    use tokio::net::TcpListener;
    use tokio::time::Instant;

    use super::*;

    #[test]
    fn a_server_may_ask_for_a_pause_of_5_minutes_at_most() {
        let seconds = |text: &str| pause_of(text).map(|pause| pause.as_secs());
        assert_eq!([seconds(" 7 "), seconds("300"), seconds("3600")], [Some(7), Some(300), Some(300)]);
        assert_eq!(seconds("18446744073709551615"), Some(300));
        assert_eq!([seconds("-1"), seconds("Wed, 21 Oct 2026 07:28:00 GMT")], [None, None]);
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_does_not_come_or_does_not_end_is_given_up() {
        for begins in ["", "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{"] {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let url = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
            let api = GreenApi::new(Duration::from_secs(20), None, None).unwrap();
            let queue = Queue::new(api, "1".parse().unwrap(), url, TokenSource::Given("t0ken".into())).unwrap();
            let server = async {
                let (mut socket, _) = listener.accept().await.unwrap();
                socket.write_all(begins.as_bytes()).await.unwrap();
                pending::<()>().await;
            };
            let begun = Instant::now();
            let problem = tokio::select! {
                () = server => unreachable!("it never ends"),
                answer = queue.receive() => answer.unwrap_err(),
            };
            assert_eq!(begun.elapsed().as_secs(), 35);
            assert_eq!(problem.condition, Condition::UpstreamUnavailable);
            assert_eq!(problem.source.unwrap().to_string(), "no complete answer within 35s");
        }
    }

    #[tokio::test]
    async fn a_large_answer_is_read_beside_the_threads_that_serve_all_instances() {
        let answer = |length| Bytes::from(format!(r#"{{"receiptId":1,"body":"{}"}}"#, "x".repeat(length)));
        let at_once = async |length| timeout(Duration::ZERO, received("1".parse().unwrap(), answer(length))).await;
        assert!(matches!(at_once(1).await, Ok(Received::Head(_))));
        assert!(at_once(8 << 20).await.is_err(), "it was read on the thread that asked");
    }
}
