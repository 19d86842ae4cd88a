//! Where notifications are stored: the contract that the line relies on, and the sinks that keep it.

use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;

use crate::config;
use crate::doctor::Check;
use crate::doubt::Memory;
use crate::notification::{InstanceId, Notification, ReceiptId};
use crate::verify::{Audit, Report};

#[cfg(feature = "amqp")]
pub mod amqp;
mod cloud_event;
mod dead_letter;
#[cfg(feature = "kafka")]
pub mod kafka;
pub mod lines;
mod owner;

/// Whether this build can start the sink of a config.
///
/// # Errors
/// Names what it lacks.
pub fn supported(config: &config::Sink) -> Result<(), String> {
    match config {
        #[cfg(feature = "kafka")]
        config::Sink::Kafka(kafka) => kafka::supported(kafka),
        #[cfg(not(feature = "kafka"))]
        config::Sink::Kafka(_) => Err("sink.kafka: this build lacks the feature `kafka`".into()),
        #[cfg(not(feature = "amqp"))]
        config::Sink::Amqp(_) => Err("sink.amqp: this build lacks the feature `amqp`".into()),
        _ => Ok(()),
    }
}

/// What consumers can rely on with this sink.
#[must_use]
pub fn guarantee(config: &config::Sink) -> &'static str {
    match config {
        config::Sink::Kafka(_) => "exactly once, for consumers that read committed",
        config::Sink::Amqp(_) => "at least once, possible duplicates marked",
        config::Sink::File(_) => "exactly once",
        config::Sink::Stdout(_) => "at least once, possible duplicates marked; no memory over a restart",
    }
}

/// Starts the sink of a config. It connects by itself, as long as it takes. What it cannot store
/// anywhere is kept in the folder `dead_letters`.
///
/// # Errors
/// What has to be changed in the config: a secret that cannot be read, a feature that this build
/// lacks, an unusable property.
#[cfg_attr(
    not(any(feature = "kafka", feature = "amqp")),
    expect(unused_variables, reason = "files and standard output refuse nothing")
)]
pub fn start(config: &config::Sink, dead_letters: &Path) -> Result<Arc<dyn Sink>, String> {
    match config {
        config::Sink::File(file) => Ok(Arc::new(lines::file(file.path.clone())?)),
        config::Sink::Stdout(_) => Ok(Arc::new(lines::stdout()?)),
        #[cfg(feature = "kafka")]
        config::Sink::Kafka(kafka) => Ok(Arc::new(kafka::start(kafka, dead_letters)?)),
        #[cfg(feature = "amqp")]
        config::Sink::Amqp(amqp) => Ok(Arc::new(amqp::start(amqp, dead_letters)?)),
        #[cfg(not(all(feature = "kafka", feature = "amqp")))]
        missing => supported(missing).and(Err("this sink is not built in".into())),
    }
}

/// Looks at what a sink needs, with ids of its own: neither ownership nor transactional id of a running
/// bridge are touched.
pub async fn examine(config: config::Sink) -> Vec<Check> {
    let blocking = move || match config {
        config::Sink::File(file) => vec![Check::of_sink("file", lines::examine(&file.path))],
        config::Sink::Stdout(_) => {
            vec![Check::of_sink("stdout", Ok("remembers nothing: the first of each start is marked".into()))]
        }
        #[cfg(feature = "kafka")]
        config::Sink::Kafka(kafka) => kafka::doctor::examine(&kafka),
        #[cfg(feature = "amqp")]
        config::Sink::Amqp(amqp) => amqp::doctor::examine(&amqp),
        #[cfg(not(all(feature = "kafka", feature = "amqp")))]
        missing => vec![Check::of_sink("build", supported(&missing).map(|()| String::new()))],
    };
    // The clients of Kafka and of files block.
    let examined = tokio::task::spawn_blocking(blocking).await;
    examined.unwrap_or_else(|panic| vec![Check::of_sink("doctor", Err(format!("it ended unexpectedly: {panic}")))])
}

/// Reads back what was published by this config, dead letters included, and holds it against the
/// promises. `instances` are reported whether anything of them is found or not. With `drain` it may
/// consume what can be read in no other way. Blocks.
///
/// # Errors
/// What cannot be read, and so what to change.
#[cfg_attr(not(feature = "amqp"), expect(unused_variables, reason = "only queues are drained"))]
pub fn verify(
    config: &config::Sink,
    dead_letters: &Path,
    instances: &[InstanceId],
    drain: bool,
) -> Result<Report, String> {
    let mut audit = Audit::default();
    for instance in instances {
        audit.expect(*instance);
    }
    let from_the_beginning = match config {
        config::Sink::File(file) => lines::read_back::audit(&file.path, &mut audit)
            .map(|()| true)
            .map_err(|error| format!("sink.file.path {}: {error}", file.path.display()))?,
        #[cfg(feature = "kafka")]
        config::Sink::Kafka(kafka) => kafka::published::audit(kafka, &mut audit)?,
        #[cfg(feature = "amqp")]
        config::Sink::Amqp(amqp) => amqp::published::audit(amqp, drain, &mut audit)?,
        config::Sink::Stdout(_) => return Err("sink.stdout keeps nothing that could be verified".into()),
        #[cfg(not(all(feature = "kafka", feature = "amqp")))]
        missing => return supported(missing).and(Err("this sink is not built in".into())),
    };
    dead_letter::audit(dead_letters, &mut audit)
        .map_err(|error| format!("dead_letter_dir {}: {error}", dead_letters.display()))?;
    Ok(audit.report(from_the_beginning))
}

/// A place that stores notifications for good. One object per process: it owns connections,
/// transactions and grouping, and hands out one lane per instance.
#[async_trait]
pub trait Sink: Send + Sync {
    /// Opens the lane of an instance and tells what the sink remembers of it. A lane belongs to
    /// the ownership (producer epoch, lock) of this moment; an earlier lane of the same instance
    /// must no longer be used.
    ///
    /// Waits as long as the sink is unavailable, and says so in the log. May be dropped.
    ///
    /// # Errors
    /// Only [`SinkError::Fenced`] and [`SinkError::Closed`].
    async fn open(&self, instance: InstanceId) -> Result<(Box<dyn Lane>, Memory), SinkError>;
}

/// The way of one instance's notifications into a sink.
#[async_trait]
pub trait Lane: Send {
    /// Stores the notification; `marked` as a possible duplicate. `Ok` means stored for good: it
    /// *will* be deleted upstream. May be called again with the same notification.
    ///
    /// Not to be dropped before it ends: the outcome would be unknown.
    ///
    /// # Errors
    /// Each [`SinkError`] says what its caller has to do.
    async fn publish(&mut self, notification: &Notification, marked: bool) -> Result<Stored, SinkError>;

    /// For a notification that was published before: proves that this lane still has the
    /// ownership that it was opened with, so that deleting it is right. Publishes nothing.
    ///
    /// # Errors
    /// As [`publish`](Self::publish).
    async fn already_stored(&mut self, notification: &Notification) -> Result<Stored, SinkError>;
}

/// Proof that a notification is stored for good; only sinks can make one. It is what a delete
/// asks for, so that deleting what was not stored does not compile:
///
/// ```
/// # use green_api_bridge::{green_api::Queue, sink::Stored};
/// async fn delete_stored(queue: &Queue, stored: Stored) {
///     queue.delete(stored).await.ok();
/// }
/// ```
///
/// ```compile_fail,E0308
/// # use green_api_bridge::{green_api::Queue, notification::Notification};
/// async fn delete_unstored(queue: &Queue, notification: Notification) {
///     queue.delete(notification).await;
/// }
/// ```
///
/// ```compile_fail,E0624
/// # use green_api_bridge::{notification::Notification, sink::Stored};
/// fn pretend(notification: &Notification) -> Stored {
///     Stored::new(notification, None)
/// }
/// ```
#[derive(Debug)]
#[must_use = "a stored notification has to be deleted upstream"]
pub struct Stored {
    instance: InstanceId,
    receipt: ReceiptId,
    sequence: Option<u64>,
    is_dead_letter: bool,
}

impl Stored {
    pub(in crate::sink) fn new(notification: &Notification, sequence: Option<u64>) -> Self {
        Self { instance: notification.instance(), receipt: notification.receipt(), sequence, is_dead_letter: false }
    }

    /// The instance whose queue holds it.
    #[must_use]
    pub fn instance(&self) -> InstanceId {
        self.instance
    }

    /// The receipt to delete it with.
    #[must_use]
    pub fn receipt(&self) -> ReceiptId {
        self.receipt
    }

    /// Whether it is kept in a dead-letter place.
    #[must_use]
    pub fn is_dead_letter(&self) -> bool {
        self.is_dead_letter
    }

    /// Its place in the instance's sequence, from a sink that remembers; none if it was already stored.
    #[must_use]
    pub fn sequence(&self) -> Option<u64> {
        self.sequence
    }
}

/// Why a notification was not stored, by what the caller has to do. The text names no secret.
#[derive(Debug, Clone, thiserror::Error)]
pub enum SinkError {
    /// It was not stored, for certain. Try it again on this lane, after a pause.
    #[error("the sink refused the notification: {0}")]
    Refused(String),
    /// It was not stored, because the lane belongs to an earlier ownership. Throw the head away, open
    /// the lane anew and receive again.
    #[error("the sink's ownership was renewed")]
    Renewed,
    /// Whether it was stored is unknown. Throw the head away, open the lane anew and receive again.
    #[error("the sink has to be opened again: {0}")]
    Reopen(String),
    /// Another bridge took over: stop the process, and do not start it again.
    #[error("another bridge took over: {0}")]
    Fenced(String),
    /// Nobody can store anything any more: stop the process.
    #[error("the sink is closed: {0}")]
    Closed(String),
}
