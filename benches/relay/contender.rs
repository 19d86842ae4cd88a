//! What carries notifications from an emulator: the bridge into each sink, and what it is compared with.

use std::env;
use std::fs;
use std::path::Path;
use std::process::Command;

use green_api_bridge::emulator::Emulator;
use tokio::time::{Duration, sleep};

use crate::process::Process;
use crate::stage;

/// One of those that are compared.
pub struct Contender {
    pub name: String,
    carrier: Carrier,
}

enum Carrier {
    Floor,
    /// The executable of a bridge, and its sink.
    Bridge(String, Sink),
    /// A Python that has the vendor's client and the brokers' clients, and the sink.
    Vendor(String, Sink),
}

#[derive(Clone)]
enum Sink {
    File,
    Kafka(String),
    Amqp(String),
}

impl Contender {
    pub fn floor() -> Self {
        Self { name: "floor: hyper, no sink".into(), carrier: Carrier::Floor }
    }

    /// All that there are: those whose broker and, for the vendor's client, Python are known. Those that are measured at the same
    /// time are together.
    pub fn all() -> Vec<Vec<Self>> {
        let address = |name| env::var(name).ok();
        let sinks = [
            Some(("file", Sink::File)),
            address("BRIDGE_TEST_KAFKA").map(|servers| ("Kafka", Sink::Kafka(servers))),
            address("BRIDGE_TEST_AMQP").map(|uri| ("RabbitMQ", Sink::Amqp(uri))),
        ];
        let mut all = Vec::new();
        for (name, sink) in sinks.into_iter().flatten() {
            let this = env!("CARGO_BIN_EXE_green-api-bridge").to_owned();
            let builds = [("", Some(this)), (", the other build", address("BRIDGE_BENCH_OTHER"))];
            let builds = builds.into_iter().filter_map(|(version, executable)| {
                let carrier = Carrier::Bridge(executable?, sink.clone());
                Some(Self { name: format!("bridge into {name}{version}"), carrier })
            });
            all.push(builds.collect());
            let python = address("BRIDGE_TEST_PYTHON").filter(|_| !matches!(sink, Sink::File));
            let carrier = python.map(|python| Carrier::Vendor(python, sink));
            all.extend(carrier.map(|carrier| vec![Self { name: format!("vendor's client into {name}"), carrier }]));
        }
        all
    }

    /// Whether it is so slow that a fraction of the notifications is enough.
    pub fn is_slow(&self) -> bool {
        matches!(self.carrier, Carrier::Vendor(..))
    }

    /// Starts it, under `wrapper` if that is not empty, and waits until it polls all instances.
    pub async fn start(&self, folder: &Path, emulator: &Emulator, ids: &[String], wrapper: &[&str]) -> Process {
        let name = format!("bench-{}", std::time::UNIX_EPOCH.elapsed().unwrap().as_nanos());
        let url = emulator.url();
        let (program, arguments) = match &self.carrier {
            Carrier::Floor => {
                let this = env::current_exe().unwrap().display().to_string();
                (this, vec!["floor".to_owned(), url, ids.len().to_string()])
            }
            Carrier::Bridge(executable, sink) => {
                let sink = sink.of_config(&name);
                let listed: Vec<String> = ids.iter().map(|id| stage::instance(&url, id)).collect();
                let config = format!("instances: [{}]\nsink: {sink}\n", listed.join(", "));
                fs::write(folder.join("bridge.yaml"), config).unwrap();
                (executable.clone(), ["run", "--config", "bridge.yaml"].map(str::to_owned).to_vec())
            }
            Carrier::Vendor(python, sink) => {
                let script = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/relay/vendor.py");
                let (broker, address) = match sink {
                    Sink::File => unreachable!("it is compared into brokers only"),
                    Sink::Kafka(servers) => ("kafka", servers.as_str()),
                    Sink::Amqp(uri) => ("amqp", uri.as_str()),
                };
                let mut arguments = [script, &url, stage::TOKEN, broker, address, &name].map(str::to_owned).to_vec();
                arguments.extend_from_slice(ids);
                (python.clone(), arguments)
            }
        };
        let words: Vec<&str> = wrapper.iter().copied().chain([program.as_str()]).collect();
        let mut command = Command::new(words[0]);
        command.args(&words[1..]).args(arguments);
        let mut process = Process::start(folder, command);
        while !ids.iter().all(|id| emulator.requests(id) > 0) {
            process.assert_running();
            sleep(Duration::from_millis(10)).await;
        }
        process
    }
}

impl Sink {
    fn of_config(&self, name: &str) -> String {
        match self {
            Self::File => "{file: {path: out.jsonl}}".into(),
            Self::Kafka(servers) => format!(
                "{{kafka: {{bootstrap_servers: ['{servers}'], topic: {name}, ledger_topic: {name}.ledger, \
                 dead_letter_topic: {name}.dead, transactional_id: {name}}}}}"
            ),
            Self::Amqp(uri) => format!(
                "{{amqp: {{uri: '{uri}', name: {name}, exchange: {name}, queue: {name}, dead_letter_queue: {name}.dead}}}}"
            ),
        }
    }
}

/// Queues so many notifications of each instance, and waits until the process has deleted all.
pub async fn carry(process: &mut Process, emulator: &Emulator, ids: &[String], count: usize) {
    push(emulator, ids, count);
    while !is_carried(process, emulator, ids) {
        sleep(Duration::from_millis(5)).await;
    }
}

/// Queues so many notifications of each instance.
pub fn push(emulator: &Emulator, ids: &[String], count: usize) {
    // A text message, as most are, with an identity of its own.
    let line = green_api_bridge::emulator::notifications().find(|line| line.contains(TEXT)).unwrap();
    let (before, after) = line.split_once("\"idMessage\":\"").unwrap();
    for id in ids {
        (0..count)
            .for_each(|_| emulator.push(id, format!("{before}\"idMessage\":\"{:016X}{after}", fastrand::u64(..))));
    }
}

/// Whether the process, which must still run, has deleted all.
pub fn is_carried(process: &mut Process, emulator: &Emulator, ids: &[String]) -> bool {
    process.assert_running();
    ids.iter().all(|id| emulator.queued(id) == 0)
}

const TEXT: &str = "\"messageData\":{\"typeMessage\":\"textMessage\"";
