//! The state of one shard of the sink on this replica.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::{Number, now};
use crate::condition::{Condition, Conditions};

/// Clients take long to report an unreachable broker.
const STUCK_SECS: u64 = 10;

/// The answer that a shard belongs to another replica takes less: only what takes longer counts as an attempt to open it.
const ANSWERED: Duration = Duration::from_secs(1);

/// Which replica holds a shard, as far as this one knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// This replica.
    Held,
    /// None yet; this replica is to open it.
    Opening,
    /// Another replica.
    Elsewhere,
}

impl State {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Held => "held",
            Self::Opening => "opening",
            Self::Elsewhere => "elsewhere",
        }
    }
}

/// A part of the sink with an ownership of its own.
#[derive(Debug, Default)]
pub(crate) struct ShardStatus {
    /// Whether it is owned and connected, as far as is known.
    pub up: AtomicBool,
    /// Since when it has been waiting for an answer; Unix seconds, 0 if it is idle.
    pub busy_since: Number,
    /// How often it was taken over from other replicas, and left to them.
    pub taken: Number,
    pub left: Number,
    course: Mutex<Course>,
    conditions: Mutex<Conditions>,
}

#[derive(Debug)]
struct Course {
    /// The last certain state, and since when; Unix seconds.
    settled: (State, u64),
    /// Whether it was opened here since another replica held it.
    is_ours: bool,
    attempt: Option<Attempt>,
    attempts: u64,
}

impl Default for Course {
    fn default() -> Self {
        Self { settled: (State::Opening, now()), is_ours: false, attempt: None, attempts: 0 }
    }
}

impl Course {
    fn settle(&mut self, state: State, since: u64) {
        if self.settled.0 != state {
            self.settled = (state, since);
        }
    }
}

/// An attempt to open a shard: from the first request for its ownership until that is granted, or known to be another's.
#[derive(Clone, Copy, Debug)]
struct Attempt {
    number: u64,
    begun: Instant,
    since: u64,
}

impl ShardStatus {
    fn course(&self) -> MutexGuard<'_, Course> {
        self.course.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The ownership is requested.
    pub fn asks(&self) {
        let mut course = self.course();
        if course.attempt.is_none() {
            course.attempts += 1;
            course.attempt = Some(Attempt { number: course.attempts, begun: Instant::now(), since: now() });
        }
    }

    /// The ownership was not granted although no other replica has it, or it was lost and is to be taken again.
    pub fn failed(&self) {
        self.asks();
        let mut course = self.course();
        let since = course.attempt.map_or_else(now, |attempt| attempt.since);
        course.settle(State::Opening, since);
    }

    /// The shard is open here; returns how long that took, if another replica held it before.
    pub fn opened(&self) -> Option<Duration> {
        let mut course = self.course();
        let is_new = !std::mem::replace(&mut course.is_ours, true);
        if is_new {
            self.taken.increase();
        }
        course.settle(State::Held, now());
        self.up.store(true, Relaxed);
        let attempt = course.attempt.take();
        attempt.filter(|_| is_new).map(|attempt| attempt.begun.elapsed())
    }

    /// Another replica holds it, and nothing is wrong.
    pub fn stand_by(&self) {
        {
            let mut course = self.course();
            course.attempt = None;
            course.is_ours = false;
            course.settle(State::Elsewhere, now());
            self.up.store(false, Relaxed);
        }
        self.conditions().leave_all();
    }

    /// Which replica holds it, and since when; Unix seconds.
    pub fn state(&self) -> (State, u64) {
        let course = self.course();
        match course.attempt {
            Some(attempt) if attempt.begun.elapsed() >= ANSWERED && course.settled.0 != State::Opening => {
                (State::Opening, attempt.since)
            }
            _ => course.settled,
        }
    }

    /// The number of the current attempt to open it, if there is one.
    pub fn attempt(&self) -> Option<u64> {
        self.course().attempt.map(|attempt| attempt.number)
    }

    /// Whether it can store, or is held by another replica. One that was just assigned to this replica opens soon.
    pub fn works(&self) -> bool {
        let is_elsewhere = self.course().settled.0 == State::Elsewhere;
        let is_well = is_elsewhere || (self.up.load(Relaxed) && !self.is_stuck());
        is_well && !self.conditions().contains(Condition::WaitingForOwnership)
    }

    /// Whether it is held here.
    pub fn is_held(&self) -> bool {
        self.up.load(Relaxed) && self.state().0 == State::Held
    }

    /// Whether another bridge serves its instances: another replica, or the owner of a sink that is not shared.
    pub fn stands_by(&self, is_shared: bool) -> bool {
        self.state().0 == State::Elsewhere || (!is_shared && self.conditions().contains(Condition::WaitingForOwnership))
    }

    /// Whether it has been waiting for one answer for more than 10 s.
    pub fn is_stuck(&self) -> bool {
        let since = self.busy_since.get();
        since != 0 && now().saturating_sub(since) > STUCK_SECS
    }

    /// Its conditions. Locked when one changes, never on the path of a notification.
    pub fn conditions(&self) -> MutexGuard<'_, Conditions> {
        self.conditions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
