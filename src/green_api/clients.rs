//! HTTP clients of limited age. A connection used for polling is never idle, so it would stay with an address that its host has
//! left. Each instance therefore moves to the newest client every few minutes; the connections of the previous client finish
//! their requests and are closed when nobody uses them.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, Once, PoisonError};
use std::time::Duration;

use reqwest::{Certificate, Client, ClientBuilder, Proxy, redirect};
use tokio::time::Instant;
use tracing::{debug, warn};
use url::Url;

use super::ClientError;
use super::addresses::Addresses;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// The maximum age of a connection at the start of a request.
const OLDEST: Duration = Duration::from_secs(360);

/// The time limits of clients.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ages {
    /// How long an instance keeps a client, less up to a fifth.
    keep: Duration,
    /// The maximum age of a client to which an instance moves.
    fresh: Duration,
    /// The interval between the moves of two instances, each of which opens connections.
    between: Duration,
}

impl Ages {
    /// An instance can move only between two polls, and may first have to wait until the newest client is built.
    pub(super) fn with_polls_of(poll: Duration) -> Self {
        let fresh = Duration::from_secs(30);
        Self { keep: OLDEST.saturating_sub(fresh + 2 * poll), fresh, between: Duration::from_millis(20) }
    }
}

/// The settings of all clients.
#[derive(Clone, Default)]
pub(super) struct Settings {
    pub proxy: Option<Url>,
    /// Trusted in addition to the system's.
    pub certificates: Vec<Certificate>,
    pub addresses: Addresses,
}

impl Settings {
    /// Reads the system's certificates. A machine that has none can still use plain HTTP, and the config's own.
    fn build(&self) -> Result<Client, ClientError> {
        static WARNED: Once = Once::new();
        let certificates = || self.certificates.iter().cloned();
        let with_system = self.builder()?.tls_certs_merge(certificates()).build().map_err(ClientError::of);
        with_system.or_else(|error| {
            let without = self.builder()?.tls_certs_only(certificates()).build().map_err(|_same| error)?;
            WARNED.call_once(|| {
                warn!(
                    event = "no_ca_certificates",
                    "the system has no CA certificates: only those of `api.ca_file` are trusted"
                );
            });
            Ok(without)
        })
    }

    fn builder(&self) -> Result<ClientBuilder, ClientError> {
        // Only HTTP/1.1, because the feature `http2` is off. No redirects and no referer: both would send the token in the path
        // to another host.
        let mut builder = Client::builder()
            .user_agent(concat!("green-api-bridge/", env!("CARGO_PKG_VERSION")))
            .redirect(redirect::Policy::none())
            .referer(false)
            .no_proxy()
            .connect_timeout(CONNECT_TIMEOUT)
            .dns_resolver(self.addresses.clone())
            .pool_idle_timeout(Duration::from_secs(30));
        if let Some(proxy) = &self.proxy {
            builder = builder.proxy(Proxy::all(proxy.clone()).map_err(ClientError::of)?);
        }
        Ok(builder)
    }
}

/// The clients of all instances. Clones share them.
#[derive(Clone)]
pub(super) struct Clients(Arc<Shared>);

impl fmt::Debug for Clients {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Clients").finish_non_exhaustive()
    }
}

struct Shared {
    settings: Settings,
    ages: Ages,
    /// Locked briefly when an instance moves.
    newest: Mutex<Newest>,
}

struct Newest {
    client: Client,
    built: Instant,
    is_building: bool,
    next_move: Instant,
}

/// The client of one instance, and how long it is used.
#[derive(Clone, Debug)]
pub(super) struct Current {
    pub client: Client,
    until: Instant,
}

impl Clients {
    pub(super) fn new(settings: Settings, ages: Ages) -> Result<Self, ClientError> {
        let (client, now) = (settings.build()?, Instant::now());
        let newest = Newest { client, built: now, is_building: false, next_move: now };
        Ok(Self(Arc::new(Shared { settings, ages, newest: Mutex::new(newest) })))
    }

    /// The client for an instance that starts.
    pub(super) fn first(&self) -> Current {
        self.current(self.0.newest().client.clone())
    }

    /// Moves to the newest client if the current one is too old, a new one is built, and no other instance has just moved.
    pub(super) fn renew(&self, current: &mut Current) {
        let now = Instant::now();
        if now < current.until {
            return;
        }
        let mut newest = self.0.newest();
        if now < newest.next_move || newest.is_building {
            return;
        }
        if newest.built.elapsed() > self.0.ages.fresh {
            newest.is_building = true;
            self.build();
            return;
        }
        newest.next_move = now + self.0.ages.between;
        *current = self.current(newest.client.clone());
    }

    fn current(&self, client: Client) -> Current {
        Current { client, until: Instant::now() + self.0.ages.keep.mul_f64(1.0 - fastrand::f64() / 5.0) }
    }

    fn build(&self) {
        let shared = Arc::clone(&self.0);
        tokio::task::spawn_blocking(move || {
            let built = shared.settings.build();
            let mut newest = shared.newest();
            newest.is_building = false;
            match built {
                Ok(client) => (newest.client, newest.built) = (client, Instant::now()),
                Err(error) => debug!(%error, "no new HTTP client can be built: going on with the last"),
            }
        });
    }
}

impl Shared {
    fn newest(&self) -> MutexGuard<'_, Newest> {
        self.newest.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    #[test]
    fn whatever_a_poll_takes_no_connection_is_used_after_6_minutes() {
        for seconds in [5, 20, 60] {
            let poll = Duration::from_secs(seconds);
            let ages = Ages::with_polls_of(poll);
            assert_eq!(ages.fresh + ages.keep + 2 * poll, OLDEST);
            assert!(ages.keep.mul_f64(0.8) > Duration::from_secs(120), "{seconds} s");
        }
    }

    /// Answers every request; when each connection was opened and last used.
    async fn server() -> (std::net::SocketAddr, Arc<Mutex<HashMap<usize, (Instant, Instant)>>>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::new(Mutex::new(HashMap::new()));
        let used = Arc::clone(&seen);
        tokio::spawn(async move {
            let number = AtomicUsize::new(0);
            while let Ok((mut socket, _)) = listener.accept().await {
                let (number, used, opened) =
                    (number.fetch_add(1, Ordering::Relaxed), Arc::clone(&used), Instant::now());
                tokio::spawn(async move {
                    let mut request = [0; 4096];
                    while socket.read(&mut request).await.is_ok_and(|length| length > 0) {
                        used.lock().unwrap().insert(number, (opened, Instant::now()));
                        if socket.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.is_err() {
                            return;
                        }
                    }
                });
            }
        });
        (address, seen)
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn connections_that_are_always_in_use_grow_old_and_are_left() {
        let (address, used) = server().await;
        let ages = Ages {
            keep: Duration::from_millis(400),
            fresh: Duration::from_millis(100),
            between: Duration::from_millis(1),
        };
        let clients = Clients::new(Settings::default(), ages).unwrap();
        let mut instances: Vec<Current> = (0..8).map(|_| clients.first()).collect();
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(6) {
            for current in &mut instances {
                clients.renew(current);
                current.client.get(format!("http://{address}/")).send().await.unwrap();
            }
        }
        let used = used.lock().unwrap();
        assert!(used.len() >= 3, "{} connections in 6 s", used.len());
        // On a busy machine to build a client takes its time, and so does a request.
        let oldest = used.values().map(|(opened, last)| *last - *opened).max().unwrap();
        assert!(oldest < Duration::from_secs(3), "the oldest was used for {oldest:?}");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn instances_move_one_after_the_other() {
        let ages = Ages { keep: Duration::ZERO, fresh: Duration::from_secs(60), between: Duration::from_secs(60) };
        let clients = Clients::new(Settings::default(), ages).unwrap();
        let mut instances: Vec<Current> = (0..8).map(|_| clients.first()).collect();
        let until: Vec<Instant> = instances.iter().map(|current| current.until).collect();
        while Instant::now() <= until[7] {
            std::hint::spin_loop();
        }
        for current in &mut instances {
            clients.renew(current);
        }
        let moved = instances.iter().zip(until).filter(|(current, until)| current.until != *until).count();
        assert_eq!(moved, 1);
    }
}
