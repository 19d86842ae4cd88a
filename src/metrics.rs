//! What the process does and has done, for whoever asks: counted where it happens, read by the
//! admin port. Numbers only, no lock on the way of a notification.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::kinds::{KINDS, OTHER, listed};
use crate::notification::InstanceId;
use crate::sink::shard::Shard;

pub(crate) use self::shard::{ShardStatus, State};

mod shard;

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

/// The states of an account that are told apart.
const STATES: [&str; 9] = [
    "authorized",
    "notAuthorized",
    "blocked",
    "starting",
    "suspended",
    "yellowCard",
    "sleepMode",
    "pendingPassword",
    OTHER,
];

/// Notifications of each kind.
#[derive(Debug, Default)]
pub(crate) struct ByKind([Number; KINDS.len()]);

impl ByKind {
    pub fn increase(&self, kind: &str) {
        self.0[listed(&KINDS, kind)].increase();
    }

    pub fn total(&self) -> u64 {
        self.0.iter().map(Number::get).sum()
    }

    /// The kinds of which there were any.
    pub fn each(&self) -> impl Iterator<Item = (&'static str, u64)> {
        KINDS.into_iter().zip(self.0.iter().map(Number::get)).filter(|(_, count)| *count > 0)
    }
}

/// What came of a poll.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Outcome {
    Notification,
    Empty,
    Error,
}

impl Outcome {
    pub const ALL: [Self; 3] = [Self::Notification, Self::Empty, Self::Error];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Notification => "notification",
            Self::Empty => "empty",
            Self::Error => "error",
        }
    }
}

/// What one instance has done since its bridge was started.
#[derive(Debug, Default)]
pub(crate) struct InstanceMetrics {
    polls: [Number; Outcome::ALL.len()],
    /// Those that were dealt with; a stale head of an overlapped poll is not.
    pub received: ByKind,
    pub published: ByKind,
    /// Received, and neither deleted nor given up yet: 0 or 1.
    pub in_flight: Number,
    pub redelivered: Number,
    /// Not stored for certain, and unknown whether it was stored.
    pub publish_refused: Number,
    pub publish_unknown: Number,
    pub deletes_confirmed: Number,
    pub deletes_unconfirmed: Number,
    pub dead_too_large: Number,
    pub dead_refused: Number,
    pub dead_unroutable: Number,
    pub dead_malformed: Number,
    /// Place of the last one in the sequence, where the sink remembers it.
    pub sequence: Number,
    /// When a notification came last, and when one was last stored and deleted; Unix seconds.
    pub last_notification: Number,
    pub last_success: Number,
    /// When it last asked, or was answered; Unix seconds.
    pub asked: Number,
    /// Whether the last answer was none.
    pub unanswered: AtomicBool,
    /// 0, or what its last `stateInstanceChanged` said, counted in [`STATES`] from 1.
    state: Number,
}

impl InstanceMetrics {
    /// The status of an instance, to be counted in. It can be read as long as somebody holds it.
    pub fn of(instance: InstanceId) -> Arc<Self> {
        let status = Arc::default();
        registry().insert(instance, Arc::downgrade(&status));
        status
    }

    /// A poll was answered, or failed.
    pub fn polled(&self, outcome: Outcome, took: Duration) {
        self.polls[outcome as usize].increase();
        poll_seconds(outcome).observe(took);
    }

    pub fn polls(&self, outcome: Outcome) -> &Number {
        &self.polls[outcome as usize]
    }

    /// What the account has become, by its own word.
    pub fn set_state(&self, state: &str) {
        self.state.set(listed(&STATES, state) as u64 + 1);
    }

    /// What it was told is old.
    pub fn forget_state(&self) {
        self.state.set(0);
    }

    /// The state of the account, once a notification has told it.
    pub fn state(&self) -> Option<&'static str> {
        let place = usize::try_from(self.state.get()).ok()?.checked_sub(1)?;
        STATES.get(place).copied()
    }

    pub fn publish_errors(&self) -> u64 {
        self.publish_refused.get() + self.publish_unknown.get()
    }

    pub fn dead_lettered(&self) -> u64 {
        self.dead_too_large.get() + self.dead_refused.get() + self.dead_unroutable.get() + self.dead_malformed.get()
    }
}

type Registry = BTreeMap<InstanceId, Weak<InstanceMetrics>>;

fn registry() -> MutexGuard<'static, Registry> {
    static REGISTRY: Mutex<Registry> = Mutex::new(BTreeMap::new());
    REGISTRY.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The instances that run, by id.
pub(crate) fn instances() -> Vec<(InstanceId, Arc<InstanceMetrics>)> {
    let mut registry = registry();
    registry.retain(|_, status| status.strong_count() > 0);
    registry.iter().filter_map(|(instance, status)| Some((*instance, status.upgrade()?))).collect()
}

/// The sink of the process.
#[derive(Debug)]
pub(crate) struct SinkMetrics {
    pub kind: &'static str,
    /// From handing over to stored.
    pub publish_seconds: Histogram,
    /// From the time in a notification to stored.
    pub end_to_end_seconds: Histogram,
    /// How many replicas share the instances, as far as the broker tells; 0 where it does not.
    pub replicas: Number,
    /// From being given a shard to work on to having it open.
    pub opening_seconds: Histogram,
    /// Heads that were received and not dealt with, because the ownership had ended.
    pub heads_discarded: Number,
    shards: Mutex<Vec<Weak<ShardStatus>>>,
}

impl SinkMetrics {
    /// One shard more, as long as somebody holds it.
    pub fn add_shard(&self) -> Arc<ShardStatus> {
        let status = Arc::default();
        self.shards.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::downgrade(&status));
        status
    }

    /// All that there are, in the order of their beginnings.
    pub fn shards(&self) -> Vec<Arc<ShardStatus>> {
        let mut shards = self.shards.lock().unwrap_or_else(PoisonError::into_inner);
        shards.retain(|status| status.strong_count() > 0);
        shards.iter().filter_map(Weak::upgrade).collect()
    }

    /// Whether it stores what it is given, without getting stuck.
    pub fn works(&self) -> bool {
        let shards = self.shards();
        !shards.is_empty() && shards.iter().all(|shard| shard.works())
    }

    /// Whether another bridge has the ownership of this instance's shard, and serves it meanwhile.
    pub fn stands_by(&self, instance: InstanceId) -> bool {
        let shards = self.shards();
        Shard::of_instance(instance, &shards).is_some_and(|shard| shard.stands_by(shards.len() > 1))
    }
}

static SINK: OnceLock<SinkMetrics> = OnceLock::new();

/// The one sink of the process, from its start on. `kind` counts the first time.
pub(crate) fn sink(kind: &'static str) -> &'static SinkMetrics {
    SINK.get_or_init(|| SinkMetrics {
        kind,
        publish_seconds: Histogram::new(&[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0]),
        end_to_end_seconds: Histogram::new(&[1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3600.0, 21600.0, 64800.0]),
        replicas: Number::default(),
        opening_seconds: Histogram::new(&[0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0]),
        heads_discarded: Number::default(),
        shards: Mutex::default(),
    })
}

/// The sink, once there is one.
pub(crate) fn the_sink() -> Option<&'static SinkMetrics> {
    SINK.get()
}

/// How long polls of this outcome took, of all instances together.
pub(crate) fn poll_seconds(outcome: Outcome) -> &'static Histogram {
    static POLLS: LazyLock<[Histogram; Outcome::ALL.len()]> = LazyLock::new(|| {
        // Up to the longest that a server may be asked to wait.
        const ENDS: &[f64] = &[0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0];
        std::array::from_fn(|_| Histogram::new(ENDS))
    });
    &POLLS[outcome as usize]
}

/// How long things took.
#[derive(Debug)]
pub(crate) struct Histogram {
    /// Upper ends of the buckets, in seconds; one more takes the rest.
    ends: &'static [f64],
    buckets: Box<[Number]>,
    microseconds: AtomicU64,
}

impl Histogram {
    fn new(ends: &'static [f64]) -> Self {
        Self {
            ends,
            buckets: std::iter::repeat_with(Number::default).take(ends.len() + 1).collect(),
            microseconds: AtomicU64::new(0),
        }
    }

    pub fn observe(&self, took: Duration) {
        let bucket = self.ends.iter().position(|end| took.as_secs_f64() <= *end).unwrap_or(self.ends.len());
        self.buckets[bucket].increase();
        self.microseconds.fetch_add(u64::try_from(took.as_micros()).unwrap_or(u64::MAX), Relaxed);
    }

    /// Sum in seconds, and of each bucket its upper end and its own count.
    pub fn read(&self) -> (f64, Vec<(f64, u64)>) {
        let sum = Duration::from_micros(self.microseconds.load(Relaxed)).as_secs_f64();
        let ends = self.ends.iter().copied().chain([f64::INFINITY]);
        (sum, ends.zip(self.buckets.iter().map(Number::get)).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_histogram_puts_each_into_the_first_bucket_that_it_fits() {
        let histogram = Histogram::new(&[1.0, 2.0]);
        [500, 1_000, 1_001, 2_000, 9_000].map(Duration::from_millis).iter().for_each(|took| histogram.observe(*took));
        assert_eq!(histogram.read(), (13.501, vec![(1.0, 2), (2.0, 2), (f64::INFINITY, 1)]));
    }
}
