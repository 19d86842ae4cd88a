//! From a config to a running fleet.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::Signal;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::Failure;
use crate::admin::{Admin, DEFAULT_LISTEN};
use crate::config::{self, Api, Config, Instance, ProxyUrl};
use crate::fleet;
use crate::green_api::{GreenApi, Queue};
use crate::sink::{SinkError, kind};
use crate::systemd;
use crate::watch::Watch;

/// Runs until `stop`, or until the sink ends it.
pub(super) async fn run(config: Config, stop: CancellationToken) -> Result<(), Failure> {
    let asked_for = admin_address(config.admin.as_ref())?;
    allow_connections(config.instances.len());
    survive_file_limit();
    let client = client(&config.api)?;
    let queues = queues_of(&client, &config.instances)?;
    let sink =
        kind::start(&config.sink, &dead_letter_folder(&config.dead_letter_dir)).map_err(Failure::Configuration)?;
    let poll_limit = config.api.receive_timeout() + POLL_MARGIN;
    listen(Admin { poll_limit, guarantee: kind::guarantee(&config.sink) }, asked_for).await?;
    info!(instances = queues.len(), version = env!("CARGO_PKG_VERSION"), "running");
    let make_queue = move |instance: &Instance| queue(&client, instance).map_err(|failure| failure.to_string());
    let watch = Watch::new(config.instances, config.instances_dir, Box::new(make_queue));
    let (tell, changes) = mpsc::channel(1);
    let watching = tokio::spawn(watch.run(tell));
    let outcome = systemd::accompany(fleet::run(queues, changes, sink, stop.clone()), &stop).await;
    watching.abort();
    info!("stopped");
    outcome.map_err(|end| match end {
        SinkError::Fenced(_) => Failure::Fenced(end.to_string()),
        SinkError::Refused(_)
        | SinkError::NoRoom(_)
        | SinkError::Renewed
        | SinkError::Reopen(_)
        | SinkError::Closed(_) => Failure::Failed(end.to_string()),
    })
}

/// What a poll may take beyond the time that the server was asked to wait, a pause included.
const POLL_MARGIN: Duration = Duration::from_secs(75);

/// Where to listen; `None` when nobody said anything.
pub(super) fn admin_address(config: Option<&config::Admin>) -> Result<Option<config::Admin>, Failure> {
    match env::var("BRIDGE_ADMIN_LISTEN") {
        Ok(text) if !text.is_empty() => {
            let wrong = |form| Failure::Configuration(format!("BRIDGE_ADMIN_LISTEN {form}"));
            Ok(Some(config::Admin { listen: config::listen_address(Some(&text)).map_err(wrong)? }))
        }
        _ => Ok(config.cloned()),
    }
}

/// An address that nobody asked for is worth a warning, not a failure.
async fn listen(admin: Admin, asked_for: Option<config::Admin>) -> Result<(), Failure> {
    let told = |address, error| format!("the admin port {address} cannot be opened: {error}");
    match asked_for {
        Some(config::Admin { listen: None }) => Ok(()),
        Some(config::Admin { listen: Some(address) }) => {
            let opened = admin.start(address).await;
            opened.map(drop).map_err(|error| Failure::Failed(format!("{}: set `admin.listen`", told(address, error))))
        }
        None => {
            if let Err(error) = admin.start(DEFAULT_LISTEN).await {
                warn!("{}: there is none", told(DEFAULT_LISTEN, error));
            }
            Ok(())
        }
    }
}

/// Under systemd's state folder when there is one.
pub(super) fn dead_letter_folder(configured: &Path) -> PathBuf {
    let state = env::var_os("STATE_DIRECTORY").unwrap_or_default();
    let first = env::split_paths(&state).next().unwrap_or_default();
    first.join(configured)
}

/// An instance has a connection for its poll and now and then one for a delete. What the system lets
/// a process have by default is 1024 of them.
fn allow_connections(instances: usize) {
    let wanted = 2 * u64::try_from(instances).unwrap_or(u64::MAX) + 100;
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else { return };
    let raised = soft >= hard || setrlimit(Resource::RLIMIT_NOFILE, hard, hard).is_ok();
    let allowed = if raised { hard } else { soft };
    if allowed < wanted {
        warn!(
            allowed,
            wanted, "too few open files are allowed for so many instances: raise `ulimit -n` or LimitNOFILE"
        );
    }
}

/// Writing beyond the limit on a file's size (`ulimit -f`, `LimitFSIZE`) sends a signal that ends the
/// process by default. Once anything listens for it the write fails instead, as on a full disk.
fn survive_file_limit() {
    if let Err(error) = signal(SignalKind::from_raw(Signal::SIGXFSZ as i32)) {
        warn!(%error, "cannot listen for SIGXFSZ: a limit on the size of files would end the bridge");
    }
}

/// The queue of each instance, all through one HTTP client.
pub(super) fn queues(api: &Api, instances: &[Instance]) -> Result<Vec<Queue>, Failure> {
    queues_of(&client(api)?, instances)
}

fn queues_of(client: &GreenApi, instances: &[Instance]) -> Result<Vec<Queue>, Failure> {
    instances.iter().map(|instance| queue(client, instance)).collect()
}

pub(super) fn queue(client: &GreenApi, instance: &Instance) -> Result<Queue, Failure> {
    let id = instance.id.value;
    let source = instance.token().ok_or_else(|| Failure::Configuration(format!("instance {id} has no token")))?;
    Queue::new(client.clone(), id, instance.api_url.url().clone(), source)
        .map_err(|error| Failure::Configuration(format!("instance {id}: `api_token_file` {error}")))
}

pub(super) fn client(api: &Api) -> Result<GreenApi, Failure> {
    let certificates = match &api.ca_file {
        None => None,
        Some(path) => Some(
            fs::read(path)
                .map_err(|error| Failure::Configuration(format!("api.ca_file {}: {error}", path.display())))?,
        ),
    };
    GreenApi::new(api.receive_timeout(), api.proxy.as_ref().map(ProxyUrl::url), certificates.as_deref())
        .map_err(|error| Failure::Configuration(format!("api: {error}: check `api.ca_file` and `api.proxy`")))
}
