//! The kinds of sinks that are built in, and the only place that tells them apart. One more is a folder of its own and,
//! here, a variant, an arm of the `match`, and a line for its URL.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::Deserialize;

use super::dead_letter::{self, Folder};
use super::driver::Kind;
use super::{Sink, amqp, file, kafka, stdout};
use crate::doctor::Check;
use crate::error::SetupError;
use crate::metrics::Metrics;
use crate::notification::InstanceId;
use crate::verify::{Audit, Report};

/// Where notifications go: exactly one of these.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
#[schemars(rename = "Sink")]
pub enum Options {
    /// Apache Kafka.
    Kafka(kafka::Options),
    /// RabbitMQ.
    Amqp(amqp::Options),
    /// A file of JSON lines.
    File(file::Options),
    /// JSON lines on standard output.
    Stdout(stdout::Options),
}

impl Options {
    /// The kind of these options.
    pub(crate) fn kind(&self) -> &dyn Kind {
        match self {
            Self::Kafka(options) => options,
            Self::Amqp(options) => options,
            Self::File(options) => options,
            Self::Stdout(options) => options,
        }
    }

    /// A sink in one word, everything else at its default.
    ///
    /// # Errors
    /// The known forms. `text` itself is not repeated: it may hold a password.
    pub fn from_url(text: &str) -> Result<Self, UnknownForm> {
        let (scheme, rest) = text.split_once(':').unwrap_or((text, ""));
        let parsed = match scheme {
            "kafka" => kafka::Options::from_url(rest).map(Self::Kafka),
            "amqp" | "amqps" => amqp::Options::from_url(text).map(Self::Amqp),
            "file" => file::Options::from_url(rest).map(Self::File),
            "stdout" if text.contains(':') => stdout::Options::from_url(rest).map(Self::Stdout),
            _ => Err(""),
        };
        parsed.map_err(UnknownForm)
    }
}

/// A URL that names no sink; what is wrong with it, if that is more than its form.
#[derive(Debug)]
pub struct UnknownForm(&'static str);

impl std::error::Error for UnknownForm {}

impl fmt::Display for UnknownForm {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "expected {}", [stdout::FORM, file::FORM, kafka::FORM, amqp::FORM].join(" | "))?;
        if self.0.is_empty() { Ok(()) } else { write!(formatter, "; it {}", self.0) }
    }
}

/// Whether this build can start the sink of a config.
///
/// # Errors
/// Names what it lacks.
pub fn supported(options: &Options) -> Result<(), SetupError> {
    options.kind().driver()?.supported()
}

/// Its name in logs and metrics.
#[must_use]
pub fn name(options: &Options) -> &'static str {
    options.kind().name()
}

/// What consumers can rely on with this sink.
#[must_use]
pub fn guarantee(options: &Options) -> &'static str {
    options.kind().guarantee()
}

/// Starts the sink of a config. It connects by itself, as long as it takes. What it cannot store
/// anywhere is kept in the folder `dead_letters`, as long as that holds less than `limit_mib` MiB. The instances are divided
/// into `shards`, which replicas share; 1: nobody shares.
///
/// # Errors
/// What has to be changed in the config: a secret that cannot be read, a feature that this build
/// lacks, an unusable property.
pub fn start(
    options: &Options,
    dead_letters: &Path,
    limit_mib: u64,
    shards: u16,
    metrics: &Metrics,
) -> Result<Arc<dyn Sink>, SetupError> {
    options.kind().driver()?.start(Folder::new(dead_letters, limit_mib), shards, metrics)
}

/// Checks what a sink needs, with ids of its own: neither ownership nor transactional id of a running
/// bridge are touched. `shards` is into how many the instances are divided; 1: nobody shares.
pub async fn examine(options: Options, shards: u16) -> Vec<Check> {
    let blocking = move || match options.kind().driver() {
        Ok(driver) => driver.examine(shards),
        Err(missing) => vec![Check::of_sink("build", Err(missing))],
    };
    // The clients of Kafka and of files block.
    let examined = tokio::task::spawn_blocking(blocking).await;
    examined
        .unwrap_or_else(|panic| vec![Check::of_sink("doctor", Err(SetupError::new("it ended unexpectedly", panic)))])
}

/// Reads back what was published by this config, dead letters included, and holds it against the
/// promises. `instances` are reported whether anything of them is found or not. With `drain` it may
/// consume what can be read in no other way. Blocks.
///
/// # Errors
/// What cannot be read, and so what to change.
pub fn verify(
    options: &Options,
    dead_letters: &Path,
    instances: &[InstanceId],
    drain: bool,
) -> Result<Report, SetupError> {
    let mut audit = Audit::default();
    for instance in instances {
        audit.expect(*instance);
    }
    let from_the_beginning = options.kind().driver()?.audit(drain, &mut audit)?;
    dead_letter::audit(dead_letters, &mut audit)
        .map_err(|error| SetupError::new(format!("dead_letter_dir {}", dead_letters.display()), error))?;
    Ok(audit.report(from_the_beginning))
}

#[cfg(test)]
#[path = "kind_tests.rs"]
mod tests;
