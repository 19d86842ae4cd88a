//! Exchange, queues and binding: declared, or only looked at.

use lapin::options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::protocol::{AMQPErrorKind, AMQPSoftError};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{Channel, Error, ErrorKind, ExchangeKind};

use crate::config::{self, OnUnroutable, QueueType};
use crate::sink::owner::Failure;

/// Declares what the config names or, with `declare: false`, checks that it exists. A failure ends
/// the channel.
pub(super) async fn prepare(channel: &Channel, config: &config::Amqp) -> Result<(), Failure> {
    let passive = !config.declare;
    let exchange = ShortString::from(config.exchange.as_str());
    let options = ExchangeDeclareOptions { passive, durable: true, ..ExchangeDeclareOptions::default() };
    channel
        .exchange_declare(exchange.clone(), ExchangeKind::Topic, options, FieldTable::default())
        .await
        .map_err(|error| told("exchange", &config.exchange, "name another `exchange`", &error))?;
    if let Some(queue) = &config.queue {
        declare(channel, "queue", queue, config.queue_type, passive).await?;
        if config.declare {
            channel
                .queue_bind(
                    queue.as_str().into(),
                    exchange,
                    "#".into(),
                    QueueBindOptions::default(),
                    FieldTable::default(),
                )
                .await
                .map_err(|error| told("queue", queue, "name another `queue`", &error))?;
        }
    }
    if config.on_unroutable == OnUnroutable::DeadLetter {
        // A stream never hands a message out for good, which is what dead letters wait for.
        let kind = if config.queue_type == QueueType::Stream { QueueType::Quorum } else { config.queue_type };
        declare(channel, "dead_letter_queue", &config.dead_letter_queue, kind, passive).await?;
    }
    Ok(())
}

async fn declare(channel: &Channel, key: &str, name: &str, kind: QueueType, passive: bool) -> Result<(), Failure> {
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), AMQPValue::LongString(kind.argument().into()));
    let options = QueueDeclareOptions { passive, durable: true, ..QueueDeclareOptions::default() };
    match channel.queue_declare(name.into(), options, arguments).await {
        Ok(_) => Ok(()),
        Err(error) => Err(told(key, name, &format!("set `queue_type` to what it is, name another `{key}`"), &error)),
    }
}

/// What to do about it. The broker's text names what differs.
fn told(key: &str, name: &str, instead: &str, error: &Error) -> Failure {
    let advice = if is_soft(error, AMQPSoftError::PRECONDITIONFAILED) {
        format!("it exists and differs: delete it, {instead}, or use it as it is with `declare: false`")
    } else if is_soft(error, AMQPSoftError::NOTFOUND) {
        "create it, or let the bridge do so with `declare: true`".into()
    } else if is_soft(error, AMQPSoftError::ACCESSREFUSED) {
        "give the user the rights to configure, write and read it; with `declare: false` it need not configure".into()
    } else if is_soft(error, AMQPSoftError::RESOURCELOCKED) {
        format!("another connection has it to itself: name another `{key}`")
    } else {
        return Failure::Unavailable(format!("sink.amqp.{key} {name}: {error}"));
    };
    Failure::Unavailable(format!("sink.amqp.{key} {name}: {error}: {advice}"))
}

pub(super) fn is_soft(error: &Error, wanted: AMQPSoftError) -> bool {
    matches!(error.kind(), ErrorKind::ProtocolError(error) if *error.kind() == AMQPErrorKind::Soft(wanted))
}
