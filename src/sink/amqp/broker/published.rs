//! Reads back what was published, for `verify`.

use std::time::Duration;

use lapin::message::Delivery;
use lapin::options::{BasicAckOptions, BasicConsumeOptions, BasicGetOptions, BasicQosOptions, QueueDeclareOptions};
use lapin::protocol::AMQPSoftError;
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{Channel, Connection, Consumer};
use tokio::time::timeout;
use tokio_stream::StreamExt;

use super::connection::{Link, Nodes};
use super::errors::{is_soft, unavailable};
use super::topology::ReportedQueues;
use crate::error::SetupError;
use crate::metrics::Metrics;
use crate::sink::amqp::options::{OnUnroutable, Options, QueueType};
use crate::sink::session::SessionError;
use crate::verify::{Audit, Lane, Published};

const PREFETCH: u16 = 500;

/// A stream has no end marker: it ends when nothing arrived for this long.
const IDLE_TIMEOUT: Duration = Duration::from_secs(3);

/// More messages than the broker puts into one chunk, in case the stream keeps growing.
const LARGEST_CHUNK: i64 = 1 << 16;

/// Reads the notification queue and the dead-letter queue up to their current ends. A stream is only read; from other
/// queues, if `drain` allows it, every message is acknowledged and thereby removed. Returns whether the beginning must be
/// there.
///
/// # Errors
/// Names what cannot be read, or not without `drain`.
pub(super) fn audit(config: &Options, drain: bool, audit: &mut Audit) -> Result<bool, SetupError> {
    let Some(queue) = &config.queue else {
        return Err("sink.amqp.queue is null: name the queue that is to be verified".into());
    };
    let (kind, is_stream) = (config.queue_type.argument(), config.queue_type == QueueType::Stream);
    if !is_stream && !drain {
        return Err(format!(
            "sink.amqp.queue {queue}: a {kind} queue is read only by consuming it: add --drain, and every message is gone"
        )
        .into());
    }
    let text = |failure: SessionError| SetupError::from(failure.to_string());
    let (link, channel) =
        Nodes::new(config.clone(), ReportedQueues::default(), Metrics::new("amqp")).connect(&channel).map_err(text)?;
    let mut reader = Reader { link, channel, audit };
    let from_the_beginning = if is_stream { reader.read_stream(queue) } else { reader.drain(queue, 0).map(|()| false) };
    let from_the_beginning = from_the_beginning.map_err(text)?;
    if config.on_unroutable == OnUnroutable::DeadLetter {
        let letters = &config.dead_letter_queue;
        match reader.waiting_in(letters).map_err(text)? {
            // Without that queue they are in the folder.
            None | Some(0) => {}
            _ if drain => reader.drain(letters, 1).map_err(text)?,
            Some(waiting) => {
                return Err(format!(
                    "sink.amqp.dead_letter_queue {letters}: {waiting} dead letters are read only by consuming them: \
                     add --drain, and they are gone"
                )
                .into());
            }
        }
    }
    Ok(from_the_beginning)
}

async fn channel(connection: &Connection, _config: &Options) -> Result<Channel, SessionError> {
    let channel = connection.create_channel().await.map_err(|error| unavailable("channel", &error))?;
    let prefetch = channel.basic_qos(PREFETCH, BasicQosOptions::default()).await;
    prefetch.map_err(|error| unavailable("prefetch", &error))?;
    Ok(channel)
}

struct Reader<'a> {
    link: Link,
    channel: Channel,
    audit: &'a mut Audit,
}

impl Reader<'_> {
    /// `None` if there is no such queue; the channel is closed then.
    fn waiting_in(&self, queue: &str) -> Result<Option<u32>, SessionError> {
        let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        self.link.within(async {
            match self.channel.queue_declare(queue.into(), passive, FieldTable::default()).await {
                Ok(declared) => Ok(Some(declared.message_count())),
                Err(error) if is_soft(&error, AMQPSoftError::NOTFOUND) => Ok(None),
                Err(error) => Err(unavailable(&format!("the queue {queue}"), &error)),
            }
        })
    }

    fn drain(&mut self, queue: &str, lane: Lane) -> Result<(), SessionError> {
        let waiting = self.waiting_in(queue)?;
        let missing = || SessionError::Unavailable(format!("the queue {queue} does not exist"));
        for _ in 0..waiting.ok_or_else(missing)? {
            let got = self.link.within(async {
                let got = self.channel.basic_get(queue.into(), BasicGetOptions::default()).await;
                got.map_err(|error| unavailable(&format!("reading {queue}"), &error))
            })?;
            // Another consumer may have received the rest.
            let Some(message) = got else { break };
            self.take(&message.delivery, lane)?;
        }
        Ok(())
    }

    /// The broker reports only where the last chunk of a stream begins: from there on the stream ends when nothing more arrives.
    /// Returns whether nothing was truncated from its beginning.
    fn read_stream(&mut self, queue: &str) -> Result<bool, SessionError> {
        let Some(newest) = self.next(&mut self.consume(queue, "last")?)? else { return Ok(true) };
        let last = offset(&newest).unwrap_or_default();
        let mut messages = self.consume(queue, "first")?;
        let (mut from_the_beginning, mut read) = (true, -1);
        while let Some(message) = self.next(&mut messages)? {
            from_the_beginning &= read >= 0 || offset(&message) == Some(0);
            read = offset(&message).unwrap_or(read);
            self.take(&message, 0)?;
            if read > last + LARGEST_CHUNK {
                break;
            }
        }
        if read < last {
            Err(SessionError::Unavailable(format!("reading {queue}: the stream broke off")))
        } else {
            Ok(from_the_beginning)
        }
    }

    fn consume(&self, queue: &str, from: &str) -> Result<Consumer, SessionError> {
        let mut arguments = FieldTable::default();
        arguments.insert("x-stream-offset".into(), AMQPValue::LongString(from.into()));
        self.link.within(async {
            let (name, options) = (ShortString::default(), BasicConsumeOptions::default());
            let consumer = self.channel.basic_consume(queue.into(), name, options, arguments).await;
            consumer.map_err(|error| unavailable(&format!("reading {queue}"), &error))
        })
    }

    /// The next message, or `None` after the idle timeout.
    fn next(&self, messages: &mut Consumer) -> Result<Option<Delivery>, SessionError> {
        self.link.within(async {
            let next = timeout(IDLE_TIMEOUT, messages.next()).await.ok().flatten();
            next.transpose().map_err(|error| unavailable("reading", &error))
        })
    }

    fn take(&mut self, message: &Delivery, lane: Lane) -> Result<(), SessionError> {
        if let Some(published) = published(message) {
            self.audit.message(&published, lane, &message.data);
        }
        self.link.within(async {
            let acknowledged = message.acker.ack(BasicAckOptions::default()).await;
            acknowledged.map(drop).map_err(|error| unavailable("acknowledging", &error))
        })
    }
}

fn offset(message: &Delivery) -> Option<i64> {
    message.properties.headers().as_ref()?.inner().get("x-stream-offset")?.as_long_long_int()
}

fn published(message: &Delivery) -> Option<Published> {
    Published::from_attributes(attributes(message))
}

/// The attributes of a message, without their prefix.
pub(super) fn attributes(message: &Delivery) -> impl Iterator<Item = (&str, &str)> {
    let headers = message.properties.headers().iter().flat_map(|headers| headers.inner().iter());
    headers.filter_map(|(name, value)| {
        let text = match value {
            AMQPValue::LongString(text) => std::str::from_utf8(text.as_bytes()).ok()?,
            AMQPValue::ShortString(text) => text.as_str(),
            _ => return None,
        };
        Some((name.as_str().strip_prefix("cloudEvents_")?, text))
    })
}
