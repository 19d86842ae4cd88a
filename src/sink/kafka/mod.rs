//! The sink `kafka`: exactly once, for consumers that read committed.

#[cfg(feature = "kafka")]
mod broker;
mod check;
mod options;
mod template;

use secrecy::ExposeSecret;

#[cfg(all(feature = "kafka", any(test, fuzzing)))]
pub(crate) use self::broker::assert_reads_its_own;
pub use self::options::{CreateTopics, Key, Options};
use super::driver::{Driver, Kind};
use crate::error::SetupError;
use crate::mistake::Found;

/// Its form as a URL.
pub(super) const FORM: &str = "kafka://HOST:PORT[,HOST:PORT]/TOPIC";

/// The version of librdkafka; empty where this build has none.
pub(crate) fn client_version() -> String {
    #[cfg(feature = "kafka")]
    return rdkafka::util::get_rdkafka_version().1;
    #[cfg(not(feature = "kafka"))]
    String::new()
}

impl Kind for Options {
    fn name(&self) -> &'static str {
        "kafka"
    }

    fn check(&self, found: &mut Found<'_>) {
        check::check(self, found);
    }

    fn can_share(&self) -> bool {
        true
    }

    fn unverified(&self) -> Vec<&str> {
        check::unverified(self)
    }

    fn secrets(&self) -> Vec<&str> {
        let is_secret = |name: &str| ["password", "secret", "key.pem", "jaas"].iter().any(|word| name.contains(word));
        let secrets = self.properties.iter().filter(|(name, _)| is_secret(name));
        secrets.map(|(_, value)| value.expose_secret()).collect()
    }

    fn guarantee(&self) -> &'static str {
        "exactly once, for consumers that read committed"
    }

    #[cfg(feature = "kafka")]
    fn driver(&self) -> Result<&dyn Driver, SetupError> {
        Ok(self)
    }

    #[cfg(not(feature = "kafka"))]
    fn driver(&self) -> Result<&dyn Driver, SetupError> {
        Err("sink.kafka: this build lacks the feature `kafka`".into())
    }
}
