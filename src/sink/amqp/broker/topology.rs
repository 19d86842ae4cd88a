//! Exchange, queues and bindings: declared, or only checked. On channels of their own, because a failed declaration closes
//! its channel.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use lapin::options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::protocol::AMQPSoftError;
use lapin::types::{FieldTable, ShortString};
use lapin::{Channel, Connection, Error, ExchangeKind};
use tracing::warn;

use super::arguments::{self, Arguments, Difference};
use super::errors::{is_soft, unavailable};
use crate::sink::amqp::options::{Options, QueueType};
use crate::sink::session::SessionError;

/// Queues whose differences were reported by this process: once is enough.
#[derive(Clone, Debug, Default)]
pub(super) struct ReportedQueues(Arc<Mutex<BTreeSet<String>>>);

impl ReportedQueues {
    fn contains(&self, queue: &str) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).contains(queue)
    }

    fn add(&self, queue: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(queue.to_owned());
    }
}

/// Declares what the config names or, with `declare: false`, checks that it exists.
pub(super) async fn prepare(
    connection: &Connection,
    config: &Options,
    reported: &ReportedQueues,
) -> Result<(), SessionError> {
    let channel = channel(connection).await?;
    let mut topology = Topology { connection, channel, config, reported };
    topology.prepare().await?;
    topology.channel.close(200, "OK".into()).await.map_err(|error| unavailable("channel", &error))
}

/// The depth of the queue of rejected messages, if there is one.
pub(super) async fn rejected(connection: &Connection, config: &Options) -> Result<Option<u32>, SessionError> {
    let Some(queue) = config.queue.as_ref().filter(|_| config.queue_type == QueueType::Quorum) else { return Ok(None) };
    let name = arguments::rejected(queue);
    let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
    let channel = channel(connection).await?;
    match channel.queue_declare(name.as_str().into(), options, FieldTable::default()).await {
        Ok(declared) => {
            channel.close(200, "OK".into()).await.map_err(|error| unavailable("channel", &error))?;
            Ok(Some(declared.message_count()))
        }
        Err(error) if is_soft(&error, AMQPSoftError::NOTFOUND) => Ok(None),
        Err(error) => Err(failed("queue", &name, &other("queue"), &error)),
    }
}

struct Topology<'a> {
    connection: &'a Connection,
    channel: Channel,
    config: &'a Options,
    reported: &'a ReportedQueues,
}

impl Topology<'_> {
    async fn prepare(&mut self) -> Result<(), SessionError> {
        let config = self.config;
        let exchange = ShortString::from(config.exchange.as_str());
        let options =
            ExchangeDeclareOptions { passive: !config.declare, durable: true, ..ExchangeDeclareOptions::default() };
        self.channel
            .exchange_declare(exchange.clone(), ExchangeKind::Topic, options, FieldTable::default())
            .await
            .map_err(|error| failed("exchange", &config.exchange, "name another `exchange`", &error))?;
        if !config.declare {
            // Without their queue dead letters are written to the folder.
            return match &config.queue {
                Some(queue) => self.is_there("queue", queue).await,
                None => Ok(()),
            };
        }
        if let Some(queue) = &config.queue {
            if config.queue_type == QueueType::Quorum {
                self.declare_to_keep("queue", &arguments::rejected(queue), QueueType::Quorum).await?;
            }
            self.declare("queue", queue, arguments::of_queue(config, queue)).await?;
            self.channel
                .queue_bind(
                    queue.as_str().into(),
                    exchange,
                    "#".into(),
                    QueueBindOptions::default(),
                    FieldTable::default(),
                )
                .await
                .map_err(|error| failed("queue", queue, "name another `queue`", &error))?;
        }
        // Messages are not removed from a stream by consuming them, and dead letters wait for somebody to remove them.
        let kind = if config.queue_type == QueueType::Classic { QueueType::Classic } else { QueueType::Quorum };
        self.declare_to_keep("dead_letter_queue", &config.dead_letter_queue, kind).await
    }

    async fn is_there(&self, key: &str, name: &str) -> Result<(), SessionError> {
        let options = QueueDeclareOptions { passive: true, durable: true, ..QueueDeclareOptions::default() };
        let declared = self.channel.queue_declare(name.into(), options, FieldTable::default()).await;
        declared.map(drop).map_err(|error| failed(key, name, &other(key), &error))
    }

    /// Declares a queue without a delivery limit: by default RabbitMQ 4 drops a message that is redelivered the 21st time.
    async fn declare_to_keep(&mut self, key: &str, name: &str, kind: QueueType) -> Result<(), SessionError> {
        self.declare(key, name, arguments::to_keep(kind)).await
    }

    /// Declares a queue with these arguments. An existing queue is used as it is, and differences are reported once.
    async fn declare(&mut self, key: &str, name: &str, wanted: Arguments) -> Result<(), SessionError> {
        let mut why = self.try_to_declare(name, &wanted).await?.err();
        if why.is_none() {
            return Ok(());
        }
        let mut differences = BTreeMap::new();
        let mut as_it_is = wanted.clone();
        while let Some(error) = why.take() {
            let Some(mut difference) = Difference::read(&error.to_string(), &wanted) else {
                return Err(failed(key, name, &other(key), &error));
            };
            if self.reported.contains(name) {
                return Ok(());
            }
            // Each attempt reveals one difference. If the queue type differs the others mean nothing.
            let is_new = difference.apply_to(&mut as_it_is) && !difference.is_of_kind();
            differences.insert(difference.name.clone(), difference);
            if is_new {
                why = self.try_to_declare(name, &as_it_is).await?.err();
            }
        }
        let vhost = self.connection.status().vhost().to_string();
        let differences: Vec<Difference> = differences.into_values().collect();
        let differs = differences.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let command = arguments::policy(&vhost, name, &differences);
        warn!(
            event = "queue_differs",
            queue = name, %differs, %command,
            "a queue that exists differs from what would be declared: it is used as it is"
        );
        self.reported.add(name);
        Ok(())
    }

    /// Returns the broker's objection to these arguments, if any, and reopens the channel then.
    async fn try_to_declare(&mut self, name: &str, arguments: &Arguments) -> Result<Result<(), Error>, SessionError> {
        let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
        let declared = self.channel.queue_declare(name.into(), options, arguments::table(arguments)).await;
        if let Err(error) = &declared
            && is_soft(error, AMQPSoftError::PRECONDITIONFAILED)
        {
            self.channel = channel(self.connection).await?;
        }
        Ok(declared.map(drop))
    }
}

async fn channel(connection: &Connection) -> Result<Channel, SessionError> {
    connection.create_channel().await.map_err(|error| unavailable("channel", &error))
}

fn other(key: &str) -> String {
    format!("set `queue_type` to what it is, name another `{key}`")
}

/// Adds advice. The broker's message names the difference.
fn failed(key: &str, name: &str, instead: &str, error: &Error) -> SessionError {
    let advice = if is_soft(error, AMQPSoftError::PRECONDITIONFAILED) {
        format!("it exists and differs: delete it, {instead}, or use it as it is with `declare: false`")
    } else if is_soft(error, AMQPSoftError::NOTFOUND) {
        "create it, or let the bridge do so with `declare: true`".into()
    } else if is_soft(error, AMQPSoftError::ACCESSREFUSED) {
        "give the user the rights to configure, write and read it; with `declare: false` it need not configure".into()
    } else if is_soft(error, AMQPSoftError::RESOURCELOCKED) {
        format!("another connection has it to itself: name another `{key}`")
    } else {
        return SessionError::Unavailable(format!("sink.amqp.{key} {name}: {error}"));
    };
    SessionError::Unavailable(format!("sink.amqp.{key} {name}: {error}: {advice}"))
}
