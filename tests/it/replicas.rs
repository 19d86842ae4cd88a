//! Several bridges with one config.

use std::fs;
use std::thread::sleep;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::scene::Scene;
use crate::support::{Broker, Worker, eventually, seeded};

pub const SHARDS: usize = 12;

/// The shard of an instance, as Kafka's own clients choose a partition.
pub fn shard_of(id: &str) -> u64 {
    u64::from(murmur2::murmur2(id.as_bytes(), 0x9747_b28c) & 0x7fff_ffff) % SHARDS as u64
}

/// How many shards it has taken, and not given up since.
pub fn held(bridge: &Worker) -> usize {
    let log = bridge.log();
    let mut held = [false; SHARDS];
    for line in log.lines().filter(|line| line.contains("shards assigned") || line.contains("shards revoked")) {
        let line: serde_json::Value = serde_json::from_str(line).expect(line);
        let shards = line["shards"].as_str().unwrap().trim_matches(['[', ']']).split(", ");
        for shard in shards.map(|shard| shard.parse::<usize>().unwrap()) {
            held[shard] = line["message"] == "shards assigned";
        }
    }
    held.iter().filter(|held| **held).count()
}

/// Three replicas under load, to which anything happens that can; then what was pushed is gone from the queues. What all
/// of them have logged.
pub fn survive(scene: &Scene, sink: &str, broker: &Broker, bodies: &[String], faults: usize) -> String {
    const NAMES: [&str; 3] = ["first", "second", "third"];
    let mut random = seeded();
    let mut replicas = NAMES.map(|name| Some(scene.start_with(name, sink)));
    eventually("it works", || scene.queued() == 0);
    let share = bodies.len() / faults;
    // The durations are the faults themselves, no waiting for something.
    let pause = |from: u64, to: u64, random: &mut fastrand::Rng| sleep(Duration::from_millis(random.u64(from..to)));
    for (number, bodies) in bodies.chunks(share).enumerate() {
        scene.push_to_all(bodies);
        pause(0, 500, &mut random);
        let (chosen, name) = random.choice(replicas.iter_mut().zip(NAMES)).unwrap();
        let replica = chosen.take().unwrap();
        let kind = random.u8(0..12);
        println!("{number}: {kind} {name}");
        *chosen = Some(match kind {
            0..4 => {
                replica.signal(Signal::SIGSTOP);
                pause(200, 6_000, &mut random);
                replica.signal(Signal::SIGCONT);
                replica
            }
            4..7 => {
                replica.kill();
                pause(0, 2_000, &mut random);
                scene.start_with(name, sink)
            }
            7..9 => {
                // One that has just begun may not have heard of orderly stops yet.
                replica.stop(Signal::SIGTERM);
                scene.start_with(name, sink)
            }
            9..11 => {
                broker.pause();
                pause(200, 6_000, &mut random);
                broker.resume();
                replica
            }
            _ => {
                broker.kill();
                broker.start_again();
                replica
            }
        });
    }
    scene.drained();
    drop(replicas);
    NAMES.map(|name| fs::read_to_string(scene.path(&format!("{name}.log"))).unwrap()).concat()
}
