//! A sink that replicas share.
#![cfg_attr(not(any(feature = "kafka", feature = "amqp")), allow(dead_code, reason = "others have one owner"))]

use std::sync::Arc;

use async_trait::async_trait;

use super::assignment::Assignment;
use super::worker::Worker;
use super::{Lane, Sink, SinkError};
use crate::doubt::Memory;
use crate::notification::InstanceId;

/// What hands the shards out.
#[async_trait]
pub(super) trait Sharing: Send + Sync {
    /// What it has handed out.
    fn assignment(&self) -> &Assignment;

    /// Gives all shards back, so that others take over at once. Waits until that is done.
    async fn leave(&self);
}

/// A worker of all shards, of which it works on those that are here.
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
