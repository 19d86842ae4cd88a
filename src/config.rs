//! The config file: what an operator may say, its defaults, and what is wrong with it.

use std::net::{AddrParseError, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use schemars::JsonSchema;
use secrecy::SecretString;
use serde::{Deserialize, Deserializer, Serialize};
use url::Url;

use crate::address;
use crate::mistake::Mistakes;
use crate::notification::InstanceId;
use crate::sink::kind::Options;
use crate::token::TokenSource;

pub(crate) use self::found::Found;

mod check;
mod found;
mod locations;
mod read;

/// Everything that an operator can say. What is not said has its documented default.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The instances to read.
    #[serde(default)]
    pub instances: Vec<Instance>,
    /// A folder with one YAML file per instance, watched.
    #[serde(default)]
    pub instances_dir: Option<PathBuf>,
    /// 1: one bridge. 2 to 64: any number of replicas share the instances, divided into so many parts; 12 is a good choice.
    #[serde(default = "default_shards")]
    pub shards: u16,
    /// How the API is used.
    #[serde(default)]
    pub api: Api,
    /// Where notifications go.
    pub sink: Options,
    /// Where notifications go that no sink takes; under `$STATE_DIRECTORY` when that is set.
    #[serde(default = "default_dead_letter_dir")]
    pub dead_letter_dir: PathBuf,
    /// How many MiB `dead_letter_dir` may hold, 1 to 1048576; at the limit the instances that need it wait.
    #[serde(default = "default_dead_letter_dir_limit")]
    pub dead_letter_dir_limit_mib: u64,
    /// The operator's HTTP port.
    #[serde(default, deserialize_with = "admin")]
    pub admin: Option<Admin>,
    /// What is logged, and how.
    #[serde(default)]
    pub log: Log,
    /// The file that it stands in.
    #[serde(skip)]
    #[schemars(skip)]
    pub file: Option<PathBuf>,
}

/// One Green API instance. Exactly one of the two tokens is given.
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
    /// A file that holds the token, read again when it changes.
    #[serde(default)]
    pub api_token_file: Option<PathBuf>,
    /// The file of `instances_dir` that it stands in.
    #[serde(skip)]
    #[schemars(skip)]
    pub file: Option<PathBuf>,
}

impl Instance {
    /// Where its token comes from. It is checked that there is one.
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
    /// What is wrong with it, with line and column.
    pub fn from_file(path: &Path, variables: impl Iterator<Item = (String, String)>) -> Result<Self, Mistakes> {
        read::instance(path, variables.collect())
    }
}

/// The files of an `instances_dir`, in the order of their names.
///
/// # Errors
/// When the folder cannot be read.
pub fn instance_files(folder: &Path) -> std::io::Result<Vec<PathBuf>> {
    read::instance_files(folder)
}

/// Where an instance is served: http or https, and nothing secret in it.
#[derive(Clone, Debug, Deserialize)]
#[serde(try_from = "String")]
pub struct ApiUrl(Url);

impl ApiUrl {
    /// The URL to put methods behind.
    #[must_use]
    pub fn url(&self) -> &Url {
        &self.0
    }
}

impl TryFrom<String> for ApiUrl {
    type Error = &'static str;

    // The text is not repeated: somebody may have pasted a whole URL with the token in it.
    fn try_from(text: String) -> Result<Self, Self::Error> {
        address::api(&text).map(Self)
    }
}

/// A proxy: http or https, and a host. It may hold a password, which is not shown.
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

/// How the API is used.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Api {
    /// How long the server waits for a notification, 5 to 60 seconds.
    pub receive_timeout_secs: u64,
    /// Certificates (PEM) to trust in addition to the system's.
    pub ca_file: Option<PathBuf>,
    /// The only proxy that is ever used, `http://HOST:PORT` or `https://USER:PASSWORD@HOST:PORT`.
    #[schemars(with = "Option<String>")]
    pub proxy: Option<ProxyUrl>,
    /// The kinds of notification that `setup` switches on and `doctor` expects.
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

/// The operator's HTTP port.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Admin {
    /// Where it listens, or `BRIDGE_ADMIN_LISTEN`; `null` or `off`: nowhere.
    #[serde(deserialize_with = "listen")]
    #[schemars(with = "Option<String>", extend("default" = "127.0.0.1:9464"))]
    pub listen: Option<SocketAddr>,
}

/// What is logged, and how.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Log {
    /// In what form.
    pub format: LogFormat,
    /// From which level on.
    pub level: LogLevel,
}

/// The form of log lines.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// `pretty` on a terminal, otherwise `json`.
    #[default]
    Auto,
    /// For people.
    Pretty,
    /// One JSON object a line.
    Json,
}

/// Levels of importance.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum LogLevel {
    /// A human is needed.
    Error,
    /// Something waits.
    Warn,
    /// What matters to an operator.
    #[default]
    Info,
    /// For finding a fault.
    Debug,
    /// Everything.
    Trace,
}

impl Config {
    /// Reads and checks a config file. `variable` tells the values of `${…}`.
    ///
    /// # Errors
    /// What is wrong with it, with line and column.
    pub fn from_file(path: &Path, variables: impl Iterator<Item = (String, String)>) -> Result<Self, Mistakes> {
        read::from_file(path, variables.collect())
    }

    /// What stands in a file, without the file.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn from_text(text: &str, variables: impl Iterator<Item = (String, String)>) -> Result<Self, Mistakes> {
        read::from_text(Path::new("bridge.yaml"), text.to_owned(), variables.collect())
    }

    /// One instance and a sink, everything else at its default. Checked as a file is.
    ///
    /// # Errors
    /// What is wrong with it.
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
        };
        check::check(&config, None, &[])?;
        Ok(config)
    }
}

/// Where dead letters go unless the config says otherwise.
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
    // `admin: null` would otherwise be an admin port at its default.
    let admin = Option::<Admin>::deserialize(deserializer)?;
    Ok(Some(admin.unwrap_or(Admin { listen: None })))
}

fn listen<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<SocketAddr>, D::Error> {
    listen_address(Option::<String>::deserialize(deserializer)?.as_deref()).map_err(serde::de::Error::custom)
}

/// An address, or none by `off` or by nothing at all.
pub(crate) fn listen_address(text: Option<&str>) -> Result<Option<SocketAddr>, &'static str> {
    match text {
        None | Some("off" | "null") => Ok(None),
        Some(address) => {
            address.parse().map(Some).map_err(|_unhelpful: AddrParseError| "must look like 127.0.0.1:9464, or be off")
        }
    }
}

#[cfg(test)]
mod tests;
