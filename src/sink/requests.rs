//! Requests of the lanes of a shard to its thread.

use std::collections::VecDeque;

use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::SinkError;
use super::session::Job;
use crate::doubt::Memory;
use crate::notification::InstanceId;

/// The ownership to which a lane belongs.
#[derive(Clone)]
pub(super) struct Ownership {
    pub number: u64,
    /// Cancelled when the ownership has ended.
    pub ended: CancellationToken,
}

pub(super) enum Request {
    Probe,
    Open(InstanceId, oneshot::Sender<Result<(Ownership, Memory), SinkError>>),
    Store(Job),
}

impl Request {
    pub fn instance(&self) -> Option<InstanceId> {
        match self {
            Self::Probe => None,
            Self::Open(instance, _) => Some(*instance),
            Self::Store(job) => Some(job.notification().instance()),
        }
    }

    pub fn refuse(self, error: SinkError) {
        match self {
            Self::Probe => {}
            Self::Open(_, reply) => drop(reply.send(Err(error))),
            Self::Store(job) => job.fail(error),
        }
    }
}

/// Requests of the lanes, in their order.
pub(super) struct Requests {
    waiting: mpsc::UnboundedReceiver<Request>,
    /// Requests that were put back.
    held: VecDeque<Request>,
}

impl Requests {
    pub fn new() -> (mpsc::UnboundedSender<Request>, Self) {
        let (requests, waiting) = mpsc::unbounded_channel();
        (requests, Self { waiting, held: VecDeque::new() })
    }

    /// Blocks until there is a request. `None` when all lanes are gone.
    pub fn wait(&mut self) -> Option<Request> {
        self.held.pop_front().or_else(|| self.waiting.blocking_recv())
    }

    /// The next request, if one is waiting.
    pub fn next(&mut self) -> Option<Request> {
        self.held.pop_front().or_else(|| self.waiting.try_recv().ok())
    }

    /// Puts a request back as the first one.
    pub fn put_back(&mut self, request: Request) {
        self.held.push_front(request);
    }

    /// Refuses waiting jobs while another replica holds the shard. Returns false when all lanes are gone.
    pub fn stand_by(&mut self) -> bool {
        while let Ok(request) = self.waiting.try_recv() {
            self.held.push_back(request);
        }
        for request in std::mem::take(&mut self.held) {
            match request {
                Request::Open(..) => self.held.push_back(request),
                Request::Store(job) => job.fail(SinkError::OwnershipLost),
                Request::Probe => {}
            }
        }
        !(self.waiting.is_closed() && self.waiting.is_empty() && self.held.is_empty())
    }
}
