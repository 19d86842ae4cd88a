use serde_json::{Value, json};

use crate::rabbitmq_queues::Names;
use crate::scene::{ID, Scene, numbered};
use crate::support::{command, foreign_client, run};
use crate::verify::verify;

fn found(
    published: usize,
    lost: usize,
    doubled: usize,
    marked: usize,
    reordered: usize,
    dead_lettered: usize,
) -> Value {
    json!({"id": ID.parse::<u64>().unwrap(), "published": published, "lost": lost, "doubled": doubled, "repeated": 0,
           "marked": marked, "reordered": reordered, "dead_lettered": dead_lettered})
}

/// `verify --drain` with this sink.
fn drain(scene: &Scene, sink: &str) -> (i32, Value) {
    let config = scene.config("verify", sink);
    verify(scene.folder.path(), &["--drain", "--config", config.to_str().unwrap()])
}

#[tokio::test(flavor = "multi_thread")]
async fn each_fault_planted_in_a_queue_is_found() {
    let (scene, names) = (Scene::new().await, Names::new());
    let bodies = numbered(6);
    // The second bridge takes the ownership anew: its first is marked.
    for part in bodies.chunks(3) {
        let bridge = scene.start_with("bridge", &names.sink(""));
        scene.push(part.iter().map(String::as_str));
        scene.drained();
        bridge.kill();
    }
    for (name, order, code, wanted) in [
        ("whole", &[0, 1, 2, 3, 4, 5][..], 0, found(6, 0, 0, 2, 0, 0)),
        ("consumed", &[2, 3, 4, 5], 0, found(4, 0, 0, 1, 0, 0)),
        ("lost", &[0, 1, 2, 3, 5], 1, found(5, 1, 0, 2, 0, 0)),
        ("later", &[1, 2, 4, 5], 1, found(4, 1, 0, 0, 0, 0)),
        ("doubled", &[0, 1, 2, 3, 4, 1, 5], 1, found(7, 0, 1, 2, 0, 0)),
        ("marked", &[0, 1, 2, 3, 3, 4, 5], 0, found(7, 0, 0, 3, 0, 0)),
        ("reordered", &[0, 1, 3, 2, 4, 5], 1, found(6, 0, 0, 2, 1, 0)),
    ] {
        let target = format!("{}.{name}", names.name);
        let order: Vec<String> = order.iter().map(ToString::to_string).collect();
        let queue = names.queue();
        let arguments = [&names.uri, &queue, &target].into_iter().chain(&order);
        foreign_client("copy_rabbitmq.py", &arguments.map(String::as_str).collect::<Vec<_>>());
        let sink = names.sink("").replace(&names.queue(), &target);
        assert_eq!(drain(&scene, &sink), (code, wanted), "{name}");
        assert_eq!(drain(&scene, &sink), (0, found(0, 0, 0, 0, 0, 0)), "{name} is consumed");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_is_consumed_only_when_it_is_asked_for() {
    let (scene, names) = (Scene::new().await, Names::new());
    scene.push(["1", "2"]);
    let _bridge = scene.start_with("bridge", &names.sink(""));
    scene.drained();
    let config = scene.config("verify", &names.sink(""));
    let (code, stdout, stderr) = run(command().args(["verify", "--json", "--config"]).arg(config));
    assert!(code == 1 && stdout.is_empty() && stderr.contains("--drain"), "{code} {stdout} {stderr}");
    assert_eq!(names.read(2).len(), 2);
    let (_, help, _) = run(command().args(["verify", "--help"]));
    assert!(help.contains("acknowledged and thereby removed"), "{help}");
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_fill_the_places_that_they_left() {
    let (scene, names) = (Scene::new().await, Names::new());
    let large = format!(r#"{{"typeWebhook":"good","text":"{}"}}"#, "x".repeat(17 << 20));
    let [good, odd] = [r#"{"typeWebhook":"good"}"#, r#"{"typeWebhook":"odd"}"#];
    names.operate(&[
        ("exchange_declare", json!({"exchange": names.name, "exchange_type": "topic", "durable": true})),
        ("queue_declare", json!({"queue": names.queue(), "durable": true})),
        ("queue_bind", json!({"queue": names.queue(), "exchange": names.name, "routing_key": "*.good"})),
    ]);
    scene.push([good, odd, good, &large, good]);
    let _bridge = scene.start_with("bridge", &names.sink_without_queue(""));
    scene.drained();
    assert_eq!(drain(&scene, &names.sink("")), (0, found(3, 0, 0, 1, 0, 2)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_is_read_without_consuming_it() {
    let (scene, names) = (Scene::new().await, Names::new());
    let bodies = numbered(100);
    scene.push(bodies.iter().map(String::as_str));
    let sink = names.sink(", queue_type: stream");
    let _bridge = scene.start_with("bridge", &sink);
    scene.drained();
    let config = scene.config("verify", &sink);
    for _ in 0..2 {
        let (code, seen) = verify(scene.folder.path(), &["--config", config.to_str().unwrap()]);
        assert_eq!((code, seen), (0, found(100, 0, 0, 1, 0, 0)));
    }
    // Its dead letters lie in another kind of queue.
    names.operate(&[(
        "basic_publish",
        json!({"exchange": "", "routing_key": format!("{}.dead", names.name), "body": ""}),
    )]);
    let (code, _, stderr) = run(command().current_dir(&scene.folder).args(["verify", "--config"]).arg(config));
    assert!(code == 1 && stderr.contains("1 dead letters") && stderr.contains("--drain"), "{code} {stderr}");
    assert_eq!(drain(&scene, &sink), (0, found(100, 0, 0, 1, 0, 0)));
}
