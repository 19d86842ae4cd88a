//! Explores every history of up to three notifications and a few faults: crashes at each point,
//! redelivery under the same and new receipts, restarted receipts, lost answers, publishes of
//! unknown outcome, receives that overlap a delete in any order, reads that lag behind a confirmed
//! delete, deletes that are confirmed and do not take, deletes that arrive after they were given up,
//! and a second owner. In every state reached the promises are checked.
//!
//! An empty answer, true or false, changes nothing here because the machine never gets one.
//!
//! Reads lag by at most two receives after a confirmed delete, and are monotone. Starting, opening a
//! lane anew, and the pause after any other answer take longer than they lag.

use std::collections::HashSet;

use super::*;

mod world;

use world::{Bridge, Flight, Head, KindOfMove, LARGEST_LAG, Move, World};

/// What an exploration may do.
#[derive(Clone, Copy)]
struct Rules {
    /// The bodies in the queue, oldest first. Those with a `?` do not identify themselves.
    bodies: &'static [&'static str],
    /// Whether the sink keeps its memory in the transaction of the record (Kafka, file).
    remembers: bool,
    /// How many bridges take the queue from each other.
    owners: usize,
    /// Whether they are replicas that share: none ends another, and none sends a delete without the ownership. That check and the
    /// arrival of the delete are one step here.
    share: bool,
    receipts: Receipts,
    faults: u8,
}

/// What is odd about receipts. Not both at once, and no restart with two owners that do not share: then a delete that
/// comes late could hit a notification that nobody has seen, whatever a bridge does.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Receipts {
    /// They may restart at 1.
    Restart,
    /// A delete that was given up may still arrive.
    Linger,
}

impl Rules {
    fn print(&self, index: usize) -> Fingerprint {
        // Not the real digest: it would take most of the time.
        let mut bytes = [0; 32];
        bytes[..self.bodies[index].len()].copy_from_slice(self.bodies[index].as_bytes());
        Fingerprint(bytes)
    }

    fn has_identity(&self, index: usize) -> bool {
        !self.bodies[index].contains('?')
    }

    fn start(&self) -> World {
        World {
            head: 0,
            receipt: None,
            next_receipt: 1,
            log: Vec::new(),
            ledger: None,
            epoch: 0,
            late: None,
            lag: None,
            untaken: false,
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
        let mut moves = match world.bridges[number].clone() {
            Bridge::Down => self.start_of(world, number),
            Bridge::Lost(doubt) => self.reopening(world, number, doubt),
            Bridge::Idle(doubt, epoch) => {
                let holding = |(index, receipt)| Bridge::Holding(doubt.clone(), epoch, index, receipt);
                let mut moves = Vec::new();
                for (mut received, head, move_of) in self.hand_outs(world) {
                    // Handed out, and the answer is lost.
                    moves.push(Move::Fault(received.clone()));
                    received.monotone(head.0);
                    moves.push(move_of(received.with(number, holding(head))));
                }
                moves
            }
            Bridge::Holding(doubt, epoch, index, receipt) => {
                self.storing(world, number, doubt, epoch, (index, receipt))
            }
            Bridge::Deleting(doubt, epoch, flight) => self.deleting(world, number, &doubt, epoch, flight),
        };
        if let Some(late) = world.late {
            let mut arrived = World { late: None, ..world.clone() };
            if arrived.receipt == Some(late) {
                self.remove_head(&mut arrived);
            }
            moves.push(Move::Good(arrived));
        }
        if world.bridges[number] != Bridge::Down {
            moves.push(Move::Fault(World { lag: None, ..world.with(number, Bridge::Down) }));
        }
        let possible = |step: Move| match step {
            Move::Good(world) => Some(world),
            Move::Fault(world) => Some(World { faults_left: world.faults_left.checked_sub(1)?, ..world }),
        };
        moves.into_iter().filter_map(possible).collect()
    }

    fn start_of(&self, world: &World, number: usize) -> Vec<Move> {
        let mut started = world.with(number, Bridge::Idle(Doubt::new(self.memory(world)), world.epoch + 1));
        started.epoch += 1;
        started.doubt_caused |= !world.log.is_empty();
        started.lag = None;
        vec![if world.alive_beside(number) { Move::Fault(started) } else { Move::Good(started) }]
    }

    /// To take the lock of another who is alive, the broker must first have dropped it.
    fn reopening(&self, world: &World, number: usize, mut doubt: Doubt) -> Vec<Move> {
        let alive_elsewhere = world.alive_beside(number);
        if self.remembers && alive_elsewhere && !self.share {
            // Another's sentinel is newer: fenced.
            return vec![Move::Good(world.with(number, Bridge::Down))];
        }
        doubt.reopened(self.memory(world));
        let mut reopened = world.with(number, Bridge::Idle(doubt, world.epoch + 1));
        reopened.epoch += 1;
        // Another replica may have stored meanwhile: that is a restart.
        reopened.doubt_caused |= self.share && !world.log.is_empty();
        reopened.lag = None;
        vec![if alive_elsewhere { Move::Fault(reopened) } else { Move::Good(reopened) }]
    }

    fn storing(&self, world: &World, number: usize, mut doubt: Doubt, epoch: u8, head: (usize, u8)) -> Vec<Move> {
        let (index, receipt) = head;
        let verdict = doubt.judge(self.print(index), self.has_identity(index));
        if verdict != (Verdict::ReceiveAgain { receives: 1 })
            && verdict != (Verdict::ReceiveAgain { receives: 2 })
            && epoch != world.epoch
        {
            return vec![Move::Good(world.with(number, Bridge::Lost(doubt)))];
        }
        let flight = Flight { receipt, answer: None, head: None };
        let marked = match verdict {
            Verdict::Publish { marked } => marked && !self.remembers,
            Verdict::ReceiveAgain { .. } => return vec![Move::Good(world.with(number, Bridge::Idle(doubt, epoch)))],
            Verdict::DeleteOnly { .. } => {
                doubt.stored(self.print(index), None);
                return vec![Move::Good(world.with(number, Bridge::Deleting(doubt, epoch, flight)))];
            }
        };
        let store = |bridge: Bridge| {
            let mut world = world.with(number, bridge);
            self.store(&mut world, index, marked);
            world
        };
        let mut stored = doubt.clone();
        let sequence = self.remembers.then(|| world.ledger.map_or(1, |(sequence, _)| sequence + 1));
        stored.stored(self.print(index), sequence);
        vec![
            Move::Good(store(Bridge::Deleting(stored, epoch, flight))),
            Move::Fault(world.with(number, Bridge::Idle(doubt.clone(), epoch))),
            Move::Fault(world.with(number, Bridge::Lost(doubt.clone()))),
            Move::Fault(store(Bridge::Lost(doubt))),
        ]
    }

    fn deleting(&self, world: &World, number: usize, doubt: &Doubt, epoch: u8, flight: Flight) -> Vec<Move> {
        let flies = |world: &World, flight| world.with(number, Bridge::Deleting(doubt.clone(), epoch, flight));
        // What the line does with the answers, or when it gives up waiting for them.
        let lands = |answer: Deleted| {
            let mut doubt = doubt.clone();
            let kept = flight.head.filter(|(index, _)| doubt.accept_overlapped(self.print(*index)));
            doubt.deleted(answer);
            let mut landed = world.with(
                number,
                match kept {
                    Some((index, receipt)) => Bridge::Holding(doubt, epoch, index, receipt),
                    None => Bridge::Idle(doubt, epoch),
                },
            );
            if answer == Deleted::Unconfirmed {
                landed.doubt_caused = true;
                landed.lag = None;
            }
            landed
        };
        let mut moves = Vec::new();
        if let Some(answer) = flight.answer {
            moves.push(Move::Good(lands(answer)));
        } else if self.share && epoch != world.epoch {
            // It is not sent, and that is all.
            return vec![Move::Good(lands(Deleted::Unconfirmed))];
        } else {
            let mut reached = world.clone();
            let found = world.receipt == Some(flight.receipt);
            if found {
                self.remove_head(&mut reached);
            }
            let answer = Some(if found { Deleted::Confirmed } else { Deleted::Unconfirmed });
            moves.push(Move::Good(flies(&reached, Flight { answer, ..flight })));
            if found {
                let lag = Some((LARGEST_LAG, flight.receipt));
                moves.push(Move::Fault(World { lag, ..flies(&reached, Flight { answer, ..flight }) }));
                moves.push(Move::Fault(World { untaken: true, ..flies(world, Flight { answer, ..flight }) }));
            }
            if self.receipts == Receipts::Linger {
                moves.push(Move::Fault(World { late: Some(flight.receipt), ..lands(Deleted::Unconfirmed) }));
            }
        }
        moves.push(Move::Fault(lands(Deleted::Unconfirmed)));
        if doubt.may_overlap() && flight.head.is_none() {
            for (mut handed_out, head, move_of) in self.hand_outs(world) {
                handed_out.monotone(head.0);
                moves.push(move_of(flies(&handed_out, Flight { head: Some(head), ..flight })));
            }
        }
        moves
    }

    /// Every way in which the queue can answer a receive: the world after it, what it returns, and
    /// what kind of move it is.
    fn hand_outs(&self, world: &World) -> Vec<(World, Head, KindOfMove)> {
        let mut ways = Vec::new();
        let hand_out = |receipt: u8, next_receipt: u8, move_of: KindOfMove| {
            let handed_out = World { receipt: Some(receipt), next_receipt, ..world.clone() };
            (handed_out, (world.head, receipt), move_of)
        };
        let (next, good, fault) = (world.next_receipt, Move::Good as KindOfMove, Move::Fault as _);
        if world.head < self.bodies.len() {
            ways.push(match world.receipt {
                Some(same) => hand_out(same, next, good),
                None => hand_out(next, next + 1, good),
            });
            ways.push(hand_out(next, next + 1, fault));
            if self.receipts == Receipts::Restart {
                ways.push(hand_out(1, 2, fault));
            }
        }
        if let Some((receives, receipt)) = world.lag {
            let lag = receives.checked_sub(2).map(|left| (left + 1, receipt));
            ways.push((World { lag, ..world.clone() }, (world.head - 1, receipt), good));
        }
        ways
    }

    fn store(&self, world: &mut World, index: usize, marked: bool) {
        let again = world.log.iter().any(|(stored, _)| *stored == index);
        // What has no identity and stays in spite of a confirmed delete is taken for another of equal bytes.
        let is_taken_for_another = world.untaken && !self.has_identity(index);
        assert!(!(again && self.remembers) || is_taken_for_another, "doubled: {:?} then {index}", world.log);
        assert!(!again || marked || self.remembers, "doubled unmarked: {:?} then {index}", world.log);
        assert!(
            again || world.log.iter().all(|(stored, _)| *stored < index),
            "out of order: {:?} then {index}",
            world.log
        );
        world.log.push((index, marked));
        let marks = world.log.iter().filter(|(stored, marked)| *marked && self.has_identity(*stored)).count();
        assert!(marks <= usize::from(world.epoch), "{marks} marks after {} acquisitions", world.epoch);
        assert!(marks == 0 || !self.remembers, "marked although the sink remembers");
        let sequence = world.ledger.map_or(1, |(sequence, _)| sequence + 1);
        world.ledger = Some((sequence, index));
    }

    fn remove_head(&self, world: &mut World) {
        let stored = |index: usize| world.log.iter().any(|(stored, _)| *stored == index);
        let head = world.head;
        // The documented exception: of two equal ones that identify themselves, or the first of which is in doubt,
        // one is enough.
        let is_same = self.has_identity(head) || world.doubt_caused;
        let merged = head > 0 && self.bodies[head] == self.bodies[head - 1] && is_same;
        assert!(stored(head) || merged, "lost: {head} deleted, stored {:?}", world.log);
        world.head += 1;
        world.receipt = None;
    }

    /// Without further faults one bridge must drain the queue, from every state.
    fn drains(&self, mut world: World, known: &mut HashSet<World>) {
        world.faults_left = 0;
        for number in 1..self.owners {
            world.bridges[number] = Bridge::Down;
        }
        while known.insert(world.clone()) {
            match self.steps(&world, 0).into_iter().next() {
                Some(next) => world = next,
                None => assert_eq!(world.head, self.bodies.len(), "stuck"),
            }
        }
    }

    fn explore(&self) -> usize {
        let (mut seen, mut drained) = (HashSet::new(), HashSet::new());
        let mut open = vec![self.start()];
        while let Some(world) = open.pop() {
            if seen.insert(world.clone()) {
                self.drains(world.clone(), &mut drained);
                open.extend((0..self.owners).flat_map(|number| self.steps(&world, number)));
            }
        }
        seen.len()
    }
}

/// Four where there are many more histories of them take a minute: only in long runs.
fn many() -> u8 {
    if std::env::var_os("BRIDGE_TEST_LONG").is_some() { 4 } else { 3 }
}

#[test]
fn one_owner_keeps_every_promise_through_all_faults() {
    for remembers in [true, false] {
        for receipts in [Receipts::Restart, Receipts::Linger] {
            let rules =
                Rules { bodies: &["a", "b", "c"], remembers, owners: 1, share: false, receipts, faults: many() };
            assert!(rules.explore() > 2_000);
        }
    }
}

#[test]
fn two_owners_keep_every_promise_through_all_faults() {
    for remembers in [true, false] {
        let (bodies, receipts) = (&["a", "b", "c"], Receipts::Linger);
        let rules = Rules { bodies, remembers, owners: 2, share: false, receipts, faults: many() };
        assert!(rules.explore() > 2_000);
    }
}

#[test]
fn replicas_that_share_keep_every_promise_also_when_receipts_restart() {
    for remembers in [true, false] {
        for bodies in [&["a", "b", "c"], &["a", "a", "b"], &["?", "?", "b"]] {
            let rules =
                Rules { bodies, remembers, owners: 2, share: true, receipts: Receipts::Restart, faults: many() - 1 };
            assert!(rules.explore() > 2_000);
        }
    }
}

#[test]
fn equal_bodies_are_merged_only_when_they_identify_themselves_or_the_first_was_in_doubt() {
    for bodies in [&["a", "a", "b"], &["a", "b", "b"], &["?", "?", "b"], &["a", "?", "?"], &["?", "?", "?"]] {
        for remembers in [true, false] {
            for receipts in [Receipts::Restart, Receipts::Linger] {
                Rules { bodies, remembers, owners: 1, share: false, receipts, faults: many() }.explore();
            }
        }
    }
}
