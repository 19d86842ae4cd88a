//! Several bridges with one config.

use std::collections::BTreeSet;
use std::fs;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use green_api_bridge::emulator::EventKind;
use nix::sys::signal::Signal;

use crate::scene::{Scene, numbered};
use crate::support::{Broker, Worker, event, eventually, is_long, seeded};

pub const SHARDS: usize = 12;

/// The shard of an instance, as Kafka's own clients choose a partition.
pub fn shard_of(id: &str) -> u64 {
    u64::from(murmur2::murmur2(id.as_bytes(), 0x9747_b28c) & 0x7fff_ffff) % SHARDS as u64
}

/// How many shards it has taken, and not given up since.
pub fn held(bridge: &Worker) -> usize {
    shards_of(bridge).len()
}

/// Which those are.
pub fn shards_of(bridge: &Worker) -> BTreeSet<u64> {
    let log = bridge.log();
    let mut held = BTreeSet::new();
    for line in
        log.lines().filter(|line| line.contains(&event("shards_assigned")) || line.contains(&event("shards_revoked")))
    {
        let line: serde_json::Value = serde_json::from_str(line).expect(line);
        let shards = line["shards"].as_str().unwrap().trim_matches(['[', ']']).split(", ");
        for shard in shards.map(|shard| shard.parse::<u64>().unwrap()) {
            if line["event"] == "shards_assigned" {
                held.insert(shard)
            } else {
                held.remove(&shard)
            };
        }
    }
    held
}

/// What happens to one of three replicas: the step at which it happens, SIGSTOP or SIGKILL, and whether one more is started.
#[cfg(feature = "fault-hooks")]
pub type Cell = (&'static str, Signal, bool);

/// All cells of these steps, or in the plain run a sample.
#[cfg(feature = "fault-hooks")]
pub fn cells(steps: &[&'static str], sample: [Cell; 6]) -> Vec<Cell> {
    if !is_long() {
        return sample.into();
    }
    let of = |step: &&'static str| {
        [Signal::SIGSTOP, Signal::SIGKILL].map(|signal| [false, true].map(|again| (*step, signal, again)))
    };
    steps.iter().flat_map(of).flatten().collect()
}

/// Has it happen under load, and waits until all is stored. `while_stopped` waits for as long as a stopped replica is to
/// stay so. All replicas, the one that it happened to last.
#[cfg(feature = "fault-hooks")]
pub fn strike(
    scene: &Scene,
    sink: &str,
    bodies: &[String],
    (step, signal, restarts): Cell,
    while_stopped: impl FnOnce(&[Worker]),
) -> Vec<Worker> {
    let begun = Instant::now();
    let mut pushed = bodies.len() / 2;
    scene.push_to_all(&bodies[..pushed]);
    let mut replicas: Vec<Worker> = ["second", "third"].map(|name| scene.start_with(name, sink)).into();
    let fault = format!("{signal}@{step}#{}", seeded().u32(20..40));
    let mut first = scene.start_with_fault("first", sink, &fault);
    eventually(&format!("{signal} at {step}"), || {
        if scene.queued() < 300 && pushed < bodies.len() {
            scene.push_to_all(&bodies[pushed..=pushed]);
            pushed += 1;
        }
        if signal == Signal::SIGSTOP { first.is_stopped() } else { first.has_ended() }
    });
    let (struck, left) = (Instant::now(), scene.queued());
    scene.push_to_all(&bodies[pushed..]);
    replicas.extend(restarts.then(|| scene.start_with("again", sink)));
    if signal == Signal::SIGSTOP {
        while_stopped(&replicas);
        first.signal(Signal::SIGCONT);
    }
    scene.drained();
    let more = scene.instances.len() * (bodies.len() - pushed);
    println!(
        "{signal} at {step}, started again: {restarts}: {left} and {more} more were stored {:?} after the fault, all in {:?}",
        struck.elapsed(),
        begun.elapsed()
    );
    if (step, signal) == ("stored", Signal::SIGSTOP) {
        // What it had stored was somebody else's to delete when it woke up.
        assert!(first.log().contains(&event("delete_too_late")), "{}", first.log());
    }
    replicas.push(first);
    replicas
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

/// What becomes of three replicas.
#[derive(Clone, Copy, Debug)]
pub enum Change {
    Stopped,
    OneMore,
    RolledOver,
    Killed,
    /// SIGSTOP: its connections stay.
    Hung,
}

/// A sample of them, or all; each with a time in seconds after which Kafka's group misses a member. Who ends in order is not
/// missed, so there it is long.
pub fn changes() -> Vec<(Change, u64)> {
    let all = vec![
        (Change::Stopped, 10),
        (Change::OneMore, 10),
        (Change::RolledOver, 10),
        (Change::Killed, 6),
        (Change::Hung, 6),
    ];
    if is_long() { all } else { all[..1].to_vec() }
}

/// Three replicas under a steady load, and one change: how long notifications waited at most, of the shards that moved and of
/// those that did not.
pub fn waits(scene: &Scene, sink: &str, change: Change) -> [Duration; 2] {
    const PAUSE: Duration = Duration::from_millis(200);
    let mut replicas: Vec<Worker> =
        ["first", "second", "third"].iter().map(|name| scene.start_with(name, sink)).collect();
    let share_alike = |replicas: &[Worker], count: usize| {
        let held: Vec<usize> = replicas.iter().map(held).collect();
        let part = SHARDS / count..=SHARDS.div_ceil(count);
        held.iter().sum::<usize>() == SHARDS && held.iter().all(|held| part.contains(held))
    };
    eventually("they share", || share_alike(&replicas, 3));
    scene.push_to_all(&numbered(1));
    scene.drained();
    let before: Vec<BTreeSet<u64>> = replicas.iter().map(shards_of).collect();
    let ended = AtomicBool::new(false);
    let mut moved = BTreeSet::new();
    thread::scope(|threads| {
        // The load itself, no waiting for something.
        threads.spawn(|| {
            // None equal to the one before: a head that seems to be back is received again, after a pause.
            for number in 1000_u64.. {
                if ended.load(Relaxed) {
                    return;
                }
                scene.push_to_all(&[format!(r#"{{"typeWebhook":"incomingCall","idMessage":"{number}"}}"#)]);
                sleep(PAUSE);
            }
        });
        let mut gone = None;
        match change {
            Change::Stopped => assert!(replicas.remove(0).stop(Signal::SIGTERM).0.success()),
            Change::Killed => replicas.remove(0).kill(),
            Change::Hung => {
                let hung = replicas.remove(0);
                hung.signal(Signal::SIGSTOP);
                gone = Some(hung);
            }
            Change::OneMore => replicas.push(scene.start_with("fourth", sink)),
            Change::RolledOver => {
                for name in ["fourth", "fifth", "sixth"] {
                    replicas.push(scene.start_with(name, sink));
                    eventually("four share", || share_alike(&replicas, 4));
                    assert!(replicas.remove(0).stop(Signal::SIGTERM).0.success());
                    eventually("three share", || share_alike(&replicas, 3));
                }
            }
        }
        let count = replicas.len();
        eventually("they share again", || share_alike(&replicas, count));
        let now: Vec<BTreeSet<u64>> = replicas.iter().map(shards_of).collect();
        let stays = |shard: &u64| match change {
            Change::RolledOver => false,
            Change::OneMore => {
                before.iter().zip(&now).any(|(before, now)| before.contains(shard) && now.contains(shard))
            }
            _ => before[1..].iter().any(|before| before.contains(shard)),
        };
        moved = (0..SHARDS as u64).filter(|shard| !stays(shard)).collect();
        ended.store(true, Relaxed);
        scene.drained();
        drop(gone);
    });
    let longest = |of_moved: bool| {
        let ids = scene.instances.iter().filter(|id| moved.contains(&shard_of(id)) == of_moved);
        let waits = ids.flat_map(|id| {
            let journal = scene.emulator.journal(id);
            let at = |kind: EventKind| journal.iter().filter(move |event| event.event == kind).map(|event| event.at_ms);
            // The first was there before the load, and waited for the topics to be created.
            at(EventKind::Pushed)
                .zip(at(EventKind::Deleted))
                .skip(1)
                .map(|(pushed, deleted)| deleted - pushed)
                .collect::<Vec<_>>()
        });
        Duration::from_millis(waits.max().unwrap_or(0))
    };
    [longest(true), longest(false)]
}
