//! The sink `kafka`: exactly once, for consumers that read committed.

#[cfg(feature = "kafka")]
mod broker;
mod check;
mod options;
mod template;

#[cfg(all(feature = "kafka", any(test, fuzzing)))]
pub(crate) use self::broker::assert_reads_its_own;
pub use self::options::{CreateTopics, Key, Options};
use super::driver::{Driver, Kind};
use crate::mistake::Found;

/// Its form as a URL.
pub(super) const FORM: &str = "kafka://HOST:PORT[,HOST:PORT]/TOPIC";

impl Kind for Options {
    fn check(&self, found: &mut Found<'_>) {
        check::check(self, found);
    }

    fn guarantee(&self) -> &'static str {
        "exactly once, for consumers that read committed"
    }

    #[cfg(feature = "kafka")]
    fn driver(&self) -> Result<&dyn Driver, String> {
        Ok(self)
    }

    #[cfg(not(feature = "kafka"))]
    fn driver(&self) -> Result<&dyn Driver, String> {
        Err("sink.kafka: this build lacks the feature `kafka`".into())
    }
}
