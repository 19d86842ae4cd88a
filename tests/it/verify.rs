use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::scene::{ID, Scene, numbered};
use crate::support::{command, run};

/// Runs `verify --json`: its exit code and what it found of the first instance.
pub fn verify(folder: &Path, arguments: &[&str]) -> (i32, Value) {
    let (code, stdout, stderr) = run(command().current_dir(folder).args(["verify", "--json"]).args(arguments));
    let report: Value = serde_json::from_str(&stdout).unwrap_or_else(|error| panic!("{error}: {stdout}{stderr}"));
    assert_eq!(report["ok"], code == 0, "{report}");
    (code, report["instances"][0].clone())
}

fn found(published: usize, lost: usize, doubled: usize, reordered: usize) -> Value {
    json!({"id": ID.parse::<u64>().unwrap(), "published": published, "lost": lost, "doubled": doubled, "repeated": 0, "marked": 0,
           "reordered": reordered, "dead_lettered": 0})
}

#[tokio::test(flavor = "multi_thread")]
async fn each_fault_planted_in_a_file_is_found() {
    let scene = Scene::new().await;
    let bodies = numbered(5);
    scene.push(bodies.iter().map(String::as_str));
    let _bridge = scene.start_into_file();
    scene.drained();
    let written = fs::read_to_string(scene.path("out.jsonl")).unwrap();
    let lines: Vec<&str> = written.lines().collect();
    let plant = |order: &[usize]| {
        let planted: Vec<&str> =
            order.iter().map(|place| lines[*place]).chain(["somebody else's", "{\"torn\":"]).collect();
        fs::write(scene.path("planted.jsonl"), planted.join("\n")).unwrap();
        verify(scene.folder.path(), &["--sink", "file:planted.jsonl"])
    };
    assert_eq!(plant(&[0, 1, 2, 3, 4]), (0, found(5, 0, 0, 0)));
    assert_eq!(plant(&[0, 1, 3, 4]), (1, found(4, 1, 0, 0)));
    assert_eq!(plant(&[2, 3, 4]), (1, found(3, 2, 0, 0)));
    assert_eq!(plant(&[0, 1, 2, 3, 1, 4]), (1, found(6, 0, 1, 0)));
    assert_eq!(plant(&[0, 2, 1, 3, 4]), (1, found(5, 0, 0, 1)));
    let (code, stdout, stderr) = run(command().current_dir(&scene.folder).args(["verify", "--sink", "file:out.jsonl"]));
    assert_eq!((code, stdout.as_str()), (0, ""), "data only on stdout");
    assert!(stderr.contains("instance") && stderr.contains(ID), "{stderr}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_green_api_queued_twice_is_no_fault() {
    let scene = Scene::new().await;
    let bodies = numbered(3);
    scene.push([0, 1, 0, 2, 1].map(|index| bodies[index].as_str()));
    let _bridge = scene.start_into_file();
    scene.drained();
    let (code, found) = verify(scene.folder.path(), &["--sink", "file:out.jsonl"]);
    let counts = ["published", "lost", "doubled", "repeated", "reordered"].map(|count| found[count].as_u64().unwrap());
    assert_eq!((code, counts), (0, [5, 0, 0, 2, 0]));
}

#[test]
fn what_cannot_be_verified_says_why() {
    let folder = tempfile::tempdir().unwrap();
    for (sink, output, wanted) in [
        ("stdout:", "has nothing that could be verified", 1),
        ("file:nowhere.jsonl", "sink.file.path nowhere.jsonl", 1),
        ("nonsense", "expected stdout:", 2),
    ] {
        let (code, _, stderr) = run(command().current_dir(&folder).args(["verify", "--sink", sink]));
        assert!(code == wanted && stderr.contains(output), "{sink}: {code} {stderr}");
    }
}

#[cfg(feature = "broker-tests")]
#[tokio::test(flavor = "multi_thread")]
async fn each_fault_planted_in_a_topic_is_found() {
    use crate::kafka_topics::Topics;

    let (scene, topics) = (Scene::new().await, Topics::new());
    let bodies = numbered(5);
    scene.push(bodies.iter().map(String::as_str));
    let _bridge = scene.start_with("bridge", &topics.sink(""));
    scene.drained();
    let verify = |topic: &str| {
        let sink = topics.sink("").replace(&format!("{}.notifications", topics.name), topic);
        let config = scene.config("verify", &sink);
        verify(scene.folder.path(), &["--config", config.to_str().unwrap()])
    };
    assert_eq!(verify(&format!("{}.notifications", topics.name)), (0, found(5, 0, 0, 0)));
    // The last is missing in one: only the ledger knows of it.
    for (name, order, wanted) in [
        ("lost", &[0, 1, 3, 4][..], found(4, 1, 0, 0)),
        ("last", &[0, 1, 2, 3], found(4, 1, 0, 0)),
        ("doubled", &[0, 1, 2, 3, 1, 4], found(6, 0, 1, 0)),
        ("reordered", &[0, 2, 1, 3, 4], found(5, 0, 0, 1)),
    ] {
        topics.copy(name, order);
        assert_eq!(verify(&format!("{}.{name}", topics.name)), (1, wanted), "{name}");
    }
}
