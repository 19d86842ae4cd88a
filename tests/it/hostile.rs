//! An instance of every bad kind beside good ones: the good ones are served as if they were alone.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use green_api_bridge::emulator::EventKind;
use serde_json::Value;

use crate::kafka_topics::Topics;
use crate::rabbitmq_queues::Names;
use crate::scene::Scene;
use crate::support::{Broker, command, is_long, rabbitmqctl, run};

const GOOD: usize = 50;

/// What its queue holds whenever it is empty.
const BAD: [fn() -> String; 6] = [
    // As large as Green API's may be, and larger than any sink takes.
    || format!(r#"{{"text":"{}"}}"#, "x".repeat(60 << 20)),
    // Larger than RabbitMQ is set to take.
    || format!(r#"{{"text":"{}"}}"#, "x".repeat(2 << 20)),
    || "NaN".into(),
    // Its deletes do not take.
    || r#"{"typeWebhook":"incomingCall","idMessage":"stuck"}"#.into(),
    // Its reads lag.
    || format!(r#"{{"typeWebhook":"incomingCall","idMessage":"{}"}}"#, fastrand::u64(..)),
    // Its token is refused.
    || r#"{"typeWebhook":"incomingCall","idMessage":"refused"}"#.into(),
];

/// What the good ones had of it.
struct Service {
    per_second: f64,
    p99: Duration,
    memory_mib: usize,
}

/// Runs a bridge into this sink for a while, and checks that of the good instances nothing is lost, doubled or reordered.
async fn serve(sink: &str, with_bad: bool, lasting: Duration, verification: &[&str]) -> Service {
    let mut scene = Scene::fleet(GOOD + BAD.len(), &[]).await;
    let bad = scene.instances[GOOD..].to_vec();
    scene.emulator.turn(&bad[3], |knobs| knobs.head_stays = true);
    scene.emulator.turn(&bad[4], |knobs| knobs.receive_lag_ms = 300);
    scene.emulator.set_token(&bad[5], "another");
    if !with_bad {
        scene.instances.truncate(GOOD);
    }
    let bridge = scene.start_with("bridge", sink);
    scene.instances.truncate(GOOD);
    let (ended, begun, mut pushed, mut memory) = (AtomicBool::new(false), Instant::now(), 0, 0);
    thread::scope(|threads| {
        threads.spawn(|| {
            while !ended.load(Ordering::Relaxed) {
                for (id, body) in bad.iter().zip(BAD) {
                    if scene.emulator.queued(id) == 0 {
                        scene.emulator.push(id, body());
                    }
                }
                thread::sleep(Duration::from_millis(500));
            }
        });
        while begun.elapsed() < lasting {
            pushed += 1;
            scene.push_to_all(&[format!(r#"{{"typeWebhook":"incomingCall","idMessage":"{pushed}"}}"#)]);
            memory = memory.max(bridge.memory());
            thread::sleep(Duration::from_millis(250));
        }
        scene.drained();
        ended.store(true, Ordering::Relaxed);
    });
    let took = begun.elapsed();
    let mut latencies = Vec::new();
    for id in &scene.instances {
        let journal = scene.emulator.journal(id);
        let at = |kind: EventKind| journal.iter().filter(move |event| event.event == kind).map(|event| event.at_ms);
        assert_eq!(at(EventKind::Deleted).count(), pushed, "{id}");
        latencies.extend(at(EventKind::Pushed).zip(at(EventKind::Deleted)).map(|(pushed, deleted)| deleted - pushed));
    }
    latencies.sort_unstable();
    drop(bridge);
    let config = scene.config("verify", sink);
    let mut verify = command();
    verify.current_dir(&scene.folder).args(["verify", "--json"]).args(verification).arg("--config").arg(config);
    let (_, report, errors) = run(&mut verify);
    let report: Value = serde_json::from_str(&report).unwrap_or_else(|error| panic!("{error}: {errors}"));
    for id in &scene.instances {
        let found =
            report["instances"].as_array().unwrap().iter().find(|found| found["id"].as_u64() == id.parse().ok());
        let found = found.unwrap_or_else(|| panic!("{id} is not in {report}"));
        for fault in ["lost", "doubled", "reordered"] {
            assert_eq!(found[fault], 0, "{found}");
        }
        assert!(found["published"].as_u64().unwrap() >= pushed as u64, "{found}");
    }
    let p99 = Duration::from_millis(latencies[latencies.len() * 99 / 100]);
    let count = f64::from(u32::try_from(latencies.len()).unwrap());
    Service { per_second: count / took.as_secs_f64(), p99, memory_mib: memory }
}

/// With them in the plain run. In the long one with and without them in turn, five times five minutes each.
async fn compare(kind: &str, sink: impl Fn() -> String, verification: &[&str]) {
    let (pairs, lasting) = if is_long() { (5, Duration::from_secs(300)) } else { (1, Duration::from_secs(8)) };
    for pair in 1..=pairs {
        let alone = if is_long() { Some(serve(&sink(), false, lasting, verification).await) } else { None };
        let beside = serve(&sink(), true, lasting, verification).await;
        for (what, Service { per_second, p99, memory_mib }) in
            alone.into_iter().map(|alone| ("alone", alone)).chain([("beside bad ones", beside)])
        {
            println!(
                "{kind}, pair {pair}, {GOOD} good instances {what}: {per_second:.0} a second, p99 {p99:?}, {memory_mib} MiB"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_instances_cost_good_ones_nothing_on_kafka() {
    compare("Kafka", || Topics::new().sink(""), &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_instances_cost_good_ones_nothing_on_rabbitmq() {
    let broker = Broker::start("rabbitmq");
    rabbitmqctl(broker.folder(), &["eval", "application:set_env(rabbit, max_message_size, 1048576)."]);
    let sink = || Names::at(broker.address("BRIDGE_TEST_AMQP")).sink("");
    compare("RabbitMQ", sink, &["--drain"]).await;
}
