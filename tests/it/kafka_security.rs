//! TLS with a private authority, each way to log in, and a user who may do only what the page asks for.

use std::fs;

use crate::doctor::failed_of_sink;
use crate::kafka_topics::Topics;
use crate::readme::example;
use crate::scene::{ID, Scene, TOKEN, numbered};
use crate::support::{event, eventually, foreign_client, from_test_run};

/// What the page says that a bridge needs, on the topics of a test.
fn permit(topics: &Topics) {
    let name = &topics.name;
    let rules = [
        format!("allow:topic:{name}.*:create,describe,describe_configs,write"),
        format!("allow:topic:{name}.ledger:read"),
        format!("allow:transactional_id:{name}:describe,write"),
    ];
    permission(topics, &rules.each_ref().map(String::as_str));
}

/// Permits or forbids something to the user `bridge`: see `tests/clients/permit_kafka.py`.
pub fn permission(topics: &Topics, rules: &[&str]) {
    foreign_client("permit_kafka.py", &[&[topics.servers.as_str()], rules].concat());
}

/// A sink with these properties, at this of the broker's listeners.
pub fn secured(topics: &Topics, listener: &str, properties: &str) -> String {
    let authority = from_test_run("BRIDGE_TEST_KAFKA_KEYS") + "/authority.pem";
    topics
        .sink(&format!(", properties: {{ssl.ca.location: '{authority}', {properties}}}"))
        .replace(&topics.servers, &from_test_run(listener))
}

#[tokio::test(flavor = "multi_thread")]
async fn each_way_to_log_in_over_tls_works() {
    for mechanism in ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] {
        let (scene, topics) = (Scene::new().await, Topics::new());
        permit(&topics);
        scene.push(["1", "2"]);
        let file = scene.path("password");
        fs::write(&file, "test-password\n").unwrap();
        let properties = format!("security.protocol: SASL_SSL, sasl.mechanism: {mechanism}, sasl.username: bridge");
        let sink = secured(&topics, "BRIDGE_TEST_KAFKA_SASL", &properties);
        let with_file = sink.replace(
            ", properties:",
            &format!(", properties_files: {{sasl.password: {}}}, properties:", file.display()),
        );
        let bridge = scene.start_with("bridge", &with_file);
        scene.drained();
        assert_eq!(topics.bodies(2), ["1", "2"], "{mechanism}");
        assert!(!bridge.log().contains("test-password"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_examples_of_the_page_log_in() {
    let keys = from_test_run("BRIDGE_TEST_KAFKA_KEYS");
    for (what, listener) in [("SCRAM-SHA-512", "BRIDGE_TEST_KAFKA_SASL"), ("ssl.keystore", "BRIDGE_TEST_KAFKA_MUTUAL")]
    {
        let (scene, topics) = (Scene::new().await, Topics::new());
        permit(&topics);
        scene.push(["1", "2"]);
        fs::write(scene.path("password"), "test-password\n").unwrap();
        let password = scene.path("password").display().to_string();
        let name = &topics.name;
        let sink = example("kafka.md", what)
            .replace("sink:\n", "")
            .replace("kafka.example.com:9093", &from_test_run(listener))
            .replace("kafka.example.com:9094", &from_test_run(listener))
            .replace("/etc/ssl/kafka-authority.pem", &format!("{keys}/authority.pem"))
            .replace("/run/secrets/bridge.p12-password", &password)
            .replace("/run/secrets/kafka-password", &password)
            .replace("/run/secrets/bridge.p12", &format!("{keys}/bridge.p12"));
        let names = format!(
            "\n    topic: {name}.notifications\n    ledger_topic: {name}.ledger\n    dead_letter_topic: {name}.dead\n    \
             transactional_id: {name}\n"
        );
        let _bridge = scene.start_with("bridge", &format!("\n{}{names}", sink.trim_end()));
        scene.drained();
        assert_eq!(topics.bodies(2), ["1", "2"], "{what}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_password_is_reported_waited_out_and_never_shown() {
    let (scene, topics) = (Scene::new().await, Topics::new());
    permit(&topics);
    scene.push([r#"{"text":"m3ssage-canary"}"#]);
    let file = scene.path("password");
    fs::write(&file, "passw0rd-canary").unwrap();
    let properties = "security.protocol: SASL_SSL, sasl.mechanism: SCRAM-SHA-256, sasl.username: bridge";
    let sink = secured(&topics, "BRIDGE_TEST_KAFKA_SASL", properties);
    let with_file = sink
        .replace(", properties:", &format!(", properties_files: {{sasl.password: {}}}, properties:", file.display()));
    let bridge = scene.start_with("bridge", &with_file);
    bridge.wait_for_log("sink_unavailable");
    assert!(bridge.log().contains("Authentication failed"), "{}", bridge.log());
    fs::write(&file, "test-password").unwrap();
    scene.drained();
    bridge.wait_for_log(&event("condition_cleared"));
    for canary in ["passw0rd-canary", "m3ssage-canary", "test-password", TOKEN] {
        assert!(!bridge.log().contains(canary), "{canary}: {}", bridge.log());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_of_an_unknown_authority_is_reported() {
    let (scene, topics) = (Scene::new().await, Topics::new());
    let sink = topics.sink(", properties: {security.protocol: SSL}");
    let bridge = scene.start_with("bridge", &sink.replace(&topics.servers, &from_test_run("BRIDGE_TEST_KAFKA_SASL")));
    bridge.wait_for_log("sink_unavailable");
    assert!(bridge.log().contains("certificate verify failed"), "{}", bridge.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forbidden_topic_stops_only_the_instances_that_need_it() {
    let (topics, other) = (Topics::new(), "1101000002");
    let mut scene = Scene::of([ID, other]).await;
    scene.instances.push(other.to_owned());
    permit(&topics);
    let bad = format!("topic:{}.of.outgoingCall:write", topics.name);
    permission(&topics, &[&format!("deny:{bad}")]);
    let properties = "security.protocol: SASL_SSL, sasl.mechanism: SCRAM-SHA-256, sasl.username: bridge, sasl.password: test-password";
    let plain = format!("topic: {}.notifications,", topics.name);
    let sink = secured(&topics, "BRIDGE_TEST_KAFKA_SASL", properties)
        .replace(&plain, &format!("topic: '{}.of.{{type}}',", topics.name));
    scene.emulator.push(other, r#"{"typeWebhook":"outgoingCall"}"#);
    for number in 1..=100 {
        scene.emulator.push(ID, format!(r#"{{"typeWebhook":"incomingCall","n":{number}}}"#));
    }
    let bridge = scene.start_with("bridge", &sink);
    eventually("the good queue is empty", || scene.emulator.queued(ID) == 0);
    bridge.wait_for_log("grant WRITE and DESCRIBE on the topic");
    assert_eq!(scene.emulator.queued(other), 1);
    // Once, because a transaction of nothing but the forbidden cannot even be aborted.
    let owned = bridge.log().matches(&event("sink_owned")).count();
    assert!(owned <= 2, "{owned} acquisitions: {}", bridge.log());
    permission(&topics, &[&format!("undo:{bad}")]);
    scene.drained();
    assert_eq!(topics.read_from("of.incomingCall", 100).len(), 100);
    assert_eq!(topics.read_from("of.outgoingCall", 1).len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forbidden_dead_letter_topic_leaves_the_folder_and_stops_nobody() {
    let (topics, other) = (Topics::new(), "1101000002");
    let mut scene = Scene::of([ID, other]).await;
    scene.instances.push(other.to_owned());
    permit(&topics);
    permission(&topics, &[&format!("deny:topic:{}.dead:write", topics.name)]);
    let properties = "security.protocol: SASL_SSL, sasl.mechanism: SCRAM-SHA-256, sasl.username: bridge, sasl.password: test-password";
    let bodies = numbered(100);
    (0..10).for_each(|number| scene.emulator.push(other, format!("NaN {number}")));
    scene.push(bodies.iter().map(String::as_str));
    let bridge = scene.start_with("bridge", &secured(&topics, "BRIDGE_TEST_KAFKA_SASL", properties));
    scene.drained();
    assert_eq!(topics.bodies(100), bodies);
    let kept = bridge.log().matches(r#""kept_in":"dead_letter_dir""#).count();
    assert_eq!(kept, 10, "{}", bridge.log());
    // Once known to be forbidden it is tried by itself.
    let owned = bridge.log().matches(&event("sink_owned")).count();
    assert!(owned <= 2, "{owned} acquisitions: {}", bridge.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_checked_without_a_right_is_reported_once() {
    let (scene, topics) = (Scene::new().await, Topics::new());
    let name = &topics.name;
    let rules = [
        format!("allow:topic:{name}.*:create,describe,write"),
        format!("allow:topic:{name}.ledger:read"),
        format!("allow:transactional_id:{name}:describe,write"),
    ];
    permission(&topics, &rules.each_ref().map(String::as_str));
    scene.push(["1"]);
    let properties = "security.protocol: SASL_SSL, sasl.mechanism: SCRAM-SHA-256, sasl.username: bridge, sasl.password: test-password";
    let bridge = scene.start_with("bridge", &secured(&topics, "BRIDGE_TEST_KAFKA_SASL", properties));
    scene.drained();
    let log = bridge.log();
    assert_eq!(log.matches("is compacted cannot be checked: grant DESCRIBE_CONFIGS").count(), 1, "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forbidden_transactional_id_is_reported_with_what_to_permit() {
    let (scene, topics) = (Scene::new().await, Topics::new());
    permit(&topics);
    let mine = format!("transactional_id:{}:write", topics.name);
    permission(&topics, &[&format!("deny:{mine}")]);
    scene.push(["1"]);
    let properties = "security.protocol: SASL_SSL, sasl.mechanism: SCRAM-SHA-256, sasl.username: bridge, sasl.password: test-password";
    let bridge = scene.start_with("bridge", &secured(&topics, "BRIDGE_TEST_KAFKA_SASL", properties));
    bridge.wait_for_log("grant WRITE and DESCRIBE on sink.kafka.transactional_id");
    permission(&topics, &[&format!("undo:{mine}")]);
    scene.drained();
}

/// As an administrator does it who is given these lines.
fn grant(topics: &Topics, lines: &str) {
    for line in lines.lines().filter(|line| line.starts_with("kafka-acls.sh ")) {
        let words: Vec<&str> = line.split(' ').collect();
        let of = |option: &str| -> Vec<&str> {
            words.windows(2).filter(|pair| pair[0] == option).map(|pair| pair[1]).collect()
        };
        assert_eq!(of("--allow-principal"), ["User:bridge"]);
        let prefixed = if of("--resource-pattern-type") == ["prefixed"] { "*" } else { "" };
        let operations = of("--operation").join(",").replace("DescribeConfigs", "describe_configs").to_lowercase();
        for kind in ["topic", "group", "transactional-id"] {
            for name in of(&format!("--{kind}")) {
                let kind = kind.replace('-', "_");
                permission(topics, &[&format!("allow:{kind}:{name}{prefixed}:{operations}")]);
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_doctor_prints_for_want_of_rights_is_all_that_replicas_need() {
    let (scene, topics) = (Scene::new().await, Topics::new());
    let properties = "security.protocol: SASL_SSL, sasl.mechanism: SCRAM-SHA-256, sasl.username: bridge, sasl.password: test-password";
    let sink = format!("{}\nshards: 2", secured(&topics, "BRIDGE_TEST_KAFKA_SASL", properties));
    let failed = failed_of_sink(&scene, &sink);
    let checks: Vec<&str> = failed.iter().map(|(check, _)| check.as_str()).collect();
    assert_eq!(checks, ["topic", "ledger_topic", "dead_letter_topic", "transactions", "group"], "{failed:?}");
    for (_, output) in &failed {
        grant(&topics, output);
    }
    assert_eq!(failed_of_sink(&scene, &sink), []);
    scene.push(["1", "2"]);
    let bridge = scene.start_with("bridge", &sink);
    scene.drained();
    assert_eq!(topics.bodies(2), ["1", "2"]);
    assert!(!bridge.log().contains("sink_unavailable"), "{}", bridge.log());
}
