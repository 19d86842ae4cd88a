//! Where notifications go, and what an operator may say about it.

use std::collections::BTreeMap;
use std::path::PathBuf;

use schemars::JsonSchema;
use secrecy::SecretString;
use serde::{Deserialize, Deserializer, Serialize};
use serde_saphyr::Spanned;

use super::unplaced;

/// Where notifications go: exactly one of these.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Sink {
    /// Apache Kafka.
    Kafka(Kafka),
    /// RabbitMQ.
    Amqp(Amqp),
    /// A file of JSON lines.
    File(File),
    /// JSON lines on standard output.
    Stdout(Stdout),
}

/// Apache Kafka.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Kafka {
    /// `HOST:PORT` of some brokers.
    #[schemars(with = "Vec<String>", extend("default" = ["localhost:9092"]))]
    pub bootstrap_servers: Vec<Spanned<String>>,
    /// The topic of the notifications; `{instance}` and `{type}` may follow a literal prefix. A type that is not documented is `other`, none is `unknown`.
    #[schemars(with = "String", extend("x-types" = crate::kinds::in_topics()))]
    pub topic: Spanned<String>,
    /// What keeps its order: an instance or each chat of it.
    pub key: Key,
    /// Names this bridge at the brokers; one running bridge per name.
    pub transactional_id: String,
    /// The compacted topic that remembers what was published last.
    #[schemars(with = "String")]
    pub ledger_topic: Spanned<String>,
    /// The topic of refused notifications.
    #[schemars(with = "String")]
    pub dead_letter_topic: Spanned<String>,
    /// How missing topics are created; `null`: they must exist.
    pub create_topics: Option<CreateTopics>,
    /// Any property of librdkafka: `security.protocol`, `sasl.*`, `ssl.*` and so on.
    #[schemars(with = "BTreeMap<String, String>", extend("default" = {}))]
    pub properties: BTreeMap<String, Spanned<SecretString>>,
    /// The same, each with a file that holds its value: passwords.
    #[schemars(with = "BTreeMap<String, PathBuf>")]
    pub properties_files: BTreeMap<String, Spanned<PathBuf>>,
}

impl Default for Kafka {
    fn default() -> Self {
        Self {
            bootstrap_servers: vec![unplaced("localhost:9092".into())],
            topic: unplaced("green-api.notifications".into()),
            key: Key::Instance,
            transactional_id: "green-api-bridge".into(),
            ledger_topic: unplaced("green-api-bridge.ledger".into()),
            dead_letter_topic: unplaced("green-api.dead-letters".into()),
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
    #[schemars(with = "i32")]
    pub partitions: Spanned<i32>,
    /// Replication factor; -1 takes the broker's default.
    #[schemars(with = "i32")]
    pub replication: Spanned<i32>,
}

impl Default for CreateTopics {
    fn default() -> Self {
        Self { partitions: unplaced(6), replication: unplaced(-1) }
    }
}

/// RabbitMQ.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Amqp {
    /// Where the broker is: one address or several, tried in turn.
    #[serde(deserialize_with = "one_or_more")]
    #[schemars(with = "OneOrMore<String>", extend("default" = "amqp://guest:guest@localhost:5672/%2f"))]
    pub uri: Vec<Spanned<SecretString>>,
    /// Instead of `uri`: a file that holds the address.
    pub uri_file: Option<PathBuf>,
    /// Names the ownership queue; one running bridge per name.
    pub name: String,
    /// The durable topic exchange.
    pub exchange: String,
    /// `{instance}` and `{type}` are replaced.
    #[schemars(with = "String")]
    pub routing_key: Spanned<String>,
    /// The durable queue bound to everything; `null`: the queues are yours.
    pub queue: Option<String>,
    /// What kind of queue.
    pub queue_type: QueueType,
    /// Whether exchange and queues are declared, or must exist.
    pub declare: bool,
    /// More arguments for `queue` when it is declared, as RabbitMQ names them: `x-single-active-consumer`, `x-max-length` and so on.
    #[schemars(with = "BTreeMap<String, Argument>", extend("default" = {}))]
    pub queue_arguments: BTreeMap<String, Spanned<Argument>>,
    /// What happens to a notification that no queue takes.
    pub on_unroutable: OnUnroutable,
    /// The queue of refused notifications; without it they go to `dead_letter_dir`.
    pub dead_letter_queue: String,
    /// Certificates (PEM) to trust in addition to the system's.
    pub ca_file: Option<PathBuf>,
    /// A PKCS#12 file with the client's certificate, for EXTERNAL.
    pub client_identity_file: Option<PathBuf>,
    /// A file that holds its password.
    pub client_identity_password_file: Option<PathBuf>,
}

impl Default for Amqp {
    fn default() -> Self {
        Self {
            uri: vec![unplaced("amqp://guest:guest@localhost:5672/%2f".into())],
            uri_file: None,
            name: "green-api-bridge".into(),
            exchange: "green-api".into(),
            routing_key: unplaced("{instance}.{type}".into()),
            queue: Some("green-api.notifications".into()),
            queue_type: QueueType::Quorum,
            declare: true,
            queue_arguments: BTreeMap::new(),
            on_unroutable: OnUnroutable::DeadLetter,
            dead_letter_queue: "green-api.dead-letters".into(),
            ca_file: None,
            client_identity_file: None,
            client_identity_password_file: None,
        }
    }
}

/// The value of an argument.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
#[serde(untagged)]
pub enum Argument {
    /// Yes or no.
    Flag(bool),
    /// A whole number.
    Number(i64),
    /// Anything else.
    Text(String),
}

impl std::fmt::Display for Argument {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Flag(flag) => flag.fmt(formatter),
            Self::Number(number) => number.fmt(formatter),
            Self::Text(text) => formatter.write_str(text),
        }
    }
}

/// RabbitMQ's kinds of queue.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum QueueType {
    /// Replicated, fsynced by a majority.
    Quorum,
    /// On one node.
    Classic,
    /// A replicated log, not fsynced.
    Stream,
}

impl QueueType {
    /// The value of `x-queue-type`.
    #[must_use]
    pub fn argument(self) -> &'static str {
        match self {
            Self::Quorum => "quorum",
            Self::Classic => "classic",
            Self::Stream => "stream",
        }
    }
}

/// What happens to a notification that no queue takes.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum OnUnroutable {
    /// It becomes a dead letter.
    DeadLetter,
    /// It waits upstream.
    Wait,
}

/// A file of JSON lines.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct File {
    /// Appended to, one line a notification. A regular file: move it away to rotate it.
    pub path: PathBuf,
}

impl Default for File {
    fn default() -> Self {
        Self { path: "notifications.jsonl".into() }
    }
}

/// JSON lines on standard output: nothing to say about it.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Stdout {}

#[derive(Deserialize, JsonSchema)]
#[serde(untagged)]
enum OneOrMore<T> {
    One(T),
    More(Vec<T>),
}

fn one_or_more<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Spanned<SecretString>>, D::Error> {
    Ok(match OneOrMore::deserialize(deserializer)? {
        OneOrMore::One(uri) => vec![uri],
        OneOrMore::More(uris) => uris,
    })
}
