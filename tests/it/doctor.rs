use green_api_bridge::emulator::EventKind;
use serde_json::Value;

use crate::scene::{ID, Scene, TOKEN};
use crate::support::run;

/// Exit code, whether all is well, and the names of the failed checks.
fn doctor(scene: &Scene, sink: &str) -> (i32, bool, Vec<String>) {
    let mut command = crate::support::command();
    command
        .current_dir(&scene.folder)
        .args(["doctor", "--json", "--sink", sink])
        .env("GREEN_API_URL", scene.emulator.url())
        .env("GREEN_API_ID_INSTANCE", ID)
        .env("GREEN_API_TOKEN", TOKEN);
    let (code, stdout, stderr) = run(&mut command);
    for secret in [TOKEN, "canary"] {
        assert!(!stdout.contains(secret) && !stderr.contains(secret), "{stdout} {stderr}");
    }
    let report: Value = serde_json::from_str(&stdout).unwrap_or_else(|_| panic!("{stdout} {stderr}"));
    let checks = report["checks"].as_array().unwrap().iter();
    let failed = checks.filter(|check| check["ok"] == false).map(|check| check["check"].as_str().unwrap().to_owned());
    (code, report["ok"] == true, failed.collect())
}

fn make_ready(scene: &Scene) {
    let mut setup = crate::support::command();
    setup.args(["setup", "--apply"]).env("GREEN_API_URL", scene.emulator.url());
    let (code, _, told) = run(setup.env("GREEN_API_ID_INSTANCE", ID).env("GREEN_API_TOKEN", TOKEN));
    assert_eq!(code, 0, "{told}");
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

#[cfg(feature = "kafka")]
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
    assert_eq!(bridge.log().matches("owning the Kafka sink").count(), 1, "{}", bridge.log());
    assert_eq!(doctor(&scene, &sink("127.0.0.1:1")), (1, false, vec!["broker".to_owned()]));
}

#[cfg(feature = "amqp")]
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
    assert_eq!(bridge.log().matches("owning the AMQP sink").count(), 1, "{}", bridge.log());
    assert_eq!(doctor(&scene, &sink("amqp://guest:guest@127.0.0.1:1/%2f")), (1, false, vec!["broker".to_owned()]));
}
