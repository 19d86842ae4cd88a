//! The instructions that a notification costs, and its allocations, counted by valgrind: the same in every run, whatever else
//! the machine does. Two runs of different lengths, so that starting and stopping are not counted.

use std::iter::once;
use std::time::Duration;

use crate::contender::{Contender, carry};
use crate::stage;

const COUNTS: [usize; 2] = [200, 2_200];
/// Long enough for no request to wait for its turn.
const ROUND_TRIP: Duration = Duration::from_millis(12);

pub async fn run() {
    println!("instructions: {} notifications of one instance, {ROUND_TRIP:?} of round trip", COUNTS[1] - COUNTS[0]);
    println!("| a notification | instructions | to the floor | allocations | bytes allocated |");
    println!("|---|---|---|---|---|");
    let mut floor = None;
    let contenders = once(Contender::floor()).chain(Contender::all().into_iter().flatten());
    for contender in contenders.filter(|contender| !contender.is_slow()) {
        let instructions = of_each(&contender, "--tool=callgrind", "Collected :").await[0];
        let allocated = of_each(&contender, "--tool=dhat", "Total:").await;
        let ratio = instructions / *floor.get_or_insert(instructions);
        println!("| {} | {instructions:.0} | {ratio:.2} | {:.1} | {:.0} |", contender.name, allocated[1], allocated[0]);
    }
}

/// What the tool counts for each notification: the numbers behind `marker` in its summary.
async fn of_each(contender: &Contender, tool: &str, marker: &str) -> Vec<f64> {
    let [few, many] =
        [count(contender, tool, marker, COUNTS[0]).await, count(contender, tool, marker, COUNTS[1]).await];
    few.iter().zip(many).map(|(few, many)| (many - few) / stage::float(COUNTS[1] - COUNTS[0])).collect()
}

async fn count(contender: &Contender, tool: &str, marker: &str, notifications: usize) -> Vec<f64> {
    let ids = stage::ids(1);
    let emulator = stage::emulator(&ids).await;
    emulator.set_delay(&ids[0], ROUND_TRIP);
    let folder = tempfile::tempdir().unwrap();
    // Without its file of results, which is large.
    let valgrind = ["valgrind", tool, &format!("{}-out-file=/dev/null", &tool.replace("tool=", ""))];
    let mut process = contender.start(folder.path(), &emulator, &ids, &valgrind).await;
    carry(&mut process, &emulator, &ids, notifications).await;
    process.stop();
    let log = std::fs::read_to_string(folder.path().join("log")).unwrap();
    let summary = log.lines().rev().find_map(|line| Some(line.split_once(marker)?.1)).expect(&log);
    summary.replace(',', "").split_whitespace().filter_map(|word| word.parse().ok()).collect()
}
