//! Ten thousand idle instances: what they cost, and how soon one of them wakes. Beside it as many long polls of bare `hyper`:
//! what of that cost is not the bridge's own.

use std::time::{Duration, Instant};

use green_api_bridge::emulator::Emulator;
use tokio::time::sleep;

use crate::process::Process;
use crate::{front, stage};

const INSTANCES: usize = 10_000;
const WAKES: usize = 500;
const QUIET: Duration = Duration::from_secs(15);
/// A process may open only so many files, and this one holds the other end of all connections.
const FRONTS: usize = 2;

pub async fn run() {
    let ids = stage::ids(INSTANCES);
    println!("idle: {INSTANCES} instances");
    let folder = tempfile::tempdir().unwrap();

    let emulator = stage::emulator(&ids).await;
    let floor = |ids: &[String]| Process::role(folder.path(), &["floor", &emulator.url(), &ids.len().to_string()]);
    println!("  floor: hyper, plain HTTP  {}", cost(&emulator, &ids, floor).await.1);

    let emulator = stage::emulator(&ids).await;
    let bridge = |ids: &[String]| Process::bridge(folder.path(), &config(ids, &[emulator.url()], "null"));
    println!("  the bridge, plain HTTP    {}", watched(&emulator, &ids, bridge).await);

    let emulator = stage::emulator(&ids).await;
    let certificate = front::certificate(folder.path());
    let port = emulator.url().rsplit_once(':').unwrap().1.to_owned();
    let fronts: Vec<_> = (0..FRONTS).map(|number| front::start(folder.path(), &port, number)).collect();
    let urls: Vec<String> = fronts.iter().map(|(_, url)| url.clone()).collect();
    let bridge = |ids: &[String]| Process::bridge(folder.path(), &config(ids, &urls, certificate));
    println!("  the bridge, TLS           {}", watched(&emulator, &ids, bridge).await);
}

fn config(ids: &[String], urls: &[String], certificate: &str) -> String {
    let instance = |(id, url): (&String, &String)| format!("  - {}\n", stage::instance(url, id));
    let instances: String = ids.iter().zip(urls.iter().cycle()).map(instance).collect();
    format!("instances:\n{instances}api: {{ca_file: {certificate}}}\nsink: {{file: {{path: out.jsonl}}}}\n")
}

async fn all_poll(emulator: &Emulator, ids: &[String]) {
    while !ids.iter().all(|id| emulator.requests(id) > 0) {
        sleep(Duration::from_millis(100)).await;
    }
}

/// The process, and what each instance costs while nothing comes: memory beyond that of a process with one.
async fn cost(emulator: &Emulator, ids: &[String], start: impl Fn(&[String]) -> Process) -> (Process, String) {
    let one = start(&ids[..1]);
    all_poll(emulator, &ids[..1]).await;
    sleep(Duration::from_secs(1)).await;
    let alone = one.resident_kib();
    drop(one);
    let process = start(ids);
    all_poll(emulator, ids).await;
    sleep(QUIET).await;
    let (before, begun) = (process.cpu_seconds(), Instant::now());
    sleep(QUIET).await;
    let cpu = (process.cpu_seconds() - before) / begun.elapsed().as_secs_f64() * 100.0;
    let each = (process.resident_kib() - alone) / stage::float(INSTANCES - 1);
    (process, format!("{each:5.1} KiB each, {cpu:4.1} % of a core"))
}

/// The same, how soon an instance wakes, and how soon all stop.
async fn watched(emulator: &Emulator, ids: &[String], start: impl Fn(&[String]) -> Process) -> String {
    let (bridge, cost) = cost(emulator, ids, start).await;
    let mut reactions = Vec::new();
    for id in ids.iter().step_by(INSTANCES / WAKES) {
        let pushed = Instant::now();
        emulator.push(id, "{}");
        while emulator.queued(id) > 0 {
            sleep(Duration::from_millis(1)).await;
        }
        reactions.push(pushed.elapsed());
    }
    reactions.sort();
    let [median, most] = [reactions[WAKES / 2], reactions[WAKES * 99 / 100]];
    format!("{cost}; from push to delete p50 {median:.1?}, p99 {most:.1?}; all stopped in {:.2?}", bridge.stop())
}
