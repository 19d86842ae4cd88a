//! The broker closes a channel over a single message that it does not take: that stops nobody else.

use std::path::PathBuf;

use serde_json::json;

use crate::rabbitmq_queues::{Message, Names};
use crate::scene::{Scene, numbered};
use crate::support::{Broker, Worker, event, eventually, from_test_run, rabbitmqctl};

fn shared_broker() -> PathBuf {
    from_test_run("BRIDGE_TEST_RABBITMQ_DIR").into()
}

/// A user of one test's own.
struct User {
    names: Names,
    broker: PathBuf,
}

impl User {
    fn new(write: impl Fn(&str) -> String) -> Self {
        let (shared, broker) = (Names::new(), shared_broker());
        rabbitmqctl(&broker, &["add_user", &shared.name, "passw0rd"]);
        rabbitmqctl(&broker, &["set_permissions", &shared.name, ".*", &write(&shared.name), ".*"]);
        let uri = shared.uri.replace("guest:guest@", &format!("{}:passw0rd@", shared.name));
        Self { names: Names { uri, name: shared.name }, broker }
    }

    /// Which routing keys it may publish to.
    fn may_route(&self, pattern: &str) {
        let name = &self.names.name;
        rabbitmqctl(&self.broker, &["set_topic_permissions", name, name, pattern, ".*"]);
    }
}

impl Drop for User {
    fn drop(&mut self) {
        rabbitmqctl(&self.broker, &["delete_user", &self.names.name]);
    }
}

/// Of an instance: each body in its order, and a copy only with a mark.
fn assert_stored(messages: &[Message], instance: &str, bodies: &[String]) {
    let mut seen = Vec::<&str>::new();
    for message in messages.iter().filter(|message| message.header("idinstance") == Some(instance)) {
        if seen.contains(&message.body.as_str()) {
            assert!(message.is_marked(), "doubled without a mark: {:?}", message.value["headers"]);
        } else {
            seen.push(&message.body);
        }
    }
    assert_eq!(seen, bodies, "of {instance}");
}

/// The sink was never in a condition. Its client may lose a connection with a channel: then it is there again at once.
fn assert_undisturbed(bridge: &Worker) {
    let log = bridge.log();
    let (owned, closed) = (log.matches(&event("sink_owned")).count(), log.matches(&event("channel_closed")).count());
    assert!(owned <= 1 + closed, "it is no reason to connect anew: {log}");
    let of_the_sink = |line: &serde_json::Value| line["condition"].is_string() && line["instance"].is_null();
    let lines = log.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    assert_eq!(lines.filter(of_the_sink).count(), 0, "{log}");
}

fn dead_letters(scene: &Scene) -> usize {
    std::fs::read_dir(scene.path("dead-letters")).map_or(0, Iterator::count)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_larger_than_the_broker_is_set_to_take_goes_into_the_folder_and_closes_one_channel() {
    let broker = Broker::start_rabbitmq_with("max_message_size = 1048576");
    let names = Names::at(broker.address("BRIDGE_TEST_AMQP"));
    let bodies = numbered(40);
    let scene = Scene::fleet(10, &bodies[..20]).await;
    let large = |mark: &str| format!(r#"{{"mark":"{mark}","text":"{}"}}"#, "x".repeat(2 << 20));
    scene.emulator.push(&scene.instances[0], large("first").as_str());
    scene.emulator.push(&scene.instances[1], large("second").as_str());
    scene.push_to_all(&bodies[20..]);
    let bridge = scene.start_with("bridge", &names.sink(""));
    scene.drained();
    let messages = names.read(10 * bodies.len());
    for id in &scene.instances {
        assert_stored(&messages, id, &bodies);
    }
    assert_eq!(dead_letters(&scene), 2);
    let log = bridge.log();
    assert_eq!(log.matches(r#""reason":"too_large""#).count(), 2, "{log}");
    assert!(!log.contains("sink_unavailable"), "{log}");
    assert_undisturbed(&bridge);
    let of_broker = std::fs::read_to_string(broker.folder().join("server.log")).unwrap();
    assert_eq!(
        of_broker.matches("is larger than configured max size 1048576").count(),
        1,
        "once it is known, nothing of the kind is sent"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_whose_routing_key_is_forbidden_waits_alone() {
    let user = User::new(|_| ".*".into());
    let names = &user.names;
    names.operate(&[("exchange_declare", json!({"exchange": names.name, "exchange_type": "topic", "durable": true}))]);
    let bodies = numbered(60);
    let scene = Scene::fleet(21, &bodies[..20]).await;
    let (allowed, forbidden) = scene.instances.split_last().unwrap();
    let bridge = scene.start_with("bridge", &names.sink(""));
    scene.drained();
    // A channel remembers what it has allowed, but only for the last few routing keys.
    user.may_route(&format!("^{allowed}[.]"));
    scene.push_to_all(&bodies[20..]);
    eventually("the allowed one flows", || scene.emulator.queued(allowed) == 0);
    for id in forbidden {
        let entered =
            || bridge.log().lines().any(|line| line.contains("sink_unavailable") && line.contains(id.as_str()));
        eventually("each that is forbidden says so", entered);
        assert!(scene.emulator.queued(id) > 0, "{id} waits");
    }
    assert!(bridge.log().contains("ACCESS_REFUSED"), "{}", bridge.log());
    user.may_route(".*");
    scene.drained();
    assert_undisturbed(&bridge);
    let messages = names.read(scene.instances.len() * bodies.len());
    for id in &scene.instances {
        assert_stored(&messages, id, &bodies);
    }
    let marks = messages.iter().filter(|message| message.is_marked()).count();
    // The first of each, and what each that was forbidden had in hand: what became of it in its batch was unknown.
    let due = scene.instances.len() + forbidden.len();
    assert!((due..4 * scene.instances.len()).contains(&marks), "{marks} marks, {due} are due");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_letter_queue_that_may_not_be_written_to_leaves_the_folder() {
    let user = User::new(|name| format!("^{name}"));
    let names = &user.names;
    let bodies = numbered(30);
    let scene = Scene::fleet(5, &bodies[..10]).await;
    scene.emulator.push(&scene.instances[0], "NaN");
    scene.push_to_all(&bodies[10..20]);
    scene.emulator.push(&scene.instances[1], "{oops}");
    scene.push_to_all(&bodies[20..]);
    let bridge = scene.start_with("bridge", &names.sink(", queue_type: classic"));
    scene.drained();
    assert_undisturbed(&bridge);
    assert_eq!(dead_letters(&scene), 2, "{}", bridge.log());
    let messages = names.read(scene.instances.len() * bodies.len());
    for id in &scene.instances {
        assert_stored(&messages, id, &bodies);
    }
    let marks = messages.iter().filter(|message| message.is_marked()).count();
    let owned = bridge.log().matches(&event("sink_owned")).count();
    assert!(
        marks <= owned * scene.instances.len(),
        "{marks} marks: the first of each under its ownership, and no other"
    );
}
