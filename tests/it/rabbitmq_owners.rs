use std::io::Read;
use std::net::TcpListener;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::rabbitmq_queues::{Names, assert_kept, marks_due};
use crate::scene::{Scene, numbered};
use crate::support::{Broker, Worker, eventually, from_test_run, rabbitmqctl};

fn due(scene: &Scene, bridges: &[&Worker]) -> usize {
    bridges.iter().map(|bridge| marks_due(scene, &bridge.log())).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_zombie_publishes_nothing_once_another_bridge_owns_the_sink() {
    let bodies = numbered(60);
    let mut zombies = Vec::new();
    for step in crate::rabbitmq_kills::STEPS {
        // Short heartbeats, so that the broker gives up the connection of a stopped bridge soon.
        let uri = format!("{}?heartbeat=2", from_test_run("BRIDGE_TEST_AMQP"));
        let (scene, names) = (Scene::fleet(20, &bodies[..40]).await, Names::at(uri));
        let first = scene.start_with_fault("first", &names.sink(""), &format!("SIGSTOP@{step}#4"));
        eventually("the first bridge is stopped", || first.is_stopped());
        let second = scene.start_with("second", &names.sink(""));
        second.wait_for_log("waiting_for_ownership");
        zombies.push((step, scene, names, first, second));
    }
    for (step, scene, names, first, second) in &zombies {
        scene.drained();
        scene.push_to_all(&bodies[40..]);
        first.signal(Signal::SIGCONT);
        first.wait_for_log("waiting_for_ownership");
        scene.drained();
        print!("stopped at {step}: ");
        assert_kept(scene, &names.read(20 * bodies.len()), &bodies, due(scene, &[first, second]));
    }
}

/// The bytes of its publishes lie in a socket that the broker does not read, for as long as it blocks publishers.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_blocked_bridge_sent_never_lands_after_its_successor() {
    let broker = Broker::start("rabbitmq");
    let bodies = numbered(30);
    for end in [Signal::SIGKILL, Signal::SIGSTOP] {
        let names = Names::at(format!("{}?heartbeat=2", broker.address("BRIDGE_TEST_AMQP")));
        let scene = Scene::fleet(20, &bodies[..10]).await;
        let first = scene.start_with("first", &names.sink(""));
        scene.drained();
        rabbitmqctl(broker.folder(), &["set_vm_memory_high_watermark", "0.0000001"]);
        scene.push_to_all(&bodies[10..20]);
        first.wait_for_log("the broker blocks publishers");
        assert_eq!(scene.queued(), 20 * 10, "while it is blocked nothing is stored, and nothing deleted");
        first.signal(end);
        let second = scene.start_with("second", &names.sink(""));
        second.wait_for_log("waiting_for_ownership");
        rabbitmqctl(broker.folder(), &["set_vm_memory_high_watermark", "0.4"]);
        scene.drained();
        if end == Signal::SIGSTOP {
            first.signal(Signal::SIGCONT);
            first.wait_for_log("waiting_for_ownership");
        }
        scene.push_to_all(&bodies[20..]);
        scene.drained();
        print!("{end} while blocked: ");
        assert_kept(&scene, &names.read(20 * bodies.len()), &bodies, due(&scene, &[&first, &second]));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_address_is_tried_when_one_fails() {
    let (scene, names) = (Scene::fleet(1, &numbered(1)).await, Names::new());
    // Nobody listens on the first; the second listens and says nothing.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let silent = format!("amqp://guest:guest@{}", listener.local_addr().unwrap());
    let with = |uris: &str| names.sink("").replace(&format!("'{}'", names.uri), uris);
    let refused = "amqp://guest:passw0rd@127.0.0.1:1";
    let bridge = scene.start_with("nowhere", &with(&format!("['{refused}', '{refused}/%2f']")));
    bridge.wait_for_log("sink_unavailable");
    for cause in ["sink.amqp.uri[0]: connecting", "sink.amqp.uri[1]: connecting"] {
        assert!(bridge.log().contains(cause), "{cause}: {}", bridge.log());
    }
    assert!(!bridge.log().contains("passw0rd"), "{}", bridge.log());
    bridge.kill();
    let _bridge = scene.start_with("bridge", &with(&format!("['{refused}', '{silent}', '{}']", names.uri)));
    scene.drained();
    let mut received = Vec::new();
    let (mut given_up, _) = listener.accept().unwrap();
    given_up.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    given_up.read_to_end(&mut received).expect("a connection that was given up is cut");
    assert_eq!(received, b"AMQP\0\0\x09\x01");
}

/// What the former owner sent through another node may still be on its way.
#[tokio::test(flavor = "multi_thread")]
async fn in_a_cluster_a_new_owner_waits_a_second_before_it_publishes() {
    let (scene, names) = (Scene::fleet(1, &[]).await, Names::new());
    let twice = names.sink("").replace(&format!("'{}'", names.uri), &format!("['{0}', '{0}']", names.uri));
    for shards in [1, 2] {
        scene.push_to_all(&numbered(1));
        let begun = Instant::now();
        let bridge = scene.start_with("bridge", &format!("{twice}\nshards: {shards}"));
        scene.drained();
        assert!(begun.elapsed() >= Duration::from_secs(1), "{:?}", begun.elapsed());
        drop(bridge);
    }
}
