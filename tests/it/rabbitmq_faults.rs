use std::thread;
use std::time::{Duration, Instant};

use crate::rabbitmq_queues::{Names, assert_kept, marks_due};
use crate::scene::{Scene, numbered};
use crate::support::{Broker, event, eventually, rabbitmqctl, seeded, times};

const INSTANCES: usize = 10;

/// What happens to a broker.
struct Fault {
    name: &'static str,
    strike: fn(&Broker),
    /// What the bridge says of it: one of these.
    symptoms: &'static [&'static str],
    mend: fn(&Broker),
}

const FAULTS: [Fault; 6] = [
    Fault {
        name: "killed and restarted",
        strike: Broker::kill,
        symptoms: &["sink_unavailable"],
        mend: Broker::start_again,
    },
    Fault {
        name: "stop_app, start_app",
        strike: |broker| rabbitmqctl(broker.folder(), &["stop_app"]),
        symptoms: &["sink_unavailable"],
        mend: |broker| rabbitmqctl(broker.folder(), &["start_app"]),
    },
    Fault {
        name: "close_all_connections",
        strike: |broker| rabbitmqctl(broker.folder(), &["close_all_connections", "by a test"]),
        // The second if the client reports the end of the channel before that of its connection.
        symptoms: &["sink_unavailable", "sink_reopened"],
        mend: |_| {},
    },
    Fault {
        name: "out of memory",
        strike: |broker| rabbitmqctl(broker.folder(), &["set_vm_memory_high_watermark", "0.0000001"]),
        symptoms: &["the broker blocks publishers: low on memory"],
        mend: |broker| rabbitmqctl(broker.folder(), &["set_vm_memory_high_watermark", "0.4"]),
    },
    Fault {
        name: "out of disk",
        strike: |broker| rabbitmqctl(broker.folder(), &["set_disk_free_limit", "1000000GB"]),
        symptoms: &["the broker blocks publishers: low on disk"],
        mend: |broker| rabbitmqctl(broker.folder(), &["set_disk_free_limit", "50MB"]),
    },
    Fault { name: "silent", strike: Broker::pause, symptoms: &["sink_unavailable"], mend: Broker::resume },
];

/// A connection of which each end gives the other up after some seconds.
fn with_short_heartbeat(broker: &Broker) -> Names {
    Names::at(format!("{}?heartbeat=2", broker.address("BRIDGE_TEST_AMQP")))
}

#[tokio::test(flavor = "multi_thread")]
async fn each_fault_of_a_broker_under_load_is_survived_and_costs_at_most_marked_copies() {
    let broker = Broker::start("rabbitmq");
    let plenty = numbered(5000);
    for Fault { name, strike, symptoms, mend } in (0..times(1, 5)).flat_map(|_| FAULTS) {
        let begun = Instant::now();
        let (scene, names) = (Scene::fleet(INSTANCES, &[]).await, with_short_heartbeat(&broker));
        let mut bodies = plenty.chunks(10);
        let mut given = 0;
        let mut give = || {
            let some = bodies.next().unwrap();
            scene.push_to_all(some);
            given += some.len();
        };
        // A classic queue: RabbitMQ 3.10 loses a quorum queue that is killed right after its declaration.
        let bridge = scene.start_with("bridge", &names.sink(", queue_type: classic"));
        give();
        scene.drained();
        thread::scope(|scope| {
            let striking = scope.spawn(|| strike(&broker));
            // There is something to publish at all times.
            eventually("the fault is felt", || {
                if scene.queued() < INSTANCES * 10 {
                    give();
                }
                striking.is_finished() && symptoms.iter().any(|symptom| bridge.log().contains(symptom))
            });
        });
        mend(&broker);
        give();
        scene.drained();
        eventually("it says that all is well again", || {
            let log = bridge.log();
            // Neither, or the second after the first.
            log.rfind(&event("condition_entered")) <= log.rfind(&event("condition_cleared"))
        });
        print!("{name}, {:?}: ", begun.elapsed());
        assert_kept(&scene, &names.read(INSTANCES * given), &plenty[..given], marks_due(&scene, &bridge.log()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_takes_long_is_reported_before_it_is_given_up() {
    let broker = Broker::start("rabbitmq");
    let (scene, names) = (Scene::fleet(INSTANCES, &numbered(5)).await, broker.address("BRIDGE_TEST_AMQP"));
    let names = Names::at(format!("{names}?heartbeat=60"));
    let bridge = scene.start_with("bridge", &names.sink(", queue_type: classic"));
    scene.drained();
    broker.pause();
    scene.push_to_all(&numbered(10)[5..]);
    bridge.wait_for_log("no answer for more than 10 s");
    broker.resume();
    scene.drained();
    bridge.wait_for_log(&event("condition_cleared"));
    assert_eq!(bridge.log().matches(&event("sink_owned")).count(), 1, "it is no reason to connect anew");
    assert_kept(&scene, &names.read(INSTANCES * 10), &numbered(10), marks_due(&scene, &bridge.log()));
}

#[tokio::test(flavor = "multi_thread")]
async fn bridge_and_broker_killed_together_lose_nothing() {
    let (broker, mut random, begun) = (Broker::start("rabbitmq"), seeded(), Instant::now());
    let kills = times(2, 20);
    let bodies = numbered(100 * (kills + 1));
    let (scene, names) = (Scene::fleet(INSTANCES, &bodies).await, with_short_heartbeat(&broker));
    for kill in 1..=kills {
        let bridge = scene.start_with("bridge", &names.sink(""));
        let left = INSTANCES * (bodies.len() - 100 * kill) + random.usize(1..500);
        // RabbitMQ 3.10 loses a quorum queue that is killed within a second of its declaration.
        eventually("it works", || scene.queued() <= left && begun.elapsed() > Duration::from_secs(2));
        if random.bool() {
            bridge.kill();
            broker.kill();
        } else {
            broker.kill();
            bridge.kill();
        }
        broker.start_again();
    }
    let bridge = scene.start_with("bridge", &names.sink(""));
    scene.drained();
    print!("{kills} kills of both, {:?}: ", begun.elapsed());
    assert_kept(&scene, &names.read(INSTANCES * bodies.len()), &bodies, marks_due(&scene, &bridge.log()));
}
