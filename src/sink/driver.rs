//! What a kind of sink is to everything but the line.

use std::sync::Arc;

use super::Sink;
use super::dead_letter::Folder;
use crate::config::Found;
use crate::doctor::Check;
use crate::error::SetupError;
use crate::metrics::Metrics;
use crate::verify::Audit;

/// A kind of sink, as its options describe one.
pub(crate) trait Kind {
    /// Its name in logs and metrics.
    fn name(&self) -> &'static str;

    /// Adds what is well written and cannot be right.
    fn check(&self, _found: &mut Found<'_>) {}

    /// What consumers can rely on.
    fn guarantee(&self) -> &'static str;

    /// Whether replicas can share the instances.
    fn can_share(&self) -> bool {
        false
    }

    /// The options that switch off that certificates are verified.
    fn unverified(&self) -> Vec<&str> {
        Vec::new()
    }

    /// Passwords and the like that stand in the options themselves, and not in files that they name.
    fn secrets(&self) -> Vec<&str> {
        Vec::new()
    }

    /// What does the work.
    ///
    /// # Errors
    /// When this build lacks it.
    fn driver(&self) -> Result<&dyn Driver, SetupError>;
}

/// The working part of a kind of sink, which a build may lack. What blocks may block.
pub(crate) trait Driver: Sync {
    /// Whether the client, as it is built in, can do what the options ask for. Reads no files.
    ///
    /// # Errors
    /// Names what it cannot do.
    fn supported(&self) -> Result<(), SetupError> {
        Ok(())
    }

    /// As [`start`](super::kind::start).
    fn start(&self, dead_letters: Folder, shards: u16, metrics: &Metrics) -> Result<Arc<dyn Sink>, SetupError>;

    /// As [`examine`](super::kind::examine).
    fn examine(&self, shards: u16) -> Vec<Check>;

    /// Reads back everything that was published, and says whether its beginning is still there. With
    /// `drain` it may consume what can be read in no other way.
    ///
    /// # Errors
    /// What cannot be read, and so what to change.
    fn audit(&self, drain: bool, audit: &mut Audit) -> Result<bool, SetupError>;
}
