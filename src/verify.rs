//! What was published, held against the promises: nothing lost, nothing doubled, nothing out of
//! order. The attributes around each body say where in the stream of its instance it belongs.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};

use serde::Serialize;

use crate::notification::{InstanceId, has_identity};

/// What was found.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Whether nothing was lost, doubled without a mark, or reordered.
    pub ok: bool,
    /// Of each instance, by id.
    pub instances: Vec<Findings>,
}

/// What was found of one instance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Findings {
    /// The instance.
    pub id: InstanceId,
    /// Messages at their destination, copies included.
    pub published: u64,
    /// Places of the sequence at which nothing is.
    pub lost: u64,
    /// Copies that are not marked as possible duplicates.
    pub doubled: u64,
    /// Messages that Green API itself queued again: equal bytes under another receipt, with others in between.
    pub repeated: u64,
    /// Messages that are marked as possible duplicates.
    pub marked: u64,
    /// Messages behind one of a later place.
    pub reordered: u64,
    /// Dead letters.
    pub dead_lettered: u64,
}

/// A message as it was read back.
#[derive(Clone, Debug)]
pub(crate) struct Published {
    pub instance: InstanceId,
    id: String,
    receipt: u64,
    epoch: u64,
    sequence: u64,
    marked: bool,
    dead: bool,
    redriven: bool,
}

impl Published {
    /// From its attributes, without the prefix that a transport puts before them. `None` when it
    /// is not the bridge's.
    pub fn from_attributes<'a>(attributes: impl IntoIterator<Item = (&'a str, &'a str)>) -> Option<Self> {
        let (mut instance, mut id, mut sequence) = (None, None, None);
        let (mut epoch, mut receipt, mut marked, mut dead) = (0, 0, false, false);
        let mut redriven = false;
        for (name, value) in attributes {
            match name {
                "idinstance" => instance = value.parse().ok(),
                "id" => id = Some(value.to_owned()),
                "sequence" => sequence = value.parse().ok(),
                // Receipts are only compared.
                "receiptid" => receipt = hash(value),
                "epoch" => epoch = value.parse().ok()?,
                "possibleduplicate" => marked = value == "true",
                "deadletterreason" => dead = true,
                "redriven" => redriven = value == "true",
                _ => {}
            }
        }
        Some(Self { instance: instance?, id: id?, receipt, sequence: sequence?, epoch, marked, dead, redriven })
    }
}

fn hash(text: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    hasher.finish()
}

/// Where a message stands: the order of its sink holds within one lane (a partition, a queue).
pub(crate) type Lane = usize;

/// Gathers messages, in the order of each lane, and then reports.
#[derive(Debug, Default)]
pub(crate) struct Audit {
    instances: BTreeMap<InstanceId, Tally>,
    /// Lanes whose beginning is gone.
    cut: HashSet<Lane>,
}

#[derive(Debug, Default)]
struct Tally {
    published: u64,
    /// Copies at a place that has its message already.
    doubled: u64,
    marked: u64,
    reordered: u64,
    dead_lettered: u64,
    /// By id: the first one read,
    ids: HashMap<String, Occurrence>,
    /// and all at other places.
    copies: HashMap<String, Vec<Occurrence>>,
    places: HashSet<Position>,
    /// The first sequence, and the last place, in each lane.
    first: HashMap<Lane, u64>,
    last: HashMap<Lane, Position>,
    /// Of each epoch.
    ranges: BTreeMap<u64, Range>,
    remembered: Option<Remembered>,
}

/// Epoch and sequence.
type Position = (u64, u64);

/// One of several messages of equal bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Occurrence {
    at: Position,
    receipt: u64,
    marked: bool,
}

#[derive(Clone, Copy, Debug)]
struct Remembered {
    sequence: u64,
    still_growing: bool,
}

/// All places from the first to the last have to be there.
#[derive(Clone, Copy, Debug)]
struct Range {
    first: u64,
    last: u64,
}

impl Audit {
    /// An instance that has to be reported, whether anything of it is found or not.
    pub fn expect(&mut self, instance: InstanceId) {
        self.instances.entry(instance).or_default();
    }

    /// The sink remembers that everything up to `sequence` was published. While the bridge works on
    /// (`still_growing`) what is later may be there or not.
    #[cfg_attr(not(feature = "kafka"), allow(dead_code, reason = "only Kafka has a ledger"))]
    pub fn remembered(&mut self, instance: InstanceId, sequence: u64, still_growing: bool) {
        let tally = self.instances.entry(instance).or_default();
        tally.remembered = Some(Remembered { sequence, still_growing });
    }

    /// The beginning of a lane is gone, by retention say: what comes before its first message may have been there.
    #[cfg_attr(not(feature = "kafka"), allow(dead_code, reason = "only Kafka has more than one lane"))]
    pub fn cut(&mut self, lane: Lane) {
        self.cut.insert(lane);
    }

    /// The next message of a lane.
    pub fn message(&mut self, message: &Published, lane: Lane, body: &[u8]) {
        let tally = self.instances.entry(message.instance).or_default();
        let place = (message.epoch, message.sequence);
        tally.published += u64::from(!message.dead);
        tally.dead_lettered += u64::from(message.dead);
        tally.marked += u64::from(message.marked);
        if message.redriven {
            // Published in its turn as a dead letter, and later once more, behind others.
            tally.places.insert(place);
            return;
        }
        let occurrence = Occurrence { at: place, receipt: message.receipt, marked: message.marked };
        let new_id = tally.add(&message.id, occurrence);
        let new_place = tally.places.insert(place);
        tally.there(message.epoch, message.sequence);
        tally.first.entry(lane).or_insert(message.sequence);
        if !new_id && !new_place {
            tally.doubled += u64::from(!message.marked);
        } else if !new_id && has_identity(body) {
            tally.copies.entry(message.id.clone()).or_default().push(occurrence);
        } else {
            // Of what has neither a time nor an id, equal bytes may come again.
            tally.reordered += u64::from(tally.last.get(&lane).is_some_and(|last| *last >= place));
            tally.last.insert(lane, place);
        }
    }

    /// A dead letter that lies in the folder. It may lie there and in a topic or queue as well,
    /// after a crash between the two.
    pub fn in_folder(&mut self, letter: &Published) {
        let tally = self.instances.entry(letter.instance).or_default();
        let at = (letter.epoch, letter.sequence);
        if tally.add(&letter.id, Occurrence { at, receipt: letter.receipt, marked: letter.marked }) {
            tally.dead_lettered += 1;
            tally.places.insert(at);
        }
    }

    /// The verdict. With `from_the_beginning` a stream that does not start at 1 has lost its start;
    /// otherwise retention or a consumer may have taken it, from its first epoch on.
    pub fn report(self, from_the_beginning: bool) -> Report {
        let findings = |(id, tally): (InstanceId, Tally)| Findings {
            id,
            published: tally.published,
            lost: tally.lost(from_the_beginning, &self.cut),
            doubled: tally.doubled + tally.copies(false),
            repeated: tally.copies(true),
            marked: tally.marked,
            reordered: tally.reordered,
            dead_lettered: tally.dead_lettered,
        };
        let instances: Vec<Findings> = self.instances.into_iter().map(findings).collect();
        let ok = instances.iter().all(|found| found.lost + found.doubled + found.reordered == 0);
        Report { ok, instances }
    }
}

impl Tally {
    /// Whether it is the first with this id.
    fn add(&mut self, id: &str, occurrence: Occurrence) -> bool {
        let is_new = !self.ids.contains_key(id);
        if is_new {
            self.ids.insert(id.to_owned(), occurrence);
        }
        is_new
    }

    /// Unmarked copies: those that Green API queued itself, or those that it did not. The head of its queue stays until it is
    /// deleted: what comes again under another receipt, after others, is not the same head.
    fn copies(&self, are_repeated: bool) -> u64 {
        let of_id = |(id, copies): (&String, &Vec<Occurrence>)| {
            let mut all: Vec<Occurrence> = self.ids.get(id).into_iter().chain(copies).copied().collect();
            all.sort_unstable();
            let is_repeated = |before: &Occurrence, copy: &Occurrence| {
                before.receipt != copy.receipt && self.places.iter().any(|place| before.at < *place && *place < copy.at)
            };
            let copies = all.windows(2).filter(|pair| !pair[1].marked);
            copies.filter(|pair| is_repeated(&pair[0], &pair[1]) == are_repeated).count() as u64
        };
        self.copies.iter().map(of_id).sum()
    }

    fn there(&mut self, epoch: u64, sequence: u64) {
        let range = self.ranges.entry(epoch).or_insert(Range { first: sequence, last: sequence });
        range.first = range.first.min(sequence);
        range.last = range.last.max(sequence);
    }

    fn lost(&self, from_the_beginning: bool, cut: &HashSet<Lane>) -> u64 {
        let begin =
            self.first.iter().filter(|(lane, _)| cut.contains(lane)).map(|(_, first)| *first).max().unwrap_or(1);
        let mut ranges = self.ranges.clone();
        // A memory has one epoch only.
        if let Some(Remembered { sequence, still_growing }) = self.remembered {
            let range = ranges.entry(0).or_insert(Range { first: sequence.saturating_add(1), last: sequence });
            range.last = if still_growing { sequence } else { range.last.max(sequence) };
        }
        let oldest = ranges.keys().next().copied();
        let lost = |(epoch, range): (&u64, &Range)| {
            let first = if from_the_beginning || oldest != Some(*epoch) { 1 } else { range.first.max(begin) };
            let there = self.places.iter().filter(|(of, place)| of == epoch && (first..=range.last).contains(place));
            let wanted = range.last.saturating_add(1).saturating_sub(first);
            wanted.saturating_sub(u64::try_from(there.count()).unwrap_or(u64::MAX))
        };
        ranges.iter().map(lost).fold(0, u64::saturating_add)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BODY: &[u8] = br#"{"idMessage":"x"}"#;

    #[test]
    fn a_sequence_that_cannot_be_is_no_reason_to_end() {
        let mut audit = of(&[1, u64::MAX]);
        audit.remembered("7".parse().unwrap(), u64::MAX, false);
        let report = audit.report(true);
        assert!(!report.ok && report.instances[0].lost >= u64::MAX - 3, "{report:?}");
    }

    fn message(sequence: u64, more: &[(&str, &str)]) -> Published {
        let sequence = sequence.to_string();
        let attributes = [("idinstance", "7"), ("id", sequence.as_str()), ("sequence", &sequence)];
        Published::from_attributes(attributes.into_iter().chain(more.iter().copied())).expect("complete")
    }

    #[test]
    fn what_green_api_queued_twice_is_reported_and_no_fault() {
        let copy = |sequence: u64, receipt: &'static str, more: &[(&'static str, &'static str)]| {
            let attributes: Vec<_> =
                [("id", "1"), ("receiptid", receipt)].into_iter().chain(more.iter().copied()).collect();
            message(sequence, &attributes)
        };
        let repeated = |copies: &[Published]| {
            let mut audit = of(&[2, 4]);
            for copy in copies {
                audit.message(copy, 0, BODY);
            }
            audit.message(&message(6, &[]), 0, BODY);
            let report = audit.report(false);
            let found = &report.instances[0];
            assert_eq!(report.ok, found.lost + found.doubled + found.reordered == 0);
            (found.doubled, found.repeated)
        };
        assert_eq!(repeated(&[copy(1, "1", &[]), copy(5, "5", &[])]), (0, 1), "others in between");
        assert_eq!(repeated(&[copy(1, "1", &[]), copy(3, "3", &[]), copy(5, "5", &[])]), (0, 2));
        assert_eq!(repeated(&[copy(5, "5", &[]), copy(1, "1", &[])]), (0, 1), "read in any order");
        assert_eq!(repeated(&[copy(1, "1", &[]), copy(5, "1", &[])]), (1, 0), "the same receipt");
        assert_eq!(repeated(&[copy(4, "4", &[]), copy(5, "5", &[])]), (1, 0), "side by side");
        assert_eq!(repeated(&[copy(5, "5", &[]), copy(5, "5", &[])]), (1, 0), "at the same place");
        let marked = copy(5, "5", &[("possibleduplicate", "true")]);
        assert_eq!(repeated(&[copy(1, "1", &[]), marked]), (0, 0), "marked");
    }

    fn found(audit: Audit) -> [u64; 6] {
        let report = audit.report(true);
        let Findings { published, lost, doubled, marked, reordered, dead_lettered, .. } = report.instances[0].clone();
        assert_eq!(report.ok, lost + doubled + reordered == 0);
        [published, lost, doubled, marked, reordered, dead_lettered]
    }

    fn of(sequences: &[u64]) -> Audit {
        let mut audit = Audit::default();
        for sequence in sequences {
            audit.message(&message(*sequence, &[]), 0, BODY);
        }
        audit
    }

    #[test]
    fn each_fault_is_found_and_only_that() {
        assert_eq!(found(of(&[1, 2, 3])), [3, 0, 0, 0, 0, 0]);
        assert_eq!(found(of(&[1, 3])), [2, 1, 0, 0, 0, 0]);
        assert_eq!(found(of(&[3])), [1, 2, 0, 0, 0, 0]);
        assert_eq!(found(of(&[1, 2, 2])), [3, 0, 1, 0, 0, 0]);
        assert_eq!(found(of(&[1, 2, 3, 1])), [4, 0, 1, 0, 0, 0]);
        assert_eq!(found(of(&[1, 3, 2])), [3, 0, 0, 0, 1, 0]);
        let mut forgotten = of(&[1, 2]);
        forgotten.message(&message(3, &[("id", "1")]), 0, BODY);
        assert_eq!(found(forgotten), [3, 0, 1, 0, 0, 0], "a redelivery that was taken for news");
        let mut equal = of(&[1, 2]);
        equal.message(&message(3, &[("id", "1")]), 0, b"{}");
        assert_eq!(found(equal), [3, 0, 0, 0, 0, 0], "bodies without an identity may be equal");
    }

    #[test]
    fn what_the_ledger_remembers_has_to_be_there() {
        let mut audit = Audit::default();
        audit.remembered(message(1, &[]).instance, 3, false);
        audit.message(&message(1, &[]), 0, BODY);
        assert_eq!(found(audit), [1, 2, 0, 0, 0, 0]);
        let mut running = Audit::default();
        running.remembered(message(1, &[]).instance, 1, true);
        running.message(&message(1, &[]), 0, BODY);
        running.message(&message(3, &[]), 1, BODY);
        assert_eq!(found(running), [2, 0, 0, 0, 0, 0], "2 may have come after its partition was read");
    }

    #[test]
    fn dead_letters_and_marks_are_counted_and_are_no_faults() {
        let mut audit = of(&[1, 2]);
        audit.message(&message(3, &[("deadletterreason", "refused")]), 1, BODY);
        audit.in_folder(&message(4, &[("deadletterreason", "too_large")]));
        audit.in_folder(&message(3, &[("deadletterreason", "refused")]));
        audit.message(&message(2, &[("possibleduplicate", "true")]), 0, BODY);
        audit.message(&message(5, &[]), 0, BODY);
        assert_eq!(found(audit), [4, 0, 0, 1, 0, 2]);
    }

    #[test]
    fn epochs_have_sequences_of_their_own() {
        let mut audit = Audit::default();
        for (id, epoch, sequence) in [("a", "10", 1), ("b", "10", 2), ("c", "11", 1), ("d", "11", 3), ("e", "10", 3)] {
            audit.message(&message(sequence, &[("id", id), ("epoch", epoch)]), 0, BODY);
        }
        assert_eq!(found(audit), [5, 1, 0, 0, 1, 0], "11/2 is missing, 10/3 stands behind 11/3");
    }

    #[test]
    fn a_start_that_may_have_been_taken_away_is_no_loss() {
        let report = of(&[5, 6, 8]).report(false);
        assert_eq!((report.ok, report.instances[0].lost), (false, 1));
        let mut slower = Audit::default();
        slower.cut(0);
        slower.message(&message(3, &[("deadletterreason", "refused")]), 1, BODY);
        for sequence in [7, 8, 10] {
            slower.message(&message(sequence, &[]), 0, BODY);
        }
        assert_eq!(slower.report(false).instances[0].lost, 1, "a dead letter outlives what came after it");
        let mut later = of(&[5, 6]);
        later.message(&message(2, &[("id", "x"), ("epoch", "10")]), 0, BODY);
        assert_eq!(later.report(false).instances[0].lost, 1, "a consumer takes the oldest first");
    }
}
