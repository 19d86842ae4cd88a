//! The assignment of shards to this replica.
#![cfg_attr(
    not(all(feature = "kafka", feature = "amqp")),
    allow(dead_code, reason = "each broker's implementation uses a part of it")
)]

use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use tracing::{debug, info};

use super::shard::Shard;

/// How long a replica that releases shards waits for their sessions to end.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(4);

/// Which shards are assigned to this replica, and which of them are open. Written by the membership at the broker, read by the
/// sessions of the shards.
pub(super) struct Assignment {
    state: Mutex<State>,
    changed: Condvar,
    /// Probes the session of a shard, so that it notices that its shard was revoked.
    probers: OnceLock<Vec<Box<dyn Fn() + Send + Sync>>>,
}

struct State {
    shards: Vec<Part>,
    /// The broker has made a first assignment, possibly an empty one.
    joined: bool,
    stopped: bool,
}

#[derive(Clone, Copy, Default)]
struct Part {
    /// It is assigned to this replica.
    held: bool,
    /// A session exists for it.
    open: bool,
    /// Since when it is held without an open session, and how often in a row opening failed.
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

    /// Sets what to call when a shard is revoked.
    pub(super) fn set_probers(&self, probers: Vec<Box<dyn Fn() + Send + Sync>>) {
        // Set once.
        drop(self.probers.set(probers));
    }

    /// Assigns these shards to this replica, or revokes them.
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
            if held {
                info!(event = "shards_assigned", shards = ?changed, "shards assigned");
            } else {
                info!(event = "shards_revoked", shards = ?changed, "shards revoked");
            }
        }
        let probers = self.probers.get().into_iter().filter(|_| !held);
        probers.flat_map(|probers| changed.iter().filter_map(|shard| probers.get(*shard))).for_each(|probe| probe());
    }

    /// Revokes all shards.
    pub(super) fn revoke_all(&self) {
        self.set_held(&self.all(), false);
    }

    /// The number of shards.
    pub(super) fn count(&self) -> usize {
        self.lock().shards.len()
    }

    fn all(&self) -> Vec<usize> {
        (0..self.count()).collect()
    }

    /// Waits for the first assignment, possibly an empty one.
    pub(super) fn wait_for_assignment(&self) {
        let waited = self.changed.wait_while(self.lock(), |state| !state.joined && !state.stopped);
        drop(waited.unwrap_or_else(PoisonError::into_inner));
    }

    /// Marks the shard as having a session, for the lifetime of the returned guard.
    pub(super) fn open(self: &Arc<Self>, shard: Shard) -> Opened {
        let index = usize::from(shard.index());
        if let Some(part) = self.lock().shards.get_mut(index) {
            part.open = true;
        }
        Opened { assignment: Arc::clone(self), index, begun: false }
    }

    /// The shards that are assigned to this replica.
    pub(super) fn held(&self) -> Vec<usize> {
        let held = |(index, part): (usize, &Part)| part.held.then_some(index);
        self.lock().shards.iter().enumerate().filter_map(held).collect()
    }

    /// Whether the shard has a session.
    pub(super) fn is_open(&self, shard: usize) -> bool {
        self.lock().shards.get(shard).is_some_and(|part| part.open)
    }

    /// A held shard that did not open for this long. `None` while all shards are held here, because then there is no other replica
    /// to leave them to.
    pub(super) fn overdue(&self, timeout: Duration) -> Option<usize> {
        self.unopened(|part| part.unopened.is_some_and(|since| since.elapsed() >= timeout))
    }

    /// A held shard of which opening failed this often in a row; otherwise like [`overdue`](Self::overdue).
    pub(super) fn failing(&self, failures: u32) -> Option<usize> {
        self.unopened(|part| part.failures >= failures)
    }

    fn unopened(&self, is_it: impl Fn(&Part) -> bool) -> Option<usize> {
        let state = self.lock();
        let is_alone = state.shards.iter().all(|part| part.held);
        state.shards.iter().position(|part| !is_alone && part.held && is_it(part))
    }

    /// Ends all sessions and prevents new ones.
    pub(super) fn stop(&self) {
        self.change(|state| state.stopped = true);
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.lock().stopped
    }

    /// Waits for `pause`, or until it is stopped.
    pub(super) fn rest(&self, pause: Duration) {
        drop(self.changed.wait_timeout_while(self.lock(), pause, |state| !state.stopped));
    }

    /// Revokes all shards and waits for their sessions to end.
    pub(super) fn end(&self) {
        self.revoke_all();
        self.wait_until_closed(&self.all());
    }

    /// Waits up to 4 s for the sessions of these shards to end.
    pub(super) fn wait_until_closed(&self, shards: &[usize]) {
        let is_open =
            |state: &mut State| shards.iter().any(|shard| state.shards.get(*shard).is_some_and(|part| part.open));
        let waited = self.changed.wait_timeout_while(self.lock(), CLOSE_TIMEOUT, is_open);
        if waited.is_ok_and(|(_, waited)| waited.timed_out()) {
            debug!("releasing shards whose sessions have not ended");
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
    /// Records that the session is open.
    pub(super) fn begin(&mut self) {
        self.begun = true;
        if let Some(part) = self.assignment.lock().shards.get_mut(self.index) {
            (part.unopened, part.failures) = (None, 0);
        }
    }

    /// Whether the shard is still assigned to this replica.
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

    /// A replica that holds one shard of two.
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
