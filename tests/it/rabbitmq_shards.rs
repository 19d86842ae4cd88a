//! Replicas share the instances through RabbitMQ: whoever dies, sleeps or joins, nothing is lost or doubled without a mark.

use std::time::Instant;

use nix::sys::signal::Signal;
use serde_json::json;

use crate::rabbitmq_queues::{Names, assert_each_kept, marks_due};
use crate::replicas::{SHARDS, changes, held, survive, waits};
#[cfg(feature = "fault-hooks")]
use crate::replicas::{cells, strike};
use crate::scene::{Scene, numbered};
use crate::support::{Broker, Worker, event, eventually, from_test_run, rabbitmqctl, times};

/// Short heartbeats, so that the broker gives up the connection of a stopped replica soon.
fn names() -> Names {
    Names::at(format!("{}?heartbeat=2", from_test_run("BRIDGE_TEST_AMQP")))
}

fn shared(names: &Names) -> String {
    format!("{}\nshards: {SHARDS}", names.sink(""))
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_share_the_shards_and_take_over_from_whoever_ends() {
    let bodies = numbered(80);
    let (scene, names) = (Scene::fleet(60, &bodies[..20]).await, names());
    let sink = shared(&names);
    let first = scene.start_with("first", &sink);
    eventually("the first has all shards", || held(&first) == SHARDS);
    let second = scene.start_with("second", &sink);
    let third = scene.start_with("third", &sink);
    eventually("they share", || [&first, &second, &third].iter().all(|bridge| held(bridge) == SHARDS / 3));
    scene.push_to_all(&bodies[20..40]);
    scene.drained();
    let second_log = second.log();
    let (status, _) = second.stop(Signal::SIGTERM);
    assert!(status.success(), "{status:?}");
    let begun = Instant::now();
    eventually("the others have its shards", || held(&first) + held(&third) == SHARDS);
    println!("taken over in {:?} after SIGTERM", begun.elapsed());
    let fourth = scene.start_with("fourth", &sink);
    // Under load, that they are moved in order.
    let mut pushed = 40;
    eventually("they share again", || {
        if pushed < 60 && scene.queued() < 300 {
            scene.push_to_all(&bodies[pushed..=pushed]);
            pushed += 1;
        }
        [&first, &third, &fourth].iter().all(|bridge| held(bridge) == SHARDS / 3)
    });
    scene.push_to_all(&bodies[pushed..60]);
    let third_log = third.log();
    third.kill();
    let begun = Instant::now();
    eventually("the others have its shards", || held(&first) + held(&fourth) == SHARDS);
    println!("taken over in {:?} after SIGKILL", begun.elapsed());
    scene.push_to_all(&bodies[60..]);
    scene.drained();
    let due = [&*second_log, &*third_log, &first.log(), &fourth.log()].iter().map(|log| marks_due(&scene, log)).sum();
    assert_each_kept(&scene, &names.read(60 * bodies.len()), &bodies, due);
}

#[cfg(feature = "fault-hooks")]
#[tokio::test(flavor = "multi_thread")]
async fn whatever_happens_to_a_replica_nothing_is_lost_or_doubled_without_a_mark() {
    let steps = ["before_publish", "published", "confirmed", "stored", "deleting"];
    let sample = [
        ("before_publish", Signal::SIGSTOP, false),
        ("published", Signal::SIGSTOP, true),
        ("published", Signal::SIGKILL, false),
        ("confirmed", Signal::SIGKILL, true),
        ("stored", Signal::SIGSTOP, false),
        ("deleting", Signal::SIGKILL, false),
    ];
    let bodies = numbered(40);
    for cell in cells(&steps, sample) {
        let (scene, names) = (Scene::fleet(60, &[]).await, names());
        let replicas = strike(&scene, &shared(&names), &bodies, cell, |others| {
            eventually("the others have its shards", || others.iter().map(held).sum::<usize>() == SHARDS);
        });
        let due = replicas.iter().map(|replica| marks_due(&scene, &replica.log())).sum();
        assert_each_kept(&scene, &names.read(60 * bodies.len()), &bodies, due);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_shares_and_who_does_not_keep_out_of_each_others_way() {
    let (scene, names) = (Scene::fleet(4, &numbered(1)).await, names());
    let lone = scene.start_with("lone", &names.sink(""));
    scene.drained();
    let replica = scene.start_with("replica", &shared(&names));
    replica.wait_for_log("a bridge with `shards: 1` holds the queue");
    assert!(replica.log().contains("waiting_for_ownership"), "{}", replica.log());
    drop(lone);
    eventually("it has all shards", || held(&replica) == SHARDS);
    let lone = scene.start_with("lone-again", &names.sink(""));
    lone.wait_for_log("waiting_for_ownership");
    let other = shared(&names).replace(&format!("shards: {SHARDS}"), "shards: 6");
    scene.start_with("six", &other).wait_for_log("other replicas run with another number than `shards: 6`");
    scene.push_to_all(&numbered(2)[1..]);
    scene.drained();
    assert_eq!(held(&replica), SHARDS);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_closes_a_channel_moves_no_shard() {
    let broker = Broker::start_rabbitmq_with("max_message_size = 1048576");
    let bodies = numbered(30);
    let (scene, names) = (Scene::fleet(20, &bodies[..10]).await, Names::at(broker.address("BRIDGE_TEST_AMQP")));
    let bridge = scene.start_with("bridge", &shared(&names));
    scene.drained();
    let large = |mark: &str| format!(r#"{{"mark":"{mark}","text":"{}"}}"#, "x".repeat(2 << 20));
    for (id, mark) in scene.instances.iter().zip(["first", "second"]) {
        scene.emulator.push(id, large(mark));
    }
    scene.push_to_all(&bodies[10..]);
    scene.drained();
    let log = bridge.log();
    assert!(log.contains(&event("channel_closed")), "{log}");
    // What the client had still queued for the channel may have ended the connection.
    assert!(
        log.matches(&event("shards_revoked")).count() <= log.matches("the connection went with a channel").count(),
        "{log}"
    );
    assert_eq!(held(&bridge), SHARDS);
}

/// As the broker's console does it, or a proxy that loses its state.
#[tokio::test(flavor = "multi_thread")]
async fn who_loses_its_connection_shares_again() {
    let broker = Broker::start("rabbitmq");
    let bodies = numbered(40);
    let (scene, names) = (Scene::fleet(60, &bodies[..20]).await, Names::at(broker.address("BRIDGE_TEST_AMQP")));
    let bridges = ["first", "second"].map(|name| scene.start_with(name, &shared(&names)));
    scene.drained();
    rabbitmqctl(broker.folder(), &["close_all_connections", "for a test"]);
    scene.push_to_all(&bodies[20..]);
    scene.drained();
    eventually("they share again", || bridges.iter().all(|bridge| held(bridge) == SHARDS / 2));
    let due = bridges.iter().map(|bridge| marks_due(&scene, &bridge.log())).sum();
    assert_each_kept(&scene, &names.read(60 * bodies.len()), &bodies, due);
    // Told once, not by each shard.
    let output = |bridge: &Worker| bridge.log().matches("\"condition\":\"sink_unavailable\"").count();
    assert!(bridges.iter().all(|bridge| output(bridge) <= 2), "{}", bridges[0].log());
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_happens_at_random_to_replicas_and_broker_nothing_is_lost_or_doubled_without_a_mark() {
    let broker = Broker::start("rabbitmq");
    let faults = times(2, 200);
    let bodies = numbered(5 * faults);
    let uri = format!("{}?heartbeat=2", broker.address("BRIDGE_TEST_AMQP"));
    let (scene, names) = (Scene::fleet(60, &[]).await, Names::at(uri));
    let logs = survive(&scene, &shared(&names), &broker, &bodies, faults);
    assert_each_kept(&scene, &names.read(60 * bodies.len()), &bodies, marks_due(&scene, &logs));
}

#[tokio::test(flavor = "multi_thread")]
async fn how_long_notifications_wait_while_shards_move() {
    for (change, _) in changes() {
        let (scene, names) = (Scene::fleet(60, &[]).await, names());
        let [moved, stayed] = waits(&scene, &shared(&names), change);
        println!("RabbitMQ, {change:?}, heartbeat 2 s: shards that moved {moved:?}, others {stayed:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_counting_queue_that_was_deleted_is_declared_again_and_moves_no_shard_that_is_worked_on() {
    let (scene, names) = (Scene::fleet(20, &[]).await, names());
    let first = scene.start_with("first", &shared(&names));
    eventually("it has all shards", || held(&first) == SHARDS);
    names.operate(&[("queue_delete", json!({"queue": format!("{}.owner", names.name)}))]);
    scene.push_to_all(&numbered(10));
    scene.drained();
    assert!(!first.log().contains(&event("shards_revoked")), "{}", first.log());
    // It is counted again: otherwise another would take nothing.
    let second = scene.start_with("second", &shared(&names));
    eventually("they share", || [&first, &second].iter().all(|bridge| held(bridge) == SHARDS / 2));
}

/// Two replicas of a user with these rights, as regular expressions: to configure, to write, to read.
async fn share_with(rights: impl Fn(&str) -> [String; 3]) {
    let broker = from_test_run("BRIDGE_TEST_RABBITMQ_DIR");
    let operator = |arguments: &[&str]| rabbitmqctl(broker.as_ref(), arguments);
    let Names { uri, name } = names();
    Names::at(uri.clone()).operate(&[
        ("exchange_declare", json!({"exchange": name, "exchange_type": "topic", "durable": true})),
        ("queue_declare", json!({"queue": format!("{name}.notifications"), "durable": true})),
        ("queue_bind", json!({"queue": format!("{name}.notifications"), "exchange": name, "routing_key": "#"})),
    ]);
    operator(&["add_user", &name, "passw0rd"]);
    let rights = rights(&name);
    operator(&[&["set_permissions", name.as_str()], &rights.each_ref().map(String::as_str)[..]].concat());
    let names = Names { uri: uri.replace("guest:guest@", &format!("{name}:passw0rd@")), name };
    // Declaring a queue with dead letters asks for the right to write to the default exchange.
    let sink = format!("{}\nshards: {SHARDS}", names.sink(", declare: false"));
    let scene = Scene::fleet(20, &numbered(10)).await;
    let bridges = ["first", "second"].map(|bridge| scene.start_with(bridge, &sink));
    eventually("they share", || bridges.iter().all(|bridge| held(bridge) == SHARDS / 2));
    scene.drained();
    operator(&["delete_user", &names.name]);
}

/// Free shards are found by publishing to the default exchange; without that right by trying.
#[tokio::test(flavor = "multi_thread")]
async fn who_may_not_write_to_the_default_exchange_shares_all_the_same() {
    share_with(|name| [".*".into(), format!("^{name}.*"), ".*".into()]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_rights_that_the_page_names_are_all_that_replicas_need() {
    let page = include_str!("../../deploy/docs/replicas.md");
    assert!(page.contains("configure, write and read for queues that begin with `{name}.owner`, and write to the default exchange\n(`amq.default`)"));
    share_with(|name| {
        let owner = format!(r"^{name}\.owner");
        [owner.clone(), format!(r"{owner}|^{name}$|^amq\.default$"), owner]
    })
    .await;
}
