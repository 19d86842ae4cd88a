//! Topics as operators make them, rightly and wrongly.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use crate::kafka_topics::Topics;
use crate::scene::{ID, Scene, numbered};
use crate::support::{event, eventually, foreign_client};

fn create(topics: &Topics, name: &str, setting: &str) {
    foreign_client("create_kafka.py", &[&topics.servers, &format!("{}.{name}", topics.name), setting]);
}

fn set(topics: &Topics, name: &str, setting: &str, value: &str) {
    foreign_client("configure_kafka.py", &[&topics.servers, &format!("{}.{name}", topics.name), setting, value]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ledger_that_forgets_is_refused_until_it_is_mended() {
    let (scene, topics) = (Scene::new().await, Topics::new());
    create(&topics, "ledger", "cleanup.policy=delete");
    scene.push(["1"]);
    let bridge = scene.start_with("bridge", &topics.sink(""));
    bridge.wait_for_log("its cleanup.policy is delete");
    assert!(bridge.log().contains("--add-config cleanup.policy=compact"), "{}", bridge.log());
    assert_eq!(scene.queued(), 1);
    set(&topics, "ledger", "cleanup.policy", "compact");
    scene.drained();
    assert_eq!(topics.bodies(1), ["1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_would_lose_all_but_the_last_is_refused_until_it_is_mended() {
    let (scene, topics) = (Scene::new().await, Topics::new());
    create(&topics, "notifications", "cleanup.policy=compact,delete");
    scene.push(["1"]);
    let bridge = scene.start_with("bridge", &topics.sink(""));
    bridge.wait_for_log("it is compacted");
    assert_eq!(scene.queued(), 1);
    set(&topics, "notifications", "cleanup.policy", "delete");
    scene.drained();
    assert_eq!(topics.bodies(1), ["1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ledger_that_is_less_safe_than_the_topic_is_reported() {
    let (scene, topics) = (Scene::new().await, Topics::new());
    create(&topics, "notifications", "min.insync.replicas=2");
    scene.push(["1"]);
    let bridge = scene.start_with("bridge", &topics.sink(""));
    scene.drained();
    assert!(bridge.log().contains(&event("ledger_less_durable")), "{}", bridge.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn partitions_added_while_running_stay_unused_so_that_the_order_holds() {
    // More than are stored before the bridge refreshes, which it does only while it stores.
    let bodies = numbered(5_000);
    let (scene, topics) = (Scene::fleet(20, &bodies[..10]).await, Topics::new());
    let bridge = scene.start_with("bridge", &topics.sink(", properties: {topic.metadata.refresh.interval.ms: 500}"));
    scene.drained();
    foreign_client("partition_kafka.py", &[&topics.servers, &format!("{}.notifications", topics.name), "9"]);
    let mut pushed = 10;
    eventually("the added partitions are reported", || {
        if scene.queued() == 0 {
            scene.push_to_all(&bodies[pushed..=pushed]);
            pushed += 1;
        }
        bridge.log().contains(&event("partitions_added"))
    });
    scene.push_to_all(&bodies[pushed..pushed + 10]);
    scene.drained();
    let mut partitions = BTreeMap::<String, BTreeSet<i64>>::new();
    for record in topics.read(20 * (pushed + 10)) {
        partitions.entry(record.key).or_default().insert(record.partition);
    }
    assert!(partitions.len() == 20 && partitions.values().all(|used| used.len() == 1), "{partitions:?}");
    assert!(partitions.values().flatten().all(|partition| *partition < 3), "{partitions:?}");
}

/// Deletes the topic of notifications, and makes it anew with so many partitions, if any.
fn make_anew(topics: &Topics, partitions: &str) {
    foreign_client("delete_kafka.py", &[&topics.servers, &format!("{}.notifications", topics.name), partitions]);
}

/// Of the new topic with so many partitions nothing of the `last` is missing, in order.
fn assert_published(topics: &Topics, partitions: i64, last: &[String]) {
    let mut of_key = BTreeMap::<String, Vec<String>>::new();
    for record in topics.read(10 * last.len()) {
        assert!(record.partition < partitions);
        of_key.entry(record.key).or_default().push(record.body);
    }
    assert_eq!(of_key.len(), 10);
    for (key, seen) in &of_key {
        assert!(seen.ends_with(last), "{key}: {seen:?}");
    }
}

const IMPATIENT: &str = ", properties: {message.timeout.ms: 5000, transaction.timeout.ms: 300000}";

/// Who waits for a transaction that was left open, or until the client forgets a topic, is held up for five minutes: no
/// machine is that busy.
const HELD_UP: Duration = Duration::from_secs(120);

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_made_anew_with_fewer_partitions_holds_nobody_up() {
    let bodies = numbered(60);
    let (scene, topics) = (Scene::fleet(10, &bodies[..20]).await, Topics::new());
    let bridge = scene.start_with("bridge", &topics.sink(IMPATIENT));
    eventually("it works", || scene.queued() <= 150);
    let begun = Instant::now();
    make_anew(&topics, "1");
    scene.push_to_all(&bodies[20..]);
    scene.drained();
    assert!(begun.elapsed() < HELD_UP, "{:?}: {}", begun.elapsed(), bridge.log());
    assert_published(&topics, 1, &bodies[20..]);
}

/// The transaction's end is all that the new topic knows of the producer, whose next record then is out of sequence: its
/// client gives up and leaves a transaction open.
#[tokio::test(flavor = "multi_thread")]
async fn a_topic_made_anew_within_a_transaction_holds_nobody_up() {
    use nix::sys::signal::Signal;

    let bodies = numbered(40);
    let (scene, topics) = (Scene::fleet(10, &bodies[..20]).await, Topics::new());
    let bridge = scene.start_with_fault("bridge", &topics.sink(IMPATIENT), "SIGSTOP@before_commit#9");
    eventually("it is about to commit", || bridge.is_stopped());
    make_anew(&topics, "3");
    bridge.signal(Signal::SIGCONT);
    let begun = Instant::now();
    scene.push_to_all(&bodies[20..]);
    scene.drained();
    assert!(bridge.log().contains("sequence desynchronization"), "{}", bridge.log());
    assert!(begun.elapsed() < HELD_UP, "{:?}: {}", begun.elapsed(), bridge.log());
    assert_published(&topics, 3, &bodies[20..]);
}

/// The producer keeps in mind for five minutes that there is no such topic.
#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_was_missing_and_comes_back_with_fewer_partitions_is_used_at_once() {
    let bodies = numbered(60);
    let (scene, topics) = (Scene::fleet(10, &bodies[..20]).await, Topics::new());
    let bridge = scene.start_with("creates", &topics.sink(""));
    scene.drained();
    bridge.kill();
    let strict = topics.sink(IMPATIENT).replace("create_topics: {partitions: 3}", "create_topics: null");
    let bridge = scene.start_with("strict", &strict);
    bridge.wait_for_log(&event("sink_owned"));
    scene.push_to_all(&bodies[20..25]);
    scene.drained();
    make_anew(&topics, "0");
    scene.push_to_all(&bodies[25..]);
    bridge.wait_for_log("create_topics is null");
    let begun = Instant::now();
    create(&topics, "notifications", "cleanup.policy=delete");
    scene.drained();
    assert!(begun.elapsed() < HELD_UP, "{:?}: {}", begun.elapsed(), bridge.log());
    assert_published(&topics, 1, &bodies[25..]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_key_may_be_the_chat() {
    let (scene, topics) = (Scene::new().await, Topics::new());
    let of_chat =
        |number: usize| format!(r#"{{"senderData":{{"chatId":"chat{}@c.us"}},"idMessage":"{number}"}}"#, number % 7);
    let bodies: Vec<String> = (0..70).map(of_chat).chain([r#"{"typeWebhook":"quotaExceeded"}"#.to_owned()]).collect();
    scene.push(bodies.iter().map(String::as_str));
    let _bridge = scene.start_with("bridge", &topics.sink(", key: chat"));
    scene.drained();
    let mut chats = BTreeMap::<String, Vec<String>>::new();
    for record in topics.read(bodies.len()) {
        let headers = format!("{:?}", record.headers);
        assert!(!headers.contains("@c.us"), "the key is the only place of a chat: {headers}");
        chats.entry(record.key).or_default().push(record.body);
    }
    assert_eq!(chats.remove(ID), Some(vec![r#"{"typeWebhook":"quotaExceeded"}"#.to_owned()]), "no chat in it");
    for (chat, read) in (0..7).map(|number| format!("chat{number}@c.us")).zip(0..) {
        let wanted: Vec<&String> = bodies[..70].iter().skip(read).step_by(7).collect();
        assert_eq!(chats[&chat].iter().collect::<Vec<_>>(), wanted, "the order within {chat}");
    }
}
