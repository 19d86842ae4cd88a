//! Replicas share the instances: whoever dies, sleeps or joins, each notification arrives once and in order.

use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::admin::{self, free_address, readiness, text};
use crate::kafka_kills::assert_exactly_once;
use crate::kafka_security::{permission, secured};
use crate::kafka_topics::Topics;
use crate::page::browse;
use crate::replicas::{SHARDS, changes, held, shards_of, survive, waits};
#[cfg(feature = "fault-hooks")]
use crate::replicas::{cells, strike};
use crate::scene::{Scene, numbered};
use crate::support::{Broker, Worker, event, eventually, foreign_client, times};

const SESSION: Duration = Duration::from_secs(3);

/// A sink that replicas share.
fn shared(topics: &Topics) -> String {
    shared_with(topics, SESSION)
}

fn shared_with(topics: &Topics, session: Duration) -> String {
    let session = session.as_millis();
    let properties = format!(", properties: {{session.timeout.ms: {session}, heartbeat.interval.ms: 300}}");
    format!("{}\nshards: {SHARDS}", topics.sink(&properties))
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_share_the_shards_and_take_over_from_whoever_ends() {
    let bodies = numbered(60);
    let (scene, topics) = (Scene::fleet(60, &bodies[..20]).await, Topics::new());
    // Long enough to tell who leaves the group from who is only missed.
    let session = Duration::from_secs(10);
    let sink = shared_with(&topics, session);
    let first = scene.start_with("first", &sink);
    eventually("the first has all shards", || held(&first) == SHARDS);
    let second = scene.start_with("second", &sink);
    let third = scene.start_with("third", &sink);
    eventually("they share", || [&first, &second, &third].iter().all(|bridge| held(bridge) == SHARDS / 3));
    scene.push_to_all(&bodies[20..40]);
    scene.drained();
    let (status, _) = second.stop(Signal::SIGTERM);
    assert!(status.success(), "{status:?}");
    // It has left the group: nobody waits for its session to run out.
    let begun = Instant::now();
    eventually("the others have its shards", || held(&first) + held(&third) == SHARDS);
    println!("taken over in {:?} after SIGTERM", begun.elapsed());
    assert!(begun.elapsed() < session, "{:?}", begun.elapsed());
    third.kill();
    scene.push_to_all(&bodies[40..]);
    scene.drained();
    assert_exactly_once(&scene, &topics, &bodies);
    assert!(!first.log().contains("took over"), "nobody is ended by another: {}", first.log());
}

/// Two replicas that believe that they own a shard must not end each other, nor fence each other in turns.
#[tokio::test(flavor = "multi_thread")]
async fn a_fenced_replica_does_not_end_and_takes_its_shard_back_after_a_pause() {
    let bodies = numbered(2);
    let (scene, topics) = (Scene::fleet(20, &bodies[..1]).await, Topics::new());
    // Long enough that it keeps its shards on a busy machine, so that the fence alone can take one.
    let bridge = scene.start_with("bridge", &shared_with(&topics, Duration::from_secs(10)));
    eventually("it has all shards", || held(&bridge) == SHARDS);
    scene.drained();
    // As another replica does, up to its death right after the sentinel.
    let id = format!("{}-0", topics.name);
    let is_owned = |line: &&str| line.contains(&event("sink_owned")) && line.contains(&format!("{id}\""));
    let owned = || bridge.log().lines().filter(is_owned).count();
    assert_eq!(owned(), 1, "{}", bridge.log());
    foreign_client("fence_kafka.py", &[&topics.servers, &id]);
    let value = json!({"owner": uuid::Uuid::new_v4(), "acquisition": 1, "shards": SHARDS}).to_string();
    let sentinel = json!({"key": format!("owner:{id}"), "value": value}).to_string();
    foreign_client("write_kafka.py", &[&topics.servers, &format!("{}.ledger", topics.name), &sentinel]);
    let begun = Instant::now();
    scene.push_to_all(&bodies[1..]);
    scene.drained();
    // Longer than a heartbeat: by then it would know if the shard were another's.
    assert!(begun.elapsed() > Duration::from_secs(1), "fenced back after {:?}", begun.elapsed());
    assert_eq!(owned(), 2, "{}", bridge.log());
    assert_exactly_once(&scene, &topics, &bodies);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_number_of_shards_is_refused() {
    let (scene, topics) = (Scene::fleet(4, &numbered(1)).await, Topics::new());
    let with = |shards: usize| shared(&topics).replace(&format!("shards: {SHARDS}"), &format!("shards: {shards}"));
    let bridge = scene.start_with("twelve", &with(SHARDS));
    scene.drained();
    drop(bridge);
    for (shards, why) in [(1, "it has 12 partition(s)"), (6, "it has 12 partition(s)")] {
        scene.start_with(&format!("with-{shards}"), &with(shards)).wait_for_log(why);
    }
}

#[cfg(feature = "fault-hooks")]
#[tokio::test(flavor = "multi_thread")]
async fn whoever_raises_the_shards_takes_along_what_was_published_last() {
    let bodies = numbered(50);
    let (scene, topics) = (Scene::fleet(40, &bodies[..20]).await, Topics::new());
    let with = |shards: usize| shared(&topics).replace(&format!("shards: {SHARDS}"), &format!("shards: {shards}"));
    let partitions = |count: &str| {
        foreign_client("partition_kafka.py", &[&topics.servers, &format!("{}.ledger", topics.name), count]);
    };
    let lone = scene.start_with("lone", &topics.sink(""));
    eventually("it works", || scene.queued() < 400);
    lone.kill();
    partitions("12");
    // Before what it copies is committed, and after.
    for fault in ["SIGKILL@before_commit#2", "SIGKILL@before_begin#3"] {
        scene.start_with_fault("killed", &with(12), fault).ended();
    }
    let replicas = ["first", "second", "third"].map(|name| scene.start_with(name, &with(12)));
    scene.push_to_all(&bodies[20..30]);
    scene.drained();
    scene.push_to_all(&bodies[30..40]);
    eventually("they work", || scene.queued() < 200);
    for replica in replicas {
        assert!(replica.stop(Signal::SIGTERM).0.success());
    }
    partitions("24");
    let raised = ["fourth", "fifth"].map(|name| scene.start_with(name, &with(24)));
    scene.push_to_all(&bodies[40..]);
    scene.drained();
    assert_exactly_once(&scene, &topics, &bodies);
    let times = ["killed", "first", "second", "third", "fourth", "fifth"].map(|name| {
        let log = std::fs::read_to_string(scene.path(&format!("{name}.log"))).unwrap();
        log.matches(&event("shards_raised")).count()
    });
    assert_eq!(times.iter().sum::<usize>(), 2, "each raise happens once: {times:?}");
    drop(raised);
    scene.start_with("lowered", &with(12)).wait_for_log("it has 24 partition(s)");
}

#[tokio::test(flavor = "multi_thread")]
async fn partitions_that_are_added_while_replicas_run_are_reported_and_disturb_nobody() {
    let bodies = numbered(4);
    let (scene, topics) = (Scene::fleet(20, &bodies[..2]).await, Topics::new());
    let sink = shared(&topics).replace("properties: {", "properties: {topic.metadata.refresh.interval.ms: 500, ");
    let bridge = scene.start_with("bridge", &sink);
    scene.drained();
    foreign_client("partition_kafka.py", &[&topics.servers, &format!("{}.ledger", topics.name), "24"]);
    bridge.wait_for_log(&event("surplus_ledger_partitions"));
    scene.push_to_all(&bodies[2..]);
    scene.drained();
    assert_eq!(held(&bridge), SHARDS);
    assert_eq!(topics.bodies(80).len(), 80);
}

/// Another replica may have the rights, or reach the broker, that this one lacks.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "three minutes: `tests/run --long`"]
async fn a_replica_that_cannot_open_a_shard_leaves_it_to_another() {
    let (scene, topics) = (Scene::fleet(20, &[]).await, Topics::new());
    let name = &topics.name;
    permission(
        &topics,
        &[
            &format!("allow:topic:{name}*:create,describe,describe_configs,write,read"),
            &format!("allow:transactional_id:{name}*:describe,write"),
            &format!("allow:group:{name}*:describe,read"),
        ],
    );
    let properties = "security.protocol: SASL_SSL, sasl.mechanism: SCRAM-SHA-256, sasl.username: bridge, \
                      sasl.password: test-password, session.timeout.ms: 3000, heartbeat.interval.ms: 300";
    let of_user = format!("{}\nshards: {SHARDS}", secured(&topics, "BRIDGE_TEST_KAFKA_SASL", properties));
    let (able, unable) = (scene.start_with("able", &shared(&topics)), scene.start_with("unable", &of_user));
    eventually("they share", || [&able, &unable].iter().all(|replica| held(replica) == SHARDS / 2));
    let shard = shards_of(&unable).pop_first().unwrap();
    permission(&topics, &[&format!("deny:transactional_id:{name}-{shard}:describe,write")]);
    let bodies = numbered(10);
    scene.push_to_all(&bodies);
    unable.wait_for_log(&event("shard_not_opened"));
    eventually("the other has all shards", || held(&able) == SHARDS);
    scene.drained();
    assert_exactly_once(&scene, &topics, &bodies);
}

/// Waits until it holds so many shards by its own word.
async fn status_shows(address: &str, held: usize) {
    let shown = format!(r#""shards":{{"held":{held},"of":{SHARDS},"#);
    let asking = async { while !text(address, "/status").await.contains(&shown) {} };
    timeout(Duration::from_secs(60), asking).await.expect(&shown);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_replica_reports_which_shards_it_holds() {
    let (scene, topics) = (Scene::fleet(1, &[]).await, Topics::new());
    let address = free_address();
    let _first = admin::start(&scene, &shared(&topics), &address);
    readiness(&address, 200).await;
    status_shows(&address, SHARDS).await;
    let _second = scene.start_with("second", &shared(&topics));
    status_shows(&address, SHARDS / 2).await;
    let metrics = text(&address, "/metrics").await;
    let of_shards = metrics.lines().filter(|line| line.starts_with("green_api_bridge_shard_held{"));
    assert_eq!(of_shards.filter(|line| line.ends_with(" 1")).count(), SHARDS / 2, "{metrics}");
    assert!(metrics.contains(r#"green_api_bridge_shard_moves_total{reason="left"} 6"#), "{metrics}");
    // Those that it opened by itself, at the start.
    let opened = format!(r#"green_api_bridge_shard_opening_seconds_count{{sink="kafka"}} {SHARDS}"#);
    assert!(metrics.contains(&opened), "{metrics}");
    assert_eq!(readiness(&address, 200).await["sink"], true, "one with half of the shards is ready");
    let shards = shards(&address).await;
    let each = shards["each"].as_array().unwrap();
    assert_eq!(
        each.iter().map(|shard| shard["shard"].as_u64().unwrap()).collect::<Vec<_>>(),
        (0..12).collect::<Vec<_>>()
    );
    let of = |state: &str| each.iter().filter(|shard| shard["state"] == state).count();
    assert_eq!((of("held"), of("elsewhere")), (SHARDS / 2, SHARDS / 2), "{shards}");
    for shard in each {
        assert!(shard["since"].as_str().unwrap().parse::<jiff::Timestamp>().is_ok(), "{shard}");
        assert!(shard["why"].is_null(), "nothing is wrong: {shard}");
    }
    let seen = browse(&address, "shards", "nothing of the kind");
    let seen = seen["text"].as_str().unwrap();
    for expected in ["6 of 12", "here", "elsewhere"] {
        assert!(seen.contains(expected), "{expected:?} is not in {seen}");
    }
}

/// What `/status` says of shards.
async fn shards(address: &str) -> Value {
    let status: Value = serde_json::from_str(&text(address, "/status").await).unwrap();
    status["sink"]["shards"].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_without_a_shard_is_ready_and_in_no_condition() {
    let (scene, topics) = (Scene::fleet(8, &numbered(1)).await, Topics::new());
    // An account that needs somebody, wherever it is.
    scene.emulator.set_token(&scene.instances[0], "another");
    let sink = shared(&topics).replace(&format!("shards: {SHARDS}"), "shards: 2");
    let replicas = ["first", "second", "third"].map(|name| {
        let (mut command, address) = (scene.command_with(name, &sink), free_address());
        let log = scene.path(&format!("{name}.log"));
        (address.clone(), Worker::start(command.env("BRIDGE_ADMIN_LISTEN", address), &log))
    });
    for (address, _) in &replicas {
        readiness(address, 200).await;
    }
    // How many shards each has, and whether it tells of the account: who works on it does, and nobody else.
    let settled = async {
        loop {
            let (mut held, mut output) = (Vec::new(), Vec::new());
            for (address, _) in &replicas {
                let status = text(address, "/status").await;
                held.push(serde_json::from_str::<Value>(&status).unwrap()["sink"]["shards"]["held"].as_u64().unwrap());
                output.push(status.contains("token_refused"));
            }
            let spare = held.iter().position(|held| *held == 0);
            if let Some(spare) = spare.filter(|_| held.iter().all(|held| *held < 2))
                && output.iter().filter(|output| **output).count() == 1
            {
                return (spare, output);
            }
        }
    };
    let (spare, output) = timeout(Duration::from_secs(60), settled).await.expect("each has one shard, or none");
    assert!(!output[spare]);
    let (address, _) = &replicas[spare];
    let readiness = readiness(address, 200).await;
    assert_eq!((&readiness["sink"], &readiness["fleet"]), (&true.into(), &true.into()));
    assert!(text(address, "/metrics").await.contains(r#"green_api_bridge_sink_up{sink="kafka"} 1"#));
}

#[cfg(feature = "fault-hooks")]
#[tokio::test(flavor = "multi_thread")]
async fn whatever_happens_to_a_replica_nothing_is_lost_doubled_or_reordered() {
    let steps = ["before_begin", "produced", "delivered", "before_commit", "committed", "stored", "deleting"];
    let sample = [
        ("produced", Signal::SIGSTOP, false),
        ("before_commit", Signal::SIGSTOP, true),
        ("committed", Signal::SIGKILL, false),
        ("stored", Signal::SIGSTOP, false),
        ("deleting", Signal::SIGKILL, true),
        ("before_begin", Signal::SIGKILL, false),
    ];
    let bodies = numbered(40);
    for cell in cells(&steps, sample) {
        let (scene, topics) = (Scene::fleet(60, &[]).await, Topics::new());
        // The fault itself: longer than the group waits for it.
        let _replicas = strike(&scene, &shared(&topics), &bodies, cell, |_others| sleep(SESSION.mul_f64(1.2)));
        assert_exactly_once(&scene, &topics, &bodies);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_happens_at_random_to_replicas_and_broker_each_notification_arrives_once_and_in_order() {
    let broker = Broker::start("kafka");
    let faults = times(2, 200);
    let bodies = numbered(5 * faults);
    let (scene, topics) = (Scene::fleet(60, &[]).await, Topics::at(broker.address("BRIDGE_TEST_KAFKA")));
    survive(&scene, &shared(&topics), &broker, &bodies, faults);
    assert_exactly_once(&scene, &topics, &bodies);
}

#[tokio::test(flavor = "multi_thread")]
async fn how_long_notifications_wait_while_shards_move() {
    for (change, session) in changes() {
        let (scene, topics) = (Scene::fleet(60, &[]).await, Topics::new());
        let [moved, stayed] = waits(&scene, &shared_with(&topics, Duration::from_secs(session)), change);
        println!("Kafka, {change:?}, session {session} s: shards that moved {moved:?}, others {stayed:?}");
    }
}
