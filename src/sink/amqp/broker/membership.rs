//! The broker side of sharing: being counted, finding free shards, acquiring and releasing them.

use std::collections::{BTreeSet, HashSet};

use lapin::options::{BasicConsumeOptions, BasicPublishOptions, QueueDeclareOptions, QueueDeleteOptions};
use lapin::protocol::AMQPSoftError;
use lapin::types::{AMQPValue, FieldTable, LongString, ShortString};
use lapin::{BasicProperties, Channel, Connection, Consumer, Error};
use tokio_stream::StreamExt;

use super::connection::{confirming_channel, owner_queue, prove_ownership};
use super::errors::{Closed, is_soft, unavailable};
use super::topology::{self, ReportedQueues};
use crate::sink::amqp::options::Options;
use crate::sink::session::{SessionError, Shard};

/// How long the counting queue outlives the last replica. Until then replicas with another number of shards are refused.
const EXPIRES_MS: i32 = 60_000;

/// A channel for counting replicas and finding free shards, and one for acquiring them, which the broker closes whenever a
/// shard is held by another replica.
pub(super) struct Membership {
    config: Options,
    reported: ReportedQueues,
    shards: u16,
    counted: Channel,
    consumer: Option<Consumer>,
    acquiring: Option<Channel>,
    /// Free shards cannot be found because of missing rights: acquiring is attempted instead.
    cannot_find_free: bool,
}

impl Membership {
    /// Declares the topology, then joins: a replica that cannot publish must not be counted.
    pub(super) async fn begin(
        connection: &Connection,
        config: &Options,
        reported: &ReportedQueues,
        shards: u16,
    ) -> Result<Self, SessionError> {
        let mut member = Self {
            config: config.clone(),
            reported: reported.clone(),
            shards,
            counted: confirming_channel(connection).await?,
            consumer: None,
            acquiring: None,
            cannot_find_free: false,
        };
        member.join(connection).await?;
        Ok(member)
    }

    async fn join(&mut self, connection: &Connection) -> Result<(), SessionError> {
        let name = owner_queue(&self.config, None);
        let durable = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
        let mut arguments = FieldTable::default();
        arguments.insert("x-queue-type".into(), AMQPValue::LongString(LongString::from("quorum")));
        arguments.insert("x-max-length".into(), AMQPValue::LongInt(self.shards.into()));
        arguments.insert("x-expires".into(), AMQPValue::LongInt(EXPIRES_MS));
        let declared = self.counted.queue_declare(name.as_str().into(), durable, arguments).await;
        declared.map_err(|error| self.join_error(&name, &error))?;
        topology::prepare(connection, &self.config, &self.reported).await?;
        let options = BasicConsumeOptions { no_ack: true, ..BasicConsumeOptions::default() };
        let consuming = self.counted.basic_consume(name.as_str().into(), "".into(), options, FieldTable::default());
        self.consumer = Some(consuming.await.map_err(|error| unavailable(&format!("the queue {name}"), &error))?);
        Ok(())
    }

    fn join_error(&self, name: &str, error: &Error) -> SessionError {
        let shards = self.shards;
        if is_soft(error, AMQPSoftError::RESOURCELOCKED) {
            SessionError::Owned(format!("a bridge with `shards: 1` holds the queue {name}"))
        } else if is_soft(error, AMQPSoftError::PRECONDITIONFAILED) {
            SessionError::Unavailable(format!(
                "the queue {name}: {error}: other replicas run with another number than `shards: {shards}`, or did so within \
                 the last minute: stop all, wait a minute, start all with the same"
            ))
        } else {
            unavailable(&format!("the queue {name}"), error)
        }
    }

    /// Returns the number of replicas, if known, and the free shards, not counting those that are `held` or being released
    /// here.
    pub(super) async fn scan(
        &mut self,
        connection: &Connection,
        held: &[usize],
        leaving: &BTreeSet<usize>,
    ) -> Result<(Option<u32>, Vec<usize>), SessionError> {
        let others: Vec<usize> =
            (0..self.shards.into()).filter(|shard| !held.contains(shard) && !leaving.contains(shard)).collect();
        if self.consumer.is_none() || !self.counted.status().connected() {
            self.counted = confirming_channel(connection).await?;
            self.join(connection).await?;
        }
        let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        let name = owner_queue(&self.config, None);
        let replicas = match self.counted.queue_declare(name.as_str().into(), passive, FieldTable::default()).await {
            Ok(queue) => Some(queue.consumer_count()),
            Err(error) if Closed::read(&error).is_some() => return Ok((None, Vec::new())),
            Err(error) => return Err(unavailable(&format!("the queue {name}"), &error)),
        };
        if self.cannot_find_free {
            return Ok((replicas, others));
        }
        match self.free(&others).await {
            Ok(free) => Ok((replicas, free)),
            // Most likely the right to write to the default exchange is missing, so retrying would fail each time.
            Err(error) if Closed::read(&error).is_some() => {
                self.cannot_find_free = true;
                Ok((replicas, Vec::new()))
            }
            Err(error) => Err(unavailable("finding free shards", &error)),
        }
    }

    /// A mandatory message that expires at once is returned if there is no such queue. Declaring the queue instead would close
    /// a channel, and log an error at the broker, for each shard that is held elsewhere.
    async fn free(&self, shards: &[usize]) -> Result<Vec<usize>, Error> {
        let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
        let mut confirms = Vec::new();
        for shard in shards {
            let (exchange, queue) = (ShortString::default(), ShortString::from(self.queue(*shard)));
            let properties = BasicProperties::default().with_expiration("0".into());
            confirms.push(self.counted.basic_publish(exchange, queue, options, &[], properties).await?);
        }
        // lapin attaches a returned message to whichever confirm comes next.
        let mut returned = HashSet::new();
        for confirm in confirms {
            returned.extend(confirm.await?.take_message().map(|message| message.delivery.routing_key.to_string()));
        }
        Ok(shards.iter().copied().filter(|shard| returned.contains(&self.queue(*shard))).collect())
    }

    /// Acquires a shard. Returns false if another replica holds it.
    pub(super) async fn acquire(&mut self, connection: &Connection, shard: usize) -> Result<bool, SessionError> {
        let queue = self.queue(shard);
        match prove_ownership(self.acquiring(connection).await?, &queue).await {
            Ok(()) => Ok(true),
            Err(SessionError::Owned(_)) => Ok(false),
            Err(failure) => Err(failure),
        }
    }

    /// Releases a shard of which nothing is unconfirmed.
    pub(super) async fn release(&mut self, connection: &Connection, shard: usize) -> Result<(), SessionError> {
        let queue = self.queue(shard);
        let deleted =
            self.acquiring(connection).await?.queue_delete(queue.as_str().into(), QueueDeleteOptions::default()).await;
        match deleted {
            Ok(_) => Ok(()),
            // It was not ours any more.
            Err(error) if Closed::read(&error).is_some() => Ok(()),
            Err(error) => Err(unavailable(&format!("the ownership queue {queue}"), &error)),
        }
    }

    async fn acquiring(&mut self, connection: &Connection) -> Result<&Channel, SessionError> {
        let open = self.acquiring.take().filter(|channel| channel.status().connected());
        let channel = match open {
            Some(channel) => channel,
            None => connection.create_channel().await.map_err(|error| unavailable("channel", &error))?,
        };
        Ok(self.acquiring.insert(channel))
    }

    /// Completes when the replica is no longer counted; the next scan joins again.
    pub(super) async fn ended(&mut self) {
        match &mut self.consumer {
            None => std::future::pending().await,
            Some(consumer) => {
                // Nothing is ever published there.
                while let Some(Ok(_)) = consumer.next().await {}
                self.consumer = None;
            }
        }
    }

    fn queue(&self, shard: usize) -> String {
        owner_queue(&self.config, Some(Shard::new(u16::try_from(shard).unwrap_or(u16::MAX))))
    }
}
