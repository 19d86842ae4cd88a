//! The processor time that a notification costs. What is compared runs at the same time, because a busy machine takes up to twice
//! as long for the same: then it does so for all.

use std::iter::once;
use std::time::Duration;

use green_api_bridge::emulator::Emulator;
use tempfile::TempDir;
use tokio::time::sleep;

use crate::contender::{Contender, carry, is_carried, push};
use crate::process::Process;
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
    println!("| processor time of a notification | µs, median (smallest to largest) | to the floor | to this build |");
    println!("|---|---|---|---|");
    for contenders in Contender::all() {
        let together: Vec<Contender> = once(Contender::floor()).chain(contenders).collect();
        let mut rounds = Vec::new();
        for _ in 0..ROUNDS {
            rounds.push(measure(&together).await);
        }
        for (index, contender) in together.iter().enumerate() {
            let to = |other: usize| Spread::of(rounds.iter().map(|costs| costs[index] / costs[other]));
            let to_this = if index > 1 { format!("{:.2}", to(1)) } else { String::new() };
            let cost = Spread::of(rounds.iter().map(|costs| costs[index]));
            println!("| {} | {cost:.0} | {:.2} | {to_this} |", contender.name, to(0));
        }
    }
}

/// The microseconds that each takes for a notification, beside the others.
async fn measure(together: &[Contender]) -> Vec<f64> {
    let ids = stage::ids(INSTANCES);
    let mut relays = Vec::new();
    for contender in together {
        relays.push(Relay::start(contender, &ids).await);
    }
    for relay in &mut relays {
        relay.begin(&ids);
    }
    while relays.iter().any(|relay| relay.cost.is_none()) {
        for relay in &mut relays {
            relay.look(&ids);
        }
        sleep(Duration::from_millis(5)).await;
    }
    relays.into_iter().filter_map(|relay| relay.cost).collect()
}

/// A process that carries notifications, and the emulator that has them.
struct Relay {
    process: Process,
    emulator: Emulator,
    _folder: TempDir,
    count: usize,
    before: f64,
    /// Once all are carried.
    cost: Option<f64>,
}

impl Relay {
    async fn start(contender: &Contender, ids: &[String]) -> Self {
        let emulator = stage::emulator(ids).await;
        let folder = tempfile::tempdir().unwrap();
        let mut process = contender.start(folder.path(), &emulator, ids, &[]).await;
        // Connections, topics and queues exist afterwards.
        carry(&mut process, &emulator, ids, 2).await;
        for id in ids {
            emulator.set_delay(id, ROUND_TRIP);
        }
        let count = if contender.is_slow() { COUNT / SLOW_PART } else { COUNT };
        Self { process, emulator, _folder: folder, count, before: 0.0, cost: None }
    }

    fn begin(&mut self, ids: &[String]) {
        self.before = self.process.cpu_seconds();
        push(&self.emulator, ids, self.count);
    }

    fn look(&mut self, ids: &[String]) {
        if self.cost.is_none() && is_carried(&mut self.process, &self.emulator, ids) {
            let seconds = self.process.cpu_seconds() - self.before;
            self.cost = Some(seconds * 1e6 / stage::float(INSTANCES * self.count));
        }
    }
}
