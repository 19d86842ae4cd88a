use std::fs;
use std::path::PathBuf;

use crate::rabbitmq_queues::{Names, messages};
use crate::readme::example;
use crate::scene::Scene;
use crate::support::{foreign_client, from_test_run, rabbitmqctl};

/// The folder of the broker that all tests share.
fn broker() -> PathBuf {
    PathBuf::from(from_test_run("BRIDGE_TEST_RABBITMQ_DIR"))
}

/// What the config says of a file of the broker's authority.
fn certificate(key: &str, name: &str) -> String {
    format!(", {key}: {}", broker().join("tls").join(name).display())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_authority_of_ones_own_is_trusted_when_it_is_named() {
    let uri = from_test_run("BRIDGE_TEST_AMQPS").replace("://", "://guest:guest@");
    let (scene, names) = (Scene::new().await, Names::at(uri));
    scene.push(["1"]);
    let bridge = scene.start_with("without", &names.sink(""));
    bridge.wait_for_log("sink_unavailable");
    assert!(bridge.log().contains("certificate"), "{}", bridge.log());
    bridge.kill();
    let _bridge = scene.start_with("bridge", &names.sink(&certificate("ca_file", "ca.pem")));
    scene.drained();
    let plain = Names { uri: from_test_run("BRIDGE_TEST_AMQP"), name: names.name };
    assert_eq!(plain.read(1)[0].body, "1");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_certificate_is_enough_to_log_in() {
    let (scene, names) =
        (Scene::new().await, Names::at(format!("{}?auth_mechanism=external", from_test_run("BRIDGE_TEST_AMQPS"))));
    // A user without a password, named as the certificate is.
    let users = r#"{"users": [{"name": "bridge-client", "password_hash": "", "tags": ""}], "permissions":
        [{"user": "bridge-client", "vhost": "/", "configure": ".*", "write": ".*", "read": ".*"}]}"#;
    let file = broker().join("users.json");
    fs::write(&file, users).unwrap();
    rabbitmqctl(&broker(), &["import_definitions", file.to_str().unwrap()]);
    scene.push(["1"]);
    let anybody = scene.start_with("anybody", &names.sink(&certificate("ca_file", "ca.pem")));
    anybody.wait_for_log("sink_unavailable");
    assert!(anybody.log().contains("ACCESS_REFUSED"), "{}", anybody.log());
    anybody.kill();
    fs::write(scene.path("password"), "wrong\n").unwrap();
    let files = certificate("ca_file", "ca.pem") + &certificate("client_identity_file", "client.p12");
    let files = format!("{files}, client_identity_password_file: {}", scene.path("password").display());
    let refused = scene.start_with("refused", &names.sink(&files));
    assert_eq!(refused.ended().code(), Some(78));
    let output = fs::read_to_string(scene.path("refused.log")).unwrap();
    assert!(output.contains("sink.amqp.client_identity_file") && !output.contains("wrong"), "{output}");
    fs::write(scene.path("password"), "identity\n").unwrap();
    // As the page shows it.
    let here = example("rabbitmq.md", "client_identity_file")
        .replace("/etc/green-api-bridge", broker().join("tls").to_str().unwrap())
        .replace("/run/secrets/client-password", scene.path("password").to_str().unwrap())
        .replace("amqps://rabbitmq.example.com:5671/%2f", &from_test_run("BRIDGE_TEST_AMQPS"));
    let _bridge = scene.start_with("bridge", here.strip_prefix("sink:").unwrap());
    scene.drained();
    let uri = from_test_run("BRIDGE_TEST_AMQP");
    let read = messages(foreign_client("read_rabbitmq.py", &[&uri, "green-api.notifications", "1"]));
    assert_eq!(read[0].body, "1");
}
