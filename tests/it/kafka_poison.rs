//! Records that Kafka does not take, between good ones: each becomes one dead letter and disturbs nobody.

use std::collections::BTreeMap;

use green_api_bridge::notification::Fingerprint;

use crate::kafka_topics::{Record, Topics};
use crate::scene::{Scene, numbered};
use crate::support::{command, event, eventually, foreign_client, run, seeded, times};

/// Text that no compression makes small.
pub fn noise(bytes: u32) -> String {
    let digits: String = (0..bytes / 64).map(|number| Fingerprint::of(&number.to_be_bytes()).to_string()).collect();
    format!(r#"{{"typeWebhook":"outgoingCall","text":"{digits}"}}"#)
}

fn by_instance(records: Vec<Record>) -> BTreeMap<String, Vec<(u64, String, Option<String>)>> {
    let mut instances = BTreeMap::<String, Vec<_>>::new();
    for Record { mut headers, body, .. } in records {
        let sequence = headers["ce_sequence"].parse().unwrap();
        let reason = headers.remove("ce_deadletterreason");
        instances.entry(headers["ce_idinstance"].clone()).or_default().push((sequence, body, reason));
    }
    instances
}

#[tokio::test(flavor = "multi_thread")]
async fn poison_in_twenty_instances_under_kills_becomes_one_dead_letter_each() {
    let (mut random, topics) = (seeded(), Topics::new());
    let rounds = times(3, 30);
    // Good, too large: over and over.
    let bodies: Vec<String> = numbered(4 * rounds)
        .into_iter()
        .enumerate()
        .map(|(index, good)| match index % 4 {
            1 | 3 => format!("{}{}", noise(40_000).trim_end_matches('}'), format_args!(r#","n":{index}}}"#)),
            _ => good,
        })
        .collect();
    let scene = Scene::fleet(20, &bodies).await;
    let small = format!("{}.of.outgoingCall", topics.name);
    foreign_client("create_kafka.py", &[&topics.servers, &small, "max.message.bytes=20000"]);
    let plain = format!("topic: {}.notifications,", topics.name);
    let by_type = topics.sink("").replace(&plain, &format!("topic: '{}.of.{{type}}',", topics.name));
    for kill in 1..=rounds {
        let bridge = scene.start_with("bridge", &by_type);
        let left = 20 * bodies.len() - 80 * kill + random.usize(1..75);
        eventually("it works", || scene.queued() <= left);
        bridge.kill();
    }
    let _bridge = scene.start_with("bridge", &by_type);
    scene.drained();
    let good = by_instance(topics.read_from("of.incomingCall", 20 * 2 * rounds));
    let dead = by_instance(topics.read_from("dead", 20 * 2 * rounds));
    let wanted = |places: [usize; 2], reasons: [Option<&str>; 2]| {
        let place = |(index, body): (usize, &String)| {
            let reason = reasons[places.iter().position(|place| *place == index % 4)?];
            Some((index as u64 + 1, body.clone(), reason.map(str::to_owned)))
        };
        bodies.iter().enumerate().filter_map(place).collect::<Vec<_>>()
    };
    for id in &scene.instances {
        assert_eq!(good[id], wanted([0, 2], [None, None]));
        assert!(dead[id] == wanted([1, 3], [Some("too_large"); 2]), "the dead letters of {id}");
    }
    let config = scene.config("verify", &by_type);
    let (code, stdout, stderr) = run(command().args(["verify", "--json", "--config"]).arg(config));
    assert_eq!(code, 0, "{stdout}{stderr}");
    println!("{rounds} kills, {} notifications, {} of them dead letters", 20 * bodies.len(), 40 * rounds);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_too_large_for_the_topic_becomes_one_dead_letter_between_the_good_ones() {
    let (scene, topics) = (Scene::new().await, Topics::new());
    let (good, large) = (numbered(2), noise(100_000));
    // The notifications' topic is created with this limit, then only the broker keeps it.
    scene.push([good[0].as_str()]);
    let bridge = scene.start_with("small", &topics.sink(", properties: {message.max.bytes: 20000}"));
    scene.drained();
    bridge.kill();
    scene.push([large.as_str(), &good[1]]);
    let bridge = scene.start_with("bridge", &topics.sink(", properties: {message.max.bytes: 200000}"));
    scene.drained();
    let sequences = |records: &[Record]| -> Vec<u64> {
        records.iter().map(|record| record.headers["ce_sequence"].parse().unwrap()).collect()
    };
    let records = topics.read(2);
    assert_eq!(records.iter().map(|record| record.body.as_str()).collect::<Vec<_>>(), good);
    assert_eq!(sequences(&records), [1, 3], "dead letters are counted");
    let dead = topics.read_from("dead", 1);
    assert_eq!((dead.len(), dead[0].body.as_str(), sequences(&dead)), (1, large.as_str(), vec![2]));
    assert_eq!(dead[0].headers["ce_deadletterreason"], "too_large");
    assert_eq!(dead[0].headers["ce_originaldestination"], format!("{}.notifications", topics.name));
    assert_eq!(bridge.log().matches("\"message\":\"dead letter\"").count(), 1, "{}", bridge.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_too_large_even_for_the_dead_letters_goes_into_the_folder() {
    let (scene, topics) = (Scene::new().await, Topics::new());
    let (good, large) = (numbered(2), noise(100_000));
    scene.push([good[0].as_str(), &large, &good[1]]);
    let _bridge = scene.start_with("bridge", &topics.sink(", properties: {message.max.bytes: 20000}"));
    scene.drained();
    assert_eq!(topics.bodies(2), good);
    let files: Vec<_> =
        std::fs::read_dir(scene.path("dead-letters")).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(files.len(), 1, "{files:?}");
    let kept: serde_json::Value = serde_json::from_slice(&std::fs::read(&files[0]).unwrap()).unwrap();
    assert_eq!(files[0].file_name().unwrap().to_str().unwrap(), format!("{}.json", kept["id"].as_str().unwrap()));
    assert_eq!((&kept["deadletterreason"], &kept["sequence"]), (&"too_large".into(), &format!("{:020}", 2).into()));
    assert_eq!(kept["data"], serde_json::from_str::<serde_json::Value>(&large).unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_is_no_json_becomes_one_dead_letter_between_the_good_ones() {
    let (scene, topics, good) = (Scene::new().await, Topics::new(), numbered(2));
    scene.push([good[0].as_str(), "NaN", "{\"a\":\"\n\"}", &good[1]]);
    let _bridge = scene.start_with("bridge", &topics.sink(""));
    scene.drained();
    assert_eq!(topics.bodies(2), good);
    let dead = topics.read_from("dead", 2);
    for (letter, (body, sequence)) in dead.iter().zip([("NaN", 2), ("{\"a\":\"\n\"}", 3)]) {
        assert_eq!((letter.body.as_str(), letter.headers["content-type"].as_str()), (body, "application/octet-stream"));
        assert_eq!(letter.headers["ce_deadletterreason"], "malformed");
        assert_eq!(letter.headers["ce_sequence"], format!("{sequence:020}"));
    }
}

/// Whose clock is wrong, a record cannot know. The broker refuses what is older than 20 ms, and what lingers for 50 ms is: as if
/// the bridge's clock were slow. The markers of transactions are not refused.
#[tokio::test(flavor = "multi_thread")]
async fn a_refused_clock_is_waited_for_and_makes_no_dead_letters() {
    let (topics, others) = (Topics::new(), ["1101000001", "1101000002", "1101000003"]);
    let mut scene = Scene::of(others).await;
    scene.instances = others.map(str::to_owned).into();
    let configure = |topic: &str, setting: &str, value: &str| {
        foreign_client("configure_kafka.py", &[&topics.servers, &format!("{}.{topic}", topics.name), setting, value]);
    };
    for (topic, setting) in [
        ("of.incomingBlock", "message.timestamp.before.max.ms=20"),
        ("of.outgoingCall", "max.message.bytes=20000"),
        ("dead", "message.timestamp.before.max.ms=20"),
    ] {
        foreign_client("create_kafka.py", &[&topics.servers, &format!("{}.{topic}", topics.name), setting]);
    }
    let plain = format!("topic: {}.notifications,", topics.name);
    let by_type =
        topics.sink(", properties: {linger.ms: 50}").replace(&plain, &format!("topic: '{}.of.{{type}}',", topics.name));
    let [good, clock, large] = others;
    let bodies: Vec<String> =
        (1..=5).map(|n| format!(r#"{{"typeWebhook":"incomingBlock","timestamp":{n}}}"#)).collect();
    for body in &bodies {
        scene.emulator.push(clock, body.as_str());
    }
    scene.emulator.push(large, noise(40_000));
    for body in numbered(30) {
        scene.emulator.push(good, body);
    }
    let bridge = scene.start_with("bridge", &by_type);
    eventually("the good queue is empty", || scene.emulator.queued(good) == 0);
    for topic in ["of.incomingBlock", "dead"] {
        bridge.wait_for_log(&format!("topic {}.{topic}: the broker refuses what the bridge's clock says", topics.name));
    }
    bridge.wait_for_log("(message.timestamp.before.max.ms=20)");
    assert_eq!((scene.emulator.queued(clock), scene.emulator.queued(large)), (5, 1), "{}", bridge.log());
    assert!(!bridge.log().contains(&event("dead_letter")), "{}", bridge.log());
    assert!(!scene.path("dead-letters").exists());
    configure("of.incomingBlock", "message.timestamp.before.max.ms", "9223372036854775807");
    configure("dead", "message.timestamp.before.max.ms", "9223372036854775807");
    scene.drained();
    let published: Vec<String> =
        topics.read_from("of.incomingBlock", 5).into_iter().map(|record| record.body).collect();
    assert_eq!(published, bodies, "once, and in order");
    assert_eq!(topics.read_from("dead", 1).len(), 1, "the large one alone");
    assert!(!scene.path("dead-letters").exists());
}
