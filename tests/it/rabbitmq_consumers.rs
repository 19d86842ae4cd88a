use green_api_bridge::emulator::{self, EventKind, Fault, FaultKind, Method};
use serde_json::{Value, json};

use crate::rabbitmq_queues::{Names, messages};
use crate::scene::{ID, Scene, numbered};
use crate::support::{eventually, foreign_client};

/// Declares two queues that get everything. Their names.
fn two_queues(names: &Names) -> [String; 2] {
    names.operate(&[("exchange_declare", json!({"exchange": names.name, "exchange_type": "topic", "durable": true}))]);
    ["python", "javascript"].map(|language| {
        let queue = format!("{}.{language}", names.name);
        names.operate(&[
            ("queue_declare", json!({"queue": queue, "durable": true})),
            ("queue_bind", json!({"queue": queue, "exchange": names.name, "routing_key": "#"})),
        ]);
        queue
    })
}

/// What `pika` and `amqplib` read.
fn read(names: &Names, queues: &[String; 2], count: usize, mode: &[&str]) -> [Vec<Value>; 2] {
    let count = count.to_string();
    let [python, javascript] = queues;
    let arguments = |queue| [&[names.uri.as_str(), queue, &count], mode].concat();
    [foreign_client("read_rabbitmq.py", &arguments(python)), foreign_client("read_rabbitmq.js", &arguments(javascript))]
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_of_others_read_the_same_bytes_properties_and_headers() {
    let (scene, names) = (Scene::new().await, Names::new());
    let queues = two_queues(&names);
    let odd = ["null", "{\n}", r#"{"\ud800":1}"#, "{\"typeWebhook\":\"a\",\"text\":\"\u{1f600} \u{2028}\"}"];
    let bodies: Vec<&str> = emulator::notifications().chain(odd).collect();
    scene.push(bodies.iter().copied());
    let _bridge = scene.start_with("bridge", &names.sink_without_queue(""));
    scene.drained();
    let [python, javascript] = read(&names, &queues, bodies.len(), &[]);
    assert_eq!(python, javascript);
    let seen: Vec<String> = messages(python).into_iter().map(|message| message.body).collect();
    assert_eq!(seen, bodies);
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_of_others_restore_exactly_once_by_dropping_repeated_ids() {
    let (scene, names) = (Scene::new().await, Names::new());
    let queues = two_queues(&names);
    let bodies = numbered(50);
    let sink = names.sink("");
    for (kill, part) in bodies.chunks(10).enumerate() {
        scene.push(part.iter().map(String::as_str));
        // Stored, and killed before it is deleted.
        scene.fault(Fault::before(FaultKind::Hang).on(Method::DeleteNotification));
        let bridge = scene.start_with("bridge", &sink);
        eventually("a delete arrives", || scene.count(EventKind::Faulted) == kill + 1);
        bridge.kill();
        let bridge = scene.start_with("bridge", &sink);
        scene.drained();
        bridge.kill();
    }
    let [python, javascript] = read(&names, &queues, bodies.len(), &["once"]);
    for client in [python, javascript] {
        let client = messages(client);
        assert_eq!(client.iter().map(|message| &message.body).collect::<Vec<_>>(), bodies.iter().collect::<Vec<_>>());
        assert!(client.iter().all(|message| message.header("idinstance") == Some(ID)));
    }
    assert_eq!(names.read(55).len(), 55, "five were stored twice");
}
