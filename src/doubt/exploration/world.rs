//! What an exploration looks at: the queue, the sink, and the bridges between them.

use super::{Deleted, Doubt};

#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) struct World {
    /// Index of the head of the queue.
    pub head: usize,
    /// Receipt of the head once it was handed out.
    pub receipt: Option<u8>,
    pub next_receipt: u8,
    /// What the sink holds: index and mark.
    pub log: Vec<(usize, bool)>,
    pub ledger: Option<(u64, usize)>,
    /// Counts acquisitions; whoever took the last one owns the sink.
    pub epoch: u8,
    /// The receipt of a delete that was given up and may reach the queue yet.
    pub late: Option<u8>,
    /// How many receives may yet return what was deleted last, and under which receipt.
    pub lag: Option<(u8, u8)>,
    /// The head stayed once although its delete was confirmed.
    pub untaken: bool,
    pub faults_left: u8,
    /// Something happened that puts a notification in doubt: a restart, or a delete without a
    /// confirmation. Only then may equal bytes count as one.
    pub doubt_caused: bool,
    pub bridges: Vec<Bridge>,
}

#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) enum Bridge {
    Down,
    /// The sink required it to open its lane anew.
    Lost(Doubt),
    Idle(Doubt, u8),
    Holding(Doubt, u8, usize, u8),
    /// Stored; the delete is under way, and the next receive if that may overlap.
    Deleting(Doubt, u8, Flight),
}

/// What one step leads to.
pub(super) enum Move {
    Good(World),
    /// It counts against the faults of an exploration.
    Fault(World),
}

pub(super) type KindOfMove = fn(World) -> Move;

/// What a receive returned: the index and the receipt.
pub(super) type Head = (usize, u8);

/// So many receives may lag behind a confirmed delete.
pub(super) const LARGEST_LAG: u8 = 2;

/// A delete, and a receive sent while that was unanswered.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Flight {
    pub receipt: u8,
    /// What the queue answers to the delete, once it has it.
    pub answer: Option<Deleted>,
    /// What the queue answers to the receive, once it has it.
    pub head: Option<Head>,
}

impl World {
    pub fn with(&self, number: usize, bridge: Bridge) -> Self {
        let mut world = self.clone();
        world.bridges[number] = bridge;
        world
    }

    /// Once a head was received, none before it is.
    pub fn monotone(&mut self, received: usize) {
        if received == self.head {
            self.lag = None;
        }
    }

    pub fn alive_beside(&self, number: usize) -> bool {
        self.bridges.iter().enumerate().any(|(other, bridge)| other != number && *bridge != Bridge::Down)
    }
}
