//! Publishes dead letters again. A letter is acknowledged only after the broker confirmed its copy. Whoever is interrupted between
//! the two finds it again, delivered once before, and marks the next copy.

use std::path::Path;
use std::thread;
use std::time::Duration;

use lapin::message::Delivery;
use lapin::options::{BasicAckOptions, BasicGetOptions, BasicPublishOptions, QueueDeclareOptions};
use lapin::types::FieldTable;
use lapin::{Channel, Confirmation, Connection};

use super::arguments;
use super::connection::{Link, Nodes, confirming_channel};
use super::errors::{Closed, unavailable};
use super::publish::{properties, short};
use super::published::attributes;
use super::topology::ReportedQueues;
use crate::error::SetupError;
use crate::metrics::Metrics;
use crate::sink::amqp::options::Options;
use crate::sink::redrive::{Fate, From, Letter, Redrive};
use crate::sink::session::SessionError;

/// The depth of a queue that has not changed for so long is taken for what is in it.
const SETTLING: Duration = Duration::from_secs(1);

/// Publishes the selected letters of the dead-letter queue, of the queue of rejected messages, or of the folder.
///
/// # Errors
/// If the outcome of a publish is unknown.
pub(super) fn redrive(config: &Options, redrive: &mut Redrive, folder: &Path) -> Result<(), SetupError> {
    let from = redrive.selection().from;
    let (queue, rejected_by) = match (from, &config.queue) {
        (From::Amqp | From::Dir, _) => (config.dead_letter_queue.clone(), None),
        (From::Rejected, Some(queue)) => (arguments::rejected(queue), Some(queue.as_str())),
        (From::Rejected, None) => {
            return Err("sink.amqp.queue is null: the bridge declares no queue of rejected messages".into());
        }
        (From::Kafka, _) => {
            return Err(
                "sink.amqp: dead letters are in its queues or in the folder: use --from amqp, rejected or dir".into()
            );
        }
    };
    let mut nodes = Nodes::new(config.clone(), ReportedQueues::default(), Metrics::new("amqp"));
    let open = async |connection: &Connection, _: &Options| confirming_channel(connection).await;
    let (link, channel) = nodes.connect(&open).map_err(text)?;
    let dry_run = redrive.selection().dry_run;
    let mut publisher = Publisher { config, rejected_by, dry_run, link, channel };
    if from == From::Dir {
        redrive.folder(folder, |letter, marked| publisher.publish(letter, marked))
    } else {
        publisher.queue(&queue, redrive)
    }
}

#[expect(clippy::needless_pass_by_value, reason = "as `map_err` hands it over")]
fn text(failure: SessionError) -> SetupError {
    format!("{failure}: run it again, a possible second copy is marked").into()
}

struct Publisher<'a> {
    config: &'a Options,
    /// The queue whose consumers rejected the messages.
    rejected_by: Option<&'a str>,
    dry_run: bool,
    link: Link,
    channel: Channel,
}

impl Publisher<'_> {
    /// All messages that are in the queue now. What is not published stays unacknowledged, so that nobody reads it twice, and
    /// returns to the queue at the end.
    fn queue(&mut self, queue: &str, redrive: &mut Redrive) -> Result<(), SetupError> {
        // A channel of its own, which outlives the one that a refused message closes.
        let reader = self.link.open_channel().map_err(text)?;
        // Not until it is empty: a consumer may reject again what is redriven.
        for _ in 0..self.settled(queue, &reader).map_err(text)? {
            let got = self.link.within(async {
                let got = reader.basic_get(queue.into(), BasicGetOptions::default()).await;
                got.map_err(|error| unavailable(&format!("reading {queue}"), &error))
            });
            let Some(message) = got.map_err(text)? else { break };
            let Delivery { redelivered, ref data, ref acker, .. } = message.delivery;
            let letter = Letter::new(attributes(&message.delivery), data.clone());
            if redrive.letter(letter, |letter| self.publish(letter, redelivered))? {
                let acknowledged = self.link.within(async {
                    let acknowledged = acker.ack(BasicAckOptions::default()).await;
                    acknowledged.map(drop).map_err(|error| unavailable("acknowledging", &error))
                });
                acknowledged.map_err(text)?;
            }
        }
        Ok(())
    }

    /// How many messages are in the queue. Those of an earlier run return to it only after the broker has noticed that the run ended.
    fn settled(&self, queue: &str, channel: &Channel) -> Result<u32, SessionError> {
        let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        let count = || {
            self.link.within(async {
                let declared = channel.queue_declare(queue.into(), passive, FieldTable::default()).await;
                declared
                    .map(|queue| queue.message_count())
                    .map_err(|error| unavailable(&format!("queue {queue}"), &error))
            })
        };
        let mut known = count()?;
        loop {
            thread::sleep(SETTLING);
            let counted = count()?;
            if counted == known {
                return Ok(counted);
            }
            known = counted;
        }
    }

    /// Publishes a letter and waits until every queue that it is routed to has confirmed it.
    fn publish(&mut self, letter: &Letter, marked: bool) -> Result<Fate, SetupError> {
        let exchange = &self.config.exchange;
        let (exchange, routing_key) = if let Some(queue) = self.rejected_by {
            // Other queues of the exchange have it. The default exchange routes by name.
            ("", queue)
        } else if let Some(routing_key) =
            letter.destination().strip_prefix(exchange).and_then(|rest| rest.strip_prefix('/'))
        {
            (exchange.as_str(), routing_key)
        } else {
            let why = format!("`originaldestination` {:?} is not of sink.amqp.exchange", letter.destination());
            return Ok(Fate::Refused(why));
        };
        if self.dry_run {
            return Ok(Fate::Redriven);
        }
        let time: Option<jiff::Timestamp> = letter.get("time").and_then(|time| time.parse().ok());
        let seconds = time.and_then(|time| u64::try_from(time.as_second()).ok()).unwrap_or_default();
        let properties = properties(letter.redriven(marked), letter.content_type(), seconds);
        let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
        let published = self.link.await_answer(async {
            let sent =
                self.channel.basic_publish(short(exchange), short(routing_key), options, &letter.body, properties);
            let confirmed = async { sent.await?.await }.await;
            match confirmed {
                Ok(Confirmation::Nack(_)) => Ok(Fate::InDoubt("a queue refused it, as a full one does".into())),
                Ok(confirmation) => Ok(match confirmation.take_message() {
                    None => Fate::Redriven,
                    Some(_returned) => Fate::Refused("no queue is bound for it".into()),
                }),
                Err(error) => match Closed::read(&error) {
                    Some(Closed { code: Some(_), cause }) => Ok(Fate::Refused(cause)),
                    _ => Err(unavailable("publish", &error)),
                },
            }
        });
        if !self.channel.status().connected() {
            self.channel = self.link.open_channel().map_err(text)?;
        }
        published.map_err(text)
    }
}
