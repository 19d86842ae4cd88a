//! How replicas share: which shards are here to be worked on.
//!
//! Every replica consumes a queue in which there is never anything: its consumers are counted. Each takes free shards up to its
//! part and gives back what it has above it. The count decides about fairness alone: who may publish is decided by the exclusive
//! queue of each shard, which is declared on the connection that publishes.

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
use super::part::Part;
use super::topology::Told;
use crate::sink::amqp::options::Options;
use crate::sink::assignment::{Assignment, Opened};
use crate::sink::session::{SessionError, Shard};
use crate::sink::shared::Sharing;
use crate::status;

/// How often it looks how many share, and what is free.
const LOOK: Duration = Duration::from_millis(500);

/// So long it waits before it takes anything, so that others who begin are counted.
const SETTLE: Duration = Duration::from_secs(2);

/// A shard whose session could not begin so often in a row is left to other replicas, and the others with it, for a while.
const FAILURES: u32 = 3;
const REJOIN_PAUSE: Duration = Duration::from_secs(60);

/// One of those that share.
pub(super) struct Replica {
    told: Told,
    shards: u16,
    assignment: Arc<Assignment>,
    stop: CancellationToken,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// All shards that are here share it. It stays when it was given up, until the cause is reported.
    link: Option<Arc<Link>>,
    thread: Option<JoinHandle<()>>,
    /// After a shard was left to others.
    not_before: Option<Instant>,
}

impl Replica {
    /// `told` is what was told of queues, by all connections.
    pub(super) fn new(told: Told, shards: u16) -> Self {
        let assignment = Arc::new(Assignment::new(shards));
        Self { told, shards, assignment, stop: CancellationToken::new(), state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn link(&self) -> Option<Arc<Link>> {
        self.state().link.clone().filter(|link| link.is_up())
    }

    /// The connection and a channel of its own for a shard that is here. The first shard connects for all of them, and
    /// reports what keeps it from that.
    pub(super) fn open(
        self: &Arc<Self>,
        shard: Shard,
        nodes: &mut Nodes,
    ) -> Result<(Arc<Link>, Channel, Here), SessionError> {
        if shard.index() == 0 && self.link().is_none() && !self.stop.is_cancelled() {
            self.join(nodes)?;
        }
        let link = self.link().ok_or(SessionError::Elsewhere)?;
        let opened = self.assignment.open(shard);
        if !opened.is_held() {
            return Err(SessionError::Elsewhere);
        }
        let here = Here { replica: Arc::clone(self), shard, opened };
        let channel = link.another_channel().map_err(|failure| here.failed(&link, failure))?;
        Ok((link, channel, here))
    }

    fn join(self: &Arc<Self>, nodes: &mut Nodes) -> Result<(), SessionError> {
        let (thread, link) = {
            let mut state = self.state();
            (state.thread.take(), state.link.take())
        };
        if let Some(thread) = thread {
            // It takes back what it has handed out. Should it have panicked, its connection is gone all the same.
            thread.join().ok();
        }
        if let Some(cause) = link.and_then(|link| link.cause()) {
            return Err(cause);
        }
        if self.state().not_before.is_some_and(|then| then > Instant::now()) {
            return Err(SessionError::Elsewhere);
        }
        let joining = async |connection: &Connection, config: &Options| {
            Membership::begin(connection, config, &self.told, self.shards).await
        };
        let (link, membership) = nodes.connect(&joining)?;
        let (replica, link) = (Arc::clone(self), Arc::new(link));
        self.state().link = Some(Arc::clone(&link));
        let thread = thread::Builder::new().name("shards".into()).spawn(move || replica.serve(link, membership));
        let no_thread = |error: io::Error| SessionError::Unavailable(format!("no thread can be started: {error}"));
        self.state().thread = Some(thread.map_err(no_thread)?);
        Ok(())
    }

    /// Takes and gives back, as long as the connection lasts.
    fn serve(&self, link: Arc<Link>, mut membership: Membership) {
        if let Err(failure) = self.share(&link, &mut membership) {
            link.give_up(&failure);
        }
        if self.stop.is_cancelled() {
            self.assignment.end();
            self.state().link = None;
        } else {
            self.assignment.revoke_all();
        }
        // After the last session: the exclusive queues go with the connection.
        drop(link);
    }

    fn share(&self, link: &Link, membership: &mut Membership) -> Result<(), SessionError> {
        let mut part = Part::new(self.shards);
        let mut leaving = BTreeSet::new();
        let mut goes_on = link.rest(SETTLE, self.stop.cancelled());
        while goes_on && !self.stop.is_cancelled() {
            let held = self.assignment.held();
            let (replicas, free) = link.patiently(membership.look(link.connection(), &held, &leaving))?;
            if let Some(sink) = status::the_sink() {
                sink.replicas.set(replicas.unwrap_or(0).into());
            }
            let decision = part.decide(replicas, &held, &free, Instant::now());
            let mut room = decision.room;
            for shard in decision.take {
                if (room > 0 || decision.neglected.contains(&shard))
                    && link.patiently(membership.take(link.connection(), shard))?
                {
                    room = room.saturating_sub(1);
                    self.assignment.set_held(&[shard], true);
                }
            }
            self.assignment.set_held(&decision.give_back, false);
            leaving.extend(decision.give_back);
            for shard in leaving.clone() {
                if !self.assignment.is_open(shard) {
                    link.patiently(membership.give_back(link.connection(), shard))?;
                    leaving.remove(&shard);
                }
            }
            if let Some(shard) = self.assignment.failing(FAILURES) {
                self.state().not_before = Some(Instant::now() + REJOIN_PAUSE);
                return Err(SessionError::Unavailable(format!(
                    "shard {shard} could not be opened {FAILURES} times in a row; leaving all shards to other replicas for 60 s"
                )));
            }
            goes_on = link.rest(LOOK, async {
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
            // Closing the connection may take a while; a panic has ended it already.
            tokio::task::spawn_blocking(|| thread.join().ok()).await.ok();
        }
    }
}

/// A shard that is worked on here.
pub(super) struct Here {
    replica: Arc<Replica>,
    shard: Shard,
    opened: Opened,
}

impl Here {
    /// The session has begun.
    pub(super) fn begin(&mut self) {
        self.opened.begin();
    }

    /// Whether it is still to be worked on.
    pub(super) fn is_held(&self) -> bool {
        self.opened.is_held()
    }

    /// Why its session ends: the end of the connection is reported once, for all shards.
    pub(super) fn failed(&self, link: &Link, failure: SessionError) -> SessionError {
        match failure {
            // Somebody deleted the queue, and another replica has it now.
            SessionError::Owned(_) => self.replica.assignment.set_held(&[self.shard.index().into()], false),
            SessionError::Elsewhere => {}
            failure if link.is_up() => return failure,
            failure => link.give_up(&failure),
        }
        SessionError::Elsewhere
    }
}
