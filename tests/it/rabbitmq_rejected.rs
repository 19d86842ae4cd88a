use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::admin::{free_address, metrics_with, readiness, start, text};
use crate::network::{Network, Weather};
use crate::rabbitmq_queues::{Message, Names, messages};
use crate::scene::Scene;
use crate::support::{command, event, eventually, foreign_client, from_test_run, run};

/// More often than any delivery limit that a queue of notifications has.
const OFTEN: &str = "25";

/// A consumer that fails on what is in this queue. How often it got it.
fn reject(names: &Names, queue: &str) -> u64 {
    foreign_client("reject_rabbitmq.py", &[&names.uri, queue, OFTEN])[0].as_u64().unwrap()
}

fn read(names: &Names, queue: &str) -> Vec<Message> {
    messages(foreign_client("read_rabbitmq.py", &[&names.uri, queue, "1"]))
}

fn assert_rejected(message: &Message, body: &str) {
    assert_eq!(message.body, body);
    let death = &message.value["headers"]["x-death"][0];
    assert_eq!(death["reason"], "delivery_limit", "{death}");
}

/// The arguments of all queues of this test.
fn arguments_of(names: &Names) -> Vec<(String, Value)> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/brokers/rabbitmq");
    let mut list = Command::new(script);
    list.arg("ctl").arg(PathBuf::from(from_test_run("BRIDGE_TEST_RABBITMQ_DIR")));
    let (code, queues, output) = run(list.args(["--quiet", "list_queues", "--formatter", "json", "name", "arguments"]));
    assert_eq!(code, 0, "{output}");
    let queues: Vec<Value> = serde_json::from_str(&queues).expect(&queues);
    let mut ours: Vec<(String, Value)> = queues
        .into_iter()
        .filter_map(|queue| {
            let name = queue["name"].as_str()?.strip_prefix(&names.name)?.to_owned();
            Some((name, queue["arguments"].clone()))
        })
        .filter(|(name, _)| name != ".owner")
        .collect();
    ours.sort_by(|(one, _), (other, _)| one.cmp(other));
    ours
}

/// As the tool prints them: [[name, type, value], …].
fn argument<'a>(arguments: &'a Value, name: &str) -> Option<&'a Value> {
    let found = arguments.as_array()?.iter().find(|argument| argument[0] == name)?;
    Some(&found[2])
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_consumer_fails_on_again_and_again_is_kept() {
    let (scene, names) = (Scene::new().await, Names::new());
    scene.push(["1"]);
    let bridge = scene.start_with("bridge", &names.sink(""));
    scene.drained();
    let times = reject(&names, &names.queue());
    assert!((20..=21).contains(&times), "{times}");
    let config = scene.config("doctor", &names.sink(""));
    let output = format!("{}.rejected: 1 message(s)", names.queue());
    eventually("the doctor reports it", || {
        let (_, _, found) = run(command().arg("doctor").arg("--config").arg(&config));
        found.contains(&output)
    });
    // Counted at the start, and then once a minute.
    bridge.kill();
    let address = free_address();
    let bridge = start(&scene, &names.sink(""), &address);
    readiness(&address, 200).await;
    let metrics = metrics_with(&address, r#"green_api_bridge_rejected_messages{sink="amqp"} 1"#).await;
    let condition = r#"green_api_bridge_condition{id_instance="",condition="rejected_messages"} 1"#;
    assert!(metrics.contains(condition), "{metrics}");
    bridge.wait_for_log(&format!("there are messages in {}.rejected", names.queue()));
    let status: Value = serde_json::from_str(&text(&address, "/status").await).unwrap();
    assert_eq!(status["sink"]["rejected_messages"], 1, "{status}");
    assert_rejected(&names.read_from("notifications.rejected", 1)[0], "1");
}

/// As they are from RabbitMQ 4 on, unless they are configured otherwise.
#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_and_rejected_ones_have_no_limit_that_would_drop_them() {
    let (scene, names) = (Scene::new().await, Names::new());
    scene.push(["1"]);
    // Declared whatever becomes of what no queue takes.
    let _bridge = scene.start_with("bridge", &names.sink(", on_unroutable: wait"));
    scene.drained();
    let queues = arguments_of(&names);
    let [(dead, of_dead), (plain, of_queue), (rejected, of_rejected)] = &queues[..] else { panic!("{queues:?}") };
    assert_eq!([dead, plain, rejected], [".dead", ".notifications", ".notifications.rejected"]);
    for arguments in [of_dead, of_rejected] {
        assert_eq!(argument(arguments, "x-delivery-limit"), Some(&json!(1_000_000)), "{arguments}");
        assert_eq!(argument(arguments, "x-queue-type"), Some(&json!("quorum")));
        assert_eq!(arguments.as_array().unwrap().len(), 2, "no limit of its length: {arguments}");
    }
    for (name, value) in [
        ("x-queue-type", json!("quorum")),
        ("x-delivery-limit", json!(20)),
        ("x-overflow", json!("reject-publish")),
        ("x-dead-letter-exchange", json!("")),
        ("x-dead-letter-routing-key", json!(format!("{}.rejected", names.queue()))),
        ("x-dead-letter-strategy", json!("at-least-once")),
    ] {
        assert_eq!(argument(of_queue, name), Some(&value), "{of_queue}");
    }
}

/// An operator who looks at dead letters returns them to their queue.
#[tokio::test(flavor = "multi_thread")]
async fn a_dead_letter_that_is_returned_to_its_queue_stays_there() {
    let (scene, names) = (Scene::new().await, Names::new());
    scene.push(["NaN"]);
    let _bridge = scene.start_with("bridge", &names.sink(""));
    scene.drained();
    let dead = format!("{}.dead", names.name);
    assert_eq!(reject(&names, &dead), 25);
    assert_eq!(read(&names, &dead)[0].body, "NaN");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_operator_says_of_the_queue_goes_before() {
    let (scene, names) = (Scene::new().await, Names::new());
    scene.push(["1"]);
    let more = ", queue_arguments: {x-max-length: 1000, x-delivery-limit: 2, x-queue-leader-locator: balanced}";
    let _bridge = scene.start_with("bridge", &names.sink(more));
    scene.drained();
    let queues = arguments_of(&names);
    let (_, arguments) = queues.iter().find(|(name, _)| name == ".notifications").unwrap();
    for (name, value) in [
        ("x-max-length", json!(1000)),
        ("x-delivery-limit", json!(2)),
        ("x-queue-leader-locator", json!("balanced")),
        ("x-overflow", json!("reject-publish")),
    ] {
        assert_eq!(argument(arguments, name), Some(&value), "{arguments}");
    }
    assert!(reject(&names, &names.queue()) <= 3);
    assert_rejected(&names.read_from("notifications.rejected", 1)[0], "1");
}

#[tokio::test(flavor = "multi_thread")]
async fn classic_queues_and_streams_get_none_of_it() {
    for kind in ["classic", "stream"] {
        let (scene, names) = (Scene::new().await, Names::new());
        scene.push(["1"]);
        let _bridge = scene.start_with("bridge", &names.sink(&format!(", queue_type: {kind}")));
        scene.drained();
        let queues = arguments_of(&names);
        let seen: Vec<&str> = queues.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(seen, [".dead", ".notifications"], "{kind}");
        assert_eq!(queues[1].1, json!([["x-queue-type", "longstr", kind]]));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_made_without_all_this_is_used_and_reported_once_with_the_policy_that_gives_it() {
    let (scene, mut names) = (Scene::new().await, Names::new());
    // Nothing that a shell or a regular expression may take for its own.
    let queue = format!("{}.o'br $(id) [*]", names.name);
    let made = json!({"queue": queue, "durable": true, "arguments": {"x-queue-type": "quorum", "x-max-length": 1000}});
    names.operate(&[("queue_declare", made)]);
    let broker = names.uri.split(['@', '/']).nth(3).unwrap().to_owned();
    let address = free_address();
    let network = Network::start(&address, &broker).await;
    let direct = names.uri.clone();
    names.uri = names.uri.replace(&broker, &address);
    let sink = names.sink("").replace(&format!("queue: {}", names.queue()), &format!("queue: \"{queue}\""));
    scene.push(["1"]);
    let bridge = scene.start_with("bridge", &sink);
    scene.drained();
    network.becomes(Weather::Cut);
    bridge.wait_for_log("sink_unavailable");
    network.becomes(Weather::Fine);
    eventually("it is connected again", || bridge.log().matches(&event("sink_owned")).count() > 1);
    names.uri = direct;
    let log = bridge.log();
    let output: Vec<Value> = log
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|line| line["event"] == "queue_differs")
        .collect();
    assert_eq!(output.len(), 1, "once: {log}");
    let differs = output[0]["differs"].as_str().unwrap();
    for part in
        ["x-delivery-limit (wanted `20`, has none)", "x-max-length (wanted none, has `1000`)", "x-dead-letter-strategy"]
    {
        assert!(differs.contains(part), "{differs}");
    }
    // Pasted as it is.
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/brokers/rabbitmq");
    let here = format!("{} ctl {} ", script.display(), from_test_run("BRIDGE_TEST_RABBITMQ_DIR"));
    let pasted = output[0]["command"].as_str().unwrap().replacen("rabbitmqctl ", &here, 1);
    let (code, _, said) = run(Command::new("sh").args(["-c", &pasted]));
    assert_eq!(code, 0, "{pasted}: {said}");
    // A policy takes a moment.
    let rejected = format!("{queue}.rejected");
    eventually("it is rejected at last", || {
        reject(&names, &queue);
        foreign_client("read_rabbitmq.py", &[&names.uri, &queue, "0"]).is_empty()
    });
    assert_rejected(&read(&names, &rejected)[0], "1");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_their_queue_dead_letters_go_into_the_folder() {
    let (scene, names) = (Scene::new().await, Names::new());
    names.operate(&[("exchange_declare", json!({"exchange": names.name, "exchange_type": "topic", "durable": true}))]);
    scene.push(["1"]);
    let bridge = scene.start_with("bridge", &names.sink_without_queue(", declare: false"));
    scene.drained();
    assert!(bridge.log().contains(r#""kept_in":"dead_letter_dir""#), "{}", bridge.log());
    assert_eq!(std::fs::read_dir(scene.path("dead-letters")).unwrap().count(), 1);
}
