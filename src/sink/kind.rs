//! The built-in kinds of sinks, and the only place that distinguishes them. A new one needs its own folder and, here, a variant,
//! an arm of the `match`, and a line for its URL.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use schemars::JsonSchema;
use serde::Deserialize;

use super::dead_letter::{self, Folder};
use super::driver::Kind;
use super::redrive::{Redrive, Selection};
use super::{Sink, amqp, file, kafka, stdout};
use crate::doctor::Check;
use crate::error::SetupError;
use crate::metrics::Metrics;
use crate::notification::InstanceId;
use crate::verify::{Audit, Report};

/// Options of the sink: exactly one kind.
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
    /// The kind described by these options.
    pub(crate) fn kind(&self) -> &dyn Kind {
        match self {
            Self::Kafka(options) => options,
            Self::Amqp(options) => options,
            Self::File(options) => options,
            Self::Stdout(options) => options,
        }
    }

    /// Parses a sink URL; everything else has its default.
    ///
    /// # Errors
    /// Lists the known forms. Does not repeat `text`, which may contain a password.
    pub fn from_url(text: &str) -> Result<Self, UnknownForm> {
        if text.contains(char::is_control) {
            return Err(UnknownForm("contains a control character, perhaps a carriage return at its end"));
        }
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

/// Checks that this build can start the sink of a config.
///
/// # Errors
/// Names what is missing.
pub fn supported(options: &Options) -> Result<(), SetupError> {
    options.kind().driver()?.supported()
}

/// Its name in logs and metrics.
#[must_use]
pub fn name(options: &Options) -> &'static str {
    options.kind().name()
}

/// The guarantee for consumers of this sink.
#[must_use]
pub fn guarantee(options: &Options) -> &'static str {
    options.kind().guarantee()
}

/// Starts the sink of a config. It connects in the background and retries until it succeeds. Dead letters of last resort are
/// written to the folder `dead_letters`, which may grow to `limit_mib` MiB. The instances are divided
/// into `shards`, which replicas share; 1: nobody shares.
///
/// # Errors
/// Names what to change in the config: an unreadable secret, a feature that this build lacks, an unusable property.
pub fn start(
    options: &Options,
    dead_letters: &Path,
    limit_mib: u64,
    shards: u16,
    metrics: &Metrics,
) -> Result<Arc<dyn Sink>, SetupError> {
    let sink = options.kind().driver()?.start(Folder::new(dead_letters, limit_mib), shards, metrics)?;
    tokio::spawn(dead_letter::measure(dead_letters.to_owned(), Arc::downgrade(&sink), metrics.clone()));
    Ok(sink)
}

/// Checks everything that a sink needs. Affects neither the ownership nor the transactional ids of a running bridge. `shards` is
/// the number of shards, `dead_letters` the folder of dead letters, `limit_mib` its limit.
pub async fn examine(options: Options, shards: u16, dead_letters: PathBuf, limit_mib: u64) -> Vec<Check> {
    let blocking = move || {
        let folder = Check::of_sink("dead_letter_dir", dead_letter::examine(&dead_letters, limit_mib));
        let mut checks = match options.kind().driver() {
            Ok(driver) => driver.examine(shards),
            Err(missing) => vec![Check::of_sink("build", Err(missing))],
        };
        checks.push(folder);
        checks
    };
    // The Kafka client and files block.
    let examined = tokio::task::spawn_blocking(blocking).await;
    examined
        .unwrap_or_else(|panic| vec![Check::of_sink("doctor", Err(SetupError::new("it ended unexpectedly", panic)))])
}

/// Reads back what was published with this config, including dead letters, and checks it against the guarantees. `instances` are
/// reported even if nothing of them is found. With `drain` it may consume what cannot be read otherwise. Blocks.
///
/// # Errors
/// Names what cannot be read and what to change.
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

/// Publishes the selected dead letters again, to where they would have gone, and passes a line about each to `report`. Can be run
/// beside the bridge, and again after a crash. Blocks.
///
/// # Errors
/// If what became of a letter is unknown, or nothing can be read or published.
pub fn redrive(
    options: &Options,
    dead_letters: &Path,
    selection: Selection,
    report: fn(&str),
) -> Result<Redrive, SetupError> {
    let mut redrive = Redrive::new(selection, report);
    options.kind().driver()?.redrive(&mut redrive, dead_letters)?;
    Ok(redrive)
}

#[cfg(test)]
#[path = "kind_tests.rs"]
mod tests;
