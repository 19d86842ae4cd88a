//! A sink of somebody else's, `examples/redis_streams.rs`, into a real Redis.

use std::collections::HashMap;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;

use async_trait::async_trait;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use green_api_bridge::doubt::Memory;
use green_api_bridge::emulator::{self, EventKind};
use green_api_bridge::metrics::Metrics;
use green_api_bridge::notification::{Answer, Fingerprint, InstanceId, Notification};
use green_api_bridge::sink::contract_test::{self, Harness, Message};
use green_api_bridge::sink::worker::Worker as WorkerSink;
use green_api_bridge::sink::{Sink, SinkError};
use nix::sys::signal::Signal;
use redis_streams::start;
use uuid::Uuid;

use crate::network::{Network, Weather};
use crate::scene::{ID, Scene, TOKEN, numbered};
use crate::support::{Broker, Worker, event, eventually, foreign_client};

#[path = "../../examples/redis_streams.rs"]
#[expect(dead_code, reason = "its `main` is run as a process")]
mod redis_streams;

const NOTIFICATIONS: &str = "{green-api}:notifications";
const DEAD_LETTERS: &str = "{green-api}:dead-letters";

/// A Redis of one test's own, and what somebody else's client reads from it.
pub struct Redis {
    pub broker: Broker,
    pub url: String,
}

/// An entry as another client sees it.
struct Entry {
    fields: HashMap<String, String>,
    body: Vec<u8>,
    at_ms: u64,
}

impl Entry {
    fn field(&self, name: &str) -> Option<&str> {
        self.fields.get(name).map(String::as_str)
    }

    fn sequence(&self) -> u64 {
        self.fields["sequence"].parse().unwrap()
    }

    fn into_message(self) -> Message {
        let attributes = self.fields.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        Message::new(attributes, self.body.clone()).unwrap()
    }
}

impl Redis {
    pub fn start() -> Self {
        let broker = Broker::start("redis");
        Self { url: broker.address("BRIDGE_TEST_REDIS"), broker }
    }

    /// A sink on it, in this process, with keys of its own for each name.
    fn sink(&self, name: &str) -> WorkerSink {
        start(&self.url, name, &Metrics::new("redis")).unwrap()
    }

    fn read(&self, stream: &str, count: usize) -> Vec<Entry> {
        let entries = foreign_client("read_redis.py", &[&self.url, stream, &count.to_string()]);
        let entry = |value: serde_json::Value| Entry {
            fields: serde_json::from_value(value["fields"].clone()).unwrap(),
            body: STANDARD.decode(value["body"].as_str().unwrap()).unwrap(),
            at_ms: value["at_ms"].as_u64().unwrap(),
        };
        entries.into_iter().map(entry).collect()
    }

    fn connect(&self) -> redis::Connection {
        redis::Client::open(self.url.as_str()).unwrap().get_connection().unwrap()
    }

    /// How many connections there are, without the one that asks.
    fn clients(&self) -> usize {
        let clients: String = redis::cmd("CLIENT").arg("LIST").query(&mut self.connect()).unwrap();
        clients.lines().count() - 1
    }

    /// Ends all connections.
    fn cut(&self) {
        redis::cmd("CLIENT").arg("KILL").arg("TYPE").arg("normal").exec(&mut self.connect()).unwrap();
    }
}

#[async_trait]
impl Harness for Redis {
    async fn start(&self) -> Arc<dyn Sink> {
        Arc::new(self.sink("contract"))
    }

    async fn read(&self) -> Vec<Message> {
        let read = |stream: &str| self.read(&format!("{{contract}}:{stream}"), 0);
        let entries = tokio::task::block_in_place(|| [read("notifications"), read("dead-letters")]);
        let mut messages: Vec<Message> = entries.into_iter().flatten().map(Entry::into_message).collect();
        messages.sort_by_key(|message| message.sequence);
        messages
    }

    fn remembers(&self) -> bool {
        true
    }

    async fn interrupt(&self) {
        tokio::task::block_in_place(|| self.broker.kill());
    }

    async fn restore(&self) {
        tokio::task::block_in_place(|| self.broker.start_again());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn it_keeps_the_contract() {
    contract_test::run(&Redis::start()).await;
}

/// The example as a process, for all instances of the scene.
pub fn example(scene: &Scene, url: &str) -> Command {
    let deps = std::env::current_exe().unwrap();
    let path: PathBuf = deps.parent().and_then(|deps| deps.parent()).unwrap().join("examples/redis_streams");
    assert!(path.exists(), "{} is missing: run `cargo build --example redis_streams` first", path.display());
    let mut command = Command::new(path);
    command
        .arg(url)
        .env("GREEN_API_URL", scene.emulator.url())
        .env("GREEN_API_ID_INSTANCE", scene.instances.join(","))
        .env("GREEN_API_TOKEN", vec![TOKEN; scene.instances.len()].join(","))
        .stdin(Stdio::null());
    command
}

pub fn start_example(scene: &Scene, name: &str, url: &str) -> Worker {
    Worker::start(&mut example(scene, url), &scene.path(&format!("{name}.log")))
}

/// What went into each queue came out once and in order: so say the emulator's journal and a client that is not ours.
pub fn assert_exactly_once(scene: &Scene, redis: &Redis, bodies: &[String]) {
    let digests: Vec<String> = bodies.iter().map(|body| Fingerprint::of(body.as_bytes()).to_string()).collect();
    let entries = redis.read(NOTIFICATIONS, scene.instances.len() * bodies.len());
    for id in &scene.instances {
        let deleted = scene.emulator.journal(id).into_iter().filter(|event| event.event == EventKind::Deleted);
        assert_eq!(deleted.filter_map(|event| event.sha256).collect::<Vec<_>>(), digests, "deleted from {id}");
        let of_instance: Vec<&Entry> = entries.iter().filter(|entry| entry.fields["idinstance"] == *id).collect();
        assert!(of_instance.iter().map(|entry| &entry.body[..]).eq(bodies.iter().map(String::as_bytes)), "of {id}");
        let sequences = of_instance.iter().map(|entry| entry.sequence());
        assert!(sequences.eq(1..=bodies.len() as u64), "sequences of {id}");
    }
    assert_eq!(entries.len(), scene.instances.len() * bodies.len());
    assert!(entries.iter().all(|entry| entry.field("possibleduplicate").is_none()));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_body_arrives_once_in_order_with_its_attributes_and_is_deleted_after() {
    let (scene, redis) = (Scene::new().await, Redis::start());
    let large = format!(r#"{{"typeWebhook":"x","textMessage":"{}"}}"#, "x".repeat(3 << 20));
    let odd = ["null", "{}", "{\"a\":1,\"a\":2}", "[123456789012345678901234567890]", r#"{"\ud800":1}"#, "{\r\n}"];
    let mut bodies: Vec<&str> = emulator::notifications().chain(odd).collect();
    bodies.push(&large);
    scene.push(bodies.iter().copied());
    let bridge = start_example(&scene, "bridge", &redis.url);
    scene.drained();
    let entries = redis.read(NOTIFICATIONS, bodies.len());
    assert!(entries.iter().map(|entry| &entry.body[..]).eq(bodies.iter().map(|body| body.as_bytes())));
    let deleted: Vec<_> = scene.journal().into_iter().filter(|event| event.event == EventKind::Deleted).collect();
    assert_eq!(deleted.len(), bodies.len());
    let namespace = Uuid::new_v5(&Uuid::NAMESPACE_URL, format!("https://green-api.com/waInstance{ID}").as_bytes());
    for (index, (entry, deleted)) in entries.iter().zip(&deleted).enumerate() {
        assert_eq!(deleted.sha256.as_deref(), Some(Fingerprint::of(&entry.body).to_string().as_str()));
        assert!(entry.at_ms <= deleted.at_ms, "deleted before it was stored");
        let value: serde_json::Value = serde_json::from_slice(&entry.body).unwrap_or_default();
        let kind = value.get("typeWebhook").and_then(serde_json::Value::as_str).unwrap_or("unknown");
        assert_eq!(entry.field("specversion"), Some("1.0"));
        assert_eq!(entry.field("id"), Some(Uuid::new_v5(&namespace, &entry.body).to_string().as_str()));
        assert_eq!(entry.field("source"), Some("/green-api/waInstance1101000001"));
        assert_eq!(entry.field("type"), Some(format!("com.green-api.{kind}").as_str()));
        assert!(entry.field("time").unwrap().ends_with('Z'));
        assert_eq!(entry.field("sequence"), Some(format!("{:020}", index + 1).as_str()));
        assert_eq!(entry.field("idinstance"), Some(ID));
        assert_eq!(entry.field("receiptid"), Some((index + 1).to_string().as_str()));
        assert_eq!(entry.field("datacontenttype"), Some("application/json"));
        let of_message = [value["idMessage"].as_str(), value["messageData"]["typeMessage"].as_str()];
        assert_eq!([entry.field("idmessage"), entry.field("typemessage")], of_message, "{:?}", entry.fields);
        assert_eq!(entry.fields.len(), 10 + of_message.iter().flatten().count(), "{:?}", entry.fields);
    }
    let (status, _) = bridge.stop(Signal::SIGTERM);
    assert!(status.success(), "{status:?}");
    let log = std::fs::read_to_string(scene.path("bridge.log")).unwrap();
    assert!(!log.contains("may be lost in a crash") && !log.contains(TOKEN), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_is_no_json_becomes_a_dead_letter_between_good_ones() {
    let (scene, redis) = (Scene::new().await, Redis::start());
    scene.push(["1", "{\"a\":NaN}", "3"]);
    let _bridge = start_example(&scene, "bridge", &redis.url);
    scene.drained();
    let (good, dead) = (redis.read(NOTIFICATIONS, 2), redis.read(DEAD_LETTERS, 1));
    let place = |entry: &Entry| (entry.sequence(), String::from_utf8(entry.body.clone()).unwrap());
    assert_eq!(good.iter().map(place).collect::<Vec<_>>(), [(1, "1".into()), (3, "3".into())]);
    assert_eq!(dead.iter().map(place).collect::<Vec<_>>(), [(2, "{\"a\":NaN}".into())]);
    assert_eq!(dead[0].field("deadletterreason"), Some("malformed"));
    assert_eq!(dead[0].field("originaldestination"), Some(NOTIFICATIONS));
    assert_eq!(dead[0].field("datacontenttype"), Some("application/octet-stream"));
}

/// A notification as the line would hand it over.
fn notification(instance: InstanceId, body: &str) -> Notification {
    let answer = Bytes::from(format!(r#"{{"receiptId":7,"body":{body}}}"#));
    Answer::read(instance, &answer).head().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_earlier_owner_stores_nothing_and_proves_nothing_any_more() {
    let redis = Redis::start();
    let instance: InstanceId = ID.parse().unwrap();
    let [first, second, third] = ["1", "2", "3"].map(|body| notification(instance, body));
    let earlier = redis.sink("green-api");
    let (mut of_earlier, memory) = earlier.open(instance).await.unwrap();
    assert_eq!(memory, Memory::Nothing);
    let stored = of_earlier.publish(contract_test::pending(&first), false).await.unwrap();
    assert_eq!(stored.sequence(), Some(1));
    // A sink takes the ownership when it is started.
    let later = redis.sink("green-api");
    let (mut of_later, memory) = later.open(instance).await.unwrap();
    assert_eq!(memory, Memory::Published { sequence: 1, fingerprint: first.fingerprint() });
    // One of them ends the session of the earlier, whichever comes first with a probe beside it.
    let proved = of_earlier.already_stored(contract_test::pending(&first)).await;
    assert!(matches!(proved, Err(SinkError::OutcomeUnknown(_) | SinkError::Fenced(_))), "{proved:?}");
    let published = of_earlier.publish(contract_test::pending(&second), false).await;
    assert!(matches!(published, Err(SinkError::Fenced(_))), "{published:?}");
    let opened = earlier.open(instance).await;
    assert!(matches!(opened, Err(SinkError::Fenced(_))));
    let stored = of_later.publish(contract_test::pending(&third), false).await.unwrap();
    assert_eq!(stored.sequence(), Some(2));
    let entries = redis.read(NOTIFICATIONS, 2);
    assert_eq!(entries.iter().map(|entry| &entry.body[..]).collect::<Vec<_>>(), [b"1", b"3"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_earlier_owner_that_was_cut_off_does_not_take_the_ownership_back() {
    let redis = Redis::start();
    let instance: InstanceId = ID.parse().unwrap();
    let earlier = redis.sink("green-api");
    let (mut lane, _) = earlier.open(instance).await.unwrap();
    // Somebody else's token, as another process would leave it while we are cut off.
    redis::cmd("SET").arg("{green-api}:owner").arg("another/1").exec(&mut redis.connect()).unwrap();
    redis.cut();
    let cut_off = lane.publish(contract_test::pending(&notification(instance, "1")), false).await;
    assert!(matches!(cut_off, Err(SinkError::OutcomeUnknown(_))), "{cut_off:?}");
    let opened = earlier.open(instance).await.map(|(_, memory)| memory);
    assert!(matches!(opened, Err(SinkError::Fenced(_))), "{opened:?}");
    let owner: String = redis::cmd("GET").arg("{green-api}:owner").query(&mut redis.connect()).unwrap();
    assert_eq!(owner, "another/1");
}

#[tokio::test(flavor = "multi_thread")]
async fn cut_off_without_a_rival_it_goes_on() {
    let redis = Redis::start();
    let instance: InstanceId = ID.parse().unwrap();
    let sink = redis.sink("green-api");
    let (mut lane, _) = sink.open(instance).await.unwrap();
    let first = notification(instance, "1");
    let stored = lane.publish(contract_test::pending(&first), false).await.unwrap();
    assert_eq!(stored.sequence(), Some(1));
    redis.cut();
    let cut_off = lane.publish(contract_test::pending(&notification(instance, "2")), false).await;
    assert!(matches!(cut_off, Err(SinkError::OutcomeUnknown(_))), "{cut_off:?}");
    let (mut lane, memory) = sink.open(instance).await.unwrap();
    assert_eq!(memory, Memory::Published { sequence: 1, fingerprint: first.fingerprint() });
    let stored = lane.publish(contract_test::pending(&notification(instance, "2")), false).await.unwrap();
    assert_eq!(stored.sequence(), Some(2));
    assert_eq!(redis.read(NOTIFICATIONS, 2).len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_process_takes_over_and_the_first_ends_with_79() {
    let (bodies, redis) = (numbered(60), Redis::start());
    let scene = Scene::fleet(3, &bodies[..40]).await;
    let first = start_example(&scene, "first", &redis.url);
    eventually("it works", || scene.queued() <= 60);
    let second = start_example(&scene, "second", &redis.url);
    assert_eq!(first.ended().code(), Some(79));
    scene.push_to_all(&bodies[40..]);
    scene.drained();
    assert_exactly_once(&scene, &redis, &bodies);
    assert!(!second.log().contains("took over"), "{}", second.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_redis_is_given_up_and_costs_nothing_when_it_goes_on() {
    let (bodies, redis) = (numbered(60), Redis::start());
    let scene = Scene::fleet(3, &bodies[..40]).await;
    let bridge = start_example(&scene, "bridge", &redis.url);
    eventually("it works", || scene.queued() <= 60);
    redis.broker.pause();
    scene.push_to_all(&bodies[40..]);
    bridge.wait_for_log(&event("outcome_unknown"));
    redis.broker.resume();
    scene.drained();
    assert_exactly_once(&scene, &redis, &bodies);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_script_that_arrives_after_the_next_session_has_begun_stores_nothing() {
    let (scene, redis) = (Scene::new().await, Redis::start());
    let before = redis.broker.address("BRIDGE_TEST_REDIS_BEFORE");
    let network = Network::start(&before["redis://".len()..], &redis.url["redis://".len()..]).await;
    scene.push(["1"]);
    let bridge = start_example(&scene, "bridge", &before);
    scene.drained();
    network.becomes(Weather::Late);
    scene.push(["2"]);
    // By the second session: what the first has sent is still on its way.
    scene.drained();
    bridge.wait_for_log(&event("outcome_unknown"));
    assert_eq!(redis.clients(), 2);
    network.becomes(Weather::Fine);
    eventually("what was late has arrived, and its connection is closed", || redis.clients() == 1);
    scene.push(["3"]);
    scene.drained();
    let entries = redis.read(NOTIFICATIONS, 3);
    let found: Vec<_> = entries.iter().map(|entry| (entry.sequence(), &entry.body[..])).collect();
    assert_eq!(found, [(1, &b"1"[..]), (2, b"2"), (3, b"3")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn weaker_settings_are_reported_once() {
    let (scene, redis) = (Scene::new().await, Redis::start());
    redis::cmd("CONFIG").arg("SET").arg("appendfsync").arg("everysec").exec(&mut redis.connect()).unwrap();
    let bridge = start_example(&scene, "bridge", &redis.url);
    scene.push(["1"]);
    scene.drained();
    // The next session has the same settings.
    redis.cut();
    scene.push(["2"]);
    scene.drained();
    let log = bridge.log();
    assert_eq!(log.matches("may be lost in a crash").count(), 1, "{log}");
    assert!(log.contains(r#""setting":"appendfsync""#) && log.contains(r#""found":"everysec""#), "{log}");
}
