//! Which of its shards a replica works on.
#![cfg_attr(
    not(all(feature = "kafka", feature = "amqp")),
    allow(dead_code, reason = "each broker's way to share asks for a part of it")
)]

use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

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
                    part.held = held;
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
    pub(super) fn wait_for_word(&self) {
        let waited = self.changed.wait_while(self.lock(), |state| !state.joined && !state.stopped);
        drop(waited.unwrap_or_else(PoisonError::into_inner));
    }

    /// A session works on the shard as long as this lives.
    pub(super) fn open(self: &Arc<Self>, shard: Shard) -> Opened {
        let index = usize::from(shard.index());
        if let Some(part) = self.lock().shards.get_mut(index) {
            part.open = true;
        }
        Opened { assignment: Arc::clone(self), index }
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

    /// No session is to go on, nor to begin.
    pub(super) fn stop(&self) {
        self.change(|state| state.stopped = true);
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.lock().stopped
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
}

impl Opened {
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
            }
        });
    }
}
