//! The Green API queue as a local server, for anyone's tests.
//!
//! It answers receiving, deleting, settings and state as the real service does. The control endpoints under `/_emulator/`, and
//! [`Emulator`] in the same process, queue notifications and inject faults. `GET /_emulator/` explains the control endpoints.

mod answer;
mod api;
mod command;
mod connection;
mod control;
mod fault;
mod generate;
mod journal;
mod journals;
mod knobs;
mod queue;
mod rate;
mod receiving;

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::Router;
use bytes::Bytes;
use secrecy::SecretString;
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub use command::{Arguments, InstanceArgument, serve};
use connection::{Connection, CuttableListener};
pub use fault::{Fault, FaultKind, Method, When};
pub use journal::{Event, EventKind};
pub use knobs::{
    ConcurrentReceivers, DeleteUnknown, EmptyAnswer, ErrorBodyFormat, Knobs, OutOfRange, ReceiptIds,
    ReceiptOnRedelivery, Redelivery, WhenNotAuthorized,
};
use queue::{Instance, Notification};

/// A running server; dropping it closes the port and cuts every connection.
///
/// Its methods panic when the instance is not one of those it was started with: that is a mistake in the test.
pub struct Emulator {
    address: SocketAddr,
    server: Arc<Server>,
    serving: JoinHandle<()>,
}

impl Emulator {
    /// Binds, then serves in a background task. Port 0 takes a free one. Nothing is slow,
    /// limited or odd until a knob is turned; the `emulator` command turns the rate limits on.
    ///
    /// `instances` are pairs of id and token; both go into URL paths as they are.
    ///
    /// # Errors
    ///
    /// The address cannot be bound, or an instance id is given twice.
    pub async fn start(listen: SocketAddr, instances: impl IntoIterator<Item = (String, String)>) -> io::Result<Self> {
        let mut slots = BTreeMap::new();
        for (id, token) in instances {
            let slot = Slot::new(SecretString::from(token));
            if slots.insert(id.clone(), slot).is_some() {
                let reason = format!("instance {id} is given twice");
                return Err(io::Error::new(io::ErrorKind::InvalidInput, reason));
            }
        }
        let listener = TcpListener::bind(listen).await?;
        let address = listener.local_addr()?;

        let stopped = CancellationToken::new();
        let server = Arc::new(Server { slots, clock_ahead_ms: AtomicU64::new(0), stopped: stopped.clone() });
        let router: Router = control::router().fallback(api::answer).with_state(Arc::clone(&server));
        let service = router.into_make_service_with_connect_info::<Connection>();
        let accepting = axum::serve(CuttableListener { listener, stopped }, service);
        let serving = tokio::spawn(async move {
            // It accepts until it is dropped; its error is only a formality of its type.
            accepting.await.ok();
        });
        Ok(Self { address, server, serving })
    }

    /// The address it listens on, with the real port.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The `apiUrl` of its instances, such as `http://127.0.0.1:8080`.
    #[must_use]
    pub fn url(&self) -> String {
        let mut address = self.address;
        // One listens on "any address" but cannot portably connect to it.
        if address.ip().is_unspecified() {
            address.set_ip(match address.ip() {
                IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
                IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
            });
        }
        format!("http://{address}")
    }

    /// Queues a notification and wakes waiting receivers.
    ///
    /// The text is handed out byte for byte and not parsed: broken JSON makes a broken answer. The settings that switch kinds
    /// of notification off are ignored.
    pub fn push(&self, instance: &str, body: impl AsRef<[u8]>) {
        let notification = Notification::new(Bytes::copy_from_slice(body.as_ref()));
        self.slot(instance).push(self.server.now_ms(), [notification]);
    }

    /// Queues text messages at this rate in the background, up to a million.
    ///
    /// # Errors
    ///
    /// `InvalidInput`: the rate is not within 0.001 to 1000000 a second.
    pub fn generate(&self, instance: &str, per_second: f64) -> io::Result<()> {
        generate::generate(&self.server, instance, &generate::Generate::steadily(per_second))
            .map(drop)
            .map_err(|reason| io::Error::new(io::ErrorKind::InvalidInput, reason))
    }

    /// How many notifications wait, the head included.
    #[must_use]
    pub fn queued(&self, instance: &str) -> usize {
        self.slot(instance).lock().queued()
    }

    /// How many requests the instance has had, whatever they were answered.
    #[must_use]
    pub fn requests(&self, instance: &str) -> u64 {
        self.slot(instance).lock().requests
    }

    /// What happened to the instance so far, in order: the last 100,000 events. If there were more, the first is
    /// [`EventKind::Dropped`] and has their number.
    #[must_use]
    pub fn journal(&self, instance: &str) -> Vec<Event> {
        self.slot(instance).lock().journal.lines()
    }

    /// How many events there were so far, those included that the journal no longer has.
    #[must_use]
    pub fn recorded(&self, instance: &str) -> u64 {
        self.slot(instance).lock().journal.recorded()
    }

    /// Makes the next fitting request go wrong.
    ///
    /// # Panics
    ///
    /// The fault cannot be carried out: no `times`, a status outside 200 to 599, a content type that is no header.
    pub fn fault(&self, instance: &str, fault: Fault) {
        if let Err(reason) = fault.check() {
            panic!("{reason}");
        }
        self.slot(instance).lock().add_fault(fault);
    }

    /// Slows down every answer: half of `delay` passes before the server acts, half after.
    pub fn set_delay(&self, instance: &str, delay: Duration) {
        self.turn(instance, |knobs| knobs.delay_ms = delay.as_millis().try_into().unwrap_or(u64::MAX));
    }

    /// Turns knobs of an instance.
    pub fn turn(&self, instance: &str, turn: impl FnOnce(&mut Knobs)) {
        let slot = self.slot(instance);
        turn(&mut slot.lock().knobs);
        slot.arrived.notify_waiters();
    }

    /// Lets time pass for retention, settings, counts and rate limits. Long polls go on as they are.
    pub fn advance_clock(&self, by: Duration) {
        self.server.advance_clock(by.as_millis().try_into().unwrap_or(u64::MAX));
    }

    /// Reboots an instance; what survives is a matter of its knobs.
    pub fn reboot(&self, instance: &str) {
        self.slot(instance).lock().reboot(self.server.now_ms());
    }

    /// Replaces the token, at once and for requests that are still to come.
    pub fn set_token(&self, instance: &str, token: &str) {
        self.slot(instance).lock().set_token(SecretString::from(token));
    }

    fn slot(&self, instance: &str) -> &Slot {
        match self.server.slot(instance) {
            Ok(slot) => slot,
            Err(reason) => panic!("{reason}"),
        }
    }
}

impl Drop for Emulator {
    fn drop(&mut self) {
        self.serving.abort();
        self.server.stopped.cancel();
    }
}

impl fmt::Debug for Emulator {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let instances: Vec<_> = self.server.slots.keys().collect();
        formatter
            .debug_struct("Emulator")
            .field("address", &self.address)
            .field("instances", &instances)
            .finish_non_exhaustive()
    }
}

/// One example body of every kind of notification the Green API documents, compact, in the order of their names.
///
/// All values are made up.
pub fn notifications() -> impl Iterator<Item = &'static str> + Clone {
    include_str!("notifications.jsonl").lines()
}

/// What was asked of the emulator cannot be done.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Refused(String);

/// What the handlers share.
struct Server {
    slots: BTreeMap<String, Slot>,
    /// How far the emulated clock is ahead of the real one.
    clock_ahead_ms: AtomicU64,
    stopped: CancellationToken,
}

impl Server {
    fn now_ms(&self) -> u64 {
        now_ms().saturating_add(self.clock_ahead_ms.load(Ordering::Relaxed))
    }

    fn advance_clock(&self, by_ms: u64) {
        self.clock_ahead_ms.fetch_add(by_ms, Ordering::Relaxed);
        self.slots.values().for_each(|slot| slot.arrived.notify_waiters());
    }

    fn slot(&self, instance: &str) -> Result<&Slot, Refused> {
        self.slots.get(instance).ok_or_else(|| {
            let known: Vec<_> = self.slots.keys().map(String::as_str).collect();
            Refused(format!("there is no instance {instance}; the emulator has {}", known.join(", ")))
        })
    }
}

/// An instance, and what is notified when a notification enters its queue.
struct Slot {
    instance: Mutex<Instance>,
    arrived: Notify,
}

impl Slot {
    fn new(token: SecretString) -> Self {
        Self { instance: Mutex::new(Instance::new(token)), arrived: Notify::new() }
    }

    /// A panic under the lock is a failed test already; the others go on.
    fn lock(&self) -> MutexGuard<'_, Instance> {
        self.instance.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues all of them in one go and returns how many wait now.
    fn push(&self, now_ms: u64, notifications: impl IntoIterator<Item = Notification>) -> usize {
        let mut instance = self.lock();
        for notification in notifications {
            instance.push(now_ms, &notification);
        }
        let queued = instance.queued();
        drop(instance);
        self.arrived.notify_waiters();
        queued
    }
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
