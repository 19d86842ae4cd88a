use green_api_bridge::emulator::{self, EventKind, Fault, FaultKind, Method};
use green_api_bridge::notification::Fingerprint;
use uuid::Uuid;

use crate::kafka_topics::Topics;
use crate::scene::{ID, Scene, numbered};
use crate::support::{event, eventually, foreign_client};

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_body_arrives_once_in_order_with_its_headers_and_is_deleted_after() {
    let (scene, topics) = (Scene::new().await, Topics::new());
    let bodies: Vec<&str> = emulator::notifications().collect();
    scene.push(bodies.iter().copied());
    let _bridge = scene.start_with("bridge", &topics.sink(""));
    scene.drained();
    let records = topics.read(bodies.len());
    assert_eq!(records.iter().map(|record| record.body.as_str()).collect::<Vec<_>>(), bodies);
    let deleted: Vec<_> = scene.journal().into_iter().filter(|event| event.event == EventKind::Deleted).collect();
    let namespace = Uuid::new_v5(&Uuid::NAMESPACE_URL, format!("https://green-api.com/waInstance{ID}").as_bytes());
    for (index, (record, deleted)) in records.iter().zip(&deleted).enumerate() {
        assert_eq!(deleted.sha256.as_deref(), Some(Fingerprint::of(record.body.as_bytes()).to_string().as_str()));
        assert!(record.at_ms <= deleted.at_ms, "deleted before it was published");
        let value: serde_json::Value = serde_json::from_str(&record.body).unwrap();
        let header = |name: &str| record.headers.get(name).map(String::as_str);
        assert_eq!(record.key, ID);
        assert_eq!(header("ce_specversion"), Some("1.0"));
        assert_eq!(header("content-type"), Some("application/json"));
        assert_eq!(header("ce_id"), Some(Uuid::new_v5(&namespace, record.body.as_bytes()).to_string().as_str()));
        assert_eq!(header("ce_source"), Some("/green-api/waInstance1101000001"));
        assert_eq!(header("ce_type").unwrap(), format!("com.green-api.{}", value["typeWebhook"].as_str().unwrap()));
        assert_eq!(header("ce_sequence").unwrap(), format!("{:020}", index + 1));
        assert_eq!(
            (header("ce_idinstance"), header("ce_receiptid").unwrap()),
            (Some(ID), (index + 1).to_string().as_str())
        );
        assert!(header("ce_time").unwrap().ends_with('Z'));
        assert_eq!((header("ce_possibleduplicate"), header("ce_epoch")), (None, None));
        let of_message = [value["idMessage"].as_str(), value["messageData"]["typeMessage"].as_str()];
        assert_eq!([header("ce_idmessage"), header("ce_typemessage")], of_message, "{value}");
        let kinds = ["private", "group", "channel", "none"];
        assert!(kinds.contains(&header("ce_chatkind").unwrap()), "{:?}", record.headers);
        assert_eq!(record.headers.len(), 10 + of_message.iter().flatten().count(), "{:?}", record.headers);
    }
}

/// Message and chat of a notification, as WhatsApp names them.
pub fn in_chat(message: &str, chat: &str) -> String {
    format!(
        r#"{{"typeWebhook":"incomingMessageReceived","idMessage":"{}","senderData":{{"chatId":"{chat}"}},"messageData":{{"typeMessage":"{message}"}}}}"#,
        Uuid::new_v4().simple()
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn chats_and_messages_can_have_topics_of_their_own() {
    let (scene, topics) = (Scene::new().await, Topics::new());
    let plain = format!("topic: {}.notifications,", topics.name);
    let by_chat = topics.sink("").replace(&plain, &format!("topic: '{}.of.{{chat}}.{{message}}',", topics.name));
    let bodies = [
        in_chat("textMessage", "79990000001@c.us"),
        in_chat("textMessage", "120363000000000001@g.us"),
        in_chat("imageMessage", "79990000001@c.us"),
        in_chat("somethingNew", "79990000001@c.us"),
        r#"{"typeWebhook":"stateInstanceChanged"}"#.to_owned(),
    ];
    scene.push(bodies.iter().map(String::as_str));
    let _bridge = scene.start_with("bridge", &by_chat);
    scene.drained();
    let names = ["private.textMessage", "group.textMessage", "private.imageMessage", "private.other", "none.none"];
    for (name, body) in names.iter().zip(&bodies) {
        let read = topics.read_from(&format!("of.{name}"), 1);
        assert_eq!(read.iter().map(|record| &record.body).collect::<Vec<_>>(), [body], "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn odd_and_large_bodies_pass_byte_for_byte() {
    let (scene, topics) = (Scene::new().await, Topics::new());
    let large = format!(r#"{{"textMessage":"{}"}}"#, "x".repeat(3 << 20));
    let odd =
        ["null", "{}", "{\"a\":1,\"a\":2}", "[123456789012345678901234567890]", r#"{"\ud800":1}"#, "{\n}", &large];
    scene.push(odd);
    let _bridge = scene.start_with("bridge", &topics.sink(""));
    scene.drained();
    assert_eq!(topics.bodies(odd.len()), odd);
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_between_commit_and_delete_it_only_deletes_when_it_comes_back() {
    let (scene, topics) = (Scene::new().await, Topics::new());
    scene.fault(Fault::before(FaultKind::Hang).on(Method::DeleteNotification));
    scene.push(["1", "2"]);
    let bridge = scene.start_with("bridge", &topics.sink(""));
    eventually("a delete arrives", || scene.count(EventKind::Faulted) == 1);
    assert_eq!(topics.bodies(1), ["1"], "committed before its delete is sent");
    bridge.kill();
    let bridge = scene.start_with("bridge", &topics.sink(""));
    scene.drained();
    assert_eq!(topics.bodies(2), ["1", "2"]);
    assert!(bridge.log().contains(&event("delivered_again")), "{}", bridge.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_bridge_takes_over_and_the_first_ends_with_79() {
    let (scene, topics) = (Scene::new().await, Topics::new());
    scene.push(["1"]);
    let first = scene.start_with("first", &topics.sink(""));
    scene.drained();
    let second = scene.start_with("second", &topics.sink(""));
    second.wait_for_log(&event("sink_owned"));
    let bodies = numbered(20);
    scene.push(bodies.iter().map(String::as_str));
    let log = scene.path("first.log");
    assert_eq!(first.ended().code(), Some(79));
    let output = std::fs::read_to_string(log).unwrap();
    assert!(output.contains("look for a second bridge"), "{output}");
    scene.drained();
    assert_eq!(topics.bodies(21)[1..], bodies);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_topic_is_waited_for_when_it_must_not_be_created() {
    let (scene, topics) = (Scene::new().await, Topics::new());
    scene.push(["1"]);
    let strict = topics.sink("").replace("create_topics: {partitions: 3}", "create_topics: null");
    let bridge = scene.start_with("strict", &strict);
    bridge.wait_for_log("sink_unavailable");
    assert!(bridge.log().contains("create_topics is null"), "{}", bridge.log());
    assert_eq!(scene.emulator.queued(ID), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_is_missing_stops_only_the_instance_that_needs_it() {
    let (topics, other) = (Topics::new(), "1101000002");
    let mut scene = Scene::of([ID, other]).await;
    let plain = format!("topic: {}.notifications,", topics.name);
    let by_type = topics.sink("").replace(&plain, &format!("topic: '{}.of.{{type}}',", topics.name));
    scene.push([r#"{"typeWebhook":"incomingCall"}"#]);
    let bridge = scene.start_with("creates", &by_type);
    scene.drained();
    bridge.kill();
    scene.emulator.push(other, r#"{"typeWebhook":"outgoingCall"}"#);
    scene.instances.push(other.to_owned());
    let strict = by_type.replace("create_topics: {partitions: 3}", "create_topics: null");
    let bridge = scene.start_with("strict", &strict);
    bridge.wait_for_log("create_topics is null");
    for number in 1..=20 {
        scene.emulator.push(ID, format!(r#"{{"typeWebhook":"incomingCall","n":{number}}}"#));
    }
    eventually("the good queue is empty", || scene.emulator.queued(ID) == 0);
    assert_eq!(scene.emulator.queued(other), 1, "what is not stored is not deleted");
    assert_eq!(topics.read_from("of.incomingCall", 21).len(), 21);
    assert_eq!(bridge.log().matches(&event("sink_owned")).count(), 1, "{}", bridge.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_while_the_ledger_cannot_be_written_is_waited_out() {
    let (scene, topics) = (Scene::new().await, Topics::new());
    scene.push(["1"]);
    let bridge = scene.start_with("first", &topics.sink(""));
    scene.drained();
    bridge.kill();
    let largest = |bytes: &str| {
        let ledger = format!("{}.ledger", topics.name);
        foreign_client("configure_kafka.py", &[&topics.servers, &ledger, "max.message.bytes", bytes]);
    };
    // Room for the marker that ends a transaction, not for a sentinel.
    largest("120");
    scene.push(["2"]);
    let bridge = scene.start_with("second", &topics.sink(""));
    bridge.wait_for_log("sink_unavailable");
    largest("1048588");
    // The predecessor's sentinel in the ledger is no rival.
    scene.drained();
    assert_eq!(topics.bodies(2), ["1", "2"]);
    assert!(!bridge.log().contains("took over"), "{}", bridge.log());
}
