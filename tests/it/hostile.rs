//! An instance of every bad kind beside good ones: the good ones are served as if they were alone.

use std::fs;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use green_api_bridge::emulator::EventKind;
use serde_json::Value;

use crate::kafka_topics::Topics;
use crate::rabbitmq_queues::Names;
use crate::scene::Scene;
use crate::support::{Broker, command, is_long, run};

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
    // Its token is refused, and the file of the token has become a pipe.
    || r#"{"typeWebhook":"incomingCall","idMessage":"refused"}"#.into(),
];

/// What the good ones had of it, and what it took.
struct Service {
    per_second: f64,
    p99: Duration,
    memory_mib: usize,
    /// In the last three fifths of the time.
    usage: Vec<Usage>,
}

/// What a process holds at one moment: MiB, threads, files and connections.
type Usage = [usize; 3];

/// The first, the last, the smallest and the largest of each.
fn describe(usage: &[Usage]) -> String {
    let of = |index: usize| {
        let values = || usage.iter().map(|usage| usage[index]);
        let (first, last) =
            (usage.first().map_or(0, |usage| usage[index]), usage.last().map_or(0, |usage| usage[index]));
        format!("{first} → {last} ({} to {})", values().min().unwrap_or(0), values().max().unwrap_or(0))
    };
    format!("MiB {}, threads {}, files {}", of(0), of(1), of(2))
}

/// Runs a bridge into this sink for a while, and checks that of the good instances nothing is lost, doubled or reordered.
async fn serve(sink: &str, with_bad: bool, lasting: Duration, verification: &[&str]) -> Service {
    let mut scene = Scene::fleet(GOOD + BAD.len(), &[]).await;
    let bad = scene.instances[GOOD..].to_vec();
    scene.emulator.turn(&bad[3], |knobs| knobs.head_stays = true);
    scene.emulator.turn(&bad[4], |knobs| knobs.receive_lag_ms = 300);
    let mut config = sink.to_owned();
    scene.instances.truncate(if with_bad { GOOD + 5 } else { GOOD });
    if with_bad {
        fs::create_dir(scene.path("instances")).unwrap();
        fs::write(scene.path("token"), "another").unwrap();
        let refused = format!("id: {}\napi_url: {}\napi_token_file: token\n", bad[5], scene.emulator.url());
        fs::write(scene.path("instances/refused.yaml"), refused).unwrap();
        config.push_str("\ninstances_dir: instances");
    }
    let bridge = scene.start_with("bridge", &config);
    scene.instances.truncate(GOOD);
    if with_bad {
        bridge.wait_for_log("the token was refused");
        fs::remove_file(scene.path("token")).unwrap();
        assert!(Command::new("mkfifo").arg(scene.path("token")).status().unwrap().success());
    }
    let (ended, begun, mut pushed, mut memory) = (AtomicBool::new(false), Instant::now(), 0, 0);
    let mut usage = Vec::new();
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
            let now = [bridge.memory(), bridge.threads(), bridge.open_files()];
            memory = memory.max(now[0]);
            if begun.elapsed() > lasting * 2 / 5 {
                usage.push(now);
            }
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
    Service { per_second: count / took.as_secs_f64(), p99, memory_mib: memory, usage }
}

/// What lies in the middle, and the smallest and the largest.
fn median(mut values: Vec<f64>) -> String {
    values.sort_by(f64::total_cmp);
    format!("{:.3} ({:.3} to {:.3})", values[values.len() / 2], values[0], values[values.len() - 1])
}

/// With them in the plain run. In the long one with and without them in turn, five times five minutes each.
async fn compare(kind: &str, sink: impl Fn() -> String, verification: &[&str]) {
    let (pairs, lasting) = if is_long() { (5, Duration::from_secs(300)) } else { (1, Duration::from_secs(8)) };
    let (mut of_rate, mut of_p99) = (Vec::new(), Vec::new());
    for pair in 1..=pairs {
        let alone = if is_long() { Some(serve(&sink(), false, lasting, verification).await) } else { None };
        let beside = serve(&sink(), true, lasting, verification).await;
        if let Some(alone) = &alone {
            of_rate.push(beside.per_second / alone.per_second);
            of_p99.push(beside.p99.as_secs_f64() / alone.p99.as_secs_f64());
        }
        for (what, Service { per_second, p99, memory_mib, usage }) in
            alone.into_iter().map(|alone| ("alone", alone)).chain([("beside bad ones", beside)])
        {
            println!(
                "{kind}, pair {pair}, {GOOD} good instances {what}: {per_second:.1} a second, p99 {p99:?}, at most \
                 {memory_mib} MiB; in the last three fifths {}",
                describe(&usage)
            );
        }
    }
    if is_long() {
        println!("{kind}, beside bad ones to alone: a second {}, p99 {}", median(of_rate), median(of_p99));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_instances_cost_good_ones_nothing_on_kafka() {
    compare("Kafka", || Topics::new().sink(""), &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_instances_cost_good_ones_nothing_on_rabbitmq() {
    let broker = Broker::start_rabbitmq_with("max_message_size = 1048576");
    let sink = || Names::at(broker.address("BRIDGE_TEST_AMQP")).sink("");
    compare("RabbitMQ", sink, &["--drain"]).await;
}
