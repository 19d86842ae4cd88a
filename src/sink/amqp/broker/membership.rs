//! What a replica does at the broker to share: it is counted, looks for what is free, takes it and gives it back.

use std::collections::{BTreeSet, HashSet};

use lapin::options::{BasicConsumeOptions, BasicPublishOptions, QueueDeclareOptions, QueueDeleteOptions};
use lapin::protocol::AMQPSoftError;
use lapin::types::{AMQPValue, FieldTable, LongString, ShortString};
use lapin::{BasicProperties, Channel, Connection, Consumer, Error};
use tokio_stream::StreamExt;

use super::connection::{confirming_channel, owner_queue, prove_ownership};
use super::errors::{Closed, is_soft, unavailable};
use super::topology::{self, Told};
use crate::sink::amqp::options::Options;
use crate::sink::session::{SessionError, Shard};

/// So long the queue that counts outlives the last replica: only then another number of shards may be in it.
const EXPIRES_MS: i32 = 60_000;

/// The channel on which a replica is counted and looks, and the one on which it takes: the broker closes that over each shard
/// that somebody else has.
pub(super) struct Membership {
    config: Options,
    told: Told,
    shards: u16,
    counted: Channel,
    consumer: Option<Consumer>,
    taking: Option<Channel>,
    /// It may not publish what tells whether a queue is there.
    blind: bool,
}

impl Membership {
    /// Is counted from now on; the topology is looked after before that, for who cannot publish takes no part.
    pub(super) async fn begin(
        connection: &Connection,
        config: &Options,
        told: &Told,
        shards: u16,
    ) -> Result<Self, SessionError> {
        let mut member = Self {
            config: config.clone(),
            told: told.clone(),
            shards,
            counted: confirming_channel(connection).await?,
            consumer: None,
            taking: None,
            blind: false,
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
        declared.map_err(|error| self.kept_out(&name, &error))?;
        topology::prepare(connection, &self.config, &self.told).await?;
        let options = BasicConsumeOptions { no_ack: true, ..BasicConsumeOptions::default() };
        let consuming = self.counted.basic_consume(name.as_str().into(), "".into(), options, FieldTable::default());
        self.consumer = Some(consuming.await.map_err(|error| unavailable(&format!("the queue {name}"), &error))?);
        Ok(())
    }

    fn kept_out(&self, name: &str, error: &Error) -> SessionError {
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

    /// How many replicas there are, if that can be told, and which shards are nobody's. Those that are `held` or being given
    /// back here are not looked at.
    pub(super) async fn look(
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
        if self.blind {
            return Ok((replicas, others));
        }
        match self.free(&others).await {
            Ok(free) => Ok((replicas, free)),
            // What closed the channel may be gone with it: without the right to publish there it would be so each time.
            Err(error) if Closed::read(&error).is_some() => {
                self.blind = true;
                Ok((replicas, Vec::new()))
            }
            Err(error) => Err(unavailable("looking for free shards", &error)),
        }
    }

    /// A message that expires at once is returned where there is no queue. Declaring instead would close a channel, and write an
    /// error into the broker's log, for each shard of somebody else.
    async fn free(&self, shards: &[usize]) -> Result<Vec<usize>, Error> {
        let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
        let mut confirms = Vec::new();
        for shard in shards {
            let (exchange, queue) = (ShortString::default(), ShortString::from(self.queue(*shard)));
            let properties = BasicProperties::default().with_expiration("0".into());
            confirms.push(self.counted.basic_publish(exchange, queue, options, &[], properties).await?);
        }
        // A return is attached to whichever confirm comes next.
        let mut returned = HashSet::new();
        for confirm in confirms {
            returned.extend(confirm.await?.take_message().map(|message| message.delivery.routing_key.to_string()));
        }
        Ok(shards.iter().copied().filter(|shard| returned.contains(&self.queue(*shard))).collect())
    }

    /// Takes a shard, unless somebody has it.
    pub(super) async fn take(&mut self, connection: &Connection, shard: usize) -> Result<bool, SessionError> {
        let queue = self.queue(shard);
        match prove_ownership(self.taking(connection).await?, &queue).await {
            Ok(()) => Ok(true),
            Err(SessionError::Owned(_)) => Ok(false),
            Err(failure) => Err(failure),
        }
    }

    /// Gives a shard back; nothing of it is unconfirmed.
    pub(super) async fn give_back(&mut self, connection: &Connection, shard: usize) -> Result<(), SessionError> {
        let queue = self.queue(shard);
        let deleted =
            self.taking(connection).await?.queue_delete(queue.as_str().into(), QueueDeleteOptions::default()).await;
        match deleted {
            Ok(_) => Ok(()),
            // It is not ours any more.
            Err(error) if Closed::read(&error).is_some() => Ok(()),
            Err(error) => Err(unavailable(&format!("the ownership queue {queue}"), &error)),
        }
    }

    async fn taking(&mut self, connection: &Connection) -> Result<&Channel, SessionError> {
        let open = self.taking.take().filter(|channel| channel.status().connected());
        let channel = match open {
            Some(channel) => channel,
            None => connection.create_channel().await.map_err(|error| unavailable("channel", &error))?,
        };
        Ok(self.taking.insert(channel))
    }

    /// Ends when it is counted no longer: it joins again with the next look then.
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
