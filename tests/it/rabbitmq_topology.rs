use std::collections::BTreeSet;
use std::path::PathBuf;

use serde_json::{Value, json};

use crate::kafka::in_chat;
use crate::rabbitmq_queues::{Message, Names, assert_kept, marks_due};
use crate::scene::{ID, Scene, numbered};
use crate::support::{event, eventually, from_test_run, rabbitmqctl};

fn bodies_of(messages: &[Message]) -> Vec<&str> {
    messages.iter().map(|message| message.body.as_str()).collect()
}

/// An operator's command to the broker that all tests share; it must concern this test's own names alone.
fn operator(arguments: &[&str]) {
    rabbitmqctl(&PathBuf::from(from_test_run("BRIDGE_TEST_RABBITMQ_DIR")), arguments);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_reported_unroutable_is_exactly_what_was_not_stored() {
    let kind = |number: usize| if number.is_multiple_of(7) { "odd" } else { "good" };
    let bodies: Vec<String> =
        (1..=100).map(|number| format!(r#"{{"typeWebhook":"{}","n":{number}}}"#, kind(number))).collect();
    let (scene, names) = (Scene::fleet(50, &bodies).await, Names::new());
    names.operate(&[
        ("exchange_declare", json!({"exchange": names.name, "exchange_type": "topic", "durable": true})),
        ("queue_declare", json!({"queue": names.queue(), "durable": true})),
        ("queue_bind", json!({"queue": names.queue(), "exchange": names.name, "routing_key": "*.good"})),
    ]);
    let bridge = scene.start_with("bridge", &names.sink_without_queue(""));
    scene.drained();
    let (good, odd): (Vec<String>, Vec<String>) = bodies.iter().cloned().partition(|body| body.contains("good"));
    let (stored, dead) = (names.read(50 * good.len()), names.read_from("dead", 50 * odd.len()));
    assert_eq!((stored.len(), dead.len()), (50 * 86, 50 * 14), "of 5000");
    for id in &scene.instances {
        let of_instance = |messages: &[Message]| -> Vec<String> {
            let ours = messages.iter().filter(|message| message.header("idinstance") == Some(id));
            ours.map(|message| message.body.clone()).collect()
        };
        assert_eq!((of_instance(&stored), of_instance(&dead)), (good.clone(), odd.clone()), "{id}");
    }
    let log = bridge.log();
    let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let reported: BTreeSet<String> = lines
        .filter(|line| line["event"] == "dead_letter" && line["reason"] == "unroutable")
        .map(|line| line["id"].as_str().unwrap().to_owned())
        .collect();
    assert!(
        reported.iter().map(String::as_str).eq(dead.iter().map(|m| m.header("id").unwrap()).collect::<BTreeSet<_>>())
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_of_another_kind_is_used_as_it_is_and_reported() {
    let (scene, names) = (Scene::new().await, Names::new());
    scene.push(["1"]);
    names.operate(&[("queue_declare", json!({"queue": names.queue(), "durable": true}))]);
    let bridge = scene.start_with("bridge", &names.sink(""));
    scene.drained();
    assert_eq!(bodies_of(&names.read(1)), ["1"]);
    let log = bridge.log();
    // RabbitMQ 4 says which kind it has, 3 says nothing of it.
    assert!(log.contains("x-queue-type (wanted `quorum`, has "), "{log}");
    assert_eq!(log.matches("differs from what would be declared").count(), 1, "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_that_is_not_durable_is_waited_for() {
    let (scene, names) = (Scene::new().await, Names::new());
    scene.push(["1"]);
    names.operate(&[("queue_declare", json!({"queue": names.queue(), "durable": false}))]);
    let bridge = scene.start_with("bridge", &names.sink(""));
    bridge.wait_for_log("sink_unavailable");
    for part in ["sink.amqp.queue", "inequivalent arg 'durable'", "delete it"] {
        assert!(bridge.log().contains(part), "{part}: {}", bridge.log());
    }
    names.operate(&[("queue_delete", json!({"queue": names.queue()}))]);
    scene.drained();
    assert_eq!(bodies_of(&names.read(1)), ["1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exchange_that_differs_is_reported_with_the_difference_and_flows_when_it_is_mended() {
    let (scene, names) = (Scene::new().await, Names::new());
    scene.push(["1"]);
    names.operate(&[("exchange_declare", json!({"exchange": names.name, "exchange_type": "fanout", "durable": true}))]);
    let bridge = scene.start_with("bridge", &names.sink(""));
    bridge.wait_for_log("sink_unavailable");
    for part in ["sink.amqp.exchange", "received 'topic' but current is 'fanout'", "name another `exchange`"] {
        assert!(bridge.log().contains(part), "{part}: {}", bridge.log());
    }
    names.operate(&[("exchange_delete", json!({"exchange": names.name}))]);
    scene.drained();
    assert_eq!(bodies_of(&names.read(1)), ["1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_declared_is_waited_for_and_used_as_it_is() {
    let (scene, names) = (Scene::new().await, Names::new());
    scene.push(["1"]);
    let bridge = scene.start_with("bridge", &names.sink(", declare: false"));
    bridge.wait_for_log("sink_unavailable");
    for part in ["sink.amqp.exchange", "NOT_FOUND", "create it"] {
        assert!(bridge.log().contains(part), "{part}: {}", bridge.log());
    }
    // Nothing of this would the bridge have declared.
    let arguments = json!({"x-max-length": 10, "x-overflow": "reject-publish"});
    names.operate(&[
        ("exchange_declare", json!({"exchange": names.name, "exchange_type": "fanout", "durable": true})),
        ("queue_declare", json!({"queue": names.queue(), "durable": true, "arguments": arguments})),
        ("queue_bind", json!({"queue": names.queue(), "exchange": names.name})),
        ("queue_declare", json!({"queue": format!("{}.dead", names.name), "durable": true})),
    ]);
    scene.drained();
    assert_eq!(bodies_of(&names.read(1)), ["1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_kind_of_queue_keeps_what_is_stored() {
    for kind in ["quorum", "classic", "stream"] {
        let bodies = numbered(50);
        let (scene, names) = (Scene::fleet(4, &bodies).await, Names::new());
        let bridge = scene.start_with("bridge", &names.sink(&format!(", queue_type: {kind}")));
        scene.drained();
        let messages = if kind == "stream" { names.read_stream(200) } else { names.read(200) };
        print!("{kind}: ");
        assert_kept(&scene, &messages, &bodies, marks_due(&scene, &bridge.log()));
        if kind == "stream" {
            assert_eq!(names.read_stream(200).len(), 200, "reading a stream consumes nothing");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_routing_key_holds_only_what_is_harmless_in_it() {
    let (scene, names) = (Scene::new().await, Names::new());
    scene.push([r#"{"typeWebhook":"a.b.#"}"#, r#"{"typeWebhook":"*"}"#, "{}", r#"{"typeWebhook":"fine-1_"}"#]);
    let _bridge = scene.start_with("bridge", &names.sink(""));
    scene.drained();
    let messages = names.read(4);
    let keys: Vec<&str> = messages.iter().map(|message| message.value["routing_key"].as_str().unwrap()).collect();
    assert_eq!(keys, ["unknown", "unknown", "unknown", "fine-1_"].map(|kind| format!("{ID}.{kind}")));
}

/// What is in a queue when it is deleted goes with it, also what is confirmed in that moment: so it is empty here.
#[tokio::test(flavor = "multi_thread")]
async fn a_queue_deleted_while_the_bridge_runs_is_declared_again() {
    for kind in ["quorum", "classic"] {
        let bodies = numbered(90);
        let (scene, names) = (Scene::fleet(4, &[]).await, Names::new());
        let bridge = scene.start_with("bridge", &names.sink(&format!(", queue_type: {kind}")));
        let mut messages = Vec::new();
        for part in bodies.chunks(30) {
            scene.push_to_all(part);
            scene.drained();
            messages.extend(names.read(4 * 30));
            names.operate(&[("queue_delete", json!({"queue": names.queue()}))]);
        }
        print!("{kind}: ");
        assert_kept(&scene, &messages, &bodies, marks_due(&scene, &bridge.log()));
        assert_eq!(bridge.log().matches(&event("sink_owned")).count(), 1, "it is no reason to connect anew");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exchange_deleted_under_load_is_declared_again() {
    let bodies = numbered(200);
    let (scene, names) = (Scene::fleet(10, &bodies).await, Names::new());
    let bridge = scene.start_with("bridge", &names.sink(""));
    for left in [1500, 1000] {
        eventually("it works", || scene.queued() <= left);
        names.operate(&[("exchange_delete", json!({"exchange": names.name}))]);
    }
    scene.drained();
    let log = bridge.log();
    assert!(log.contains("NOT_FOUND - no exchange"), "the broker's reason is reported: {log}");
    assert_kept(&scene, &names.read(2000), &bodies, marks_due(&scene, &log));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_permission_taken_away_under_load_is_waited_for() {
    let bodies = numbered(400);
    let (scene, shared) = (Scene::fleet(10, &bodies[..200]).await, Names::new());
    operator(&["add_user", &shared.name, "passw0rd"]);
    operator(&["set_permissions", &shared.name, ".*", ".*", ".*"]);
    let names =
        Names { uri: shared.uri.replace("guest:guest@", &format!("{}:passw0rd@", shared.name)), name: shared.name };
    let bridge = scene.start_with("bridge", &names.sink(""));
    eventually("it works", || scene.queued() <= 1500);
    operator(&["set_permissions", &names.name, "^$", "^$", "^$"]);
    // An open channel keeps its rights for a while.
    operator(&["close_all_user_connections", &names.name, "by a test"]);
    scene.push_to_all(&bodies[200..]);
    bridge.wait_for_log("ACCESS_REFUSED");
    operator(&["set_permissions", &names.name, ".*", ".*", ".*"]);
    scene.drained();
    assert_kept(&scene, &names.read(4000), &bodies, marks_due(&scene, &bridge.log()));
    operator(&["delete_user", &names.name]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_that_is_full_for_a_while_is_waited_for() {
    let bodies = numbered(30);
    for (kind, consumed) in [("classic", true), ("classic", false), ("quorum", true), ("quorum", false)] {
        let (scene, names) = (Scene::fleet(4, &bodies).await, Names::new());
        let limit = r#"{"max-length":20,"overflow":"reject-publish"}"#;
        operator(&["set_policy", "--apply-to", "queues", &names.name, &format!("^{}$", names.queue()), limit]);
        let bridge = scene.start_with("bridge", &names.sink(&format!(", queue_type: {kind}")));
        bridge.wait_for_log("a queue refused it");
        assert!(scene.queued() > 0);
        // Room is made by a consumer, or by who gives the queue more of it.
        let mut messages = if consumed { names.read(120) } else { Vec::new() };
        if !consumed {
            operator(&["clear_policy", &names.name]);
        }
        scene.drained();
        messages.extend(names.read(120 - messages.len().min(120)));
        if consumed {
            operator(&["clear_policy", &names.name]);
        }
        print!("{kind}, room made by {}: ", if consumed { "a consumer" } else { "an operator" });
        assert_kept(&scene, &messages, &bodies, marks_due(&scene, &bridge.log()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_binding_can_choose_by_message_and_chat() {
    let (scene, names) = (Scene::new().await, Names::new());
    names.operate(&[
        ("exchange_declare", json!({"exchange": names.name, "exchange_type": "topic", "durable": true})),
        ("queue_declare", json!({"queue": names.queue(), "durable": true})),
        (
            "queue_bind",
            json!({"queue": names.queue(), "exchange": names.name, "routing_key": "*.incomingMessageReceived.*.private"}),
        ),
    ]);
    let bodies = [
        in_chat("textMessage", "79990000001@c.us"),
        in_chat("textMessage", "120363000000000001@g.us"),
        in_chat("imageMessage", "100000000000001@lid"),
        r#"{"typeWebhook":"incomingCall","from":"79990000001@c.us"}"#.to_owned(),
    ];
    scene.push(bodies.iter().map(String::as_str));
    let sink = names.sink_without_queue(", routing_key: '{instance}.{type}.{message}.{chat}'");
    let _bridge = scene.start_with("bridge", &sink);
    scene.drained();
    let read: Vec<String> = names.read(2).into_iter().map(|message| message.body).collect();
    assert_eq!(read, [bodies[0].clone(), bodies[2].clone()], "of groups and calls there is nothing");
    assert_eq!(names.read_from("dead", 2).len(), 2);
}
