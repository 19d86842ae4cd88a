//! A sink that is shared by replicas.
#![cfg_attr(
    not(any(feature = "kafka", feature = "amqp")),
    allow(dead_code, reason = "other sinks have a single owner")
)]

use std::sync::Arc;

use async_trait::async_trait;

use super::assignment::Assignment;
use super::worker::Worker;
use super::{Lane, Sink, SinkError};
use crate::doubt::Memory;
use crate::notification::InstanceId;

/// Membership in whatever assigns the shards.
#[async_trait]
pub(super) trait Sharing: Send + Sync {
    /// The current assignment.
    fn assignment(&self) -> &Assignment;

    /// Releases all shards, so that others take over immediately, and waits until that is done.
    async fn leave(&self);
}

/// A worker with a thread per shard, each of which has a session only while its shard is assigned to this replica.
pub(super) struct Shared<S: Sharing> {
    worker: Worker,
    sharing: Arc<S>,
}

impl<S: Sharing> Shared<S> {
    pub(super) fn new(worker: Worker, sharing: Arc<S>) -> Self {
        sharing.assignment().set_probers(worker.probers());
        Self { worker, sharing }
    }
}

impl<S: Sharing> Drop for Shared<S> {
    fn drop(&mut self) {
        self.sharing.assignment().stop();
    }
}

#[async_trait]
impl<S: Sharing> Sink for Shared<S> {
    async fn open(&self, instance: InstanceId) -> Result<(Box<dyn Lane>, Memory), SinkError> {
        self.worker.open(instance).await
    }

    async fn close(&self) {
        self.sharing.leave().await;
    }
}
