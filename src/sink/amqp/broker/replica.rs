//! How replicas share the shards.
//!
//! Every replica consumes from a queue that is always empty, so that the number of its consumers is the number of replicas. Each
//! acquires free shards up to its fair share and releases the surplus. The count affects fairness only: who may publish is
//! decided by the exclusive queue of each shard, which is declared on the publishing connection.

use std::collections::BTreeSet;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use lapin::{Channel, Connection};
use tokio_util::sync::CancellationToken;

use super::connection::{Link, Nodes};
use super::membership::Membership;
use super::part::FairShare;
use super::topology::ReportedQueues;
use crate::metrics::Metrics;
use crate::sink::amqp::options::Options;
use crate::sink::assignment::{Assignment, Opened};
use crate::sink::session::{SessionError, Shard};
use crate::sink::shared::Sharing;

/// How often replicas are counted and free shards are searched for.
const SCAN_INTERVAL: Duration = Duration::from_millis(500);

/// How long a new replica waits before it acquires anything, so that others that are starting are counted.
const JOIN_DELAY: Duration = Duration::from_secs(2);

/// When opening a shard failed this often in a row, all shards are left to other replicas for `REJOIN_PAUSE`.
const MAX_FAILURES: u32 = 3;
const REJOIN_PAUSE: Duration = Duration::from_secs(60);

/// One of the replicas that share.
pub(super) struct Replica {
    reported: ReportedQueues,
    shards: u16,
    metrics: Metrics,
    assignment: Arc<Assignment>,
    stop: CancellationToken,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Shared by all shards that are held here. Kept after it was abandoned, until the cause is reported.
    link: Option<Arc<Link>>,
    thread: Option<JoinHandle<()>>,
    /// Set when the shards were left to other replicas.
    not_before: Option<Instant>,
}

impl Replica {
    /// `reported` are the queues whose differences were reported by any connection.
    pub(super) fn new(reported: ReportedQueues, shards: u16, metrics: Metrics) -> Self {
        let assignment = Arc::new(Assignment::new(shards));
        Self { reported, shards, metrics, assignment, stop: CancellationToken::new(), state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn link(&self) -> Option<Arc<Link>> {
        self.state().link.clone().filter(|link| link.is_up())
    }

    /// The shared connection, and a channel for a shard that is held here. Shard 0 connects on behalf of all and reports
    /// failures to connect.
    pub(super) fn open(
        self: &Arc<Self>,
        shard: Shard,
        nodes: &mut Nodes,
    ) -> Result<(Arc<Link>, Channel, HeldShard), SessionError> {
        if shard.index() == 0 && self.link().is_none() && !self.stop.is_cancelled() {
            self.join(nodes)?;
        }
        let link = self.link().ok_or(SessionError::Elsewhere)?;
        let opened = self.assignment.open(shard);
        if !opened.is_held() {
            return Err(SessionError::Elsewhere);
        }
        let here = HeldShard { replica: Arc::clone(self), shard, opened };
        let channel = link.open_channel().map_err(|failure| here.failed(&link, failure))?;
        Ok((link, channel, here))
    }

    fn join(self: &Arc<Self>, nodes: &mut Nodes) -> Result<(), SessionError> {
        let (thread, link) = {
            let mut state = self.state();
            (state.thread.take(), state.link.take())
        };
        if let Some(thread) = thread {
            // It revokes its assignments first. If it panicked, its connection is gone all the same.
            thread.join().ok();
        }
        if let Some(cause) = link.and_then(|link| link.cause()) {
            return Err(cause);
        }
        if self.state().not_before.is_some_and(|then| then > Instant::now()) {
            return Err(SessionError::Elsewhere);
        }
        let joining = async |connection: &Connection, config: &Options| {
            Membership::begin(connection, config, &self.reported, self.shards).await
        };
        let (link, membership) = nodes.connect(&joining)?;
        let (replica, link) = (Arc::clone(self), Arc::new(link));
        self.state().link = Some(Arc::clone(&link));
        let thread = thread::Builder::new().name("shards".into()).spawn(move || replica.serve(link, membership));
        let no_thread = |error: io::Error| SessionError::Unavailable(format!("no thread can be started: {error}"));
        self.state().thread = Some(thread.map_err(no_thread)?);
        Ok(())
    }

    /// Acquires and releases shards for as long as the connection lasts.
    fn serve(&self, link: Arc<Link>, mut membership: Membership) {
        if let Err(failure) = self.share(&link, &mut membership) {
            link.abandon(&failure);
        }
        if self.stop.is_cancelled() {
            self.assignment.end();
            self.state().link = None;
        } else {
            self.assignment.revoke_all();
        }
        // After the last session: closing the connection deletes the exclusive queues.
        drop(link);
    }

    fn share(&self, link: &Link, membership: &mut Membership) -> Result<(), SessionError> {
        let mut fair_share = FairShare::new(self.shards);
        let mut releasing = BTreeSet::new();
        let mut is_up = link.rest(JOIN_DELAY, self.stop.cancelled());
        while is_up && !self.stop.is_cancelled() {
            let held = self.assignment.held();
            let (replicas, free) = link.await_answer(membership.scan(link.connection(), &held, &releasing))?;
            self.metrics.sink().replicas.set(replicas.unwrap_or(0).into());
            let decision = fair_share.decide(replicas, &held, &free, Instant::now());
            let mut room = decision.room;
            for shard in decision.acquire {
                if (room > 0 || decision.neglected.contains(&shard))
                    && link.await_answer(membership.acquire(link.connection(), shard))?
                {
                    room = room.saturating_sub(1);
                    self.assignment.set_held(&[shard], true);
                }
            }
            self.assignment.set_held(&decision.release, false);
            releasing.extend(decision.release);
            for shard in releasing.clone() {
                if !self.assignment.is_open(shard) {
                    link.await_answer(membership.release(link.connection(), shard))?;
                    releasing.remove(&shard);
                }
            }
            if let Some(shard) = self.assignment.failing(MAX_FAILURES) {
                self.state().not_before = Some(Instant::now() + REJOIN_PAUSE);
                return Err(SessionError::Unavailable(format!(
                    "shard {shard} could not be opened {MAX_FAILURES} times in a row; releasing all shards to other replicas for 60 s"
                )));
            }
            is_up = link.rest(SCAN_INTERVAL, async {
                tokio::select! {
                    () = self.stop.cancelled() => {}
                    () = membership.ended() => {}
                }
            });
        }
        Ok(())
    }
}

#[async_trait]
impl Sharing for Replica {
    fn assignment(&self) -> &Assignment {
        &self.assignment
    }

    async fn leave(&self) {
        self.assignment.stop();
        self.stop.cancel();
        let thread = self.state().thread.take();
        if let Some(thread) = thread {
            // Closing the connection may block; after a panic it is closed already.
            tokio::task::spawn_blocking(|| thread.join().ok()).await.ok();
        }
    }
}

/// A shard that is held here.
pub(super) struct HeldShard {
    replica: Arc<Replica>,
    shard: Shard,
    opened: Opened,
}

impl HeldShard {
    /// The session has begun.
    pub(super) fn begin(&mut self) {
        self.opened.begin();
    }

    /// Whether it is still assigned to this replica.
    pub(super) fn is_held(&self) -> bool {
        self.opened.is_held()
    }

    /// Maps a failure of its session: a connection failure is reported once for all shards, by shard 0.
    pub(super) fn failed(&self, link: &Link, failure: SessionError) -> SessionError {
        match failure {
            // The queue was deleted by somebody and another replica holds it now.
            SessionError::Owned(_) => self.replica.assignment.set_held(&[self.shard.index().into()], false),
            SessionError::Elsewhere => {}
            failure if link.is_up() => return failure,
            failure => link.abandon(&failure),
        }
        SessionError::Elsewhere
    }
}
