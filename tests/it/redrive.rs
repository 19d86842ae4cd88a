//! Dead letters published again, by a command that is killed meanwhile.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use nix::sys::signal::Signal;
use serde_json::json;

use crate::kafka_poison::noise;
use crate::kafka_topics::{Record, Topics};
use crate::rabbitmq_queues::Names;
use crate::scene::{ID, Scene, numbered};
use crate::support::{command, foreign_client, run, times};

fn of(config: &Path, arguments: &[&str]) -> Command {
    let mut command = command();
    command.arg("redrive").arg("--config").arg(config).args(arguments).current_dir(config.parent().unwrap());
    command
}

/// Exit code and the last line: how many were redriven, redriven earlier, passed over, refused.
fn redrive(config: &Path, arguments: &[&str]) -> (i32, String) {
    let (code, stdout, stderr) = run(&mut of(config, arguments));
    assert_eq!(stdout, "");
    let counts = stderr.lines().rfind(|line| line.contains(" passed over, "));
    (code, counts.unwrap_or_else(|| panic!("{stderr}")).to_owned())
}

/// Killed when it reaches a step for the n-th time, for some steps, and each n from 1.
#[cfg(feature = "fault-hooks")]
fn killed(config: &Path, arguments: &[&str], steps: &[&str]) {
    use std::os::unix::process::ExitStatusExt;
    for kill in 0..times(5, 20) {
        let (step, nth) = (steps[kill % steps.len()], 1 + kill % 3);
        let output = of(config, arguments).env("BRIDGE_FAULT", format!("SIGKILL@{step}#{nth}")).output().unwrap();
        assert_eq!(output.status.signal(), Some(9), "{step}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

/// The bodies and sequences of each instance, those that were redriven apart.
fn by_instance(records: &[Record]) -> BTreeMap<(String, bool), Vec<(String, String)>> {
    let mut found = BTreeMap::<_, Vec<_>>::new();
    for Record { headers, body, .. } in records {
        assert!(!headers.contains_key("ce_deadletterreason") && !headers.contains_key("ce_originaldestination"));
        let is_redriven = headers.get("ce_redriven").is_some_and(|value| value == "true");
        let found: &mut Vec<_> = found.entry((headers["ce_idinstance"].clone(), is_redriven)).or_default();
        found.push((headers["ce_sequence"].clone(), body.clone()));
        found.sort();
    }
    found
}

#[cfg(feature = "fault-hooks")]
#[tokio::test(flavor = "multi_thread")]
async fn from_kafka_each_letter_arrives_once_however_often_it_is_killed() {
    let bodies: Vec<String> = (0..20)
        .map(|index| match index % 2 {
            0 => format!(r#"{{"typeWebhook":"incomingCall","n":{index}}}"#),
            _ => format!("{}{}", noise(40_000).trim_end_matches('}'), format_args!(r#","n":{index}}}"#)),
        })
        .collect();
    let (scene, topics) = (Scene::fleet(5, &bodies).await, Topics::new());
    let notifications = format!("{}.notifications", topics.name);
    foreign_client("create_kafka.py", &[&topics.servers, &notifications, "max.message.bytes=20000"]);
    let sink = format!("{}\nshards: 3", topics.sink(""));
    // Beside a bridge that has all shards.
    let bridge = scene.start_with("bridge", &sink);
    scene.drained();
    let config = scene.config("redrive", &sink);
    let count = |redriven, earlier, passed, refused| {
        format!("{redriven} redriven, {earlier} redriven earlier, {passed} passed over, {refused} refused")
    };
    assert_eq!(redrive(&config, &["--from", "dir"]), (0, count(0, 0, 0, 0)), "there is no folder");
    assert_eq!(redrive(&config, &["--from", "kafka"]), (0, count(0, 0, 50, 0)), "it would be too large again");
    let all = ["--from", "kafka", "--reason", "too_large"];
    assert_eq!(redrive(&config, &all), (1, count(0, 0, 0, 50)), "and is");
    foreign_client("configure_kafka.py", &[&topics.servers, &notifications, "max.message.bytes", "200000"]);
    let one = scene.instances[0].as_str();
    let of_one = [&all[..], &["--instance", one]].concat();
    let would = count(10, 0, 40, 0).replace(" redriven,", " would be redriven,");
    assert_eq!(redrive(&config, &[&of_one[..], &["--dry-run"]].concat()), (0, would));
    assert_eq!(redrive(&config, &of_one), (0, count(10, 0, 40, 0)));
    killed(&config, &all, &["produced", "delivered", "before_commit", "redriven"]);
    let (code, counts) = redrive(&config, &all);
    assert!(code == 0 && counts.ends_with(", 0 passed over, 0 refused"), "{counts}");
    assert_eq!(redrive(&config, &all), (0, count(0, 50, 0, 0)));
    let none = count(0, 50, 0, 0).replace(" redriven,", " would be redriven,");
    assert_eq!(redrive(&config, &[&all[..], &["--dry-run"]].concat()), (0, none));
    scene.push_to_all(&numbered(1));
    scene.drained();
    assert!(bridge.stop(Signal::SIGTERM).0.success());

    let found = by_instance(&topics.read(105));
    let dead = topics.read_from("dead", 50);
    let numbers = |first: u64| (0..10).map(move |index| format!("{:020}", 2 * index + first));
    for id in &scene.instances {
        let (good, large): (Vec<String>, Vec<String>) = bodies.iter().cloned().partition(|body| body.len() < 20_000);
        let last = (format!("{:020}", 21), numbered(1).remove(0));
        let plain: Vec<_> = numbers(1).zip(good).chain([last]).collect();
        assert!(found[&(id.clone(), false)] == plain, "of {id}");
        assert!(found[&(id.clone(), true)] == numbers(2).zip(large).collect::<Vec<_>>(), "redriven of {id}");
    }
    let ids = |records: &[&Record]| -> Vec<String> {
        let mut ids: Vec<_> = records.iter().map(|record| record.headers["ce_id"].clone()).collect();
        ids.sort();
        ids
    };
    let records = topics.read(105);
    let redriven: Vec<&Record> = records.iter().filter(|record| record.headers.contains_key("ce_redriven")).collect();
    assert_eq!(ids(&redriven), ids(&dead.iter().collect::<Vec<_>>()));
    assert!(redriven.iter().all(|record| record.key == record.headers["ce_idinstance"]));
    let (code, stdout, stderr) = run(command().args(["verify", "--json", "--config"]).arg(&config));
    assert_eq!(code, 0, "{stdout}{stderr}");
}

#[cfg(feature = "fault-hooks")]
#[tokio::test(flavor = "multi_thread")]
async fn from_rabbitmq_a_second_copy_is_marked_however_often_it_is_killed() {
    let bodies = numbered(20);
    let (scene, names) = (Scene::fleet(3, &bodies).await, Names::new());
    let sink = names.sink_without_queue("");
    let bridge = scene.start_with("bridge", &sink);
    scene.drained();
    assert!(bridge.stop(Signal::SIGTERM).0.success());
    let config = scene.config("redrive", &sink);
    let all = ["--from", "amqp"];
    let none = "0 redriven, 0 redriven earlier, 0 passed over, 60 refused";
    assert_eq!(redrive(&config, &all), (1, none.into()), "still no queue is bound");
    names.operate(&[
        ("queue_declare", json!({"queue": names.queue(), "durable": true})),
        ("queue_bind", json!({"queue": names.queue(), "exchange": names.name, "routing_key": "#"})),
    ]);
    killed(&config, &all, &["redriven"]);
    let (code, counts) = redrive(&config, &all);
    assert!(code == 0 && counts.ends_with(" redriven, 0 redriven earlier, 0 passed over, 0 refused"), "{counts}");
    let messages = names.read(60);
    let mut seen = BTreeMap::<(&str, &str), usize>::new();
    for message in &messages {
        let id = (message.header("idinstance").unwrap(), message.body.as_str());
        let copies = seen.entry(id).or_default();
        assert!(*copies == 0 || message.is_marked(), "a second copy without a mark: {:?}", message.value["headers"]);
        *copies += 1;
        assert_eq!(message.header("redriven"), Some("true"));
        assert_eq!(message.header("deadletterreason"), None);
        assert_eq!(message.value["routing_key"], format!("{}.incomingCall", id.0));
        assert_eq!(message.value["properties"]["message_id"].as_str(), message.header("id"));
    }
    assert_eq!(seen.len(), 60);
    assert!(messages.len() > 60, "what is confirmed and not acknowledged comes again");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_consumers_rejected_returns_to_their_queue_alone() {
    let (scene, names) = (Scene::new().await, Names::new());
    scene.push(["1", "2"]);
    let bridge = scene.start_with("bridge", &names.sink(""));
    scene.drained();
    assert!(bridge.stop(Signal::SIGTERM).0.success());
    let other = format!("{}.other", names.name);
    names.operate(&[
        ("queue_declare", json!({"queue": other, "durable": true})),
        ("queue_bind", json!({"queue": other, "exchange": names.name, "routing_key": "#"})),
    ]);
    foreign_client("reject_rabbitmq.py", &[&names.uri, &names.queue(), "25"]);
    let config = scene.config("redrive", &names.sink(""));
    let one = "1 redriven, 0 redriven earlier, 0 passed over, 0 refused";
    assert_eq!(redrive(&config, &["--from", "rejected"]), (0, one.into()));
    let mut messages = names.read(2);
    messages.sort_by_key(|message| message.body.clone());
    let [first, second] = &messages[..] else { panic!("{}", messages.len()) };
    assert_eq!((first.body.as_str(), first.header("redriven"), first.is_marked()), ("1", Some("true"), true));
    assert!(first.value["headers"]["x-death"].is_null(), "it may be rejected as often as any other");
    assert_eq!((second.body.as_str(), second.header("redriven")), ("2", None));
    assert_eq!(names.read_from("other", 0).len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_of_the_folder_is_published_to_kafka_and_removed() {
    let (scene, topics, large) = (Scene::new().await, Topics::new(), noise(40_000));
    scene.push([large.as_str()]);
    let bridge = scene.start_with("bridge", &topics.sink(", properties: {message.max.bytes: 20000}"));
    scene.drained();
    assert!(bridge.stop(Signal::SIGTERM).0.success());
    let config = scene.config("redrive", &topics.sink(""));
    let letters = || std::fs::read_dir(scene.path("dead-letters")).unwrap().count();
    let all = ["--from", "dir", "--reason", "too_large"];
    let dry_run = [&all[..], &["--dry-run"]].concat();
    assert_eq!(
        redrive(&config, &dry_run),
        (1, "0 would be redriven, 0 redriven earlier, 0 passed over, 1 refused".into())
    );
    assert_eq!(letters(), 1);
    assert_eq!(
        redrive(&config, &all),
        (1, "0 redriven, 0 redriven earlier, 0 passed over, 1 refused".into()),
        "no topic"
    );
    foreign_client(
        "create_kafka.py",
        &[&topics.servers, &format!("{}.notifications", topics.name), "max.message.bytes=200000"],
    );
    let would = "1 would be redriven, 0 redriven earlier, 0 passed over, 0 refused";
    assert_eq!(redrive(&config, &dry_run), (0, would.into()));
    assert_eq!(redrive(&config, &all), (0, would.replace(" would be redriven", " redriven")));
    assert_eq!(letters(), 0);
    let [record] = &topics.read(1)[..] else { panic!() };
    assert!(record.body == large && record.key == ID && record.headers["ce_redriven"] == "true");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_of_the_folder_that_may_have_been_published_to_rabbitmq_is_marked() {
    let (scene, names) = (Scene::new().await, Names::new());
    names.operate(&[("exchange_declare", json!({"exchange": names.name, "exchange_type": "topic", "durable": true}))]);
    scene.push(["1", "2"]);
    // Without a dead-letter queue.
    let sink = names.sink_without_queue(", declare: false");
    let bridge = scene.start_with("bridge", &sink);
    scene.drained();
    assert!(bridge.stop(Signal::SIGTERM).0.success());
    let letters = || -> Vec<_> {
        let letters = std::fs::read_dir(scene.path("dead-letters")).unwrap().map(|entry| entry.unwrap().path());
        letters.collect()
    };
    let is_second = |path: &&std::path::PathBuf| std::fs::read_to_string(path).unwrap().contains(r#""data":2"#);
    let files = letters();
    let second = files.iter().find(is_second).unwrap();
    std::fs::rename(second, second.with_extension("redriving")).unwrap();
    names.operate(&[
        ("queue_declare", json!({"queue": names.queue(), "durable": true})),
        ("queue_bind", json!({"queue": names.queue(), "exchange": names.name, "routing_key": "#"})),
    ]);
    let both = "2 redriven, 0 redriven earlier, 0 passed over, 0 refused";
    assert_eq!(redrive(&scene.config("redrive", &sink), &["--from", "dir"]), (0, both.into()));
    assert_eq!(letters().len(), 0);
    let messages = names.read(2);
    let marks: Vec<_> = messages.iter().map(|message| (message.body.as_str(), message.is_marked())).collect();
    // The first of its instance was marked by the bridge.
    assert_eq!(marks, [("2", true), ("1", true)]);
}
