use std::process::Command;

use green_api_bridge::emulator::EventKind;
use serde_json::Value;

use crate::scene::{ID, Scene, TOKEN};
use crate::support::{event, run};

/// Exit code, whether all is well, and the names of the failed checks.
fn doctor(scene: &Scene, sink: &str) -> (i32, bool, Vec<String>) {
    let mut command = crate::support::command();
    command
        .current_dir(&scene.folder)
        .args(["doctor", "--json", "--sink", sink])
        .env("GREEN_API_URL", scene.emulator.url())
        .env("GREEN_API_ID_INSTANCE", ID)
        .env("GREEN_API_TOKEN", TOKEN);
    let (code, report) = report(&mut command);
    let failed = failed(&report).into_iter().map(|(check, _)| check);
    (code, report["ok"] == true, failed.collect())
}

/// The failed checks of this config's sink, and what they say.
#[cfg(feature = "broker-tests")]
pub fn failed_of_sink(scene: &Scene, sink: &str) -> Vec<(String, String)> {
    let mut command = crate::support::command();
    command.args(["doctor", "--json", "--config"]).arg(scene.config("doctor", sink));
    let (code, report) = report(&mut command);
    let mut failed = failed(&report);
    assert_eq!(code == 0, failed.is_empty(), "{report}");
    failed.retain(|(check, _)| check != "webhooks");
    failed
}

/// Exit code and checks, in which there is no secret.
fn report(command: &mut Command) -> (i32, Value) {
    let (code, stdout, stderr) = run(command);
    for secret in [TOKEN, "canary", "test-password"] {
        assert!(!stdout.contains(secret) && !stderr.contains(secret), "{stdout} {stderr}");
    }
    (code, serde_json::from_str(&stdout).unwrap_or_else(|_| panic!("{stdout} {stderr}")))
}

fn failed(report: &Value) -> Vec<(String, String)> {
    let checks = report["checks"].as_array().unwrap().iter().filter(|check| check["ok"] == false);
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    checks.map(|check| (text(&check["check"]), text(&check["detail"]))).collect()
}

fn make_ready(scene: &Scene) {
    let mut setup = crate::support::command();
    setup.args(["setup", "--apply"]).env("GREEN_API_URL", scene.emulator.url());
    let (code, _, output) = run(setup.env("GREEN_API_ID_INSTANCE", ID).env("GREEN_API_TOKEN", TOKEN));
    assert_eq!(code, 0, "{output}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_an_instance_is_named_and_nothing_is_received() {
    let scene = Scene::new().await;
    scene.push(["{}"]);
    assert_eq!(doctor(&scene, "file:out.jsonl"), (1, false, vec!["webhooks".to_owned()]));
    make_ready(&scene);
    assert_eq!(doctor(&scene, "file:out.jsonl"), (0, true, vec![]));
    let address = format!("{}/waInstance{ID}/setSettings/{TOKEN}", scene.emulator.url());
    let settings =
        |webhook: &str| reqwest::Client::new().post(&address).body(format!(r#"{{"webhookUrl":"{webhook}"}}"#)).send();
    assert!(settings("https://example.com/canary").await.unwrap().status().is_success());
    assert_eq!(doctor(&scene, "file:out.jsonl"), (1, false, vec!["webhook_url".to_owned()]));
    assert!(settings("").await.unwrap().status().is_success());
    scene.emulator.turn(ID, |knobs| knobs.state = "notAuthorized".to_owned());
    assert_eq!(doctor(&scene, "file:nowhere/out.jsonl"), (1, false, vec!["state".to_owned(), "file".to_owned()]));
    scene.emulator.set_token(ID, "another");
    assert_eq!(doctor(&scene, "stdout:"), (1, false, vec!["api".to_owned()]));
    assert_eq!(scene.count(EventKind::Received), 0);
    assert!(!scene.path("out.jsonl").exists());
}

/// Nothing that upstream says acts on a terminal.
#[tokio::test(flavor = "multi_thread")]
async fn what_upstream_says_is_shown_without_control_characters() {
    let scene = Scene::new().await;
    let address = format!("{}/waInstance{ID}/setSettings/{TOKEN}", scene.emulator.url());
    let odd = r#"{"stateWebhook":"\u001b[31mno\n\u202eyes"}"#;
    assert!(reqwest::Client::new().post(&address).body(odd).send().await.unwrap().status().is_success());
    let mut setup = crate::support::command();
    setup.arg("setup").env("GREEN_API_URL", scene.emulator.url());
    let (code, _, output) = run(setup.env("GREEN_API_ID_INSTANCE", ID).env("GREEN_API_TOKEN", TOKEN));
    assert_eq!(code, 0, "{output}");
    assert!(output.contains(r"stateWebhook: \u{1b}[31mno\n\u{202e}yes -> yes"), "{output:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_that_takes_no_dead_letters_is_named() {
    let scene = Scene::new().await;
    make_ready(&scene);
    let found = |more: &str| {
        let mut command = crate::support::command();
        command
            .args(["doctor", "--json", "--config"])
            .arg(scene.config("doctor", &format!("{{stdout: {{}}}}\n{more}")));
        failed(&report(&mut command).1)
    };
    assert_eq!(found(&format!("dead_letter_dir: {}", scene.path("a/b").display())), []);
    assert!(!scene.path("a").exists(), "nothing is created");
    std::fs::write(scene.path("file"), "").unwrap();
    std::fs::create_dir(scene.path("full")).unwrap();
    std::fs::write(scene.path("full/a.json"), vec![b' '; 1 << 20]).unwrap();
    for (more, named) in [
        (format!("dead_letter_dir: {}", scene.path("file").display()), "it is no folder"),
        (
            format!("dead_letter_dir: {}\ndead_letter_dir_limit_mib: 1", scene.path("full").display()),
            "it is full: remove files, or raise dead_letter_dir_limit_mib above 1",
        ),
    ] {
        let found = found(&more);
        let [(check, output)] = &found[..] else { panic!("{found:?}") };
        assert!(check == "dead_letter_dir" && output.ends_with(named), "{output}");
    }
}

#[cfg(feature = "broker-tests")]
#[tokio::test(flavor = "multi_thread")]
async fn kafka_is_looked_at_beside_a_running_bridge_without_disturbing_it() {
    let scene = Scene::new().await;
    make_ready(&scene);
    let sink = |servers: &str| format!("kafka://{servers}/test-{}", uuid::Uuid::new_v4().simple());
    let servers = crate::support::from_test_run("BRIDGE_TEST_KAFKA");
    let bridge = scene.start(&sink(&servers));
    scene.push(["1"]);
    scene.drained();
    assert_eq!(doctor(&scene, &sink(&servers)), (0, true, vec![]));
    scene.push(["2"]);
    scene.drained();
    assert_eq!(bridge.log().matches(&event("sink_owned")).count(), 1, "{}", bridge.log());
    assert_eq!(doctor(&scene, &sink("127.0.0.1:1")), (1, false, vec!["broker".to_owned()]));
}

#[cfg(feature = "broker-tests")]
#[tokio::test(flavor = "multi_thread")]
async fn what_replicas_need_is_looked_at_beside_them_without_disturbing_them() {
    let (scene, topics) = (Scene::new().await, crate::kafka_topics::Topics::new());
    let with = |more: &str, shards: u8| format!("{}\nshards: {shards}", topics.sink(more));
    let bridge = scene.start_with("bridge", &with("", 2));
    scene.push(["1"]);
    scene.drained();
    let owned = || bridge.log().matches(&event("sink_owned")).count();
    crate::support::eventually("both shards are open", || owned() == 2);
    assert_eq!(failed_of_sink(&scene, &with("", 2)), []);
    let of_brokers =
        failed_of_sink(&scene, &with(", properties: {session.timeout.ms: 100, heartbeat.interval.ms: 10}", 2));
    let [(check, output)] = &of_brokers[..] else { panic!("{of_brokers:?}") };
    assert_eq!(check, "session_timeout");
    assert_eq!(
        output,
        "`session.timeout.ms` is 100, and brokers accept 1000 to 1800000: set it in `sink.kafka.properties`"
    );
    for shards in [1, 3] {
        let of_ledger = failed_of_sink(&scene, &with("", shards));
        let [(check, output)] = &of_ledger[..] else { panic!("{of_ledger:?}") };
        assert!(check == "ledger_topic" && output.contains("set `shards: 2`"), "{output}");
    }
    scene.push(["2"]);
    scene.drained();
    let log = bridge.log();
    assert_eq!((owned(), log.matches(&event("shards_revoked")).count()), (2, 0), "{log}");
}

#[cfg(feature = "broker-tests")]
#[tokio::test(flavor = "multi_thread")]
async fn rabbitmq_is_looked_at_beside_a_running_bridge_without_disturbing_it() {
    let scene = Scene::new().await;
    make_ready(&scene);
    let name = format!("test-{}", uuid::Uuid::new_v4().simple());
    let sink = |uri: &str| format!("{uri}?exchange={name}&queue={name}");
    let uri = crate::support::from_test_run("BRIDGE_TEST_AMQP");
    let bridge = scene.start(&sink(&uri));
    scene.push(["1"]);
    scene.drained();
    assert_eq!(doctor(&scene, &sink(&uri)), (0, true, vec![]));
    scene.push(["2"]);
    scene.drained();
    assert_eq!(bridge.log().matches(&event("sink_owned")).count(), 1, "{}", bridge.log());
    assert_eq!(doctor(&scene, &sink("amqp://guest:guest@127.0.0.1:1/%2f")), (1, false, vec!["broker".to_owned()]));
}
