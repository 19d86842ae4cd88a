//! The broker dies, freezes or is cut off, under load: the bridge goes on by itself, exactly once.

use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::kafka_kills::assert_exactly_once;
use crate::kafka_topics::Topics;
use crate::network::{Network, Weather};
use crate::scene::{Scene, numbered};
use crate::support::{Broker, event, eventually, from_test_run, seeded, times};

/// How the way to Kafka can end for a while.
#[derive(Clone, Copy, Debug)]
enum Outage {
    /// SIGKILL and a new start.
    Killed,
    /// SIGSTOP for 20 s.
    Frozen,
    /// No connection holds, for 5 s.
    Cut,
    /// Nothing arrives, and nobody says so, for 20 s: longer than requests are waited for.
    Silent,
}

impl Outage {
    fn happen(self, broker: &Broker, network: &Network) {
        // The durations are the fault itself, no waiting for something.
        match self {
            Self::Killed => {
                broker.kill();
                broker.start_again();
            }
            Self::Frozen => {
                broker.pause();
                sleep(Duration::from_secs(20));
                broker.resume();
            }
            Self::Cut => {
                network.becomes(Weather::Cut);
                sleep(Duration::from_secs(5));
                network.becomes(Weather::Fine);
            }
            Self::Silent => {
                network.becomes(Weather::Silent);
                sleep(Duration::from_secs(20));
                network.becomes(Weather::Fine);
            }
        }
    }
}

async fn suffers(outages: &[Outage]) {
    let mut random = seeded();
    let broker = Broker::start("kafka");
    let [direct, before, behind] =
        ["", "_BEFORE", "_BEHIND"].map(|end| broker.address(&format!("BRIDGE_TEST_KAFKA{end}")));
    let network = Network::start(&before, &behind).await;
    for outage in outages {
        let bodies = numbered(40);
        let (scene, topics) = (Scene::fleet(50, &bodies[..30]).await, Topics::at(direct.clone()));
        let sink = topics.sink("").replace(&direct, &before);
        let bridge = scene.start_with("bridge", &sink);
        let left = random.usize(500..1400);
        eventually("it works", || scene.queued() <= left);
        let begun = Instant::now();
        outage.happen(&broker, &network);
        let lasted = begun.elapsed();
        scene.push_to_all(&bodies[30..]);
        scene.drained();
        println!("{outage:?} for {lasted:?}: 2000 notifications drained {:?} after its begin", begun.elapsed());
        assert_exactly_once(&scene, &topics, &bodies);
        if matches!(outage, Outage::Frozen | Outage::Silent) {
            bridge.wait_for_log("sink_unavailable");
        }
        drop(bridge);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_dies_or_is_cut_off_costs_nothing() {
    suffers(&[Outage::Killed, Outage::Cut].repeat(times(1, 10))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_falls_silent_costs_nothing() {
    suffers(&[Outage::Frozen, Outage::Silent].repeat(times(1, 5))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_is_advertised_at_a_dead_address_is_named() {
    let broker = Broker::start("kafka");
    // Nobody listens where clients of this listener are sent to.
    let dead = broker.address("BRIDGE_TEST_KAFKA_BEFORE");
    let (scene, topics) = (Scene::fleet(1, &[]).await, Topics::at(broker.address("BRIDGE_TEST_KAFKA_BEHIND")));
    let named = format!("broker 1 is advertised as {dead}, where it cannot be reached from here");
    let bridge = scene.start_with("bridge", &topics.sink(""));
    let found = crate::doctor::failed_of_sink(&scene, &topics.sink(""));
    let [(check, output)] = &found[..] else { panic!("{found:?}") };
    assert!(check == "broker" && output.starts_with(&named), "{check}: {output}");
    // By name, or by what the client says of the connection.
    bridge.wait_for_log(&dead);
    // Through an address of its own everybody reaches it.
    assert_eq!(crate::doctor::failed_of_sink(&scene, &Topics::at(broker.address("BRIDGE_TEST_KAFKA")).sink("")), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_commit_that_took_long_a_new_producer_goes_on() {
    use nix::sys::signal::Signal;

    let (direct, before) = (from_test_run("BRIDGE_TEST_KAFKA"), from_test_run("BRIDGE_TEST_KAFKA_BEFORE"));
    let network = Network::start(&before, &from_test_run("BRIDGE_TEST_KAFKA_BEHIND")).await;
    let bodies = numbered(20);
    let (scene, topics) = (Scene::fleet(10, &bodies).await, Topics::new());
    let sink = topics.sink("").replace(&direct, &before);
    let bridge = scene.start_with_fault("bridge", &sink, "SIGSTOP@before_commit#4");
    eventually("it is about to commit", || bridge.is_stopped());
    network.becomes(Weather::Silent);
    bridge.signal(Signal::SIGCONT);
    // The fault itself: longer than a commit may take, shorter than a request is waited for.
    sleep(Duration::from_secs(7));
    network.becomes(Weather::Fine);
    scene.drained();
    bridge.wait_for_log("exceeded 5 s: recreating the producer");
    // Everything is stored, so it is no failure of the sink.
    assert!(bridge.log().contains(&event("sink_reopened")), "{}", bridge.log());
    assert_exactly_once(&scene, &topics, &bodies);
}
