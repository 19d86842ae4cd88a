//! The bridge dies, at each step and at random: exactly once all the same.

use std::collections::BTreeMap;
use std::time::Instant;

use green_api_bridge::emulator::EventKind;
use green_api_bridge::notification::Fingerprint;

use crate::kafka_topics::{Record, Topics};
use crate::scene::{Scene, numbered};
use crate::support::{command, event, eventually, run, seeded, times};

/// Where a bridge can die: the steps of a transaction, and those around the delete.
const STEPS: [&str; 6] = ["before_begin", "produced", "delivered", "before_commit", "stored", "deleted"];

/// What went into each queue came out once and in order: so say the emulator's journal, a consumer that is not ours, and
/// `verify`.
pub fn assert_exactly_once(scene: &Scene, topics: &Topics, bodies: &[String]) {
    let digests: Vec<String> = bodies.iter().map(|body| Fingerprint::of(body.as_bytes()).to_string()).collect();
    for id in &scene.instances {
        let deleted = scene.emulator.journal(id).into_iter().filter(|event| event.event == EventKind::Deleted);
        assert_eq!(deleted.filter_map(|event| event.sha256).collect::<Vec<_>>(), digests, "deleted from {id}");
    }
    let mut of_instance = BTreeMap::<String, Vec<Record>>::new();
    for record in topics.read(scene.instances.len() * bodies.len()) {
        of_instance.entry(record.headers["ce_idinstance"].clone()).or_default().push(record);
    }
    assert!(of_instance.keys().eq(&scene.instances), "{:?}", of_instance.keys());
    for (id, records) in of_instance {
        assert!(records.iter().map(|record| &record.body).eq(bodies), "published of {id}");
        let sequences = records.iter().map(|record| record.headers["ce_sequence"].parse::<u64>().unwrap());
        assert!(sequences.eq(1..=bodies.len() as u64), "sequences of {id}");
    }
    let config = scene.config("verify", &topics.sink(""));
    let (code, stdout, stderr) = run(command().args(["verify", "--json", "--config"]).arg(config));
    let report: serde_json::Value = serde_json::from_str(&stdout).unwrap_or_else(|error| panic!("{error}: {stderr}"));
    assert_eq!((code, report["instances"].as_array().unwrap().len()), (0, scene.instances.len()), "{report}");
    for found in report["instances"].as_array().unwrap() {
        assert_eq!((&found["published"], &found["lost"]), (&bodies.len().into(), &0.into()), "{found}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_each_step_of_a_notification_nothing_is_lost_doubled_or_reordered() {
    let (mut random, begun) = (seeded(), Instant::now());
    let bodies = numbered(times(20, 200));
    let (scene, topics) = (Scene::fleet(50, &bodies).await, Topics::new());
    let mut kills = BTreeMap::<&str, usize>::new();
    for step in STEPS.repeat(times(1, 8)) {
        // The first transaction takes the ownership; every step but those has many more chances in a few transactions.
        let fault = format!("SIGKILL@{step}#{}", random.u32(1..=5));
        let mut bridge = scene.start_with_fault("bridge", &topics.sink(""), &fault);
        let mut killed = false;
        eventually("killed, or nothing left to do", || {
            killed = bridge.has_ended();
            killed || scene.queued() == 0
        });
        *kills.entry(step).or_default() += usize::from(killed);
    }
    assert!(STEPS.iter().all(|step| kills[step] > 0), "not reached: {kills:?}");
    let _bridge = scene.start_with("bridge", &topics.sink(""));
    scene.drained();
    assert_exactly_once(&scene, &topics, &bodies);
    println!("{kills:?} kills, {} notifications, {:?}: 0 lost, 0 doubled", 50 * bodies.len(), begun.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_random_with_fifty_instances_nothing_is_lost_doubled_or_reordered() {
    let (mut random, begun) = (seeded(), Instant::now());
    let kills = times(6, 200);
    let bodies = numbered(20 * kills);
    let (scene, topics) = (Scene::fleet(50, &bodies).await, Topics::new());
    for kill in 1..=kills {
        let bridge = scene.start_with("bridge", &topics.sink(""));
        // Anywhere within the share of this kill.
        let left = 50 * bodies.len() - 50 * 20 * kill + random.usize(1..800);
        eventually("it works", || scene.queued() <= left);
        bridge.kill();
    }
    let _bridge = scene.start_with("bridge", &topics.sink(""));
    scene.drained();
    assert_exactly_once(&scene, &topics, &bodies);
    println!("{kills} kills, {} notifications, {:?}: 0 lost, 0 doubled", 50 * bodies.len(), begun.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_zombie_stopped_in_mid_transaction_ends_with_79_and_nothing_of_it_is_seen() {
    use nix::sys::signal::Signal;

    let bodies = numbered(40);
    for step in ["produced", "before_commit", "stored"] {
        let (scene, topics) = (Scene::fleet(20, &bodies[..20]).await, Topics::new());
        let first = scene.start_with_fault("first", &topics.sink(""), &format!("SIGSTOP@{step}#4"));
        eventually("the first bridge is stopped", || first.is_stopped());
        let second = scene.start_with("second", &topics.sink(""));
        scene.drained();
        scene.push_to_all(&bodies[20..]);
        first.signal(Signal::SIGCONT);
        assert_eq!(first.ended().code(), Some(79), "stopped at {step}");
        scene.drained();
        assert_exactly_once(&scene, &topics, &bodies);
        assert!(!second.log().contains("took over"), "the second goes on");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn more_instances_need_no_more_threads_and_share_their_transactions() {
    let mut threads = Vec::new();
    for (count, each) in [(10, 20), (100, 20), (times(200, 1000), 10)] {
        let bodies = numbered(each);
        let (scene, topics) = (Scene::fleet(count, &bodies).await, Topics::new());
        let bridge = scene.start_with("bridge", &topics.sink(""));
        bridge.wait_for_log(&event("sink_owned"));
        let begun = Instant::now();
        eventually("half of it is done", || scene.queued() <= count * each / 2);
        threads.push(bridge.threads());
        scene.drained();
        let transactions = bridge.log().matches(&event("committed")).count();
        let milliseconds = usize::try_from(begun.elapsed().as_millis()).unwrap();
        let [of_transactions, of_notifications] =
            [transactions, count * each].map(|number| 1000 * number / milliseconds);
        println!("{count:>5} instances: {of_transactions:4} transactions/s, {of_notifications:5} notifications/s");
        assert!(transactions < count * each / 2, "{transactions} transactions: nothing was grouped");
    }
    println!("threads: {threads:?}");
    assert!(threads.iter().all(|many| many.abs_diff(threads[0]) <= 2), "{threads:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bridge_that_slept_past_its_transaction_timeout_without_a_rival_goes_on() {
    use nix::sys::signal::Signal;

    let bodies = numbered(40);
    let (scene, topics) = (Scene::fleet(20, &bodies[..20]).await, Topics::new());
    let short = ", properties: {transaction.timeout.ms: 2000, message.timeout.ms: 1500, socket.timeout.ms: 1500}";
    let bridge = scene.start_with_fault("bridge", &topics.sink(short), "SIGSTOP@before_commit#4");
    eventually("the bridge is stopped", || bridge.is_stopped());
    // It returns when no transaction is open any more: the broker has aborted ours.
    let config = scene.config("verify", &topics.sink(""));
    let (code, stdout, stderr) = run(command().args(["verify", "--json", "--config"]).arg(config));
    assert_eq!(code, 0, "{stdout}{stderr}");
    bridge.signal(Signal::SIGCONT);
    scene.push_to_all(&bodies[20..]);
    scene.drained();
    assert_exactly_once(&scene, &topics, &bodies);
    assert!(bridge.log().matches(&event("sink_owned")).count() >= 2, "{}", bridge.log());
}
