//! The format of ledger records. A notification can never be mistaken for an entry: it always has `CloudEvents` headers, while
//! an entry has a header of its own or, if written by an earlier version, none.

use std::collections::BTreeMap;
use std::collections::HashMap;

use rdkafka::message::{Header, Headers, Message, OwnedHeaders};
use serde::{Deserialize, Serialize};

use crate::notification::{Fingerprint, InstanceId};

/// The header of all records of the ledger.
const MARK: Header<'_, &str> = Header { key: "green-api-bridge-ledger", value: Some("1") };

/// Prefix of the keys of sentinels.
pub(super) const OWNER: &str = "owner:";

/// Prefix of the keys of marks: which dead letters were redriven.
pub(super) const REDRIVEN: &str = "redriven:";

/// Upper bound for the length of an entry.
const LARGEST: usize = 4096;

/// Upper bound for sequence numbers: anything beyond is not a valid entry.
const FARTHEST: u64 = i64::MAX as u64;

/// What was published last for an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub sequence: u64,
    pub fingerprint: Fingerprint,
}

#[derive(Serialize, Deserialize)]
struct EntryValue {
    sequence: u64,
    sha256: String,
}

impl Entry {
    pub(super) fn value(&self) -> Result<Vec<u8>, serde_json::Error> {
        serde_json::to_vec(&EntryValue { sequence: self.sequence, sha256: self.fingerprint.to_string() })
    }
}

/// The next sequence number.
pub(super) fn next(last: Option<&Entry>) -> u64 {
    last.map_or(1, |last| last.sequence.saturating_add(1))
}

pub(super) fn headers() -> OwnedHeaders {
    OwnedHeaders::new_with_capacity(1).insert(MARK)
}

/// The contents of the ledger, as far as it was read.
#[derive(Clone, Debug, Default)]
pub(super) struct Entries {
    pub of: HashMap<InstanceId, Entry>,
    /// Instances whose last entry is unusable, and why: what was published last for them is unknown.
    pub unusable: HashMap<InstanceId, &'static str>,
    /// The number of foreign records by kind.
    pub foreign: BTreeMap<&'static str, u64>,
}

impl Entries {
    /// Adds the next record; a later record replaces an earlier one with the same key.
    pub(super) fn take(&mut self, record: &impl Message) {
        match read(record) {
            Read::NoEntry => {}
            Read::Strange(kind) => *self.foreign.entry(kind).or_default() += 1,
            Read::Forgotten(instance) => {
                self.of.remove(&instance);
                self.unusable.remove(&instance);
            }
            Read::Entry(instance, entry) => {
                self.unusable.remove(&instance);
                self.of.insert(instance, entry);
            }
            Read::Unusable(instance, why) => {
                self.of.remove(&instance);
                self.unusable.insert(instance, why);
            }
        }
    }
}

enum Read {
    /// A sentinel, or the mark of a dead letter.
    NoEntry,
    Entry(InstanceId, Entry),
    /// A tombstone written by an operator: nothing was published for the instance.
    Forgotten(InstanceId),
    Unusable(InstanceId, &'static str),
    Strange(&'static str),
}

/// Whether this has the format of the ledger, whoever wrote it.
pub(super) fn is_of_ledger(record: &impl Message) -> bool {
    let mut names = record.headers().into_iter().flat_map(|headers| headers.iter().map(|header| header.key));
    let count = record.headers().map_or(0, Headers::count);
    count == 0 || names.any(|name| name == MARK.key)
}

fn read(record: &impl Message) -> Read {
    if !is_of_ledger(record) {
        return Read::Strange("with the headers of a notification or of something else");
    }
    let key = record.key().and_then(|key| std::str::from_utf8(key).ok());
    let Some(key) = key else { return Read::Strange("with a key that is no text") };
    if key.starts_with(OWNER) || key.starts_with(REDRIVEN) {
        return Read::NoEntry;
    }
    let instance = key.parse().ok().filter(|instance: &InstanceId| instance.to_string() == key);
    let Some(instance) = instance else { return Read::Strange("with a key that is no instance") };
    let Some(value) = record.payload() else { return Read::Forgotten(instance) };
    if value.len() > LARGEST {
        return Read::Unusable(instance, "it is far too long");
    }
    let parsed: Option<EntryValue> = serde_json::from_slice(value).ok();
    let known = parsed.and_then(|value| Some((value.sequence, Fingerprint::from_hex(&value.sha256)?)));
    match known {
        None => Read::Unusable(instance, "it is not in the form of an entry"),
        Some((0 | FARTHEST.., _)) => Read::Unusable(instance, "its sequence cannot be"),
        Some((sequence, fingerprint)) => Read::Entry(instance, Entry { sequence, fingerprint }),
    }
}

/// For [`crate::fuzzing`]: an entry that can be read survives a round trip.
#[cfg(any(test, fuzzing))]
pub(crate) fn assert_reads_its_own(key: &[u8], value: &[u8]) {
    use rdkafka::message::{OwnedMessage, Timestamp};
    let message = |key: &[u8], value: &[u8], headers| {
        let (key, value) = (Some(key.to_vec()), Some(value.to_vec()));
        OwnedMessage::new(value, key, "ledger".into(), Timestamp::NotAvailable, 0, 0, headers)
    };
    let Read::Entry(instance, entry) = read(&message(key, value, None)) else { return };
    assert!(next(Some(&entry)) > entry.sequence && entry.sequence > 0, "a place behind it");
    let written = entry.value().expect("it can be written");
    match read(&message(instance.to_string().as_bytes(), &written, Some(headers()))) {
        Read::Entry(again, same) => assert_eq!((again, same), (instance, entry)),
        _ => panic!("{entry:?} is not read back"),
    }
}

#[cfg(test)]
mod tests {
    use rdkafka::message::{OwnedMessage, Timestamp};

    use super::*;

    const DIGEST: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn record(key: &[u8], value: Option<&str>, headers: Option<OwnedHeaders>) -> OwnedMessage {
        let value = value.map(|value| value.as_bytes().to_vec());
        OwnedMessage::new(value, Some(key.to_vec()), "ledger".into(), Timestamp::NotAvailable, 0, 0, headers)
    }

    fn entry(sequence: impl std::fmt::Display) -> String {
        format!(r#"{{"sequence":{sequence},"sha256":"{DIGEST}"}}"#)
    }

    fn taken(records: &[OwnedMessage]) -> (Option<u64>, bool, u64) {
        let mut entries = Entries::default();
        for record in records {
            entries.take(record);
        }
        let instance = "7".parse().unwrap();
        let sequence = entries.of.get(&instance).map(|entry| entry.sequence);
        (sequence, entries.unusable.contains_key(&instance), entries.foreign.values().sum())
    }

    fn notification() -> OwnedHeaders {
        OwnedHeaders::new()
            .insert(Header { key: "ce_id", value: Some("x") })
            .insert(Header { key: "content-type", value: Some("y") })
    }

    #[test]
    fn an_entry_has_its_header_or_none_and_nothing_else_is_one() {
        let five = entry(5);
        assert_eq!(taken(&[record(b"7", Some(&five), Some(headers()))]), (Some(5), false, 0));
        assert_eq!(taken(&[record(b"7", Some(&five), None)]), (Some(5), false, 0), "of an earlier bridge");
        assert_eq!(taken(&[record(b"7", Some(&five), Some(notification()))]), (None, false, 1));
        let after = record(b"7", Some(&entry(9)), Some(notification()));
        assert_eq!(taken(&[record(b"7", Some(&five), None), after]), (Some(5), false, 1), "nor does it hide one");
        for key in [&b"\xff"[..], b"", b"07", b"+7", b"chat@c.us", b"99999999999999999999999"] {
            assert_eq!(taken(&[record(key, Some(&five), None)]), (None, false, 1), "{key:?}");
        }
        assert_eq!(taken(&[record(b"owner:another", Some("x"), None)]), (None, false, 0));
    }

    #[test]
    fn an_entry_that_cannot_be_is_known_to_be_none_until_a_later_one() {
        let long = "x".repeat(5_000_000);
        let far = [
            entry(0),
            entry(u64::MAX),
            entry(1_u64 << 63),
            entry((1_u64 << 63) - 1),
            entry(-1),
            entry("1e3"),
            entry(2_u128.pow(70)),
        ];
        for value in
            far.iter().map(String::as_str).chain(["", "{}", "null", "[", &long, r#"{"sequence":1,"sha256":"zz"}"#])
        {
            let bad = || record(b"7", Some(value), None);
            let shown = &value[..value.len().min(99)];
            assert_eq!(taken(&[bad()]), (None, true, 0), "{shown}");
            assert_eq!(taken(&[record(b"7", Some(&entry(5)), None), bad()]), (None, true, 0), "{shown}");
            assert_eq!(taken(&[bad(), record(b"7", Some(&entry(5)), None)]), (Some(5), false, 0), "{shown}");
            assert_eq!(taken(&[bad(), record(b"7", None, None)]), (None, false, 0), "forgotten by the operator");
        }
        assert_eq!(
            taken(&[record(b"7", Some(&entry(5)), Some(headers())), record(b"7", None, None)]),
            (None, false, 0)
        );
    }

    #[test]
    fn no_place_wraps_around() {
        let fingerprint = Fingerprint::from_hex(DIGEST).unwrap();
        assert_eq!(next(None), 1);
        assert_eq!(next(Some(&Entry { sequence: 5, fingerprint })), 6);
        assert_eq!(next(Some(&Entry { sequence: u64::MAX, fingerprint })), u64::MAX);
    }
}
