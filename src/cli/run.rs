//! Starts everything that a config describes, and stops it again.

use std::env;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::Signal;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::Failure;
use crate::admin::{Admin, DEFAULT_LISTEN};
use crate::config::{self, Api, Config, Instance, ProxyUrl};
use crate::error::SetupError;
use crate::exposure;
use crate::fleet;
use crate::green_api::{GreenApi, Queue};
use crate::input_file;
use crate::metrics::Metrics;
use crate::sink::{Sink, SinkError, kind};
use crate::systemd;
use crate::token::UnreadableSecret;
use crate::watch::Watch;

/// Runs until `stop`, or until the sink ends it.
pub(super) async fn run(config: Config, stop: CancellationToken) -> Result<(), Failure> {
    let asked_for = admin_address(config.admin.as_ref())?;
    forbid_core_dumps();
    allow_connections(config.instances.len());
    survive_file_limit();
    let poll_limit = config.api.receive_timeout() + POLL_MARGIN;
    let metrics = Metrics::new(kind::name(&config.sink));
    let admin = Admin { metrics: metrics.clone(), poll_limit, guarantee: kind::guarantee(&config.sink) };
    // Files may hang, and a stop must not wait for them.
    let preparing = spawn_blocking({
        let metrics = metrics.clone();
        move || prepare(config, &metrics)
    });
    let Some(prepared) = stop.run_until_cancelled(preparing).await else { return Ok(()) };
    let Prepared { queues, sink, watch } = prepared.map_err(|panic| Failure::Failed(panic.into()))??;
    listen(admin, asked_for).await?;
    info!(event = "running", instances = queues.len(), version = env!("CARGO_PKG_VERSION"), "running");
    let (sender, changes) = mpsc::channel(1);
    let watching = tokio::spawn(watch.run(sender));
    let closing = Arc::clone(&sink);
    let outcome = systemd::accompany(fleet::run(queues, changes, sink, metrics, stop.clone()), &stop).await;
    watching.abort();
    // A broker may not answer; then other replicas take over by themselves.
    drop(timeout(CLOSE_TIMEOUT, closing.close()).await);
    info!(event = "stopped", "stopped");
    outcome.map_err(|end| match end {
        SinkError::Fenced(_) => Failure::Fenced(end.into()),
        SinkError::Refused(_)
        | SinkError::DeadLetterFailed(_)
        | SinkError::OwnershipLost
        | SinkError::OutcomeUnknown(_)
        | SinkError::Closed(_) => Failure::Failed(end.into()),
    })
}

/// How long handing over to other replicas may take.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// What is created from files.
struct Prepared {
    queues: Vec<Queue>,
    sink: Arc<dyn Sink>,
    watch: Watch,
}

/// An instance whose token file hangs is started later; anything else that cannot be read aborts the start.
fn prepare(config: Config, metrics: &Metrics) -> Result<Prepared, Failure> {
    exposure::warn_of(&config);
    let mut of_instances = exposure::OfInstances::default();
    config.instances.iter().for_each(|instance| of_instances.warn_of(instance));
    let client = client(&config.api)?;
    let (mut queues, mut running, mut late) = (Vec::new(), Vec::new(), Vec::new());
    for instance in config.instances {
        match read_token(&client, &instance) {
            Ok(queue) => {
                queues.push(queue);
                running.push(instance);
            }
            Err(error) if error.is_late() => late.push(instance),
            Err(error) => return Err(unreadable(&instance, error)),
        }
    }
    let dead_letters = dead_letter_folder(&config.dead_letter_dir);
    let limit_mib = config.dead_letter_dir_limit_mib;
    let sink = kind::start(&config.sink, &dead_letters, limit_mib, config.shards, metrics)
        .map_err(|error| Failure::Configuration(error.into()))?;
    let make_queue = move |instance: &Instance| {
        of_instances.warn_of(instance);
        queue(&client, instance).map_err(|failure| failure.to_string().into())
    };
    let watch = Watch::new(running, late, config.instances_dir, Box::new(make_queue));
    Ok(Prepared { queues, sink, watch })
}

/// How much longer than `receive_timeout_secs` a poll may take, including a pause.
const POLL_MARGIN: Duration = Duration::from_secs(75);

/// The address to listen on; `None` if neither the variable nor the config gives one.
pub(super) fn admin_address(config: Option<&config::Admin>) -> Result<Option<config::Admin>, Failure> {
    match env::var("BRIDGE_ADMIN_LISTEN") {
        Ok(text) if !text.is_empty() => {
            let wrong = |form| Failure::Configuration(format!("BRIDGE_ADMIN_LISTEN {form}").into());
            Ok(Some(config::Admin { listen: config::listen_address(Some(&text)).map_err(wrong)? }))
        }
        _ => Ok(config.cloned()),
    }
}

/// Failing to listen on the default address is a warning, on a configured one an error.
async fn listen(admin: Admin, asked_for: Option<config::Admin>) -> Result<(), Failure> {
    let cannot_open = |address, error| format!("the admin port {address} cannot be opened: {error}");
    match asked_for {
        Some(config::Admin { listen: None }) => Ok(()),
        Some(config::Admin { listen: Some(address) }) => {
            let opened = admin.start(address).await;
            opened
                .map(drop)
                .map_err(|error| Failure::Failed(format!("{}: set `admin.listen`", cannot_open(address, error)).into()))
        }
        None => {
            if let Err(error) = admin.start(DEFAULT_LISTEN).await {
                warn!(event = "admin_unavailable", "{}: there is none", cannot_open(DEFAULT_LISTEN, error));
            }
            Ok(())
        }
    }
}

/// Under systemd's state folder if there is one.
pub(super) fn dead_letter_folder(configured: &Path) -> PathBuf {
    let state = env::var_os("STATE_DIRECTORY").unwrap_or_default();
    let first = env::split_paths(&state).next().unwrap_or_default();
    first.join(configured)
}

/// Each instance needs a connection for its poll and sometimes one for a delete. The usual limit is 1024 open files.
fn allow_connections(instances: usize) {
    let wanted = 2 * u64::try_from(instances).unwrap_or(u64::MAX) + 100;
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else { return };
    let raised = soft >= hard || setrlimit(Resource::RLIMIT_NOFILE, hard, hard).is_ok();
    let allowed = if raised { hard } else { soft };
    if allowed < wanted {
        warn!(
            event = "too_few_open_files",
            allowed, wanted, "too few open files are allowed for so many instances: raise `ulimit -n` or LimitNOFILE"
        );
    }
}

/// The memory contains tokens, passwords and messages.
fn forbid_core_dumps() {
    if let Err(error) = setrlimit(Resource::RLIMIT_CORE, 0, 0) {
        warn!(event = "core_dumps_allowed", %error, "core dumps cannot be forbidden: they contain tokens");
    }
}

/// Exceeding the limit on the size of files (`ulimit -f`, `LimitFSIZE`) raises a signal that ends the process by default. With
/// a handler the write fails instead, as on a full disk.
fn survive_file_limit() {
    if let Err(error) = signal(SignalKind::from_raw(Signal::SIGXFSZ as i32)) {
        warn!(
            event = "sigxfsz_unavailable",
            %error,
            "cannot listen for SIGXFSZ: a limit on the size of files would end the bridge"
        );
    }
}

/// The queues of all instances, through one HTTP client.
pub(super) fn queues(api: &Api, instances: &[Instance]) -> Result<Vec<Queue>, Failure> {
    let client = client(api)?;
    instances.iter().map(|instance| queue(&client, instance)).collect()
}

pub(super) fn queue(client: &GreenApi, instance: &Instance) -> Result<Queue, Failure> {
    read_token(client, instance).map_err(|error| unreadable(instance, error))
}

fn read_token(client: &GreenApi, instance: &Instance) -> Result<Queue, UnreadableSecret> {
    Queue::new(client.clone(), instance.id, instance.api_url.url().clone(), instance.token())
}

fn unreadable(instance: &Instance, error: UnreadableSecret) -> Failure {
    Failure::Configuration(
        SetupError::new(format!("instance {}: `api_token_file` cannot be used", instance.id), error).into(),
    )
}

pub(super) fn client(api: &Api) -> Result<GreenApi, Failure> {
    let read = |path: &PathBuf| {
        let unreadable =
            |error| Failure::Configuration(SetupError::new(format!("api.ca_file {}", path.display()), error).into());
        input_file::read(path).map_err(unreadable)
    };
    let certificates = api.ca_file.as_ref().map(read).transpose()?;
    GreenApi::new(api.receive_timeout(), api.proxy.as_ref().map(ProxyUrl::url), certificates.as_deref())
        .map_err(|error| Failure::Configuration(SetupError::new("check `api.ca_file` and `api.proxy`", error).into()))
}
