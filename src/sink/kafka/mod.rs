//! The sink `kafka`: exactly once, for consumers that read committed.

#[cfg(feature = "kafka")]
mod broker;
mod check;
mod options;
mod template;

use secrecy::ExposeSecret;
use serde_json::json;

#[cfg(all(feature = "kafka", any(test, fuzzing)))]
pub(crate) use self::broker::assert_reads_its_own;
pub use self::options::{CreateTopics, Key, Options};
use super::driver::{Driver, Kind};
use crate::asyncapi::Description;
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

    fn description(&self) -> Result<Description, SetupError> {
        let protocol = self.properties.get("security.protocol").map_or("", |protocol| protocol.expose_secret());
        let protocol = if protocol.to_uppercase().ends_with("SSL") { "kafka-secure" } else { "kafka" };
        let server = |host: &String| json!({"host": host, "protocol": protocol});
        let topic = |name: &str| json!({"address": name, "bindings": {"kafka": {"topic": name}}});
        Ok(Description {
            kind: "kafka",
            servers: self.bootstrap_servers.iter().map(server).collect(),
            channel: topic(&self.topic),
            dead_letters: topic(&self.dead_letter_topic),
        })
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
