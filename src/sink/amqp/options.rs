//! What an operator may say of RabbitMQ.

use std::collections::BTreeMap;
use std::path::PathBuf;

use schemars::JsonSchema;
use secrecy::SecretString;
use serde::{Deserialize, Deserializer, Serialize};

use crate::address;

/// RabbitMQ.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "Amqp")]
pub struct Options {
    /// Address of the broker: one or several, tried in turn.
    #[serde(deserialize_with = "one_or_more")]
    #[schemars(with = "OneOrMore<String>", extend("default" = "amqp://guest:guest@localhost:5672/%2f"))]
    pub uri: Vec<SecretString>,
    /// Instead of `uri`: a file that contains the address.
    pub uri_file: Option<PathBuf>,
    /// Prefix of the ownership queues. The same for all replicas; without `shards` only one bridge per name can run.
    pub name: String,
    /// Durable topic exchange.
    pub exchange: String,
    /// `{instance}`, `{type}`, `{message}` and `{chat}` are replaced.
    pub routing_key: String,
    /// Durable queue bound to everything; `null`: you manage the queues.
    pub queue: Option<String>,
    /// Type of the queue.
    pub queue_type: QueueType,
    /// Whether exchange and queues are declared; otherwise they must exist.
    pub declare: bool,
    /// More arguments for `queue` when it is declared, by RabbitMQ's names: `x-single-active-consumer`, `x-max-length` and so on.
    pub queue_arguments: BTreeMap<String, Argument>,
    /// What happens to a notification that is not routed to any queue.
    pub on_unroutable: OnUnroutable,
    /// Queue for refused notifications; without it they are written to `dead_letter_dir`.
    pub dead_letter_queue: String,
    /// Certificates (PEM) to trust in addition to the system's.
    pub ca_file: Option<PathBuf>,
    /// PKCS#12 file with the client certificate, for EXTERNAL authentication.
    pub client_identity_file: Option<PathBuf>,
    /// File that contains its password.
    pub client_identity_password_file: Option<PathBuf>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            uri: vec!["amqp://guest:guest@localhost:5672/%2f".into()],
            uri_file: None,
            name: "green-api-bridge".into(),
            exchange: "green-api".into(),
            routing_key: "{instance}.{type}".into(),
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
    /// A boolean.
    Flag(bool),
    /// An integer.
    Number(i64),
    /// A string.
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

/// RabbitMQ's queue types.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum QueueType {
    /// Replicated, fsynced on a majority of nodes.
    Quorum,
    /// On a single node.
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

/// What happens to a notification that is not routed to any queue.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum OnUnroutable {
    /// It is dead-lettered.
    DeadLetter,
    /// It waits upstream.
    Wait,
}

impl Options {
    /// `exchange` and `queue` of the query are the bridge's; all other parameters are the AMQP client's.
    pub(in crate::sink) fn from_url(text: &str) -> Result<Self, &'static str> {
        let (address, fragment) = text.split_at(text.find('#').unwrap_or(text.len()));
        let (address, query) = address.split_once('?').unwrap_or((address, ""));
        let mut amqp = Self::default();
        let (mut seen, mut rest) = (Vec::new(), url::form_urlencoded::Serializer::new(String::new()));
        for (name, value) in url::form_urlencoded::parse(query.as_bytes()) {
            if seen.contains(&name) {
                return Err("has a name twice in its query");
            }
            match &*name {
                "exchange" => amqp.exchange = value.into_owned(),
                "queue" => amqp.queue = Some(value.into_owned()),
                _ => drop(rest.append_pair(&name, &value)),
            }
            seen.push(name);
        }
        let rest = rest.finish();
        let mark = if rest.is_empty() { "" } else { "?" };
        let uri = format!("{address}{mark}{rest}{fragment}");
        address::amqp(&uri)?;
        amqp.uri = vec![SecretString::from(uri)];
        Ok(amqp)
    }
}

#[derive(Deserialize, JsonSchema)]
#[serde(untagged)]
enum OneOrMore<T> {
    One(T),
    More(Vec<T>),
}

fn one_or_more<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<SecretString>, D::Error> {
    Ok(match OneOrMore::deserialize(deserializer)? {
        OneOrMore::One(uri) => vec![uri],
        OneOrMore::More(uris) => uris,
    })
}
