//! The processor time that a notification costs.

use std::time::Duration;

use crate::contender::{Contender, carry};
use crate::stage::{self, Spread};

const INSTANCES: usize = 100;
/// Of each instance.
const COUNT: usize = 60;
/// What is slow carries a part of them.
const SLOW_PART: usize = 6;
const ROUNDS: usize = 5;
const ROUND_TRIP: Duration = Duration::from_millis(40);

pub async fn run() {
    println!(
        "cost: {COUNT} notifications of each of {INSTANCES} instances, {ROUND_TRIP:?} of round trip, {ROUNDS} rounds"
    );
    let contenders = Contender::all();
    let mut rounds: Vec<Vec<f64>> = Vec::new();
    for _ in 0..ROUNDS {
        let mut costs = Vec::new();
        for contender in &contenders {
            costs.push(measure(contender).await);
        }
        rounds.push(costs);
    }
    println!("| processor time of a notification, µs | median (smallest to largest) | to the floor |");
    println!("|---|---|---|");
    for (index, contender) in contenders.iter().enumerate() {
        let cost = Spread::of(rounds.iter().map(|costs| costs[index]));
        let ratio = Spread::of(rounds.iter().map(|costs| costs[index] / costs[0]));
        println!("| {} | {cost:.0} | {:.2} |", contender.name, ratio.median());
    }
}

/// Microseconds.
async fn measure(contender: &Contender) -> f64 {
    let ids = stage::ids(INSTANCES);
    let emulator = stage::emulator(&ids).await;
    let folder = tempfile::tempdir().unwrap();
    let mut process = contender.start(folder.path(), &emulator, &ids, &[]).await;
    // Connections, topics and queues exist afterwards.
    carry(&mut process, &emulator, &ids, 2).await;
    for id in &ids {
        emulator.set_delay(id, ROUND_TRIP);
    }
    let count = if contender.is_slow() { COUNT / SLOW_PART } else { COUNT };
    let before = process.cpu_seconds();
    carry(&mut process, &emulator, &ids, count).await;
    (process.cpu_seconds() - before) * 1e6 / stage::float(INSTANCES * count)
}
