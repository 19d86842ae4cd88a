//! The config file: its keys, their defaults, and how it is checked.

use std::net::{AddrParseError, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use schemars::JsonSchema;
use secrecy::SecretString;
use serde::{Deserialize, Deserializer, Serialize};
use url::Url;

use crate::address;
use crate::mistake::{Mistake, Mistakes};
use crate::notification::InstanceId;
use crate::sink::kind::Options;
use crate::token::TokenSource;

mod check;
mod read;

/// The checked configuration. Keys that are not given have their documented defaults.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The instances to read.
    #[serde(default)]
    pub instances: Vec<Instance>,
    /// Folder with one YAML file per instance, watched for changes.
    #[serde(default)]
    pub instances_dir: Option<PathBuf>,
    /// 1: a single bridge. 2 to 64: any number of replicas share the instances, divided into this many shards; 12 is a good choice.
    #[serde(default = "default_shards")]
    pub shards: u16,
    /// Access to Green API.
    #[serde(default)]
    pub api: Api,
    /// Where notifications are stored.
    pub sink: Options,
    /// Folder for notifications that no sink accepts; under `$STATE_DIRECTORY` if that is set.
    #[serde(default = "default_dead_letter_dir")]
    pub dead_letter_dir: PathBuf,
    /// Maximum size of `dead_letter_dir` in MiB, 1 to 1048576; at the limit the instances that need it wait.
    #[serde(default = "default_dead_letter_dir_limit")]
    pub dead_letter_dir_limit_mib: u64,
    /// The HTTP port for operators.
    #[serde(default, deserialize_with = "admin")]
    pub admin: Option<Admin>,
    /// Logging.
    #[serde(default)]
    pub log: Log,
    /// The file that it was read from.
    #[serde(skip)]
    #[schemars(skip)]
    pub file: Option<PathBuf>,
    /// What is probably a mistake, but works.
    #[serde(skip)]
    #[schemars(skip)]
    pub doubts: Vec<Mistake>,
}

/// One Green API instance, with exactly one of `api_token` and `api_token_file`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Instance {
    /// Its number, `idInstance`.
    pub id: InstanceId,
    /// Its `apiUrl`, from the console.
    #[schemars(with = "String")]
    pub api_url: ApiUrl,
    /// Its token, `apiTokenInstance`.
    #[serde(default)]
    #[schemars(with = "Option<String>")]
    pub api_token: Option<SecretString>,
    /// File that contains the token, read again when it changes.
    #[serde(default)]
    pub api_token_file: Option<PathBuf>,
    /// The file of `instances_dir` that it was read from.
    #[serde(skip)]
    #[schemars(skip)]
    pub file: Option<PathBuf>,
}

impl Instance {
    /// The source of its token. The check of the config ensures that there is one.
    #[must_use]
    pub fn token(&self) -> TokenSource {
        match &self.api_token_file {
            Some(file) => TokenSource::File(file.clone()),
            None => TokenSource::Given(self.api_token.clone().unwrap_or_default()),
        }
    }
}

impl Instance {
    /// Reads and checks one file of an `instances_dir`.
    ///
    /// # Errors
    /// All mistakes, each with line and column.
    pub fn from_file(path: &Path, variables: impl Iterator<Item = (String, String)>) -> Result<Self, Mistakes> {
        read::instance(path, variables.collect())
    }
}

/// Lists the files of an `instances_dir` by name.
///
/// # Errors
/// If the folder cannot be read.
pub fn instance_files(folder: &Path) -> std::io::Result<Vec<PathBuf>> {
    read::instance_files(folder)
}

/// The `apiUrl` of an instance: http or https, without user, query or token.
#[derive(Clone, Debug, Deserialize)]
#[serde(try_from = "String")]
pub struct ApiUrl(Url);

impl ApiUrl {
    /// The URL to which methods are appended.
    #[must_use]
    pub fn url(&self) -> &Url {
        &self.0
    }
}

impl TryFrom<String> for ApiUrl {
    type Error = &'static str;

    // The error does not repeat the text: it may be a complete URL with the token in it.
    fn try_from(text: String) -> Result<Self, Self::Error> {
        address::api(&text).map(Self)
    }
}

/// The URL of a proxy: http or https with a host. Its password is not shown by `Debug`.
#[derive(Clone, Deserialize)]
#[serde(try_from = "String")]
pub struct ProxyUrl(Url);

impl ProxyUrl {
    /// The URL, with its password.
    #[must_use]
    pub fn url(&self) -> &Url {
        &self.0
    }
}

impl TryFrom<String> for ProxyUrl {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        address::proxy(&text).map(Self)
    }
}

impl std::fmt::Debug for ProxyUrl {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("ProxyUrl")
    }
}

/// Access to Green API.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Api {
    /// How long a poll waits for a notification, 5 to 60 seconds.
    pub receive_timeout_secs: u64,
    /// Certificates (PEM) to trust in addition to the system's.
    pub ca_file: Option<PathBuf>,
    /// Proxy for all requests; proxies named by the environment are ignored. `http://HOST:PORT` or `https://USER:PASSWORD@HOST:PORT`.
    #[schemars(with = "Option<String>")]
    pub proxy: Option<ProxyUrl>,
    /// Kinds of notification that `setup` switches on and `doctor` expects.
    pub webhooks: Vec<String>,
}

impl Default for Api {
    fn default() -> Self {
        let webhooks = ["incomingWebhook", "outgoingWebhook", "stateWebhook"];
        Self { receive_timeout_secs: 20, ca_file: None, proxy: None, webhooks: webhooks.map(str::to_owned).into() }
    }
}

impl Api {
    /// `receive_timeout_secs` as a duration.
    #[must_use]
    pub fn receive_timeout(&self) -> Duration {
        Duration::from_secs(self.receive_timeout_secs)
    }
}

/// The HTTP port for operators.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Admin {
    /// Address to listen on, overridden by `BRIDGE_ADMIN_LISTEN`; `null` or `off`: none.
    #[serde(deserialize_with = "listen")]
    #[schemars(with = "Option<String>", extend("default" = "127.0.0.1:9464"))]
    pub listen: Option<SocketAddr>,
}

/// Logging.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Log {
    /// Format of log lines.
    pub format: LogFormat,
    /// Minimum level.
    pub level: LogLevel,
}

/// The format of log lines.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// `pretty` on a terminal, otherwise `json`.
    #[default]
    Auto,
    /// Human-readable.
    Pretty,
    /// One JSON object per line.
    Json,
}

/// Log levels.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum LogLevel {
    /// Somebody has to act.
    Error,
    /// Something is delayed.
    Warn,
    /// What operators want to know.
    #[default]
    Info,
    /// Details for debugging.
    Debug,
    /// Everything.
    Trace,
}

impl Config {
    /// Reads and checks a config file. `variables` are the values of `${…}`.
    ///
    /// # Errors
    /// All mistakes, each with line and column.
    pub fn from_file(path: &Path, variables: impl Iterator<Item = (String, String)>) -> Result<Self, Mistakes> {
        read::from_file(path, variables.collect())
    }

    /// As [`from_file`](Self::from_file), from the text of a file.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn from_text(text: &str, variables: impl Iterator<Item = (String, String)>) -> Result<Self, Mistakes> {
        read::from_text(Path::new("bridge.yaml"), text, variables.collect())
    }

    /// One instance and a sink, with the defaults for everything else; checked like a file.
    ///
    /// # Errors
    /// All mistakes.
    pub fn from_parts(instance: Instance, sink: Options) -> Result<Self, Mistakes> {
        let config = Self {
            instances: vec![instance],
            instances_dir: None,
            shards: default_shards(),
            api: Api::default(),
            sink,
            dead_letter_dir: default_dead_letter_dir(),
            dead_letter_dir_limit_mib: default_dead_letter_dir_limit(),
            admin: None,
            log: Log::default(),
            file: None,
            doubts: Vec::new(),
        };
        let doubts = check::check(&config, None, &[])?;
        Ok(Self { doubts, ..config })
    }
}

/// The default of `dead_letter_dir`.
pub(crate) fn default_dead_letter_dir() -> PathBuf {
    "dead-letters".into()
}

fn default_shards() -> u16 {
    1
}

fn default_dead_letter_dir_limit() -> u64 {
    1024
}

fn admin<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Admin>, D::Error> {
    // Otherwise `admin: null` would mean an admin port at the default address.
    let admin = Option::<Admin>::deserialize(deserializer)?;
    Ok(Some(admin.unwrap_or(Admin { listen: None })))
}

fn listen<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<SocketAddr>, D::Error> {
    listen_address(Option::<String>::deserialize(deserializer)?.as_deref()).map_err(serde::de::Error::custom)
}

/// Parses an address; `off` and no text mean none.
pub(crate) fn listen_address(text: Option<&str>) -> Result<Option<SocketAddr>, &'static str> {
    match text {
        None | Some("off" | "null") => Ok(None),
        Some(address) => {
            address.parse().map(Some).map_err(|_unhelpful: AddrParseError| "must look like 127.0.0.1:9464, or be off")
        }
    }
}

#[cfg(test)]
mod form_tests;
#[cfg(test)]
mod tests;
