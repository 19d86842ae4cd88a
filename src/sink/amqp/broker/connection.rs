//! Connections: from an address to a channel in confirm mode, on which ownership is held and the topology is verified.

use std::io;
use std::path::Path;
use std::sync::OnceLock;
use std::time::Duration;

use lapin::options::{ConfirmSelectOptions, QueueDeclareOptions};
use lapin::protocol::AMQPSoftError;
use lapin::tcp::{OwnedIdentity, OwnedTLSConfig};
use lapin::types::{FieldTable, LongString, ShortString};
use lapin::uri::AMQPUri;
use lapin::{Channel, Connection, ConnectionProperties};
use p12_keystore::KeyStore;
use secrecy::{ExposeSecret, SecretString};
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::alarm::{ANSWER_TIMEOUT, Alarms};
use super::errors::{is_soft, unavailable};
use super::topology::{self, ReportedQueues};
use crate::address;
use crate::error::SetupError;
use crate::input_file;
use crate::metrics::Metrics;
use crate::sink::amqp::options::Options;
use crate::sink::session::{SessionError, Shard};

/// Two missed heartbeats end a connection, on either side. With the broker's default of a minute the next owner would have
/// to wait that long for a bridge that hangs.
const HEARTBEAT_SECONDS: u16 = 10;

/// How long connecting and logging in may take before the next node is tried.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// How long closing the connection may take before the socket is dropped.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// The secrets and certificates that the config refers to.
pub(super) struct Secrets {
    uris: Vec<SecretString>,
    tls: OwnedTLSConfig,
}

impl Secrets {
    /// Reads the files, which may have changed since the last session.
    pub(super) fn read(config: &Options) -> Result<Self, SetupError> {
        let unreadable = |key: &str, path: &Path, error: io::Error| {
            SetupError::new(format!("sink.amqp.{key} {}", path.display()), error)
        };
        let secret =
            |key: &str, path: &Path| input_file::read_secret_text(path).map_err(|error| unreadable(key, path, error));
        let certificates =
            |path: &Path| input_file::read_text(path).map_err(|error| unreadable("ca_file", path, error));
        let uris = match &config.uri_file {
            Some(path) => vec![SecretString::from(secret("uri_file", path)?.trim())],
            None => config.uri.clone(),
        };
        for (index, uri) in uris.iter().enumerate() {
            // The client's own error would contain the URI, including the password.
            address::amqp(uri.expose_secret()).map_err(|form| format!("{}: it {form}", place(config, index)))?;
        }
        let cert_chain = config.ca_file.as_deref().map(certificates).transpose()?;
        let identity = match &config.client_identity_file {
            None => None,
            Some(path) => {
                let der = input_file::read_secret(path);
                let der = der.map_err(|error| unreadable("client_identity_file", path, error))?;
                let password = match &config.client_identity_password_file {
                    None => String::new(),
                    Some(path) => secret("client_identity_password_file", path)?.trim().to_owned(),
                };
                KeyStore::from_pkcs12(&der, &password).map_err(|error| {
                    let path = path.display();
                    format!("sink.amqp.client_identity_file {path}: {error}: is it PKCS#12, and `client_identity_password_file` right?")
                })?;
                Some(OwnedIdentity::PKCS12 { der, password })
            }
        };
        Ok(Self { uris, tls: OwnedTLSConfig { identity, cert_chain } })
    }
}

/// Names an address by its place in the config, because the address itself may contain a password.
fn place(config: &Options, index: usize) -> String {
    match (&config.uri_file, config.uri.len()) {
        (Some(_), _) => "sink.amqp.uri_file".into(),
        (None, 1) => "sink.amqp.uri".into(),
        (None, _) => format!("sink.amqp.uri[{index}]"),
    }
}

/// The nodes of the broker, tried in turn, starting with the one after the last that was used.
pub(super) struct Nodes {
    config: Options,
    reported: ReportedQueues,
    metrics: Metrics,
    next: usize,
}

impl Nodes {
    /// `reported` are the queues whose differences were reported by any connection.
    pub(super) fn new(config: Options, reported: ReportedQueues, metrics: Metrics) -> Self {
        Self { config, reported, metrics, next: 0 }
    }

    /// Whether the config names several nodes, that is a cluster.
    pub(super) fn are_several(&self) -> bool {
        self.config.uri.len() > 1
    }

    /// Connects to the first usable node, takes ownership, and only then declares the topology.
    pub(super) fn own(&mut self) -> Result<(Link, Channel), SessionError> {
        let reported = self.reported.clone();
        self.connect(&async |connection: &Connection, config: &Options| own(connection, config, &reported).await)
    }

    /// Connects to the first node on which `prepare` succeeds.
    pub(super) fn connect<T>(
        &mut self,
        prepare: &impl AsyncFn(&Connection, &Options) -> Result<T, SessionError>,
    ) -> Result<(Link, T), SessionError> {
        let secrets = Secrets::read(&self.config)?;
        let mut causes = Vec::new();
        for _ in &secrets.uris {
            let index = self.next % secrets.uris.len();
            self.next = index + 1;
            let link = Link::open(&secrets.uris[index], &secrets.tls, &self.config, &self.metrics);
            match link.and_then(|link| Ok((link.within(prepare(&link.connection, &self.config))?, link))) {
                Ok((prepared, link)) => return Ok((link, prepared)),
                Err(SessionError::Unavailable(cause)) => {
                    causes.push(format!("{}: {cause}", place(&self.config, index)));
                }
                Err(end) => return Err(end),
            }
        }
        Err(SessionError::Unavailable(causes.join("; ")))
    }
}

/// The result of examining a node.
pub(super) enum Examined {
    /// Connecting or logging in failed.
    Unreachable(SessionError),
    /// Something that the config names is missing or differs.
    Lacks(SessionError),
    /// Everything is there. `rejected` is the depth of the queue of rejected messages, if there is one.
    Complete { rejected: Option<u32> },
}

/// Examines each node, named by its place in the config. Does not take ownership.
pub(super) fn examine(secrets: &Secrets, config: &Options) -> Vec<(String, Examined)> {
    let examine_one = |uri: &SecretString| {
        let link = match Link::open(uri, &secrets.tls, config, &Metrics::new("amqp")) {
            Ok(link) => link,
            Err(failure) => return Examined::Unreachable(failure),
        };
        let found = link.within(async {
            topology::prepare(&link.connection, config, &ReportedQueues::default()).await?;
            topology::rejected(&link.connection, config).await
        });
        found.map_or_else(Examined::Lacks, |rejected| Examined::Complete { rejected })
    };
    secrets.uris.iter().enumerate().map(|(index, uri)| (place(config, index), examine_one(uri))).collect()
}

/// The address in the form that the client expects.
fn address(uri: &str) -> Result<AMQPUri, SessionError> {
    let mut address: AMQPUri =
        uri.parse().map_err(|_repeats_it| SessionError::Unavailable("it is no AMQP address".into()))?;
    // The client does not recognize IPv6 literals and would fall back to localhost.
    if let Some(ipv6) = address::ipv6_host(uri) {
        address.authority.host = ipv6.to_string();
    }
    address.query.heartbeat.get_or_insert(HEARTBEAT_SECONDS);
    Ok(address)
}

/// A connection with a runtime of its own. Shutting the runtime down drops the socket, so what the client has buffered is
/// never sent, however long the broker blocks publishers.
///
/// Several sessions may share it. An overdue answer ends it for all of them, because a publish in flight must not outlive
/// the ownership under which it was sent.
pub(super) struct Link {
    connection: Connection,
    alarms: Alarms,
    abandoned: CancellationToken,
    /// Why it was abandoned.
    cause: OnceLock<SessionError>,
    driver: Driver,
}

impl Link {
    fn open(
        uri: &SecretString,
        tls: &OwnedTLSConfig,
        config: &Options,
        metrics: &Metrics,
    ) -> Result<Self, SessionError> {
        let address = address(uri.expose_secret())?;
        let connect_timeout = address.query.connection_timeout.map_or(CONNECT_TIMEOUT, Duration::from_millis);
        let properties = ConnectionProperties::default().with_connection_name(LongString::from(config.name.as_str()));
        let driver = Driver::start()?;
        let connection = driver.within(connect_timeout, async {
            // The client's own recovery is not used: it was seen to hang, and nothing may be published before ownership is
            // taken again.
            let runtime = lapin::runtime::default_runtime().map_err(|error| unavailable("runtime", &error))?;
            let connecting = Connection::connect_uri_with_config(address, properties, tls.clone(), runtime);
            connecting.await.map_err(|error| unavailable("connecting", &error))
        })?;
        let alarms = Alarms::of(&connection, &driver.handle, metrics.clone());
        Ok(Self { alarms, connection, abandoned: CancellationToken::new(), cause: OnceLock::new(), driver })
    }

    /// Waits up to 30 s for an answer of the broker.
    pub(super) fn within<T>(&self, answer: impl Future<Output = Result<T, SessionError>>) -> Result<T, SessionError> {
        self.driver.within(ANSWER_TIMEOUT, self.unless_abandoned(answer))
    }

    /// Waits for an answer of the broker; see [`Alarms::await_answer`].
    pub(super) fn await_answer<T>(
        &self,
        answer: impl Future<Output = Result<T, SessionError>>,
    ) -> Result<T, SessionError> {
        self.driver.handle.block_on(self.unless_abandoned(self.alarms.await_answer(answer)))
    }

    async fn unless_abandoned<T>(
        &self,
        answer: impl Future<Output = Result<T, SessionError>>,
    ) -> Result<T, SessionError> {
        let abandoned = || self.cause().unwrap_or_else(|| SessionError::Unavailable("it was abandoned".into()));
        self.abandoned.run_until_cancelled(answer).await.ok_or_else(abandoned)?
    }

    /// Waits for `event` or until `pause` is over. Returns false when the connection was abandoned.
    pub(super) fn rest(&self, pause: Duration, event: impl Future<Output = ()>) -> bool {
        // Both are reasons to continue.
        let _event_or_pause =
            self.driver.handle.block_on(async { timeout(pause, self.abandoned.run_until_cancelled(event)).await });
        !self.abandoned.is_cancelled()
    }

    pub(super) fn connection(&self) -> &Connection {
        &self.connection
    }

    /// Stops everybody from using it: pending waits end at once, the connection when its last holder drops it.
    pub(super) fn abandon(&self, cause: &SessionError) {
        // The first cause counts.
        drop(self.cause.set(cause.clone()));
        self.abandoned.cancel();
    }

    /// Why it was abandoned, if it was.
    pub(super) fn cause(&self) -> Option<SessionError> {
        self.cause.get().cloned()
    }

    /// Whether it is usable.
    pub(super) fn is_up(&self) -> bool {
        !self.abandoned.is_cancelled() && self.connection.status().connected()
    }

    /// Opens another channel under the same ownership.
    pub(super) fn open_channel(&self) -> Result<Channel, SessionError> {
        self.within(confirming_channel(&self.connection))
    }

    /// Declares or verifies the topology again.
    pub(super) fn prepare(&self, config: &Options, reported: &ReportedQueues) -> Result<(), SessionError> {
        self.await_answer(topology::prepare(&self.connection, config, reported))
    }

    /// The depth of the queue of rejected messages, if there is one.
    pub(super) fn rejected(&self, config: &Options) -> Result<Option<u32>, SessionError> {
        self.await_answer(topology::rejected(&self.connection, config))
    }
}

impl Drop for Link {
    /// Closes the connection, so that the next owner need not wait; if that fails, [`Driver`] drops the socket.
    fn drop(&mut self) {
        let closing =
            async { self.connection.close(200, "OK".into()).await.map_err(|error| unavailable("closing", &error)) };
        if let Err(cause) = self.driver.within(CLOSE_TIMEOUT, closing) {
            debug!(%cause, "dropping the socket");
        }
    }
}

/// The runtime of one connection. Dropping it does not wait, for example for a name that is being resolved.
struct Driver {
    handle: Handle,
    runtime: Option<Runtime>,
}

impl Driver {
    fn start() -> Result<Self, SessionError> {
        let runtime = Builder::new_multi_thread().worker_threads(1).thread_name("amqp").enable_all().build();
        let runtime =
            runtime.map_err(|error| SessionError::Unavailable(format!("no thread can be started: {error}")))?;
        Ok(Self { handle: runtime.handle().clone(), runtime: Some(runtime) })
    }

    fn within<T>(
        &self,
        limit: Duration,
        answer: impl Future<Output = Result<T, SessionError>>,
    ) -> Result<T, SessionError> {
        let late =
            |_elapsed| SessionError::Unavailable(format!("the broker did not answer in {} s", limit.as_secs_f64()));
        self.handle.block_on(async { timeout(limit, answer).await }).map_err(late)?
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.runtime.take().into_iter().for_each(Runtime::shutdown_background);
    }
}

async fn own(connection: &Connection, config: &Options, reported: &ReportedQueues) -> Result<Channel, SessionError> {
    let channel = confirming_channel(connection).await?;
    prove_ownership(&channel, &owner_queue(config, None)).await?;
    topology::prepare(connection, config, reported).await?;
    Ok(channel)
}

/// The exclusive queue that represents ownership, of everything or of one shard.
pub(super) fn owner_queue(config: &Options, shard: Option<Shard>) -> String {
    match shard {
        None => format!("{}.owner", config.name),
        Some(shard) => format!("{}.owner.{}", config.name, shard.index()),
    }
}

pub(super) async fn confirming_channel(connection: &Connection) -> Result<Channel, SessionError> {
    let channel = connection.create_channel().await.map_err(|error| unavailable("channel", &error))?;
    channel.confirm_select(ConfirmSelectOptions::default()).await.map_err(|error| unavailable("confirms", &error))?;
    Ok(channel)
}

/// Declares the ownership queue: succeeds if this connection has it, or if nobody had it.
pub(super) async fn prove_ownership(channel: &Channel, queue: &str) -> Result<(), SessionError> {
    let exclusive = QueueDeclareOptions { exclusive: true, ..QueueDeclareOptions::default() };
    match channel.queue_declare(ShortString::from(queue), exclusive, FieldTable::default()).await {
        Ok(_) => Ok(()),
        Err(error) if is_soft(&error, AMQPSoftError::RESOURCELOCKED) => {
            Err(SessionError::Owned(format!("another connection holds the queue {queue}")))
        }
        Err(error) => Err(unavailable(&format!("the ownership queue {queue}"), &error)),
    }
}

/// For [`crate::fuzzing`]: the host and port to which the client connects.
#[cfg(any(test, fuzzing))]
pub(crate) fn destination(uri: &str) -> Option<(String, u16)> {
    let AMQPUri { authority, .. } = address(uri).ok()?;
    Some((authority.host, authority.port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_client_connects_to_the_host_of_the_address() {
        for (text, host, port) in [
            ("amqp://guest:guest@[2001:db8::99]:5672/%2f", "2001:db8::99", 5672),
            ("amqps://[::1]/v", "::1", 5671),
            ("amqp://[::ffff:127.0.0.2]:1/v", "::ffff:127.0.0.2", 1),
            ("amqp://10.0.0.1/v", "10.0.0.1", 5672),
            ("amqp://rabbit.corp:7/v", "rabbit.corp", 7),
        ] {
            let authority = address(text).map_err(|failure| failure.to_string()).unwrap().authority;
            assert_eq!((authority.host.as_str(), authority.port), (host, port), "{text}");
        }
    }
}
