//! Which of its shards a replica works on.
#![cfg_attr(
    not(all(feature = "kafka", feature = "amqp")),
    allow(dead_code, reason = "each broker's way to share asks for a part of it")
)]

use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use tracing::{debug, info};

use super::shard::Shard;

/// How long a replica that gives shards back lets what is under way come to its end.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(4);

/// Which shards are this replica's to work on, and which of them it works on: between whoever is told so by the broker, and
/// the sessions of the shards.
pub(super) struct Assignment {
    state: Mutex<State>,
    changed: Condvar,
    /// Has the session of a shard look whether it may go on.
    probers: OnceLock<Vec<Box<dyn Fn() + Send + Sync>>>,
}

struct State {
    shards: Vec<Part>,
    /// The broker has said which shards are this replica's, if only none.
    joined: bool,
    stopped: bool,
}

#[derive(Clone, Copy, Default)]
struct Part {
    /// It is this replica's.
    held: bool,
    /// A session works on it.
    open: bool,
    /// Since when it is held without a session that has begun, and how often in a row one could not begin.
    unopened: Option<Instant>,
    failures: u32,
}

impl Part {
    fn set_held(&mut self, held: bool) {
        *self = Self { held, open: self.open, unopened: held.then(Instant::now), failures: 0 };
    }
}

impl Assignment {
    pub(super) fn new(count: u16) -> Self {
        let shards = vec![Part::default(); count.into()];
        Self {
            state: Mutex::new(State { shards, joined: false, stopped: false }),
            changed: Condvar::new(),
            probers: OnceLock::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.lock());
        self.changed.notify_all();
    }

    /// Who is to be asked when a shard is taken away.
    pub(super) fn set_probers(&self, probers: Vec<Box<dyn Fn() + Send + Sync>>) {
        // They are set once.
        drop(self.probers.set(probers));
    }

    /// Whose these shards are from now on.
    pub(super) fn set_held(&self, shards: &[usize], held: bool) {
        let mut changed = Vec::new();
        self.change(|state| {
            state.joined = true;
            for shard in shards {
                if let Some(part) = state.shards.get_mut(*shard).filter(|part| part.held != held) {
                    part.set_held(held);
                    changed.push(*shard);
                }
            }
        });
        if !changed.is_empty() {
            info!(shards = ?changed, "{}", if held { "shards assigned" } else { "shards revoked" });
        }
        let probers = self.probers.get().into_iter().filter(|_| !held);
        probers.flat_map(|probers| changed.iter().filter_map(|shard| probers.get(*shard))).for_each(|probe| probe());
    }

    /// None of them is this replica's any more.
    pub(super) fn revoke_all(&self) {
        self.set_held(&self.all(), false);
    }

    /// Into how many the instances are divided.
    pub(super) fn count(&self) -> usize {
        self.lock().shards.len()
    }

    fn all(&self) -> Vec<usize> {
        (0..self.count()).collect()
    }

    /// Waits until the broker has said which shards are this replica's, if only none.
    pub(super) fn wait_for_assignment(&self) {
        let waited = self.changed.wait_while(self.lock(), |state| !state.joined && !state.stopped);
        drop(waited.unwrap_or_else(PoisonError::into_inner));
    }

    /// A session works on the shard as long as this lives.
    pub(super) fn open(self: &Arc<Self>, shard: Shard) -> Opened {
        let index = usize::from(shard.index());
        if let Some(part) = self.lock().shards.get_mut(index) {
            part.open = true;
        }
        Opened { assignment: Arc::clone(self), index, begun: false }
    }

    /// Which are this replica's, by their numbers.
    pub(super) fn held(&self) -> Vec<usize> {
        let held = |(index, part): (usize, &Part)| part.held.then_some(index);
        self.lock().shards.iter().enumerate().filter_map(held).collect()
    }

    /// Whether a session works on the shard.
    pub(super) fn is_open(&self, shard: usize) -> bool {
        self.lock().shards.get(shard).is_some_and(|part| part.open)
    }

    /// A shard that is held and on which no session has begun for so long. None while all shards are held: there is no other
    /// replica that could do better.
    pub(super) fn overdue(&self, timeout: Duration) -> Option<usize> {
        self.unopened(|part| part.unopened.is_some_and(|since| since.elapsed() >= timeout))
    }

    /// A shard that is held and on which a session could not begin so often in a row; otherwise as [`overdue`](Self::overdue).
    pub(super) fn failing(&self, failures: u32) -> Option<usize> {
        self.unopened(|part| part.failures >= failures)
    }

    fn unopened(&self, is_it: impl Fn(&Part) -> bool) -> Option<usize> {
        let state = self.lock();
        let is_alone = state.shards.iter().all(|part| part.held);
        state.shards.iter().position(|part| !is_alone && part.held && is_it(part))
    }

    /// No session is to go on, nor to begin.
    pub(super) fn stop(&self) {
        self.change(|state| state.stopped = true);
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.lock().stopped
    }

    /// Waits for so long, unless it is stopped before.
    pub(super) fn rest(&self, pause: Duration) {
        drop(self.changed.wait_timeout_while(self.lock(), pause, |state| !state.stopped));
    }

    /// None of them is this replica's any more; waits for the sessions to come to their end.
    pub(super) fn end(&self) {
        self.revoke_all();
        self.wait_until_closed(&self.all());
    }

    /// Waits for their sessions to come to an end, for 4 s.
    pub(super) fn wait_until_closed(&self, shards: &[usize]) {
        let is_open =
            |state: &mut State| shards.iter().any(|shard| state.shards.get(*shard).is_some_and(|part| part.open));
        let waited = self.changed.wait_timeout_while(self.lock(), CLOSE_TIMEOUT, is_open);
        if waited.is_ok_and(|(_, waited)| waited.timed_out()) {
            debug!("giving up shards on which something is under way");
        }
    }
}

/// See [`Assignment::open`].
pub(super) struct Opened {
    assignment: Arc<Assignment>,
    index: usize,
    begun: bool,
}

impl Opened {
    /// The session has begun.
    pub(super) fn begin(&mut self) {
        self.begun = true;
        if let Some(part) = self.assignment.lock().shards.get_mut(self.index) {
            (part.unopened, part.failures) = (None, 0);
        }
    }

    /// Whether this replica is still to work on the shard.
    pub(super) fn is_held(&self) -> bool {
        let state = self.assignment.lock();
        !state.stopped && state.shards.get(self.index).is_some_and(|part| part.held)
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        self.assignment.change(|state| {
            if let Some(part) = state.shards.get_mut(self.index) {
                part.open = false;
                if part.held && self.begun {
                    part.unopened = Some(Instant::now());
                } else if part.held {
                    part.failures += 1;
                }
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A replica with one shard of two, which is not the other's to open.
    fn with_one_of_two() -> Arc<Assignment> {
        let assignment = Arc::new(Assignment::new(2));
        assignment.set_held(&[1], true);
        assignment
    }

    #[test]
    fn a_shard_that_does_not_open_is_overdue_until_it_does() {
        let assignment = with_one_of_two();
        assert_eq!(assignment.overdue(Duration::from_secs(60)), None);
        assert_eq!(assignment.overdue(Duration::ZERO), Some(1));
        let mut opened = assignment.open(Shard::new(1));
        assert_eq!(assignment.overdue(Duration::ZERO), Some(1), "it has not begun");
        opened.begin();
        assert_eq!(assignment.overdue(Duration::ZERO), None);
        drop(opened);
        assert_eq!(assignment.overdue(Duration::ZERO), Some(1), "it has ended, and is still to be worked on");
        assignment.set_held(&[1], false);
        assert_eq!(assignment.overdue(Duration::ZERO), None, "it is another's");
    }

    #[test]
    fn a_shard_fails_when_its_session_does_not_begin_three_times_in_a_row() {
        let assignment = with_one_of_two();
        let fail = |times| (0..times).for_each(|_| drop(assignment.open(Shard::new(1))));
        fail(2);
        assert_eq!(assignment.failing(3), None);
        let mut opened = assignment.open(Shard::new(1));
        opened.begin();
        drop(opened);
        fail(2);
        assert_eq!(assignment.failing(3), None, "not in a row");
        fail(1);
        assert_eq!(assignment.failing(3), Some(1));
    }

    #[test]
    fn who_holds_all_shards_has_nobody_to_leave_them_to() {
        let assignment = with_one_of_two();
        assignment.set_held(&[0], true);
        assert_eq!(assignment.overdue(Duration::ZERO), None);
    }
}
