//! Many instances into a broker: one bridge, one that could share, and three that do.
//!
//! `BRIDGE_TEST_KAFKA=HOST:PORT BRIDGE_TEST_AMQP=amqp://…` are the addresses of brokers for tests; what is not set is not
//! measured. Bridges, emulator and broker share the machine, so three replicas need not be faster than one there.

use std::env;
use std::fs;
use std::time::{Duration, Instant};

use green_api_bridge::emulator::Emulator;
use tokio::time::sleep;

use crate::process::Process;
use crate::stage;

const INSTANCES: usize = 1000;
/// Of each instance.
const COUNT: usize = 20;
const ROUNDS: usize = 5;
/// How many replicas, and `shards`.
const KINDS: [(usize, usize); 3] = [(1, 1), (1, 12), (3, 12)];
/// Until replicas share alike.
const SETTLE: Duration = Duration::from_secs(15);

pub async fn run() {
    let name = || format!("bench-{}", std::time::UNIX_EPOCH.elapsed().unwrap().as_nanos());
    if let Ok(servers) = env::var("BRIDGE_TEST_KAFKA") {
        compare("Kafka", || {
            let name = name();
            format!(
                "{{kafka: {{bootstrap_servers: ['{servers}'], topic: {name}, ledger_topic: {name}.ledger, \
                 dead_letter_topic: {name}.dead, transactional_id: {name}}}}}"
            )
        })
        .await;
    }
    if let Ok(uri) = env::var("BRIDGE_TEST_AMQP") {
        compare("RabbitMQ", || {
            let name = name();
            format!("{{amqp: {{uri: '{uri}', name: {name}, exchange: {name}, queue: {name}, dead_letter_queue: {name}.dead}}}}")
        })
        .await;
    }
}

/// Notifications a second, and processor time for each in microseconds.
type Cost = [f64; 2];

async fn compare(broker: &str, sink: impl Fn() -> String) {
    println!("replicas: {COUNT} notifications of each of {INSTANCES} instances into {broker}, {ROUNDS} rounds");
    println!("  median (smallest to largest)  a second                to the first            processor time in µs");
    let mut rounds = Vec::new();
    for _ in 0..ROUNDS {
        let mut costs = Vec::new();
        for (replicas, shards) in KINDS {
            costs.push(measure(&sink(), replicas, shards).await);
        }
        rounds.push(costs);
    }
    for (index, (replicas, shards)) in KINDS.iter().enumerate() {
        let of = |value: &dyn Fn(&[Cost]) -> f64| {
            let mut values: Vec<f64> = rounds.iter().map(|costs| value(costs)).collect();
            values.sort_by(f64::total_cmp);
            let precise = usize::from(values[0] < 10.0) * 2;
            format!("{:.precise$} ({:.precise$} to {:.precise$})", values[ROUNDS / 2], values[0], values[ROUNDS - 1])
        };
        println!(
            "  {replicas} with `shards: {shards}`{:1$}{2:<24}{3:<24}{4}",
            "",
            14 - shards.to_string().len(),
            of(&|costs| costs[index][0]),
            of(&|costs| costs[index][0] / costs[0][0]),
            of(&|costs| costs[index][1]),
        );
    }
}

async fn measure(sink: &str, replicas: usize, shards: usize) -> Cost {
    let ids = stage::ids(INSTANCES);
    let emulator = stage::emulator(&ids).await;
    let listed: Vec<String> = ids.iter().map(|id| stage::instance(&emulator.url(), id)).collect();
    let config = format!("instances: [{}]\nshards: {shards}\nsink: {sink}\n", listed.join(", "));
    let folder = tempfile::tempdir().unwrap();
    let start = |number: usize| {
        let folder = folder.path().join(number.to_string());
        fs::create_dir(&folder).unwrap();
        Process::bridge(&folder, &config)
    };
    let replicas: Vec<Process> = (0..replicas).map(start).collect();
    sleep(SETTLE).await;
    // Warm-up: topics and connections exist afterwards.
    carry(&emulator, &ids, 1).await;
    let cpu = || replicas.iter().map(Process::cpu_seconds).sum::<f64>();
    let (before, begun) = (cpu(), Instant::now());
    carry(&emulator, &ids, COUNT).await;
    let (took, count) = (begun.elapsed().as_secs_f64(), stage::float(INSTANCES * COUNT));
    [count / took, (cpu() - before) * 1e6 / count]
}

async fn carry(emulator: &Emulator, ids: &[String], count: usize) {
    for id in ids {
        (0..count).for_each(|number| {
            emulator.push(id, format!("{{\"idMessage\":\"{number}\",\"text\":\"{}\"}}", "x".repeat(500)));
        });
    }
    while ids.iter().any(|id| emulator.queued(id) > 0) {
        sleep(Duration::from_millis(20)).await;
    }
}
