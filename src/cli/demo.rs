//! Demonstrates the bridge without an account or a broker: the emulator, the real `run` command in a process of its own, and a
//! crash between store and delete.

use std::env;
use std::fs;
use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use clap::Args;
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::process::{Child, Command};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::Failure;
use crate::emulator::{Emulator, EventKind, Fault, FaultKind, Method, notifications};
use crate::error::{self, SetupError};

const INSTANCE: &str = "1101000001";
const TOKEN: &str = "demo-token";
/// The worker is killed after this notification is stored.
const CRASH_AT: usize = 5;
/// How often the demo checks what the worker has done.
const CHECK_INTERVAL: Duration = Duration::from_millis(20);
/// How long nothing may happen before the demo fails.
const STALL_TIMEOUT: Duration = Duration::from_secs(30);

/// See it work: an emulated queue, the real bridge into a file, a crash between store and delete, and
/// nothing lost or doubled.
#[derive(Debug, Args)]
pub(super) struct Demo {
    /// How many notifications to carry.
    #[arg(long, value_name = "N", default_value_t = notifications().count())]
    count: usize,
    /// Print exactly the lines of the file; the story goes to stderr.
    #[arg(long)]
    json: bool,
}

/// A line of the file.
#[derive(Deserialize)]
struct Line<'a> {
    id: String,
    r#type: String,
    time: String,
    sequence: String,
    #[serde(borrow)]
    data: &'a RawValue,
}

impl Demo {
    pub(super) async fn run(self, stop: CancellationToken) -> Result<(), Failure> {
        match stop.run_until_cancelled(self.play()).await {
            None | Some(Ok(())) => Ok(()),
            Some(Err(error)) => Err(Failure::Failed(SetupError::new("the demo failed", error).into())),
        }
    }

    async fn play(self) -> Result<(), error::Source> {
        let bodies: Vec<&str> = notifications().cycle().take(self.count).collect();
        let folder = tempfile::Builder::new().prefix("green-api-bridge-demo-").tempdir()?;
        let loopback = SocketAddr::from(([127, 0, 0, 1], 0));
        let emulator = Emulator::start(loopback, [(INSTANCE.to_owned(), TOKEN.to_owned())]).await?;
        let mut stage = Stage {
            emulator,
            file: folder.path().join("notifications.jsonl"),
            folder: folder.path().into(),
            shown: 0,
            json: self.json,
        };
        stage.tell(&format!(
            "An emulated Green API queue at {} holds {} notifications.",
            stage.emulator.url(),
            self.count
        ));
        stage.tell(&format!("The bridge stores them in {} and only then deletes them.\n", stage.file.display()));

        // The worker is killed while the delete of the last of these is unanswered.
        let (calm, rest) = bodies.split_at(CRASH_AT.min(bodies.len()).saturating_sub(1));
        let mut worker = stage.start_worker()?;
        stage.push(calm);
        stage.carry(&mut worker, calm.len()).await?;
        if !rest.is_empty() {
            stage.emulator.fault(INSTANCE, Fault::before(FaultKind::Hang).on(Method::DeleteNotification));
            stage.push(rest);
            stage.crash(&mut worker).await?;
            stage.tell("\n    -- the worker was killed: the last one is stored, its delete never reached the queue --");
            worker = stage.start_worker()?;
            stage.tell("    -- started again: the queue delivers it once more, and the bridge only deletes it --\n");
            stage.carry(&mut worker, bodies.len()).await?;
        }
        worker.kill().await?;
        stage.check(&bodies)
    }
}

/// The emulator, the folder and the state of the demo.
struct Stage {
    emulator: Emulator,
    folder: PathBuf,
    file: PathBuf,
    shown: usize,
    json: bool,
}

impl Stage {
    fn tell(&self, text: &str) {
        if self.json { eprintln!("{text}") } else { println!("{text}") }
    }

    fn push(&self, bodies: &[&str]) {
        for body in bodies {
            self.emulator.push(INSTANCE, *body);
        }
    }

    /// Starts `green-api-bridge run` as an operator would.
    fn start_worker(&self) -> std::io::Result<Child> {
        let log = fs::File::options().create(true).append(true).open(self.folder.join("worker.log"))?;
        Command::new(env::current_exe()?)
            .arg("run")
            .arg("--sink")
            .arg(format!("file:{}", self.file.display()))
            .env("GREEN_API_URL", self.emulator.url())
            .env("GREEN_API_ID_INSTANCE", INSTANCE)
            .env("GREEN_API_TOKEN", TOKEN)
            .env("BRIDGE_ADMIN_LISTEN", "off")
            .env_remove("GREEN_API_TOKEN_FILE")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
    }

    /// Shows what is stored until this many lines are there and the queue is empty.
    async fn carry(&mut self, worker: &mut Child, until: usize) -> Result<(), error::Source> {
        while self.shown < until || self.emulator.queued(INSTANCE) > 0 {
            self.wait(worker).await?;
        }
        Ok(())
    }

    /// Waits until a delete hangs, then kills the worker.
    async fn crash(&mut self, worker: &mut Child) -> Result<(), error::Source> {
        while !self.emulator.journal(INSTANCE).iter().any(|event| event.event == EventKind::Faulted) {
            self.wait(worker).await?;
        }
        worker.kill().await?;
        self.show()
    }

    /// Waits until there is a new line or a new event in the emulator's journal.
    async fn wait(&mut self, worker: &mut Child) -> Result<(), error::Source> {
        let before = (self.shown, self.emulator.recorded(INSTANCE));
        let news = async {
            while (self.shown, self.emulator.recorded(INSTANCE)) == before {
                self.show()?;
                if let Some(status) = worker.try_wait()? {
                    let log = fs::read_to_string(self.folder.join("worker.log")).unwrap_or_default();
                    return Err(format!("the worker ended ({status}):\n{log}").into());
                }
                sleep(CHECK_INTERVAL).await;
            }
            Ok(())
        };
        timeout(STALL_TIMEOUT, news).await.map_err(|_late| "nothing happened for 30 s")?
    }

    /// Shows the new lines of the file.
    fn show(&mut self) -> Result<(), error::Source> {
        let text = read(&self.file)?;
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        for line in whole.lines().skip(self.shown) {
            self.shown += 1;
            if self.json {
                println!("{line}");
            } else {
                let Line { id, r#type, time, sequence, data } = serde_json::from_str(line)?;
                let sequence = sequence.trim_start_matches('0');
                let kind = r#type.trim_start_matches("com.green-api.");
                println!("{sequence:>4}  {kind:<28} {time:<24}  {:>5} bytes  {id}", data.get().len());
            }
        }
        std::io::stdout().flush()?;
        Ok(())
    }

    /// Compares the file with what was queued.
    fn check(&self, bodies: &[&str]) -> Result<(), error::Source> {
        let text = read(&self.file)?;
        let lines: Vec<Line<'_>> = text.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
        let stored: Vec<&str> = lines.iter().map(|line| line.data.get()).collect();
        let count = |body: &str, of: &[&str]| of.iter().filter(|other| **other == body).count();
        let lost: usize = distinct(bodies).map(|body| count(body, bodies).saturating_sub(count(body, &stored))).sum();
        let doubled: usize =
            distinct(&stored).map(|body| count(body, &stored).saturating_sub(count(body, bodies))).sum();
        let queued = self.emulator.queued(INSTANCE);
        let in_order = stored == bodies;
        self.tell(&format!(
            "\n{} stored: {lost} lost, {doubled} doubled, {}; {queued} left in the queue.",
            stored.len(),
            if in_order { "all in order" } else { "NOT in order" },
        ));
        if in_order && queued == 0 { Ok(()) } else { Err("what is stored is not what was queued".into()) }
    }
}

fn distinct<'a>(bodies: &'a [&'a str]) -> impl Iterator<Item = &'a str> {
    bodies.iter().enumerate().filter(|(index, body)| !bodies[..*index].contains(body)).map(|(_, body)| *body)
}

/// The file does not exist before the first notification is stored.
fn read(path: &Path) -> std::io::Result<String> {
    match fs::read_to_string(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(String::new()),
        other => other,
    }
}
