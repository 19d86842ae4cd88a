//! What an operator may say of Kafka.

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
    /// `HOST:PORT` of some brokers.
    pub bootstrap_servers: Vec<String>,
    /// The topic of the notifications; `{instance}` and `{type}` may follow a literal prefix. A type that is not documented is `other`, none is `unknown`.
    #[schemars(extend("x-types" = crate::kinds::in_topics()))]
    pub topic: String,
    /// What keeps its order: an instance or each chat of it.
    pub key: Key,
    /// Names this bridge at the brokers, and the group of its replicas, which have the same; without `shards` one running bridge per name.
    pub transactional_id: String,
    /// The compacted topic that remembers what was published last.
    pub ledger_topic: String,
    /// The topic of refused notifications.
    pub dead_letter_topic: String,
    /// How missing topics are created; `null`: they must exist.
    pub create_topics: Option<CreateTopics>,
    /// Any property of librdkafka: `security.protocol`, `sasl.*`, `ssl.*` and so on.
    #[schemars(with = "BTreeMap<String, String>", extend("default" = {}))]
    pub properties: BTreeMap<String, SecretString>,
    /// The same, each with a file that holds its value: passwords.
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

/// What a record's key is.
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
    /// Partitions of the topics of notifications and dead letters.
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
    /// From what stands behind `kafka:` in a sink's URL.
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
