//! An emulated instance and the bridge under test.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;

use green_api_bridge::emulator::{Emulator, Event, EventKind, Fault};

use crate::support::{Worker, command, eventually};

pub const ID: &str = "1101000001";
pub const TOKEN: &str = "t0ken-canary";

/// An emulated instance, and a folder for what comes out of it.
pub struct Scene {
    pub emulator: Emulator,
    pub folder: tempfile::TempDir,
    /// Those that the bridge under test is told of.
    pub instances: Vec<String>,
}

impl Scene {
    pub async fn new() -> Self {
        Self::of([ID]).await
    }

    /// The queues of these instances; the bridge is told of the first.
    pub async fn of<const N: usize>(ids: [&str; N]) -> Self {
        let listen = SocketAddr::from(([127, 0, 0, 1], 0));
        let emulator = Emulator::start(listen, ids.map(|id| (id.to_owned(), TOKEN.to_owned())));
        let emulator = emulator.await.expect("a free port");
        Self { emulator, folder: tempfile::tempdir().expect("a folder"), instances: vec![ids[0].to_owned()] }
    }

    pub fn push<'a>(&self, bodies: impl IntoIterator<Item = &'a str>) {
        bodies.into_iter().for_each(|body| self.emulator.push(ID, body));
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// `run` with this sink, the instance from the environment.
    pub fn command(&self, sink: &str) -> Command {
        let mut command = command();
        command.current_dir(&self.folder).args(["run", "--sink", sink]);
        command
            .env("GREEN_API_URL", self.emulator.url())
            .env("GREEN_API_ID_INSTANCE", ID)
            .env("GREEN_API_TOKEN", TOKEN);
        command
    }

    pub fn start(&self, sink: &str) -> Worker {
        Worker::start(&mut self.command(sink), &self.path("log"))
    }

    pub fn start_into_file(&self) -> Worker {
        self.start("file:out.jsonl")
    }

    pub fn journal(&self) -> Vec<Event> {
        self.emulator.journal(ID)
    }

    pub fn count(&self, kind: EventKind) -> usize {
        self.journal().iter().filter(|event| event.event == kind).count()
    }

    pub fn fault(&self, fault: Fault) {
        self.emulator.fault(ID, fault);
    }

    /// Waits until everything that was pushed is deleted.
    pub fn drained(&self) {
        eventually("the queue is empty", || self.emulator.queued(ID) == 0);
    }

    /// `run` with this sink, in YAML; `name` tells configs and logs apart.
    pub fn start_with(&self, name: &str, sink: &str) -> Worker {
        let url = self.emulator.url();
        let instance = |id: &String| format!("  - {{id: {id}, api_url: '{url}', api_token: {TOKEN}}}\n");
        let instances: String = self.instances.iter().map(instance).collect();
        let config = format!("instances:\n{instances}sink: {sink}\n");
        let path = self.path(&format!("{name}.yaml"));
        fs::write(&path, config).expect("the config is written");
        let mut run = command();
        run.current_dir(&self.folder).arg("run").arg("--config").arg(path).env("RUST_LOG", "trace");
        Worker::start(&mut run, &self.path(&format!("{name}.log")))
    }
}

/// Bodies that differ.
pub fn numbered(count: usize) -> Vec<String> {
    (1..=count).map(|number| format!(r#"{{"typeWebhook":"incomingCall","idMessage":"{number}"}}"#)).collect()
}
