//! Explores every history of up to three notifications and a few faults: crashes at each point,
//! redelivery under the same and new receipts, restarted receipts, lost answers, publishes of
//! unknown outcome, and a second owner. In every state reached the promises are checked.
//!
//! An empty answer, true or false, changes nothing here because the machine is never told of one.

use std::collections::HashSet;

use super::*;

/// What an exploration may do.
#[derive(Clone, Copy)]
struct Rules {
    /// The bodies in the queue, oldest first.
    bodies: &'static [&'static str],
    /// Whether the sink keeps its memory in the transaction of the record (Kafka, file).
    remembers: bool,
    /// How many bridges take the queue from each other. With two, receipts do not restart: a
    /// late delete of a former owner could then hit a notification that nobody has seen.
    owners: usize,
    faults: u8,
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct World {
    /// Index of the head of the queue.
    head: usize,
    /// Receipt of the head once it was handed out.
    receipt: Option<u8>,
    next_receipt: u8,
    /// What the sink holds: index and mark.
    log: Vec<(usize, bool)>,
    ledger: Option<(u64, usize)>,
    /// Counts acquisitions; whoever took the last one owns the sink.
    epoch: u8,
    faults_left: u8,
    /// Something happened that puts a notification in doubt: a restart, or a delete without a
    /// confirmation. Only then may equal bytes count as one.
    doubt_caused: bool,
    bridges: Vec<Bridge>,
}

#[derive(Clone, PartialEq, Eq, Hash)]
enum Bridge {
    Down,
    /// The sink told it to open its lane anew.
    Lost(Doubt),
    Idle(Doubt, u8),
    Holding(Doubt, u8, usize, u8),
    /// Stored; the delete is due.
    Stored(Doubt, u8, u8),
}

impl Rules {
    fn print(&self, index: usize) -> Fingerprint {
        Fingerprint::of(self.bodies[index].as_bytes())
    }

    fn start(&self) -> World {
        World {
            head: 0,
            receipt: None,
            next_receipt: 1,
            log: Vec::new(),
            ledger: None,
            epoch: 0,
            faults_left: self.faults,
            doubt_caused: false,
            bridges: vec![Bridge::Down; self.owners],
        }
    }

    fn memory(&self, world: &World) -> Memory {
        match world.ledger {
            _ if !self.remembers => Memory::Unknown,
            None => Memory::Nothing,
            Some((sequence, index)) => Memory::Published { sequence, fingerprint: self.print(index) },
        }
    }

    /// Every world that one step of this bridge can lead to.
    fn steps(&self, world: &World, number: usize) -> Vec<World> {
        let mut next = Vec::new();
        let to = |bridge: Bridge| {
            let mut world = world.clone();
            world.bridges[number] = bridge;
            world
        };
        let fault = |mut world: World, worlds: &mut Vec<World>| {
            if world.faults_left > 0 {
                world.faults_left -= 1;
                worlds.push(world);
            }
        };
        let alive_elsewhere =
            world.bridges.iter().enumerate().any(|(other, bridge)| other != number && *bridge != Bridge::Down);
        match world.bridges[number].clone() {
            Bridge::Down => {
                let mut started = to(Bridge::Idle(Doubt::new(self.memory(world)), world.epoch + 1));
                started.epoch += 1;
                started.doubt_caused |= !world.log.is_empty();
                if alive_elsewhere { fault(started, &mut next) } else { next.push(started) }
            }
            // To take the lock of another who is alive, the broker must first have dropped it.
            Bridge::Lost(mut doubt) => {
                if self.remembers && alive_elsewhere {
                    // Another's sentinel is newer: fenced.
                    next.push(to(Bridge::Down));
                } else {
                    doubt.reopened(self.memory(world));
                    let mut reopened = to(Bridge::Idle(doubt, world.epoch + 1));
                    reopened.epoch += 1;
                    if alive_elsewhere { fault(reopened, &mut next) } else { next.push(reopened) }
                }
            }
            Bridge::Idle(doubt, epoch) if world.head < self.bodies.len() => {
                let hand_out = |receipt: u8, next_receipt: u8| {
                    let mut world = to(Bridge::Holding(doubt.clone(), epoch, world.head, receipt));
                    world.receipt = Some(receipt);
                    world.next_receipt = next_receipt;
                    world
                };
                next.push(match world.receipt {
                    Some(receipt) => hand_out(receipt, world.next_receipt),
                    None => hand_out(world.next_receipt, world.next_receipt + 1),
                });
                fault(hand_out(world.next_receipt, world.next_receipt + 1), &mut next);
                if self.owners == 1 {
                    fault(hand_out(1, 2), &mut next);
                }
            }
            Bridge::Idle(..) => {}
            Bridge::Holding(mut doubt, epoch, index, receipt) => {
                let verdict = doubt.head(self.print(index));
                if epoch != world.epoch {
                    next.push(to(Bridge::Lost(doubt)));
                    return next;
                }
                if verdict == Verdict::DeleteOnly {
                    doubt.stored(self.print(index), None);
                    next.push(to(Bridge::Stored(doubt, epoch, receipt)));
                } else if let Verdict::Publish { marked } = verdict {
                    let store = |bridge: Bridge| {
                        let mut world = to(bridge);
                        self.store(&mut world, index, marked);
                        world
                    };
                    fault(to(Bridge::Idle(doubt.clone(), epoch)), &mut next);
                    fault(to(Bridge::Lost(doubt.clone())), &mut next);
                    fault(store(Bridge::Lost(doubt.clone())), &mut next);
                    let sequence = self.remembers.then(|| world.ledger.map_or(1, |(sequence, _)| sequence + 1));
                    doubt.stored(self.print(index), sequence);
                    next.push(store(Bridge::Stored(doubt, epoch, receipt)));
                }
            }
            Bridge::Stored(doubt, epoch, receipt) => {
                let answered = |answer: Deleted, applied: bool| {
                    let mut doubt = doubt.clone();
                    doubt.deleted(answer);
                    let mut world = to(Bridge::Idle(doubt, epoch));
                    world.doubt_caused |= answer == Deleted::Unconfirmed;
                    if applied {
                        self.remove_head(&mut world);
                    }
                    world
                };
                let found = world.receipt == Some(receipt);
                next.push(answered(if found { Deleted::Confirmed } else { Deleted::Unconfirmed }, found));
                if found {
                    fault(answered(Deleted::Unconfirmed, true), &mut next);
                    fault(answered(Deleted::Unconfirmed, false), &mut next);
                }
            }
        }
        if world.bridges[number] != Bridge::Down {
            fault(to(Bridge::Down), &mut next);
        }
        next
    }

    fn store(&self, world: &mut World, index: usize, marked: bool) {
        let again = world.log.iter().any(|(stored, _)| *stored == index);
        assert!(!(again && self.remembers), "doubled: {:?} then {index}", world.log);
        assert!(!again || marked, "doubled unmarked: {:?} then {index}", world.log);
        assert!(
            again || world.log.iter().all(|(stored, _)| *stored < index),
            "out of order: {:?} then {index}",
            world.log
        );
        world.log.push((index, marked));
        let marks = world.log.iter().filter(|(_, marked)| *marked).count();
        assert!(marks <= usize::from(world.epoch), "{marks} marks after {} acquisitions", world.epoch);
        assert!(marks == 0 || !self.remembers, "marked although the sink remembers");
        let sequence = world.ledger.map_or(1, |(sequence, _)| sequence + 1);
        world.ledger = Some((sequence, index));
    }

    fn remove_head(&self, world: &mut World) {
        let stored = |index: usize| world.log.iter().any(|(stored, _)| *stored == index);
        let head = world.head;
        // The documented exception: of two equal ones, the first of them in doubt, one is enough.
        let merged = head > 0 && self.bodies[head] == self.bodies[head - 1] && world.doubt_caused;
        assert!(stored(head) || merged, "lost: {head} deleted, stored {:?}", world.log);
        world.head += 1;
        world.receipt = None;
    }

    /// Without further faults one bridge must drain the queue, from every state.
    fn drains(&self, mut world: World) {
        world.faults_left = 0;
        for number in 1..self.owners {
            world.bridges[number] = Bridge::Down;
        }
        for _ in 0..40 {
            match self.steps(&world, 0).into_iter().next() {
                Some(next) => world = next,
                None => break,
            }
        }
        assert_eq!(world.head, self.bodies.len(), "stuck");
    }

    fn explore(&self) -> usize {
        let mut seen = HashSet::new();
        let mut open = vec![self.start()];
        while let Some(world) = open.pop() {
            if seen.insert(world.clone()) {
                self.drains(world.clone());
                open.extend((0..self.owners).flat_map(|number| self.steps(&world, number)));
            }
        }
        seen.len()
    }
}

#[test]
fn one_owner_keeps_every_promise_through_four_faults() {
    for remembers in [true, false] {
        let rules = Rules { bodies: &["a", "b", "c"], remembers, owners: 1, faults: 4 };
        assert!(rules.explore() > 1_000);
    }
}

#[test]
fn two_owners_keep_every_promise_through_four_faults() {
    for remembers in [true, false] {
        let rules = Rules { bodies: &["a", "b", "c"], remembers, owners: 2, faults: 4 };
        assert!(rules.explore() > 1_000);
    }
}

#[test]
fn equal_bodies_are_merged_only_when_the_first_was_in_doubt() {
    for bodies in [&["a", "a", "b"], &["a", "b", "b"], &["a", "a", "a"]] {
        for remembers in [true, false] {
            Rules { bodies, remembers, owners: 1, faults: 4 }.explore();
        }
    }
}
