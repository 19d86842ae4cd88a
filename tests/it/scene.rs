//! An emulated instance and the bridge under test.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;

use green_api_bridge::emulator::{Emulator, Event, EventKind, Fault, FaultKind};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::support::{Worker, command, eventually};

pub const ID: &str = "1101000001";
pub const TOKEN: &str = "t0ken-canary";

/// An emulated instance, and a folder for what comes out of it.
pub struct Scene {
    pub emulator: Emulator,
    pub folder: tempfile::TempDir,
    /// Those in the config of the bridge under test.
    pub instances: Vec<String>,
}

impl Scene {
    pub async fn new() -> Self {
        Self::of([ID]).await
    }

    /// The queues of these instances; the config of the bridge has the first.
    pub async fn of<const N: usize>(ids: [&str; N]) -> Self {
        let mut scene = Self::with(ids.map(str::to_owned).into()).await;
        scene.instances.truncate(1);
        scene
    }

    async fn with(instances: Vec<String>) -> Self {
        let listen = SocketAddr::from(([127, 0, 0, 1], 0));
        let emulator = Emulator::start(listen, instances.iter().map(|id| (id.clone(), TOKEN.to_owned())));
        let emulator = emulator.await.expect("a free port");
        Self { emulator, folder: tempfile::tempdir().expect("a folder"), instances }
    }

    /// Many instances, all of them in the config, and in the queue of each all of `bodies`.
    pub async fn fleet(count: usize, bodies: &[String]) -> Self {
        let scene = Self::with((1..=count).map(|number| (1_101_000_000 + number).to_string()).collect()).await;
        scene.push_to_all(bodies);
        scene
    }

    /// The same notifications into every queue.
    pub fn push_to_all(&self, bodies: &[String]) {
        for id in &self.instances {
            for body in bodies {
                self.emulator.push(id, body.as_str());
            }
        }
    }

    /// What waits in the queues of all instances.
    pub fn queued(&self) -> usize {
        self.instances.iter().map(|id| self.emulator.queued(id)).sum()
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
        eventually("the queues are empty", || self.queued() == 0);
    }

    /// What the file sink holds, line by line.
    pub fn lines(&self) -> Vec<Line> {
        let text = fs::read_to_string(self.path("out.jsonl")).unwrap_or_default();
        text.lines().map(|line| serde_json::from_str(line).expect(line)).collect()
    }

    /// The bodies that the file sink holds.
    pub fn bodies(&self) -> Vec<String> {
        self.lines().iter().map(Line::body).collect()
    }

    /// The same, of one instance.
    pub fn bodies_of(&self, instance: &str) -> Vec<String> {
        self.lines().iter().filter(|line| line.idinstance == instance).map(Line::body).collect()
    }

    /// `run` with this sink, in YAML; `name` tells configs and logs apart.
    pub fn start_with(&self, name: &str, sink: &str) -> Worker {
        Worker::start(&mut self.command_with(name, sink), &self.path(&format!("{name}.log")))
    }

    /// As [`start_with`](Self::start_with), in a build with the feature `fault-hooks`: a signal that it sends itself at
    /// a step, such as `SIGKILL@before_commit#3`.
    #[cfg(feature = "fault-hooks")]
    pub fn start_with_fault(&self, name: &str, sink: &str, fault: &str) -> Worker {
        let mut command = self.command_with(name, sink);
        Worker::start(command.env("BRIDGE_FAULT", fault), &self.path(&format!("{name}.log")))
    }

    /// `run` with this sink, all else as `name`.yaml says, which is written anew.
    pub fn command_with(&self, name: &str, sink: &str) -> Command {
        let mut run = command();
        run.current_dir(&self.folder).arg("run").arg("--config").arg(self.config(name, sink)).env("RUST_LOG", "trace");
        run
    }

    /// A config with this sink, in YAML.
    pub fn config(&self, name: &str, sink: &str) -> PathBuf {
        let url = self.emulator.url();
        let instance = |id: &String| format!("  - {{id: {id}, api_url: '{url}', api_token: {TOKEN}}}\n");
        let instances: String = self.instances.iter().map(instance).collect();
        let path = self.path(&format!("{name}.yaml"));
        fs::write(&path, format!("instances:\n{instances}sink: {sink}\n")).expect("the config is written");
        path
    }
}

/// A line of the file sink.
#[derive(Deserialize)]
pub struct Line {
    pub id: String,
    pub idinstance: String,
    pub sequence: String,
    pub possibleduplicate: Option<String>,
    pub data: Option<Box<RawValue>>,
    pub data_base64: Option<String>,
}

impl Line {
    pub fn body(&self) -> String {
        self.data.as_ref().expect("data").get().to_owned()
    }
}

/// An answer to be given instead of the right one.
pub fn answer(status: u16, body: &str) -> FaultKind {
    FaultKind::Answer { status, body: body.to_owned(), content_type: None }
}

pub fn times(times: u32, fault: Fault) -> Fault {
    Fault { times, ..fault }
}

/// Bodies that differ.
pub fn numbered(count: usize) -> Vec<String> {
    (1..=count).map(|number| format!(r#"{{"typeWebhook":"incomingCall","idMessage":"{number}"}}"#)).collect()
}
