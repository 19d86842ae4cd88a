//! Queues of one test's own, what somebody else's client reads from them, and whether that is right.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use green_api_bridge::emulator::EventKind;
use green_api_bridge::notification::Fingerprint;
use serde_json::Value;
use uuid::Uuid;

use crate::replicas::shard_of;
use crate::scene::Scene;
use crate::support::{foreign_client, from_test_run};

/// Names of one test's own at the broker that all tests share.
pub struct Names {
    pub uri: String,
    pub name: String,
}

/// A message as another client sees it.
pub struct Message {
    pub body: String,
    pub value: Value,
}

impl Message {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.value["headers"][format!("cloudEvents_{name}")].as_str()
    }

    fn epoch(&self) -> u64 {
        self.header("epoch").unwrap().parse().unwrap()
    }

    pub fn is_marked(&self) -> bool {
        self.header("possibleduplicate") == Some("true")
    }
}

impl Names {
    pub fn new() -> Self {
        Self::at(from_test_run("BRIDGE_TEST_AMQP"))
    }

    pub fn at(uri: String) -> Self {
        Self { uri, name: format!("test-{}", Uuid::new_v4().simple()) }
    }

    pub fn sink(&self, more: &str) -> String {
        let Self { uri, name } = self;
        format!(
            "{{amqp: {{uri: '{uri}', name: {name}, exchange: {name}, queue: {name}.notifications, \
             dead_letter_queue: {name}.dead{more}}}}}"
        )
    }

    /// As [`sink`](Self::sink), but the queues are the test's own.
    pub fn sink_without_queue(&self, more: &str) -> String {
        self.sink(more).replace(&format!("queue: {},", self.queue()), "queue: null,")
    }

    pub fn queue(&self) -> String {
        format!("{}.notifications", self.name)
    }

    /// What an operator does: methods of a channel, with their arguments.
    pub fn operate(&self, calls: &[(&str, Value)]) {
        let arguments = calls.iter().flat_map(|(method, arguments)| [(*method).to_owned(), arguments.to_string()]);
        let arguments: Vec<String> = [self.uri.clone()].into_iter().chain(arguments).collect();
        foreign_client("operate_rabbitmq.py", &arguments.iter().map(String::as_str).collect::<Vec<_>>());
    }

    /// What a downstream service reads, with a client that is not ours.
    pub fn read(&self, count: usize) -> Vec<Message> {
        self.read_from("notifications", count)
    }

    pub fn read_from(&self, queue: &str, count: usize) -> Vec<Message> {
        let queue = format!("{}.{queue}", self.name);
        messages(foreign_client("read_rabbitmq.py", &[&self.uri, &queue, &count.to_string()]))
    }

    /// Reads as many from the beginning of a stream.
    pub fn read_stream(&self, count: usize) -> Vec<Message> {
        messages(foreign_client("read_rabbitmq.py", &[&self.uri, &self.queue(), &count.to_string(), "stream"]))
    }
}

/// The lines that a foreign client printed.
pub fn messages(lines: Vec<Value>) -> Vec<Message> {
    let body = |value: &Value| STANDARD.decode(value["body"].as_str().unwrap()).unwrap();
    lines.into_iter().map(|value| Message { body: String::from_utf8(body(&value)).unwrap(), value }).collect()
}

/// Of each instance all of `bodies` were stored and deleted: 0 lost, 0 doubled without a mark, and in order once
/// repeated ids are dropped. At most `marks_due` are marked, and nothing of an earlier owner came after a later one's.
pub fn assert_kept(scene: &Scene, messages: &[Message], bodies: &[String], marks_due: usize) {
    let epochs: Vec<u64> = messages.iter().map(Message::epoch).collect();
    assert!(epochs.is_sorted(), "a former owner's publish came late: {epochs:?}");
    assert_each_kept(scene, messages, bodies, marks_due);
}

/// As [`assert_kept`], where not all instances have the same owner.
pub fn assert_each_kept(scene: &Scene, messages: &[Message], bodies: &[String], marks_due: usize) {
    let digests: Vec<String> = bodies.iter().map(|body| Fingerprint::of(body.as_bytes()).to_string()).collect();
    for id in &scene.instances {
        let deleted = scene.emulator.journal(id).into_iter().filter(|event| event.event == EventKind::Deleted);
        assert_eq!(deleted.filter_map(|event| event.sha256).collect::<Vec<_>>(), digests, "deleted from {id}");
    }
    let mut seen = BTreeMap::<&str, Vec<&str>>::new();
    let mut epochs = BTreeMap::<&str, u64>::new();
    for message in messages {
        let id = message.header("idinstance").unwrap();
        let last = epochs.insert(id, message.epoch()).unwrap_or(0);
        assert!(last <= message.epoch(), "a former owner's publish came late: {:?}", message.value["headers"]);
        let seen = seen.entry(id).or_default();
        if seen.contains(&message.body.as_str()) {
            assert!(message.is_marked(), "doubled without a mark: {:?}", message.value["headers"]);
        } else {
            seen.push(&message.body);
        }
    }
    assert!(seen.keys().eq(&scene.instances), "{:?}", seen.keys());
    for (id, seen) in seen {
        assert_eq!(seen, bodies, "of {id}, repeated ids dropped");
    }
    let marks = messages.iter().filter(|message| message.is_marked()).count();
    let (stored, notifications) = (messages.len(), scene.instances.len() * bodies.len());
    println!(
        "{notifications} notifications: 0 lost, 0 doubled unmarked, {} doubled and marked, {marks} marked ({marks_due} due)",
        stored - notifications
    );
    assert!(marks <= marks_due, "{marks} marks, at most {marks_due} were due");
}

/// The marks that these logs account for: one per instance and acquisition of the ownership, one per unknown outcome.
pub fn marks_due(scene: &Scene, log: &str) -> usize {
    let of_line = |line: Value| match line["event"].as_str()? {
        "sink_owned" => Some(match line["shard"].as_u64() {
            None => scene.instances.len(),
            Some(shard) => scene.instances.iter().filter(|id| shard_of(id) == shard).count(),
        }),
        "outcome_unknown" => Some(1),
        _ => usize::try_from(line["unconfirmed"].as_u64()?).ok(),
    };
    log.lines().filter_map(|line| serde_json::from_str(line).ok()).filter_map(of_line).sum()
}
