//! What holds of everything that reads bytes from outside, whatever bytes they are. `fuzz/` looks for some of which it
//! does not; the tests below look for a moment.

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::config::{Config, Instance};
use crate::green_api::{Call, Meaning, meaning};
use crate::notification::{Answer, InstanceId, Notification};
use crate::sink::file;

#[cfg(any(feature = "kafka", feature = "amqp"))]
mod addresses;
mod seeds;

#[cfg(feature = "amqp")]
pub use self::addresses::AMQP_URI;
#[cfg(feature = "kafka")]
pub use self::addresses::KAFKA_SERVERS;

/// A reader, and what holds of it.
#[derive(Debug)]
pub struct Target {
    /// Its name in `fuzz/`.
    pub name: &'static str,
    /// What to begin with.
    pub seeds: fn() -> Vec<Vec<u8>>,
    /// Panics at bytes of which something does not hold.
    pub check: fn(&[u8]),
}

/// The answers of the queue.
pub const ENVELOPE: Target = Target { name: "envelope", seeds: seeds::envelopes, check: check_envelope };
/// The config file.
pub const CONFIG: Target = Target { name: "config", seeds: seeds::configs, check: check_config };
/// The records of Kafka's ledger: a key, a line feed, a value.
#[cfg(feature = "kafka")]
pub const LEDGER: Target = Target { name: "ledger", seeds: seeds::ledger, check: check_ledger };
/// The file of the file sink: what stood in it, envelopes, and the torn end, with [`BETWEEN`] in between.
pub const READ_BACK: Target = Target { name: "read_back", seeds: seeds::files, check: check_read_back };

/// Stands in none of the formats.
const BETWEEN: u8 = 0;
/// Stands in a seed where a token or a password may stand. No name of anything looks like it.
const SECRET: &str = "s3cret/canary";

fn instance() -> InstanceId {
    "1101000001".parse().expect("a number")
}

fn check_envelope(data: &[u8]) {
    const CALLS: [Call; 6] =
        [Call::Receive, Call::Delete, Call::GetSettings, Call::SetSettings, Call::GetState, Call::GetCount];
    for (call, status) in CALLS.into_iter().flat_map(|call| [200, 400, 500].map(|status| (call, status))) {
        let meant = meaning(call, status, data);
        let confirms = (call, meant) == (Call::Delete, Meaning::Success);
        assert!(!confirms || data.windows(4).any(|word| word == b"true"), "this confirms no delete");
    }
    let answer = Bytes::copy_from_slice(data);
    let found = Answer::read(instance(), &answer);
    if let Some((receipt, body)) = plain(data) {
        let Answer::Head(head) = &found else { panic!("a notification is passed over: {found:?}") };
        assert_eq!((head.receipt().to_string(), &head.body()[..]), (receipt.to_string(), body));
    }
    match found {
        Answer::Empty => {
            let said: Vec<u8> = data.iter().copied().filter(u8::is_ascii_alphanumeric).collect();
            assert!(said.is_empty() || said == b"null", "an answer that says something is no empty one");
        }
        Answer::Head(head) => check_head(&answer, &head),
        Answer::NoBody(rest) => assert!(rest.is_malformed() && rest.body().len() < data.len()),
        Answer::Unreadable => {}
    }
}

/// What another parser finds in an answer in which nothing is unusual.
fn plain(answer: &[u8]) -> Option<(u64, &[u8])> {
    #[derive(Deserialize)]
    struct Plain<'a> {
        #[serde(rename = "receiptId")]
        receipt: u64,
        #[serde(borrow)]
        body: &'a RawValue,
    }

    // An array would do as well.
    answer.trim_ascii_start().starts_with(b"{").then_some(())?;
    serde_json::from_slice(answer).ok().map(|Plain { receipt, body }| (receipt, body.get().as_bytes()))
}

fn check_head(answer: &Bytes, head: &Notification) {
    let (all, body) = (answer.as_ptr_range(), head.body().as_ptr_range());
    assert!(all.start <= body.start && body.end <= all.end && !body.is_empty(), "the body is a part of the answer");
    let facts = head.facts();
    assert!(!facts.kind.is_empty() && facts.kind.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'.'));
    assert!(facts.time.ends_with('Z') && facts.chat.as_deref() != Some(""));
    let receipt = head.receipt().to_string();
    let written = [br#"{"receiptId":"#, receipt.as_bytes(), br#","body":"#, head.body(), b"}"].concat();
    let again = Answer::read(instance(), &written.into()).head().expect("what was read can be read again");
    assert_eq!((again.receipt(), again.body()), (head.receipt(), head.body()));
    assert_eq!((again.fingerprint(), again.id()), (head.fingerprint(), head.id()));
}

fn check_config(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else { return };
    let variables = [("TOKEN".to_owned(), SECRET.to_owned())];
    match Config::from_text(text, variables.into_iter()) {
        Ok(config) => {
            assert!(!config.instances.is_empty() || config.instances_dir.is_some(), "it has something to read");
            let has_token = |instance: &Instance| instance.api_token.is_some() != instance.api_token_file.is_some();
            assert!(config.instances.iter().all(has_token), "each has a token");
        }
        Err(mistakes) => {
            let message = mistakes.to_string();
            assert!(!message.contains(SECRET), "{message}");
            assert!(!mistakes.0.is_empty() && message.lines().count() == mistakes.0.len(), "{message:?}");
        }
    }
}

#[cfg(feature = "kafka")]
fn check_ledger(data: &[u8]) {
    let end = data.iter().position(|byte| *byte == b'\n').unwrap_or(data.len());
    crate::sink::kafka::assert_reads_its_own(&data[..end], data.get(end + 1..).unwrap_or_default());
}

fn check_read_back(data: &[u8]) {
    let pieces: Vec<&[u8]> = data.split(|byte| *byte == BETWEEN).collect();
    let [before, envelopes @ .., torn] = pieces.as_slice() else { return };
    file::assert_reads_its_own(instance(), before, envelopes, torn);
}

#[cfg(test)]
mod tests {
    use std::panic;
    use std::time::{Duration, Instant};

    use super::*;

    /// What a change may put in: what means something to one reader or another.
    const PIECES: [&[u8]; 28] = [
        b"\xef\xbb\xbf",
        b"\xd1",
        b"\xed\xa0\x80",
        b"\0",
        b"\n",
        b"\r",
        b"\t",
        b"\"",
        b"\\",
        b"\\ud800",
        b"{",
        b"}",
        b"[",
        b"]",
        b":",
        b",",
        b"@",
        b"/",
        b"%2f",
        b"#",
        b"?",
        b"-1",
        b"7.0",
        b"1e400",
        b"18446744073709551615",
        b"null",
        b"true",
        b"${TOKEN}",
    ];

    fn change(bytes: &mut Vec<u8>, other: &[u8], random: &mut fastrand::Rng) {
        let at = random.usize(..=bytes.len());
        let until = random.usize(at..=bytes.len()).min(at + 20);
        match random.u8(..6) {
            0 => drop(bytes.drain(at..until)),
            1 => bytes.truncate(at),
            2 => drop(bytes.splice(at..at, bytes[at..until].to_vec())),
            3 => drop(bytes.splice(at..until, random.choice(PIECES).unwrap_or_default().iter().copied())),
            4 => drop(bytes.splice(at.., other[random.usize(..=other.len())..].iter().copied())),
            _ => bytes.iter_mut().skip(at).take(1).for_each(|byte| *byte = random.u8(..)),
        }
    }

    /// On all seeds and on changes of them, for about a second, the same ones each time.
    fn hold(target: &Target) {
        let seeds = (target.seeds)();
        let mut random = fastrand::Rng::with_seed(1);
        let begun = Instant::now();
        let mut untouched = seeds.iter();
        while let Some(bytes) = untouched.next().cloned().or_else(|| {
            let mut bytes = random.choice(&seeds)?.clone();
            for _ in 0..random.u8(1..5) {
                let other = random.choice(&seeds)?;
                change(&mut bytes, other, &mut random);
            }
            (begun.elapsed() < Duration::from_secs(1)).then_some(bytes)
        }) {
            let held = panic::catch_unwind(|| (target.check)(&bytes));
            assert!(held.is_ok(), "{} does not hold of b\"{}\"", target.name, bytes.escape_ascii());
        }
    }

    #[test]
    fn a_notification_is_never_passed_over_and_its_body_is_a_part_of_the_answer() {
        hold(&ENVELOPE);
    }

    #[test]
    fn a_config_is_complete_or_its_mistakes_are_reported_without_a_secret() {
        hold(&CONFIG);
    }

    #[cfg(feature = "kafka")]
    #[test]
    fn an_entry_of_the_ledger_is_written_as_it_was_read() {
        hold(&LEDGER);
    }

    #[test]
    fn what_the_file_sink_wrote_is_read_back() {
        hold(&READ_BACK);
    }

    #[cfg(feature = "amqp")]
    #[test]
    fn an_accepted_amqp_address_leads_to_the_host_and_port_that_are_written() {
        hold(&AMQP_URI);
    }

    #[cfg(feature = "kafka")]
    #[test]
    fn an_accepted_kafka_address_leads_to_the_host_and_port_that_are_written() {
        hold(&KAFKA_SERVERS);
    }
}
