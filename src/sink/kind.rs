//! The kinds of sinks that are built in, and the only place that tells them apart.

use std::path::Path;
use std::sync::Arc;

#[cfg(feature = "amqp")]
use super::amqp;
#[cfg(feature = "kafka")]
use super::kafka;
use super::{Sink, dead_letter, lines};
use crate::config;
use crate::doctor::Check;
use crate::notification::InstanceId;
use crate::verify::{Audit, Report};

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
