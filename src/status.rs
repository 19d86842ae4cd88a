//! What the process does and has done, for whoever asks: counted where it happens, read by the
//! admin port. Numbers only, no lock on the way of a notification.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::notification::InstanceId;

/// A number that only grows, or is set.
#[derive(Debug, Default)]
pub(crate) struct Number(AtomicU64);

impl Number {
    pub fn increase(&self) {
        self.0.fetch_add(1, Relaxed);
    }

    pub fn set(&self, value: u64) {
        self.0.store(value, Relaxed);
    }

    pub fn set_to_now(&self) {
        self.set(now());
    }

    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// Unix seconds.
pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// What one instance has done since its bridge was started.
#[derive(Debug, Default)]
pub(crate) struct InstanceStatus {
    /// Polls that brought a notification, brought none, or failed.
    pub polls_notification: Number,
    pub polls_empty: Number,
    pub polls_error: Number,
    /// Those that were dealt with; a stale head of an overlapped poll is not.
    pub received: Number,
    pub published: Number,
    pub redelivered: Number,
    pub publish_errors: Number,
    pub deletes_confirmed: Number,
    pub deletes_unconfirmed: Number,
    pub dead_too_large: Number,
    pub dead_refused: Number,
    pub dead_unroutable: Number,
    /// Place of the last one in the sequence, where the sink remembers it.
    pub sequence: Number,
    /// When a notification came last, and when one was last stored and deleted; Unix seconds.
    pub last_notification: Number,
    pub last_success: Number,
    /// When it last asked, or was answered; Unix seconds.
    pub polled: Number,
    /// Whether the last answer was none.
    pub unanswered: AtomicBool,
}

impl InstanceStatus {
    /// The status of an instance, to be counted in. It can be read as long as somebody holds it.
    pub fn of(instance: InstanceId) -> Arc<Self> {
        let status = Arc::default();
        registry().insert(instance, Arc::downgrade(&status));
        status
    }

    pub fn dead_lettered(&self) -> u64 {
        self.dead_too_large.get() + self.dead_refused.get() + self.dead_unroutable.get()
    }
}

type Registry = BTreeMap<InstanceId, Weak<InstanceStatus>>;

fn registry() -> MutexGuard<'static, Registry> {
    static REGISTRY: Mutex<Registry> = Mutex::new(BTreeMap::new());
    REGISTRY.lock().unwrap_or_else(PoisonError::into_inner)
}

/// An instance that runs.
#[cfg_attr(not(any(feature = "kafka", feature = "amqp")), allow(dead_code, reason = "lines refuse nothing"))]
pub(crate) fn instance(instance: InstanceId) -> Option<Arc<InstanceStatus>> {
    registry().get(&instance)?.upgrade()
}

/// The instances that run, by id.
pub(crate) fn instances() -> Vec<(InstanceId, Arc<InstanceStatus>)> {
    let mut registry = registry();
    registry.retain(|_, status| status.strong_count() > 0);
    registry.iter().filter_map(|(instance, status)| Some((*instance, status.upgrade()?))).collect()
}

/// The sink of the process.
#[derive(Debug)]
pub(crate) struct SinkStatus {
    pub kind: &'static str,
    /// Whether it is owned and connected, as far as is known.
    pub up: AtomicBool,
    /// Since when it is storing what it stores now; Unix seconds, 0 when it is idle.
    pub storing_since: Number,
    /// From handing over to stored.
    pub publish_seconds: Histogram,
}

impl SinkStatus {
    /// Whether it stores what it is given, without getting stuck.
    pub fn works(&self) -> bool {
        let since = self.storing_since.get();
        self.up.load(Relaxed) && (since == 0 || now().saturating_sub(since) <= STUCK_SECS)
    }
}

/// A client waits long for an unreachable broker before it says so.
const STUCK_SECS: u64 = 10;

static SINK: OnceLock<SinkStatus> = OnceLock::new();

/// The one sink of the process, from its start on. `kind` counts the first time.
pub(crate) fn sink(kind: &'static str) -> &'static SinkStatus {
    SINK.get_or_init(|| SinkStatus {
        kind,
        up: AtomicBool::new(false),
        storing_since: Number::default(),
        publish_seconds: Histogram::default(),
    })
}

/// The sink, once there is one.
pub(crate) fn the_sink() -> Option<&'static SinkStatus> {
    SINK.get()
}

/// Upper ends of the buckets, in seconds.
const ENDS: [f64; 11] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, f64::INFINITY];

/// How long things took.
#[derive(Debug, Default)]
pub(crate) struct Histogram {
    buckets: [Number; ENDS.len()],
    nanoseconds: AtomicU64,
}

impl Histogram {
    pub fn observe(&self, took: Duration) {
        let bucket = ENDS.iter().position(|end| took.as_secs_f64() <= *end).unwrap_or(ENDS.len() - 1);
        self.buckets[bucket].increase();
        self.nanoseconds.fetch_add(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX), Relaxed);
    }

    /// Sum in seconds, and of each bucket its upper end and its own count.
    pub fn read(&self) -> (f64, Vec<(f64, u64)>) {
        let sum = Duration::from_nanos(self.nanoseconds.load(Relaxed)).as_secs_f64();
        (sum, ENDS.into_iter().zip(self.buckets.iter().map(Number::get)).collect())
    }
}
