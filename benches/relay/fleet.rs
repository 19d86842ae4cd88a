//! Ten thousand idle instances in a process of its own: what they cost, and how soon one of them wakes.
//! The emulator runs here, so that only the bridge is measured.

use std::fs;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use green_api_bridge::emulator::Emulator;
use tokio::time::sleep;

use crate::stage;

const INSTANCES: usize = 10_000;
const WAKES: usize = 500;
const QUIET: Duration = Duration::from_secs(30);

struct Bridge(Child);

impl Drop for Bridge {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

fn start(folder: &std::path::Path, config: &str) -> Bridge {
    fs::write(folder.join("bridge.yaml"), config).unwrap();
    let log = fs::File::create(folder.join("log")).unwrap();
    let mut run = Command::new(env!("CARGO_BIN_EXE_green-api-bridge"));
    run.current_dir(folder).args(["run", "--config", "bridge.yaml"]).env("RUST_LOG", "warn");
    Bridge(run.stdout(Stdio::null()).stderr(log).spawn().unwrap())
}

fn instance(emulator: &Emulator, id: &str) -> String {
    format!("{{id: {id}, api_url: '{}', api_token: {}}}", emulator.url(), stage::TOKEN)
}

pub async fn idle() {
    let ids = stage::ids(INSTANCES);
    let emulator = stage::emulator(&ids).await;
    let folder = tempfile::tempdir().unwrap();
    let instances: Vec<String> = ids.iter().map(|id| instance(&emulator, id)).collect();
    let config = format!("instances:\n  - {}\nsink: {{file: {{path: out.jsonl}}}}\n", instances.join("\n  - "));
    let bridge = start(folder.path(), &config);
    while !ids.iter().all(|id| emulator.requests(id) > 0) {
        sleep(Duration::from_millis(100)).await;
    }
    sleep(QUIET).await;
    let (before, begun) = (cpu_ticks(&bridge), Instant::now());
    sleep(QUIET).await;
    let cpu = f64::from(cpu_ticks(&bridge) - before) / begun.elapsed().as_secs_f64();
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
    println!("idle: {INSTANCES} instances over plain HTTP");
    println!("  resident memory   {:7.1} MiB", resident_mib(&bridge));
    // A tick is a hundredth of a second, so ticks a second are percent of a core.
    println!("  processor         {cpu:7.2} % of a core");
    println!("  from push to the delete: p50 {:?}, p99 {:?}", reactions[WAKES / 2], reactions[WAKES * 99 / 100]);
}

/// Instances that come, change and go beside others at work.
pub async fn churn() {
    const STEADY: usize = 20;
    let ids = stage::ids(STEADY + 1);
    let emulator = stage::emulator(&ids).await;
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("instances")).unwrap();
    let steady: Vec<String> = ids[..STEADY].iter().map(|id| instance(&emulator, id)).collect();
    let config =
        format!("instances: [{}]\ninstances_dir: instances\nsink: {{file: {{path: out.jsonl}}}}\n", steady.join(", "));
    for id in &ids[..STEADY] {
        (0..20_000).for_each(|number| emulator.push(id, format!("{{\"idMessage\":\"{number}\"}}")));
    }
    let _bridge = start(folder.path(), &config);
    let file = folder.path().join("instances/one.yaml");
    let before = rate(&emulator, &ids[..STEADY], 15, || {}).await;
    let mut round = 0;
    let during = rate(&emulator, &ids[..STEADY], 60, || {
        round += 1;
        match round % 3 {
            0 => fs::remove_file(&file).unwrap(),
            _ => fs::write(&file, format!("{} # {round}\n", instance(&emulator, &ids[STEADY]))).unwrap(),
        }
    })
    .await;
    let after = rate(&emulator, &ids[..STEADY], 15, || {}).await;
    println!("churn: {STEADY} instances at work, {round} changes of another one's file");
    println!("  notifications a second before {before:.0}, during {during:.0}, after {after:.0}");
}

/// What is deleted a second, over so many seconds, with something done ten times in six of them.
async fn rate(emulator: &Emulator, ids: &[String], seconds: u32, mut act: impl FnMut()) -> f64 {
    let queued = || ids.iter().map(|id| emulator.queued(id)).sum::<usize>();
    let (before, begun) = (queued(), Instant::now());
    while begun.elapsed() < Duration::from_secs(seconds.into()) {
        act();
        sleep(Duration::from_millis(600)).await;
    }
    let done = u32::try_from(before - queued()).unwrap();
    f64::from(done) / begun.elapsed().as_secs_f64()
}

fn resident_mib(bridge: &Bridge) -> f64 {
    let status = fs::read_to_string(format!("/proc/{}/status", bridge.0.id())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").trim().parse::<f64>().unwrap() / 1024.0
}

fn cpu_ticks(bridge: &Bridge) -> u32 {
    let stat = fs::read_to_string(format!("/proc/{}/stat", bridge.0.id())).unwrap();
    // User and system time are the 14th and 15th field; the second one is in parentheses.
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    fields[11].parse::<u32>().unwrap() + fields[12].parse::<u32>().unwrap()
}
