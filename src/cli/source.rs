//! Creates a config from the command line and the environment.

use std::env;
use std::path::{Path, PathBuf};

use secrecy::SecretString;
use tracing::warn;

use super::{Failure, Source};
use crate::address::has_password;
use crate::config::{ApiUrl, Config, Instance};
use crate::error::SetupError;
use crate::sink::kind::{self, Options};
use crate::sink::stdout;

impl Source {
    /// Loads the config that the arguments name.
    pub(super) fn load(&self) -> Result<Config, Failure> {
        let config = self.read()?;
        kind::supported(&config.sink).map_err(|error| Failure::Configuration(error.into()))?;
        Ok(config)
    }

    /// As [`load`](Self::load); prints what is probably a mistake.
    pub(super) fn load_with_doubts(&self) -> Result<Config, Failure> {
        let config = self.load()?;
        print_doubts(&config);
        Ok(config)
    }

    /// Warns of a password that others on this machine can see in the process list.
    pub(super) fn warn_of_password(&self) {
        if self.sink.as_deref().is_some_and(has_password) {
            warn!(
                event = "password_on_command_line",
                "a password is on the command line: put the sink's URL into BRIDGE_SINK, or use a config"
            );
        }
    }

    fn read(&self) -> Result<Config, Failure> {
        match &self.config {
            Some(path) => from_file(path),
            None => from_environment(self.sink_alone()?),
        }
    }

    /// The sink of `--sink` or `BRIDGE_SINK`, without an instance.
    pub(super) fn sink_alone(&self) -> Result<Options, Failure> {
        let Some(sink) = self.sink.clone().or_else(|| variable("BRIDGE_SINK")) else {
            return Err(Failure::Usage("no configuration: pass --config FILE or --sink URL".into()));
        };
        let sink = Options::from_url(&sink).map_err(|form| Failure::Usage(SetupError::new("--sink", form).into()))?;
        kind::supported(&sink).map_err(|error| Failure::Configuration(error.into()))?;
        Ok(sink)
    }
}

pub(super) fn print_doubts(config: &Config) {
    config.doubts.iter().for_each(|doubt| eprintln!("warning: {doubt}"));
}

/// The config of `path`, or the one instance of the environment.
pub(super) fn instances_from(path: Option<PathBuf>) -> Result<Config, Failure> {
    match path {
        Some(path) => from_file(&path),
        None => from_environment(Options::Stdout(stdout::Options {})),
    }
}

pub(super) fn from_file(path: &Path) -> Result<Config, Failure> {
    // Variables that are not UTF-8 cannot be referenced.
    let variables =
        env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    Ok(Config::from_file(path, variables)?)
}

fn from_environment(sink: Options) -> Result<Config, Failure> {
    let missing =
        |name: &str| Failure::Configuration(format!("without a config file the variable {name} is needed").into());
    let id = variable("GREEN_API_ID_INSTANCE").ok_or_else(|| missing("GREEN_API_ID_INSTANCE"))?;
    let url = variable("GREEN_API_URL").ok_or_else(|| missing("GREEN_API_URL"))?;
    let (token, token_file) = (variable("GREEN_API_TOKEN"), variable("GREEN_API_TOKEN_FILE"));
    if token.is_some() == token_file.is_some() {
        return Err(Failure::Configuration("exactly one of GREEN_API_TOKEN and GREEN_API_TOKEN_FILE is needed".into()));
    }
    let wrong = |name: &str, why: &str| Failure::Configuration(format!("{name} {why}").into());
    let instance = Instance {
        id: id.parse().map_err(|_number| wrong("GREEN_API_ID_INSTANCE", "must be a whole number"))?,
        api_url: ApiUrl::try_from(url).map_err(|why| wrong("GREEN_API_URL", why))?,
        api_token: token.map(SecretString::from),
        api_token_file: token_file.map(PathBuf::from),
        file: None,
    };
    Ok(Config::from_parts(instance, sink)?)
}

/// A variable that is set and not empty.
fn variable(name: &str) -> Option<String> {
    env::var(name).ok().filter(|value| !value.is_empty())
}
