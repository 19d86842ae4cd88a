//! The connections of one instance, and requests on them.
//!
//! A connection has no task of its own: it is driven by the request that uses it, which saves a change of tasks, and of threads,
//! for each part of an answer. Meanwhile nobody else uses it, so there is no queue either.

use std::error::Error;
use std::fmt;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Incoming};
use hyper::client::conn::http1;
use hyper::header::{CONTENT_TYPE, HOST, HeaderMap, HeaderValue, PROXY_AUTHORIZATION, USER_AGENT};
use hyper::http::uri::{Authority, PathAndQuery, Scheme};
use hyper::{Method, Request, Response, Uri};
use tokio::time::Instant;
use url::{Position, Url};

use super::connector::{Connector, Stream};

/// How long a connection takes new requests, give or take a fifth, so that a host that has moved is followed.
const RENEWED_AFTER: Duration = Duration::from_secs(300);
/// How long a connection is kept that is not in use.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);

const AGENT: HeaderValue = HeaderValue::from_static(concat!("green-api-bridge/", env!("CARGO_PKG_VERSION")));

/// Why a request has no answer. The text contains no URL, which contains the token.
#[derive(Debug, thiserror::Error)]
pub(super) enum RequestError {
    #[error("cannot connect")]
    Connect(#[source] Box<dyn Error + Send + Sync>),
    #[error(transparent)]
    Http(#[from] hyper::Error),
    #[error("no complete answer within {0:?}")]
    TimedOut(Duration),
}

/// The connections of one instance: while a delete and the next receive overlap there are two.
pub(super) struct Connections {
    /// Shared by clones.
    host: Arc<Host>,
    /// Those that are not in use, the last used one last. Locked only to take one or to give one back.
    idle: Mutex<Vec<Connection>>,
}

/// Where connections lead to, and what each request contains.
struct Host {
    connector: Connector,
    url: Uri,
    /// Set for plain HTTP through a proxy, which takes requests in absolute form only (RFC 9112, section 3.2.2).
    absolute_form: Option<(Scheme, Authority)>,
    headers: HeaderMap,
}

impl fmt::Debug for Connections {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Connections").finish_non_exhaustive()
    }
}

/// A clone has no connections yet.
impl Clone for Connections {
    fn clone(&self) -> Self {
        Self { host: Arc::clone(&self.host), idle: Mutex::default() }
    }
}

type Driver = Pin<Box<http1::Connection<Box<dyn Stream>, Full<Bytes>>>>;

/// An HTTP/1.1 connection: with HTTP/2 a delete would wait behind the long polls of all instances.
pub(super) struct Connection {
    requests: http1::SendRequest<Full<Bytes>>,
    /// `None` once it has ended. Boxed because it is larger than what polls it.
    driver: Option<Driver>,
    renew_at: Instant,
    used: Instant,
}

impl Connections {
    /// Connections to the host of this URL, which must be http or https.
    pub(super) fn new(connector: Connector, url: &Url) -> Self {
        // Never fails: what a URL takes as host and port, a URI and a header take as well.
        let to: Uri = url[..Position::BeforePath].parse().unwrap_or_default();
        let authority = HeaderValue::from_str(&url[Position::BeforeHost..Position::BeforePath]);
        let mut headers = HeaderMap::new();
        headers.extend(authority.map(|authority| (HOST, authority)));
        headers.insert(USER_AGENT, AGENT);
        let mut absolute_form = None;
        if let Some(proxy) = connector.plain_proxy(&to) {
            headers.extend(proxy.basic_auth().map(|login| (PROXY_AUTHORIZATION, login.clone())));
            absolute_form = to.scheme().cloned().zip(to.authority().cloned());
        }
        Self { host: Arc::new(Host { connector, url: to, absolute_form, headers }), idle: Mutex::default() }
    }

    /// Sends a request, and returns the head of its answer with the connection from which to read the body. A request that found
    /// its connection closed before it was sent is sent on another one. If the future is dropped the connection is closed.
    pub(super) async fn send(
        &self,
        method: Method,
        path: PathAndQuery,
        json: Option<Bytes>,
    ) -> Result<(Connection, Response<Incoming>), RequestError> {
        let mut request = self.request(method, path, json);
        loop {
            let idle = self.take();
            let is_new = idle.is_none();
            let mut connection = match idle {
                Some(connection) => connection,
                // Boxed: it is large, and rare.
                None => Box::pin(self.open()).await?,
            };
            // A connection that was closed while nobody used it notices that before it sends.
            let sending = connection.requests.try_send_request(request);
            match drive(&mut connection.driver, sending).await {
                Ok(response) => return Ok((connection, response)),
                Err(mut error) => match error.take_message() {
                    Some(unsent) if !is_new => request = unsent,
                    _ => return Err(error.into_error().into()),
                },
            }
        }
    }

    /// Gives back a connection whose last answer was read completely.
    pub(super) fn give_back(&self, connection: Connection) {
        let mut idle = self.idle();
        // Most instances never need a second place.
        idle.reserve_exact(1);
        idle.push(Connection { used: Instant::now(), ..connection });
    }

    fn request(&self, method: Method, path: PathAndQuery, json: Option<Bytes>) -> Request<Full<Bytes>> {
        let mut headers = self.host.headers.clone();
        if json.is_some() {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        let mut request = Request::new(Full::new(json.unwrap_or_default()));
        *request.method_mut() = method;
        let mut uri = hyper::http::uri::Parts::default();
        uri.path_and_query = Some(path);
        (uri.scheme, uri.authority) = self.host.absolute_form.clone().unzip();
        // Never fails: it has a path, and both or none of the others.
        *request.uri_mut() = Uri::from_parts(uri).unwrap_or_default();
        *request.headers_mut() = headers;
        request
    }

    /// The connection that was used last, unless it is too old. Closes those that were not used for long.
    fn take(&self) -> Option<Connection> {
        let mut idle = self.idle();
        let now = Instant::now();
        idle.retain(|connection| now - connection.used < IDLE_TIMEOUT);
        idle.pop().filter(|connection| now < connection.renew_at || !self.host.connector.may_renew())
    }

    async fn open(&self) -> Result<Connection, RequestError> {
        let stream = self.host.connector.open(&self.host.url).await.map_err(RequestError::Connect)?;
        let (requests, driver) = http1::handshake(stream).await?;
        let (used, renewed_after) = (Instant::now(), RENEWED_AFTER.mul_f64(0.8 + 0.4 * fastrand::f64()));
        Ok(Connection { requests, driver: Some(Box::pin(driver)), renew_at: used + renewed_after, used })
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Connection>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Connection {
    /// The next part of a body; `None` after the last one. Cancel safe.
    pub(super) async fn part(&mut self, body: &mut Incoming) -> Result<Option<Bytes>, RequestError> {
        while !body.is_end_stream()
            && let Some(frame) = drive(&mut self.driver, body.frame()).await
        {
            if let Ok(data) = frame?.into_data() {
                return Ok(Some(data));
            }
        }
        Ok(None)
    }
}

/// Waits for what a connection does, and lets it do that.
async fn drive<T>(driver: &mut Option<Driver>, waiting: impl Future<Output = T>) -> T {
    let mut waiting = pin!(waiting);
    poll_fn(|context| {
        if driver.as_mut().is_some_and(|driver| driver.as_mut().poll(context).is_ready()) {
            // Its error, if it is one, is the outcome of what is waiting.
            *driver = None;
        }
        waiting.as_mut().poll(context)
    })
    .await
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    const ANSWERS: [&str; 2] = [
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    ];

    /// Answers so many requests on each connection and closes it then; counts the connections.
    async fn server(answers: usize) -> (Url, Arc<AtomicUsize>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
        let accepted = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&accepted);
        tokio::spawn(async move {
            while let Ok((mut socket, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::Relaxed);
                tokio::spawn(async move {
                    let mut request = [0; 4096];
                    for answer in ANSWERS.into_iter().cycle().take(answers) {
                        assert!(socket.read(&mut request).await.unwrap() > 0);
                        socket.write_all(answer.as_bytes()).await.unwrap();
                    }
                });
            }
        });
        (url, accepted)
    }

    async fn ask(connections: &Connections) {
        let path = PathAndQuery::from_static("/path");
        let (mut connection, answer) = connections.send(Method::GET, path, None).await.unwrap();
        let mut body = answer.into_body();
        assert_eq!(connection.part(&mut body).await.unwrap().unwrap(), "{}");
        assert_eq!(connection.part(&mut body).await.unwrap(), None);
        connections.give_back(connection);
    }

    fn connections(url: &Url) -> Connections {
        Connections::new(Connector::new(None, None).unwrap(), url)
    }

    #[tokio::test]
    async fn a_connection_is_used_again_until_it_is_5_minutes_old() {
        let (url, accepted) = server(100).await;
        let connections = connections(&url);
        for _ in 0..2 * ANSWERS.len() {
            ask(&connections).await;
        }
        assert_eq!(accepted.load(Ordering::Relaxed), 1);
        let left = connections.idle()[0].renew_at - Instant::now();
        assert!((235..360).contains(&left.as_secs()), "{left:?}");
        connections.idle()[0].renew_at = Instant::now();
        ask(&connections).await;
        assert_eq!(accepted.load(Ordering::Relaxed), 2);
        assert_eq!(connections.idle().len(), 1, "the old one is closed");
    }

    #[tokio::test]
    async fn of_many_old_connections_50_a_second_are_renewed() {
        let (url, accepted) = server(100).await;
        let first = connections(&url);
        let instances: Vec<Connections> = (0..8).map(|_| first.clone()).collect();
        for connections in &instances {
            ask(connections).await;
            connections.idle()[0].renew_at = Instant::now();
        }
        let begun = Instant::now();
        for connections in &instances {
            ask(connections).await;
        }
        let most = 1 + begun.elapsed().as_millis() / 20;
        let renewed = accepted.load(Ordering::Relaxed) - instances.len();
        assert!((1..=most).contains(&(renewed as u128)), "{renewed} of 8, {most} at most");
    }

    #[tokio::test]
    async fn a_connection_that_was_closed_while_idle_fails_no_request() {
        let (url, accepted) = server(1).await;
        let connections = connections(&url);
        for asked in 1..=5 {
            ask(&connections).await;
            assert_eq!(accepted.load(Ordering::Relaxed), asked);
            // The runtime looks at its sockets only when it has nothing else to do.
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    #[tokio::test]
    async fn connections_that_are_not_needed_are_closed() {
        let (url, _) = server(100).await;
        let connections = connections(&url);
        let path = PathAndQuery::from_static("/path");
        let (second, _) = connections.send(Method::GET, path, None).await.unwrap();
        ask(&connections).await;
        connections.give_back(second);
        connections.idle()[0].used = Instant::now().checked_sub(IDLE_TIMEOUT).unwrap();
        assert_eq!(connections.idle().len(), 2);
        let _used = connections.take().unwrap();
        assert_eq!(connections.idle().len(), 0);
    }
}
