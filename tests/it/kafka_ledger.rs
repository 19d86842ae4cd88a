use green_api_bridge::emulator::{EventKind, Fault, FaultKind, Method};
use green_api_bridge::notification::Fingerprint;
use serde_json::{Value, json};

use crate::kafka_topics::Topics;
use crate::scene::{ID, Scene, numbered};
use crate::support::{event, eventually, foreign_client};

const OTHER: &str = "1101000002";

fn write(topics: &Topics, records: &[Value]) {
    let ledger = format!("{}.ledger", topics.name);
    let records: Vec<String> = records.iter().map(Value::to_string).collect();
    let arguments = [topics.servers.as_str(), &ledger].into_iter().chain(records.iter().map(String::as_str));
    foreign_client("write_kafka.py", &arguments.collect::<Vec<_>>());
}

fn create(topics: &Topics) {
    let ledger = format!("{}.ledger", topics.name);
    foreign_client("create_kafka.py", &[&topics.servers, &ledger, "cleanup.policy=compact"]);
}

/// The value of an entry: `body` was published last, at this place.
fn entry(sequence: u64, body: &str) -> String {
    json!({"sequence": sequence, "sha256": Fingerprint::of(body.as_bytes()).to_string()}).to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_notification_that_says_it_is_a_ledger_gets_into_none() {
    let (scene, topics) = (Scene::new().await, Topics::new());
    let plain = format!("topic: {}.notifications,", topics.name);
    let by_type = topics.sink("").replace(&plain, &format!("topic: '{}.{{type}}',", topics.name));
    let bodies = numbered(1);
    scene.push([
        r#"{"typeWebhook":"ledger"}"#,
        r#"{"typeWebhook":"dead"}"#,
        "{}",
        &bodies[0],
        r#"{"typeWebhook":"other"}"#,
    ]);
    let bridge = scene.start_with("bridge", &by_type);
    scene.drained();
    let others: Vec<String> = topics.read_from("other", 3).into_iter().map(|record| record.body).collect();
    assert_eq!(others, [r#"{"typeWebhook":"ledger"}"#, r#"{"typeWebhook":"dead"}"#, r#"{"typeWebhook":"other"}"#]);
    assert_eq!(topics.read_from("unknown", 1)[0].body, "{}");
    assert_eq!(topics.read_from("incomingCall", 1)[0].body, bodies[0]);
    // What it is, the headers say.
    assert_eq!(topics.read_from("other", 3)[0].headers["ce_type"], "com.green-api.ledger");
    assert!(!bridge.log().contains("no entries"), "{}", bridge.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_ledger_of_an_earlier_bridge_is_taken_over() {
    let (scene, topics) = (Scene::new().await, Topics::new());
    create(&topics);
    write(&topics, &[json!({"key": ID, "value": entry(41, "1")})]);
    scene.push(["1", "2"]);
    let _bridge = scene.start_with("bridge", &topics.sink(""));
    scene.drained();
    let records = topics.read(1);
    let seen: Vec<_> =
        records.iter().map(|record| (record.body.as_str(), record.headers["ce_sequence"].as_str())).collect();
    assert_eq!(seen, [("2", "00000000000000000042")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ledger_full_of_nonsense_is_reported_and_stops_only_whose_entry_it_is() {
    let topics = Topics::new();
    let mut scene = Scene::of([ID, OTHER]).await;
    scene.instances.push(OTHER.to_owned());
    create(&topics);
    let sentinel = json!({"owner": uuid::Uuid::new_v4(), "acquisition": 1}).to_string();
    let of_notification = json!({"ce_id": "x", "content-type": "application/json"});
    write(
        &topics,
        &[
            // Notifications, whose keys and values are whatever a body says.
            json!({"key": ID, "value": entry(7, "1"), "headers": of_notification}),
            json!({"key": format!("owner:{}", topics.name), "value": sentinel, "headers": of_notification}),
            json!({"key": "\u{ff}\u{fe}", "value": "s3cret"}),
            json!({"key": "7@c.us", "value": {"bytes": 900_000}}),
            json!({"key": format!("0{ID}"), "value": entry(9, "1")}),
            json!({"key": "", "value": null}),
            json!({"key": OTHER, "value": entry(u64::MAX, "s3cret")}),
        ],
    );
    for id in [ID, OTHER] {
        scene.emulator.push(id, "1");
        scene.emulator.push(id, "2");
    }
    let bridge = scene.start_with("bridge", &topics.sink(""));
    eventually("the good queue is empty", || scene.emulator.queued(ID) == 0);
    assert_eq!(topics.bodies(2), ["1", "2"], "nothing of it was taken for published");
    let waits = format!("the last entry with the key {OTHER} cannot be used: its sequence cannot be");
    bridge.wait_for_log(&waits);
    assert_eq!(scene.emulator.queued(OTHER), 2);
    let log = bridge.log();
    assert_eq!(log.matches(&event("foreign_ledger_records")).count(), 3, "a line a kind: {log}");
    assert_eq!(log.matches(&event("unusable_ledger_entry")).count(), 1, "{log}");
    assert!(!log.contains("s3cret") && !log.contains("7@c.us"), "{log}");
    // The operator says that nothing was published.
    write(&topics, &[json!({"key": OTHER, "value": null})]);
    scene.drained();
    let of_other: Vec<_> = topics.read(4).into_iter().filter(|record| record.key == OTHER).collect();
    let seen: Vec<_> =
        of_other.iter().map(|record| (record.body.as_str(), record.headers["ce_sequence"].as_str())).collect();
    assert_eq!(seen, [("1", "00000000000000000001"), ("2", "00000000000000000002")]);
    assert_eq!(bridge.log().matches(&event("sink_owned")).count(), 1, "{}", bridge.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn shards_are_not_raised_over_an_entry_that_cannot_be_used() {
    let (scene, topics) = (Scene::of([ID]).await, Topics::new());
    create(&topics);
    // A lone bridge's.
    let sentinel = json!({"owner": uuid::Uuid::new_v4(), "acquisition": 1}).to_string();
    let owner = json!({"key": format!("owner:{}", topics.name), "value": sentinel});
    write(&topics, &[owner, json!({"key": ID, "value": entry(u64::MAX, "1")})]);
    foreign_client("partition_kafka.py", &[&topics.servers, &format!("{}.ledger", topics.name), "2"]);
    scene.push(["1", "2"]);
    let bridge = scene.start_with("bridge", &format!("{}\nshards: 2", topics.sink("")));
    bridge.wait_for_log(&format!("the entry of {ID} in partition 0 cannot be used, so `shards` cannot be raised"));
    assert_eq!(scene.queued(), 2);
    write(&topics, &[json!({"key": ID, "value": entry(7, "1")})]);
    scene.drained();
    let records = topics.read(1);
    assert_eq!((records[0].body.as_str(), records[0].headers["ce_sequence"].as_str()), ("2", "00000000000000000008"));
}

/// Reading to the end of what is decided is not reading up to one's own sentinel: somebody's open transaction hides everything
/// behind its beginning, also what was committed.
#[tokio::test(flavor = "multi_thread")]
async fn an_entry_behind_an_open_transaction_of_somebody_else_is_waited_for() {
    let (scene, topics) = (Scene::of([ID]).await, Topics::new());
    scene.push(["1"]);
    let bridge = scene.start_with("bridge", &topics.sink(""));
    scene.drained();
    scene.fault(Fault::before(FaultKind::Hang).on(Method::DeleteNotification));
    foreign_client("open_kafka.py", &[&topics.servers, &format!("{}.ledger", topics.name), "10"]);
    scene.push(["2"]);
    eventually("a delete arrives", || scene.count(EventKind::Faulted) == 1);
    bridge.kill();
    let _bridge = scene.start_with("bridge", &topics.sink(""));
    scene.push(["3"]);
    scene.drained();
    assert_eq!(topics.bodies(3), ["1", "2", "3"]);
}
