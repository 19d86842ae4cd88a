//! Instances that come, change and go beside others at work.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use green_api_bridge::emulator::Emulator;
use tokio::time::sleep;

use crate::process::Process;
use crate::stage;

const STEADY: usize = 20;
const COMING: usize = 10;
/// Each adds, changes or removes all those that come and go.
const ROUNDS: u32 = 12;
/// The folder is looked at every two seconds.
const LOOK: Duration = Duration::from_millis(2_500);

pub async fn run() {
    let ids = stage::ids(STEADY + COMING);
    let (steady, coming) = ids.split_at(STEADY);
    let emulator = stage::emulator(&ids).await;
    for id in steady {
        (0..20_000).for_each(|number| emulator.push(id, format!("{{\"idMessage\":\"{number}\"}}")));
    }
    let folder = tempfile::tempdir().unwrap();
    let instances = folder.path().join("instances");
    fs::create_dir(&instances).unwrap();
    let listed: Vec<String> = steady.iter().map(|id| stage::instance(&emulator.url(), id)).collect();
    let config = format!("instances: [{}]\ninstances_dir: instances\nsink: {{stdout: {{}}}}\n", listed.join(", "));
    let _bridge = Process::bridge(folder.path(), &config);
    let before = rate(&emulator, steady, ROUNDS / 3, |_| {}).await;
    let during = rate(&emulator, steady, ROUNDS, |round| act(&emulator, &instances, coming, round)).await;
    let after = rate(&emulator, steady, ROUNDS / 3, |_| {}).await;
    let polls: u64 = coming.iter().map(|id| emulator.requests(id)).sum();
    println!(
        "churn: {STEADY} instances at work; of {COMING} others {} files come, change or go ({polls} polls)",
        ROUNDS * 10
    );
    println!("  notifications a second before {before:.0}, during {during:.0}, after {after:.0}");
}

fn act(emulator: &Emulator, folder: &Path, ids: &[String], round: u32) {
    for id in ids {
        let file = folder.join(format!("{id}.yaml"));
        match round % 3 {
            2 => fs::remove_file(file).unwrap(),
            _ => fs::write(file, format!("{} # {round}\n", stage::instance(&emulator.url(), id))).unwrap(),
        }
    }
}

/// Deletes per second while `act` runs `rounds` times.
async fn rate(emulator: &Emulator, ids: &[String], rounds: u32, mut act: impl FnMut(u32)) -> f64 {
    let queued = || ids.iter().map(|id| emulator.queued(id)).sum::<usize>();
    let (before, begun) = (queued(), Instant::now());
    for round in 0..rounds {
        act(round);
        sleep(LOOK).await;
    }
    let done = u32::try_from(before - queued()).unwrap();
    f64::from(done) / begun.elapsed().as_secs_f64()
}
