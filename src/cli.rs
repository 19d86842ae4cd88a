//! The command line and the exit codes.

use std::env;
use std::fmt;
use std::io::{self, Write as _};
use std::num::NonZero;
use std::path::PathBuf;
use std::process::ExitCode;
use std::thread::available_parallelism;

use clap::{Args, CommandFactory, Parser, Subcommand};
use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::config::Config;
use crate::error::{self, Chain, SetupError};
use crate::mistake::Mistakes;
use crate::telemetry;

mod asyncapi;
#[cfg(feature = "emulator")]
mod demo;
mod doctor;
mod ready;
mod redrive;
mod run;
mod setup;
mod source;
mod verify;

/// Carries every Green API notification (WhatsApp, Telegram, MAX) into Apache Kafka or RabbitMQ,
/// and only then deletes it upstream.
#[derive(Debug, Parser)]
#[command(
    version,
    after_help = "Exit codes: 0 asked to stop, 1 failed, 2 usage, 78 configuration invalid or a secret \
                                 unreadable at start, 79 another bridge took over (do not restart)."
)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the bridge.
    Run(Source),
    /// Check the config and report its mistakes, without doing anything else.
    Validate(Source),
    /// Prepare the instances for polling: clear webhookUrl and switch on the wanted kinds of notification.
    Setup(setup::Setup),
    /// Check connectivity, credentials and settings without changing anything.
    Doctor(doctor::Doctor),
    /// Audit published messages for loss, duplicates and reordering.
    Verify(verify::Verify),
    Redrive(redrive::Redrive),
    #[command(name = "asyncapi")]
    AsyncApi(asyncapi::AsyncApi),
    /// Ask a running bridge whether it is ready: exit code 0 or 1. For container health checks.
    Health(ready::Ready),
    /// Print a completion script for a shell.
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
    /// Print the manual page.
    Man,
    /// Print the schema of the config or an example.
    #[command(subcommand)]
    Config(ConfigCommand),
    /// See it work: no account, no broker, a crash in the middle, and nothing lost or doubled.
    #[cfg(feature = "emulator")]
    Demo(demo::Demo),
    /// The Green API queue as a local server, for anyone's tests.
    #[cfg(feature = "emulator")]
    Emulator(crate::emulator::Arguments),
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// A JSON Schema, for editors.
    Schema,
    /// An example with every key, its default and an explanation.
    Example,
}

const SINK_HELP: &str = "Without a config file: where to publish [env: BRIDGE_SINK]. One of\n  stdout:\n  file:PATH\n  \
    kafka://HOST:PORT[,HOST:PORT]/TOPIC\n  amqp(s)://USER:PASS@HOST:PORT/VHOST[?exchange=NAME&queue=NAME]\n\
    The instance comes from GREEN_API_URL, GREEN_API_ID_INSTANCE and GREEN_API_TOKEN or GREEN_API_TOKEN_FILE.";

/// Where the configuration comes from. Without a file, the variables `GREEN_API_URL`,
/// `GREEN_API_ID_INSTANCE` and `GREEN_API_TOKEN` or `GREEN_API_TOKEN_FILE` name one instance.
#[derive(Debug, Args)]
struct Source {
    /// The config file (YAML).
    #[arg(long, value_name = "FILE", conflicts_with = "sink")]
    config: Option<PathBuf>,
    /// Without a config file: where to publish, and the instance comes from the environment.
    #[arg(long, value_name = "URL", long_help = SINK_HELP)]
    sink: Option<String>,
}

/// Why a command failed.
#[derive(Debug)]
enum Failure {
    Failed(error::Source),
    Usage(error::Source),
    Configuration(error::Source),
    Fenced(error::Source),
}

impl Failure {
    fn exit_code(&self) -> u8 {
        match self {
            Self::Failed(_) => 1,
            Self::Usage(_) => 2,
            Self::Configuration(_) => 78,
            Self::Fenced(_) => 79,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Failed(why) | Self::Usage(why) | Self::Configuration(why) | Self::Fenced(why)) = self;
        Chain(&**why).fmt(formatter)
    }
}

impl From<Mistakes> for Failure {
    fn from(mistakes: Mistakes) -> Self {
        Self::Configuration(mistakes.into())
    }
}

impl Cli {
    /// Runs the command.
    #[must_use]
    pub fn run(self) -> ExitCode {
        let outcome = match runtime() {
            Ok(runtime) => {
                let outcome = runtime.block_on(self.command.run());
                // Does not wait for clients that still wait for a broker.
                runtime.shutdown_background();
                outcome
            }
            Err(error) => Err(Failure::Failed(SetupError::new("no threads can be started", error).into())),
        };
        match outcome {
            Ok(()) => ExitCode::SUCCESS,
            Err(failure) => {
                eprintln!("{}", printable(&failure.to_string()));
                failure.exit_code().into()
            }
        }
    }
}

/// With a worker on half of the cores: the sink and its client have threads of their own, and a worker that wakes up only to find
/// that another one did the work costs as much as a request. `TOKIO_WORKER_THREADS` is still followed.
fn runtime() -> io::Result<Runtime> {
    let mut runtime = Builder::new_multi_thread();
    if env::var_os("TOKIO_WORKER_THREADS").is_none() {
        let cores = available_parallelism().map_or(1, NonZero::get);
        runtime.worker_threads(cores.div_ceil(2));
    }
    runtime.enable_all().build()
}

impl Command {
    async fn run(self) -> Result<(), Failure> {
        match self {
            Self::Run(source) => {
                let config = source.load()?;
                telemetry::start(&config.log);
                source.warn_of_password();
                for doubt in &config.doubts {
                    warn!(event = "doubtful_config", %doubt, "the config is probably not what is meant");
                }
                run::run(config, stop_on_signal()?).await
            }
            Self::Validate(source) => {
                let Config { instances, .. } = source.load_with_doubts()?;
                eprintln!("the configuration is valid: {} instance(s)", instances.len());
                Ok(())
            }
            Self::Setup(setup) => setup.run().await,
            Self::Doctor(doctor) => doctor.run().await,
            Self::Verify(verify) => verify.run(),
            Self::Redrive(redrive) => redrive.run(),
            Self::AsyncApi(asyncapi) => asyncapi.run(),
            Self::Health(ready) => ready.run().await,
            Self::Completions { shell } => {
                let mut script = Vec::new();
                clap_complete::generate(shell, &mut Cli::command(), env!("CARGO_PKG_NAME"), &mut script);
                print(&script)
            }
            Self::Man => {
                let mut page = Vec::new();
                clap_mangen::Man::new(Cli::command())
                    .render(&mut page)
                    .map_err(|error| Failure::Failed(error.into()))?;
                print(&page)
            }
            Self::Config(ConfigCommand::Schema) => {
                let schema = serde_json::to_vec_pretty(&schemars::schema_for!(Config));
                print(&schema.map_err(|error| Failure::Failed(error.into()))?)
            }
            Self::Config(ConfigCommand::Example) => print(include_bytes!("../deploy/config.example.yaml")),
            #[cfg(feature = "emulator")]
            Self::Demo(demo) => demo.run(stop_on_signal()?).await,
            #[cfg(feature = "emulator")]
            Self::Emulator(arguments) => {
                let stop = stop_on_signal()?;
                let serving = crate::emulator::serve(arguments, stop.cancelled_owned()).await;
                serving.map_err(|error| match error.kind() {
                    std::io::ErrorKind::InvalidInput => Failure::Usage(error.into()),
                    _ => Failure::Failed(SetupError::new("the emulator cannot listen", error).into()),
                })
            }
        }
    }
}

/// The text without characters that act on a terminal: what it quotes may come from others.
fn printable(text: &str) -> String {
    let acts = |letter: char| {
        (letter.is_control() && letter != '\n')
            // What changes the direction of the text that follows.
            || matches!(letter, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    let mut printable = String::with_capacity(text.len());
    for letter in text.chars() {
        if acts(letter) { printable.extend(letter.escape_unicode()) } else { printable.push(letter) }
    }
    printable
}

/// Prints data to standard output.
fn print(data: &[u8]) -> Result<(), Failure> {
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(data).and_then(|()| stdout.flush()).map_err(|error| Failure::Failed(error.into()))
}

/// Cancelled at SIGINT, SIGTERM or SIGHUP.
fn stop_on_signal() -> Result<CancellationToken, Failure> {
    let unavailable = |error| Failure::Failed(SetupError::new("signals cannot be received", error).into());
    let mut interrupt = signal(SignalKind::interrupt()).map_err(unavailable)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(unavailable)?;
    // Queried first, because installing a handler ends ignoring it.
    let survives_hangup = ignores_hangup();
    let mut hangup = signal(SignalKind::hangup()).map_err(unavailable)?;
    let stop = CancellationToken::new();
    tokio::spawn({
        let stop = stop.clone();
        async move {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
                _ = hangup.recv(), if !survives_hangup => {}
            }
            stop.cancel();
        }
    });
    Ok(stop)
}

/// Whether SIGHUP is ignored, as under `nohup`.
fn ignores_hangup() -> bool {
    // SIGHUP is signal 1: the lowest bit.
    #[cfg(target_os = "linux")]
    return procfs::process::Process::myself()
        .and_then(|process| process.status())
        .is_ok_and(|status| status.sigign & 1 != 0);
    #[cfg(not(target_os = "linux"))]
    false
}
