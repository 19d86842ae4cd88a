//! From an address to an owned, confirming channel on a topology that is as it should be.

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
use super::topology::{self, Told};
use crate::address;
use crate::input_file;
use crate::sink::amqp::options::Options;
use crate::sink::session::{SessionError, Shard};

/// A silent broker is given up after two of these, and a silent bridge by the broker: the default
/// of the broker, a minute, would make the next owner wait that long.
const HEARTBEAT_SECONDS: u16 = 10;

/// How long a node may take to let us in before the next one is tried.
const WELCOME: Duration = Duration::from_secs(10);

/// How long an orderly end may take before the socket is cut.
const FAREWELL: Duration = Duration::from_secs(5);

/// What the config keeps in files.
pub(super) struct Secrets {
    uris: Vec<SecretString>,
    tls: OwnedTLSConfig,
}

impl Secrets {
    /// Reads the files, which may have changed since the last time.
    pub(super) fn read(config: &Options) -> Result<Self, String> {
        let unreadable =
            |key: &str, path: &Path, error: &io::Error| format!("sink.amqp.{key} {}: {error}", path.display());
        let secret =
            |key: &str, path: &Path| input_file::read_secret_text(path).map_err(|error| unreadable(key, path, &error));
        let certificates =
            |path: &Path| input_file::read_text(path).map_err(|error| unreadable("ca_file", path, &error));
        let uris = match &config.uri_file {
            Some(path) => vec![SecretString::from(secret("uri_file", path)?.trim())],
            None => config.uri.iter().map(|uri| uri.value.clone()).collect(),
        };
        for (index, uri) in uris.iter().enumerate() {
            // The client's own error would repeat it, password and all.
            address::amqp(uri.expose_secret()).map_err(|form| format!("{}: it {form}", place(config, index)))?;
        }
        let cert_chain = config.ca_file.as_deref().map(certificates).transpose()?;
        let identity = match &config.client_identity_file {
            None => None,
            Some(path) => {
                let der = input_file::read_secret(path);
                let der = der.map_err(|error| unreadable("client_identity_file", path, &error))?;
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

/// An address may hold a password: it is told by its place in the config.
fn place(config: &Options, index: usize) -> String {
    match (&config.uri_file, config.uri.len()) {
        (Some(_), _) => "sink.amqp.uri_file".into(),
        (None, 1) => "sink.amqp.uri".into(),
        (None, _) => format!("sink.amqp.uri[{index}]"),
    }
}

/// The broker's nodes, tried in turn: whatever ended the last connection, the next one is tried first.
pub(super) struct Nodes {
    config: Options,
    told: Told,
    next: usize,
}

impl Nodes {
    /// `told` is what was told of queues, by all connections.
    pub(super) fn new(config: Options, told: Told) -> Self {
        Self { config, told, next: 0 }
    }

    /// Whether the broker is a cluster, as far as the config says.
    pub(super) fn are_several(&self) -> bool {
        self.config.uri.len() > 1
    }

    /// Connects to the first that can be used, takes the ownership, and only then looks after the topology.
    pub(super) fn own(&mut self) -> Result<(Link, Channel), SessionError> {
        let told = self.told.clone();
        self.connect(&async |connection: &Connection, config: &Options| own(connection, config, &told).await)
    }

    /// Connects to the first that can be used: at which `prepare` succeeds.
    pub(super) fn connect<T>(
        &mut self,
        prepare: &impl AsyncFn(&Connection, &Options) -> Result<T, SessionError>,
    ) -> Result<(Link, T), SessionError> {
        let secrets = Secrets::read(&self.config).map_err(SessionError::Unavailable)?;
        let mut causes = Vec::new();
        for _ in &secrets.uris {
            let index = self.next % secrets.uris.len();
            self.next = index + 1;
            let link = Link::open(&secrets.uris[index], &secrets.tls, &self.config);
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

/// What was found at a node.
pub(super) enum Examined {
    /// It cannot be logged in to.
    Unreachable(SessionError),
    /// It lacks something that the config names, or has it otherwise.
    Lacks(SessionError),
    /// It has everything; and so many messages were rejected too often, where there is a queue for them.
    Complete { rejected: Option<u32> },
}

/// Examines each node, which is named by its place in the config. Takes no ownership.
pub(super) fn examine(secrets: &Secrets, config: &Options) -> Vec<(String, Examined)> {
    let examine_one = |uri: &SecretString| {
        let link = match Link::open(uri, &secrets.tls, config) {
            Ok(link) => link,
            Err(failure) => return Examined::Unreachable(failure),
        };
        let found = link.within(async {
            topology::prepare(&link.connection, config, &Told::default()).await?;
            topology::rejected(&link.connection, config).await
        });
        found.map_or_else(Examined::Lacks, |rejected| Examined::Complete { rejected })
    };
    secrets.uris.iter().enumerate().map(|(index, uri)| (place(config, index), examine_one(uri))).collect()
}

/// The address as the client is told it.
fn address(uri: &str) -> Result<AMQPUri, SessionError> {
    let mut address: AMQPUri =
        uri.parse().map_err(|_repeats_it| SessionError::Unavailable("it is no AMQP address".into()))?;
    // The client looks for a name alone, and without one goes to localhost.
    if let Some(ipv6) = address::ipv6_host(uri) {
        address.authority.host = ipv6.to_string();
    }
    address.query.heartbeat.get_or_insert(HEARTBEAT_SECONDS);
    Ok(address)
}

/// A connection, and a runtime that drives it and nothing else: with the runtime goes the socket. So
/// what still waits in the client is never sent, however long the broker blocks publishers.
///
/// Several owners may share it. An answer that does not come ends it for all of them: what is still on its way must not
/// outlive an ownership.
pub(super) struct Link {
    connection: Connection,
    alarms: Alarms,
    given_up: CancellationToken,
    /// Why it was given up.
    cause: OnceLock<SessionError>,
    driver: Driver,
}

impl Link {
    fn open(uri: &SecretString, tls: &OwnedTLSConfig, config: &Options) -> Result<Self, SessionError> {
        let address = address(uri.expose_secret())?;
        let welcome = address.query.connection_timeout.map_or(WELCOME, Duration::from_millis);
        let properties = ConnectionProperties::default().with_connection_name(LongString::from(config.name.as_str()));
        let driver = Driver::start()?;
        let connection = driver.within(welcome, async {
            // No recovery by the client itself: it was seen to hang, and nothing may be published
            // again before the ownership is taken again.
            let runtime = lapin::runtime::default_runtime().map_err(|error| unavailable("runtime", &error))?;
            let connecting = Connection::connect_uri_with_config(address, properties, tls.clone(), runtime);
            connecting.await.map_err(|error| unavailable("connecting", &error))
        })?;
        let alarms = Alarms::of(&connection, &driver.handle);
        Ok(Self { alarms, connection, given_up: CancellationToken::new(), cause: OnceLock::new(), driver })
    }

    /// Waits for what the broker has to answer, for 30 s.
    pub(super) fn within<T>(&self, answer: impl Future<Output = Result<T, SessionError>>) -> Result<T, SessionError> {
        self.driver.within(ANSWER_TIMEOUT, self.unless_given_up(answer))
    }

    /// Waits for what the broker has to answer; see [`Alarms::patiently`].
    pub(super) fn patiently<T>(
        &self,
        answer: impl Future<Output = Result<T, SessionError>>,
    ) -> Result<T, SessionError> {
        self.driver.handle.block_on(self.unless_given_up(self.alarms.patiently(answer)))
    }

    async fn unless_given_up<T>(
        &self,
        answer: impl Future<Output = Result<T, SessionError>>,
    ) -> Result<T, SessionError> {
        let given_up = || self.cause().unwrap_or_else(|| SessionError::Unavailable("it was given up".into()));
        self.given_up.run_until_cancelled(answer).await.ok_or_else(given_up)?
    }

    /// Waits for `event`, or for the end of `pause`; false when the connection was given up.
    pub(super) fn rest(&self, pause: Duration, event: impl Future<Output = ()>) -> bool {
        // Either way it is time to go on.
        let _event_or_pause =
            self.driver.handle.block_on(async { timeout(pause, self.given_up.run_until_cancelled(event)).await });
        !self.given_up.is_cancelled()
    }

    pub(super) fn connection(&self) -> &Connection {
        &self.connection
    }

    /// Nobody is to use it any more: it ends with whoever holds it last. What was waiting for an answer waits no longer.
    pub(super) fn give_up(&self, cause: &SessionError) {
        // The first is the one that counts.
        drop(self.cause.set(cause.clone()));
        self.given_up.cancel();
    }

    /// Why it was given up, if it was.
    pub(super) fn cause(&self) -> Option<SessionError> {
        self.cause.get().cloned()
    }

    /// Whether it can be used.
    pub(super) fn is_up(&self) -> bool {
        !self.given_up.is_cancelled() && self.connection.status().connected()
    }

    /// A channel for the next publish, under the same ownership.
    pub(super) fn another_channel(&self) -> Result<Channel, SessionError> {
        self.within(confirming_channel(&self.connection))
    }

    /// Looks after the topology again.
    pub(super) fn prepare(&self, config: &Options, told: &Told) -> Result<(), SessionError> {
        self.patiently(topology::prepare(&self.connection, config, told))
    }
}

impl Drop for Link {
    /// An orderly end, so that the next owner need not wait; or the cut that [`Driver`] makes.
    fn drop(&mut self) {
        let farewell =
            async { self.connection.close(200, "OK".into()).await.map_err(|error| unavailable("closing", &error)) };
        if let Err(cause) = self.driver.within(FAREWELL, farewell) {
            debug!(%cause, "the connection is cut");
        }
    }
}

/// The runtime of one connection. It goes without waiting, for a name that is being resolved say.
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

async fn own(connection: &Connection, config: &Options, told: &Told) -> Result<Channel, SessionError> {
    let channel = confirming_channel(connection).await?;
    prove_ownership(&channel, &owner_queue(config, None)).await?;
    topology::prepare(connection, config, told).await?;
    Ok(channel)
}

/// The queue that is the ownership, of all or of a shard.
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

/// Declares the ownership queue: succeeds only on the connection that has it, or when nobody has.
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

/// For [`crate::fuzzing`]: the host and the port to which the client goes.
#[cfg(any(test, fuzzing))]
pub(crate) fn destination(uri: &str) -> Option<(String, u16)> {
    let AMQPUri { authority, .. } = address(uri).ok()?;
    Some((authority.host, authority.port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_client_is_told_the_host_of_the_address() {
        for (text, host, port) in [
            ("amqp://guest:guest@[2001:db8::99]:5672/%2f", "2001:db8::99", 5672),
            ("amqps://[::1]/v", "::1", 5671),
            ("amqp://[::ffff:127.0.0.2]:1/v", "::ffff:127.0.0.2", 1),
            ("amqp://10.0.0.1/v", "10.0.0.1", 5672),
            ("amqp://rabbit.corp:7/v", "rabbit.corp", 7),
        ] {
            let told = address(text).map_err(|failure| failure.to_string()).unwrap().authority;
            assert_eq!((told.host.as_str(), told.port), (host, port), "{text}");
        }
    }
}
