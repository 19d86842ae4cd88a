//! From a config to a running fleet.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::Failure;
use crate::config::{Api, Config, Instance};
use crate::fleet;
use crate::green_api::{GreenApi, Queue};
use crate::sink::{self, SinkError};

/// Runs until `stop`, or until the sink ends it.
pub(super) async fn run(config: Config, stop: CancellationToken) -> Result<(), Failure> {
    if config.admin.as_ref().is_some_and(|admin| admin.listen.is_some()) {
        warn!("this version has no admin port yet: `admin.listen` has no effect");
    }
    let queues = queues(&config.api, &config.instances)?;
    let sink =
        sink::start(&config.sink, &dead_letter_folder(&config.dead_letter_dir)).map_err(Failure::Configuration)?;
    info!(instances = queues.len(), version = env!("CARGO_PKG_VERSION"), "running");
    let outcome = fleet::run(queues, sink, stop).await;
    info!("stopped");
    outcome.map_err(|end| match end {
        SinkError::Fenced(_) => Failure::Fenced(end.to_string()),
        SinkError::Refused(_) | SinkError::Reopen(_) | SinkError::Closed(_) => Failure::Failed(end.to_string()),
    })
}

/// Under systemd's state folder when there is one.
pub(super) fn dead_letter_folder(configured: &Path) -> PathBuf {
    let state = env::var_os("STATE_DIRECTORY").unwrap_or_default();
    let first = env::split_paths(&state).next().unwrap_or_default();
    first.join(configured)
}

/// The queue of each instance, all through one HTTP client.
pub(super) fn queues(api: &Api, instances: &[Instance]) -> Result<Vec<Queue>, Failure> {
    let certificates = match &api.ca_file {
        None => None,
        Some(path) => Some(
            fs::read(path)
                .map_err(|error| Failure::Configuration(format!("api.ca_file {}: {error}", path.display())))?,
        ),
    };
    let client = GreenApi::new(api.receive_timeout(), api.proxy.as_ref(), certificates.as_deref())
        .map_err(|error| Failure::Configuration(format!("api: {error}: check `api.ca_file` and `api.proxy`")))?;
    let queue = |instance: &Instance| {
        let id = instance.id.value;
        let source = instance.token().ok_or_else(|| Failure::Configuration(format!("instance {id} has no token")))?;
        Queue::new(client.clone(), id, instance.api_url.url().clone(), source)
            .map_err(|error| Failure::Configuration(format!("instance {id}: `api_token_file` {error}")))
    };
    instances.iter().map(queue).collect()
}
