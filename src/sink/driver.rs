//! The interface of a kind of sink to config, doctor and verify.

use std::path::Path;
use std::sync::Arc;

use super::Sink;
use super::dead_letter::Folder;
use super::redrive::Redrive;
use crate::asyncapi::Description;
use crate::doctor::Check;
use crate::error::SetupError;
use crate::metrics::Metrics;
use crate::mistake::Found;
use crate::verify::Audit;

/// A kind of sink, implemented by its options.
pub(crate) trait Kind {
    /// Its name in logs and metrics.
    fn name(&self) -> &'static str;

    /// Adds what parses but cannot work.
    fn check(&self, _found: &mut Found<'_>) {}

    /// The guarantee for consumers.
    fn guarantee(&self) -> &'static str;

    /// Whether replicas can share the instances.
    fn can_share(&self) -> bool {
        false
    }

    /// The options that disable the verification of certificates.
    fn unverified(&self) -> Vec<&str> {
        Vec::new()
    }

    /// Secrets that are contained in the options themselves rather than in files.
    fn secrets(&self) -> Vec<&str> {
        Vec::new()
    }

    /// Servers, topics and queues, for consumers.
    ///
    /// # Errors
    /// If it has none, or a file that names them cannot be read.
    fn description(&self) -> Result<Description, SetupError> {
        Err(format!("sink.{}: AsyncAPI describes Kafka and RabbitMQ only", self.name()).into())
    }

    /// The working part.
    ///
    /// # Errors
    /// If this build lacks it.
    fn driver(&self) -> Result<&dyn Driver, SetupError>;
}

/// The working part of a kind of sink, which a build may lack. All methods may block.
pub(crate) trait Driver: Sync {
    /// Checks that the built-in client supports the options. Reads no files.
    ///
    /// # Errors
    /// Names what is not supported.
    fn supported(&self) -> Result<(), SetupError> {
        Ok(())
    }

    /// As [`start`](super::kind::start).
    fn start(&self, dead_letters: Folder, shards: u16, metrics: &Metrics) -> Result<Arc<dyn Sink>, SetupError>;

    /// As [`examine`](super::kind::examine).
    fn examine(&self, shards: u16) -> Vec<Check>;

    /// Reads back everything that was published, and returns whether its beginning is still there. With `drain` it may consume what
    /// cannot be read otherwise.
    ///
    /// # Errors
    /// Names what cannot be read and what to change.
    fn audit(&self, drain: bool, audit: &mut Audit) -> Result<bool, SetupError>;

    /// Publishes dead letters again. `dead_letters` is the folder.
    ///
    /// # Errors
    /// If what became of a letter is unknown, or nothing can be read or published. Running it again is safe.
    fn redrive(&self, _redrive: &mut Redrive, _dead_letters: &Path) -> Result<(), SetupError> {
        Err("this sink keeps dead letters in the same stream as everything else: there is nothing to redrive".into())
    }
}
