//! Options of the sink `kafka`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use schemars::JsonSchema;
use secrecy::SecretString;
use serde::{Deserialize, Serialize};

/// Apache Kafka.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "Kafka")]
pub struct Options {
    /// `HOST:PORT` of one or more brokers.
    pub bootstrap_servers: Vec<String>,
    /// Topic of the notifications; `{instance}`, `{type}`, `{message}` and `{chat}` may follow a literal prefix. An undocumented `{type}` or `{message}` is `other`, a missing one `unknown` or `none`.
    #[schemars(extend("x-types" = crate::kinds::in_topics(), "x-messages" = crate::kinds::messages_in_topics()))]
    pub topic: String,
    /// Scope of ordering: the instance, or each chat.
    pub key: Key,
    /// Transactional id of the bridge and name of its replicas' consumer group; the same for all replicas. Without `shards` only one bridge per id can run.
    pub transactional_id: String,
    /// Compacted topic that records what was published last.
    pub ledger_topic: String,
    /// Topic of refused notifications.
    pub dead_letter_topic: String,
    /// How missing topics are created; `null`: topics must exist.
    pub create_topics: Option<CreateTopics>,
    /// Any property of librdkafka: `security.protocol`, `sasl.*`, `ssl.*` and so on.
    #[schemars(with = "BTreeMap<String, String>", extend("default" = {}))]
    pub properties: BTreeMap<String, SecretString>,
    /// The same, each with the path of a file that contains the value: for passwords.
    pub properties_files: BTreeMap<String, PathBuf>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            bootstrap_servers: vec!["localhost:9092".into()],
            topic: "green-api.notifications".into(),
            key: Key::Instance,
            transactional_id: "green-api-bridge".into(),
            ledger_topic: "green-api-bridge.ledger".into(),
            dead_letter_topic: "green-api.dead-letters".into(),
            create_topics: Some(CreateTopics::default()),
            properties: BTreeMap::new(),
            properties_files: BTreeMap::new(),
        }
    }
}

/// The key of a record.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum Key {
    /// The instance: strict order of all its notifications.
    Instance,
    /// The chat: order within each chat.
    Chat,
}

/// How missing topics are created.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct CreateTopics {
    /// Number of partitions of the topics of notifications and dead letters.
    pub partitions: i32,
    /// Replication factor; -1 takes the broker's default.
    pub replication: i32,
}

impl Default for CreateTopics {
    fn default() -> Self {
        Self { partitions: 6, replication: -1 }
    }
}

impl Options {
    /// Parses the part of a sink URL after `kafka:`.
    pub(in crate::sink) fn from_url(rest: &str) -> Result<Self, &'static str> {
        let parts = rest.strip_prefix("//").and_then(|rest| rest.split_once('/'));
        let (servers, topic) = parts.ok_or("")?;
        if topic.is_empty() || servers.split(',').any(str::is_empty) {
            return Err("");
        }
        let bootstrap_servers = servers.split(',').map(str::to_owned).collect();
        Ok(Self { bootstrap_servers, topic: topic.to_owned(), ..Self::default() })
    }
}
