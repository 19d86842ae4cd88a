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
use super::topology::Told;
use crate::sink::amqp::options::{OnUnroutable, Options, QueueType};
use crate::sink::session::SessionError;
use crate::verify::{Audit, Lane, Published};

const AT_ONCE: u16 = 500;

/// Behind the last message of a stream nothing comes.
const SILENCE: Duration = Duration::from_secs(3);

/// More messages than the broker puts into a chunk, in case the stream goes on growing.
const LARGEST_CHUNK: i64 = 1 << 16;

/// Reads the queue of notifications and that of dead letters up to what is in them now. A stream is
/// only read; of the others every message is acknowledged and gone, if `drain` allows it. Tells
/// whether the beginning must be there.
///
/// # Errors
/// What cannot be read, or not without `drain`.
pub(super) fn audit(config: &Options, drain: bool, audit: &mut Audit) -> Result<bool, String> {
    let Some(queue) = &config.queue else {
        return Err("sink.amqp.queue is null: name the queue that is to be verified".into());
    };
    let (kind, is_stream) = (config.queue_type.argument(), config.queue_type == QueueType::Stream);
    if !is_stream && !drain {
        return Err(format!(
            "sink.amqp.queue {queue}: a {kind} queue is read only by consuming it: add --drain, and every message is gone"
        ));
    }
    let told = |failure: SessionError| failure.to_string();
    let (link, channel) = Nodes::new(config.clone(), Told::default()).connect(&channel).map_err(told)?;
    let mut reader = Reader { link, channel, audit };
    let from_the_beginning = if is_stream { reader.read_stream(queue) } else { reader.drain(queue, 0).map(|()| false) };
    let from_the_beginning = from_the_beginning.map_err(told)?;
    if config.on_unroutable == OnUnroutable::DeadLetter {
        let letters = &config.dead_letter_queue;
        match reader.waiting_in(letters).map_err(told)? {
            // Without the queue they are in the folder.
            None | Some(0) => {}
            _ if drain => reader.drain(letters, 1).map_err(told)?,
            Some(waiting) => {
                return Err(format!(
                    "sink.amqp.dead_letter_queue {letters}: {waiting} dead letters are read only by consuming them: \
                     add --drain, and they are gone"
                ));
            }
        }
    }
    Ok(from_the_beginning)
}

async fn channel(connection: &Connection, _config: &Options) -> Result<Channel, SessionError> {
    let channel = connection.create_channel().await.map_err(|error| unavailable("channel", &error))?;
    let prefetch = channel.basic_qos(AT_ONCE, BasicQosOptions::default()).await;
    prefetch.map_err(|error| unavailable("prefetch", &error))?;
    Ok(channel)
}

struct Reader<'a> {
    link: Link,
    channel: Channel,
    audit: &'a mut Audit,
}

impl Reader<'_> {
    /// `None` when there is no such queue; then the channel is gone as well.
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
            // Another consumer may have taken the rest.
            let Some(message) = got else { break };
            self.take(&message.delivery, lane)?;
        }
        Ok(())
    }

    /// The broker tells no end of a stream, only where its last chunk begins: from there on it ends
    /// where nothing more comes. Tells whether nothing was taken away from its beginning.
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
            Err(SessionError::Unavailable(format!("reading {queue}: it broke off")))
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

    /// The next message, or `None` after a silence.
    fn next(&self, messages: &mut Consumer) -> Result<Option<Delivery>, SessionError> {
        self.link.within(async {
            let next = timeout(SILENCE, messages.next()).await.ok().flatten();
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
    let headers = message.properties.headers().as_ref()?.inner().iter();
    Published::from_attributes(headers.filter_map(|(name, value)| {
        let text = match value {
            AMQPValue::LongString(text) => std::str::from_utf8(text.as_bytes()).ok()?,
            AMQPValue::ShortString(text) => text.as_str(),
            _ => return None,
        };
        Some((name.as_str().strip_prefix("cloudEvents_")?, text))
    }))
}
