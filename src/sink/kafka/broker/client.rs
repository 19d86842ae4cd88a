//! librdkafka's properties from the config.

use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::ConsumerContext;
use rdkafka::error::KafkaError;
use rdkafka::producer::{BaseProducer, ProducerContext};
use rdkafka::types::RDKafkaConfRes;
use rdkafka::{ClientConfig, Statistics};
use secrecy::ExposeSecret;
use tracing::debug;

use crate::error::SetupError;
use crate::input_file;
use crate::sink::kafka::options::Options;

/// The largest record; topics created by the bridge accept as much. Bodies may exceed Kafka's default of one megabyte, because
/// they contain thumbnails and contact lists.
pub(super) const LARGEST_RECORD: &str = "16777216";

/// Defaults of the bridge; the operator's `properties` take precedence.
const DEFAULTS: [(&str, &str); 9] = [
    // Do not delay a single notification.
    ("linger.ms", "0"),
    ("compression.type", "lz4"),
    ("message.max.bytes", LARGEST_RECORD),
    // An open transaction blocks every `read_committed` consumer.
    ("transaction.timeout.ms", "30000"),
    ("message.timeout.ms", "25000"),
    ("socket.timeout.ms", "10000"),
    ("socket.keepalive.enable", "true"),
    ("reconnect.backoff.max.ms", "2000"),
    // An OpenSSL that was built in does not know where this machine keeps its certificates.
    ("ssl.ca.location", "probe"),
];

/// Properties that name files which the client opens itself, on the calling thread.
const READ_BY_THE_CLIENT: [&str; 6] = [
    "ssl.ca.location",
    "ssl.certificate.location",
    "ssl.key.location",
    "ssl.keystore.location",
    "ssl.crl.location",
    "https.ca.location",
];

/// Checks that the client can read the file that a property names without blocking.
fn check_readable(name: &str, path: &Path) -> io::Result<()> {
    match name {
        "ssl.ca.location" | "https.ca.location" if path == Path::new("probe") => Ok(()),
        // A folder contains certificates.
        "ssl.ca.location" | "https.ca.location"
            if input_file::beside(path, |path| Ok(fs::metadata(path)?.is_dir()))? =>
        {
            Ok(())
        }
        "ssl.key.location" | "ssl.keystore.location" => input_file::read_secret(path).map(drop),
        _ => input_file::read(path).map(drop),
    }
}

/// The properties of all clients of this sink.
pub(super) fn configure(config: &Options) -> Result<ClientConfig, SetupError> {
    let mut client = without_files(config)?;
    for (name, path) in &config.properties_files {
        let value = input_file::read_secret_text(path).map_err(|error| {
            SetupError::new(format!("sink.kafka.properties_files {name}: {}", path.display()), error)
        })?;
        client.set(name, value.trim());
    }
    let encrypts = client.get("security.protocol").is_some_and(|protocol| protocol.to_uppercase().ends_with("SSL"));
    let named = READ_BY_THE_CLIENT.iter().filter_map(|name| Some((name, client.get(name)?)));
    for (name, path) in named.filter(|(_, path)| encrypts && !path.is_empty()) {
        check_readable(name, Path::new(path))
            .map_err(|error| SetupError::new(format!("sink.kafka.properties {name}: {path}"), error))?;
    }
    // Finds unusable properties before anything is started. Does not connect.
    let tried = client.create_with_context::<_, BaseProducer<Quiet>>(Quiet);
    tried.map_err(|error| format!("sink.kafka.properties: {}", without_value(&error)))?;
    Ok(client)
}

/// The properties of the config, with names, values and the features of this build checked.
pub(super) fn without_files(config: &Options) -> Result<ClientConfig, SetupError> {
    let mut client = ClientConfig::new();
    for (name, value) in DEFAULTS {
        client.set(name, value);
    }
    for (name, value) in &config.properties {
        client.set(name, value.expose_secret());
    }
    client
        .set("bootstrap.servers", config.bootstrap_servers.join(","))
        .set("client.id", "green-api-bridge")
        .set("transactional.id", &config.transactional_id)
        .set("allow.auto.create.topics", "false")
        .set_log_level(RDKafkaLogLevel::Info);
    let error = |why: String| SetupError::from(format!("sink.kafka.properties: {why}"));
    let known = |name: &str| {
        let mut alone = ClientConfig::new();
        alone.set(name, "");
        match alone.create_native_config() {
            // The value is in a file: only the name is known yet.
            Err(KafkaError::ClientConfig(RDKafkaConfRes::RD_KAFKA_CONF_UNKNOWN, ..)) => {
                Err(error(format!("{name}: there is no such property")))
            }
            _ => Ok(()),
        }
    };
    config.properties_files.keys().try_for_each(|name| known(name))?;
    client.create_native_config().map_err(|cause| error(without_value(&cause)))?;
    let logs_in = client.get("security.protocol").is_some_and(|protocol| protocol.to_uppercase().starts_with("SASL"));
    let mechanism = client.get("sasl.mechanism").or(client.get("sasl.mechanisms"));
    if mechanism.unwrap_or(if logs_in { "GSSAPI" } else { "" }).eq_ignore_ascii_case("GSSAPI") {
        return Err(error(
            "sasl.mechanism: this build has no Kerberos (GSSAPI): use SCRAM-SHA-512, PLAIN or a client certificate"
                .into(),
        ));
    }
    let asks_for_tokens =
        client.get("sasl.oauthbearer.method").is_some_and(|method| method.eq_ignore_ascii_case("oidc"));
    if mechanism.is_some_and(|mechanism| mechanism.eq_ignore_ascii_case("OAUTHBEARER")) && !asks_for_tokens {
        return Err(error("sasl.oauthbearer.method: OAUTHBEARER needs the value oidc".into()));
    }
    Ok(client)
}

/// How often the client refreshes topic metadata.
pub(super) fn metadata_refresh(client: &ClientConfig) -> Duration {
    let milliseconds = client.get("topic.metadata.refresh.interval.ms").and_then(|text| text.parse().ok());
    Duration::from_millis(milliseconds.unwrap_or(300_000))
}

/// When the group considers a replica dead.
pub(super) fn session_timeout(client: &ClientConfig) -> Duration {
    let milliseconds = client.get("session.timeout.ms").and_then(|text| text.parse().ok());
    Duration::from_millis(milliseconds.unwrap_or(10_000))
}

/// The largest body that the client sends.
pub(super) fn largest_record(client: &ClientConfig) -> usize {
    client.get("message.max.bytes").and_then(|text| text.parse().ok()).unwrap_or(usize::MAX)
}

/// The value of a refused property may be a password.
fn without_value(error: &KafkaError) -> String {
    match error {
        KafkaError::ClientConfig(_, why, name, value) => {
            format!("{name}: {}", why.replace(&format!("\"{value}\" "), ""))
        }
        other => other.to_string(),
    }
}

/// Logs the client's own messages at debug level: what matters is also returned as an error.
pub(super) struct Quiet;

impl ClientContext for Quiet {
    fn log(&self, _level: RDKafkaLogLevel, facility: &str, line: &str) {
        debug!(facility, line, "librdkafka");
    }

    fn stats(&self, _statistics: Statistics) {}

    fn error(&self, error: KafkaError, reason: &str) {
        debug!(%error, reason, "librdkafka");
    }
}

impl ConsumerContext for Quiet {}

impl ProducerContext for Quiet {
    type DeliveryOpaque = ();

    fn delivery(&self, _result: &rdkafka::producer::DeliveryResult<'_>, _opaque: ()) {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Chain;

    #[expect(clippy::needless_pass_by_value, reason = "as `map_err` hands it over")]
    fn described(error: SetupError) -> String {
        Chain(&error).to_string()
    }

    #[test]
    fn unusable_properties_are_named_without_their_value() {
        let with = |name: &str, value: &str| {
            let mut config = Options::default();
            let value = secrecy::SecretString::from(value);
            config.properties.insert(name.into(), value);
            configure(&config).map(drop).map_err(described)
        };
        assert_eq!(with("acks", "all"), Ok(()));
        let unknown = with("sasl.pasword", "s3cret").unwrap_err();
        assert!(unknown.contains("sasl.pasword") && !unknown.contains("s3cret"), "{unknown}");
        for name in ["socket.timeout.ms", "security.protocol", "acks", "compression.type", "enable.idempotence"] {
            let wrong = with(name, "s3cret").unwrap_err();
            assert!(wrong.contains(name) && !wrong.contains("s3cret"), "{wrong}");
        }
        let mut config = Options::default();
        config.properties_files.insert("sasl.password".into(), "/nowhere/password".into());
        assert!(without_files(&config).is_ok(), "validate reads no secret");
        let missing = configure(&config).map(drop).map_err(described).unwrap_err();
        assert!(missing.contains("/nowhere/password"), "{missing}");
        config.properties_files.insert("sasl.pasword".into(), "/nowhere/password".into());
        let unknown = without_files(&config).map(drop).map_err(described).unwrap_err();
        assert!(unknown.contains("sasl.pasword: there is no such property"), "{unknown}");
        for (value, needed) in [("GSSAPI", "Kerberos"), ("OAUTHBEARER", "sasl.oauthbearer.method")] {
            let lacking = with("sasl.mechanism", value).unwrap_err();
            assert!(lacking.contains(needed), "{lacking}");
        }
    }
}
