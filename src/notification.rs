//! A notification as it came: its body untouched, and what can be read off it without ever failing.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use bytes::Bytes;
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use uuid::Uuid;

mod chat;
mod envelope;
mod facts;

pub use self::chat::ChatKind;
use self::envelope::Envelope;
pub use self::facts::Facts;
#[cfg_attr(not(feature = "kafka"), allow(unused_imports, reason = "only Kafka has keys"))]
pub(crate) use self::facts::{chat, has_identity};

/// The number of a Green API instance: one account, one queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Deserialize, Serialize, JsonSchema)]
#[serde(transparent)]
pub struct InstanceId(u64);

impl FromStr for InstanceId {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self)
    }
}

impl fmt::Display for InstanceId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

/// The number under which the queue handed a notification out. It may restart at 1 and may change
/// on redelivery: it serves the next delete and people, never as an identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct ReceiptId(u64);

impl fmt::Display for ReceiptId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

/// The SHA-256 of a body: the identity of a notification within its instance.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fingerprint(pub(crate) [u8; 32]);

impl Fingerprint {
    /// The fingerprint of these exact bytes.
    #[must_use]
    pub fn of(body: &[u8]) -> Self {
        Self(Sha256::digest(body).into())
    }

    /// The fingerprint written by `Display`, or nothing if `text` is not 64 hexadecimal digits.
    #[must_use]
    pub fn from_hex(text: &str) -> Option<Self> {
        let mut bytes = [0; 32];
        hex::decode_to_slice(text, &mut bytes).ok()?;
        Some(Self(bytes))
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut digits = [0; 64];
        hex::encode_to_slice(self.0, &mut digits).map_err(|_length| fmt::Error)?;
        formatter.write_str(str::from_utf8(&digits).map_err(|_ascii| fmt::Error)?)
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Fingerprint({self})")
    }
}

/// One notification, held from its receive to its delete. Cloning shares what it holds.
#[derive(Clone)]
pub struct Notification {
    instance: InstanceId,
    receipt: ReceiptId,
    body: Bytes,
    fingerprint: Fingerprint,
    facts: Arc<Facts>,
    is_malformed: bool,
}

/// The body is a private message: only its size is shown.
impl fmt::Debug for Notification {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Notification")
            .field("instance", &self.instance)
            .field("receipt", &self.receipt)
            .field("bytes", &self.body.len())
            .finish_non_exhaustive()
    }
}

/// What an answer of `receiveNotification` holds.
#[derive(Clone, Debug)]
pub enum Answer {
    /// Nothing is queued, according to the answer.
    Empty,
    /// A notification.
    Head(Notification),
    /// A receipt and no readable body, because the answer ends early, goes on behind its end, or has
    /// none. The notification's body is the answer itself without the receipt's value, so that the
    /// same one is known again under another receipt.
    NoBody(Notification),
    /// Neither.
    Unreadable,
}

impl Answer {
    /// Reads an answer by structure alone: a body is whatever stands in its place, and shares the
    /// answer's bytes.
    #[must_use]
    pub fn read(instance: InstanceId, answer: &Bytes) -> Self {
        let envelope = Envelope::read(answer);
        match (envelope.receipt, envelope.body) {
            _ if envelope.is_empty => Self::Empty,
            (Some((receipt, _)), Some(body)) if envelope.is_whole => {
                Self::Head(Notification::new(instance, receipt, answer.slice(body)))
            }
            (Some((receipt, value)), _) => {
                let body = Bytes::from([&answer[..value.start], &answer[value.end..]].concat());
                Self::NoBody(Notification::new(instance, receipt, body))
            }
            (None, _) => Self::Unreadable,
        }
    }

    /// The notification that it holds whole.
    #[must_use]
    pub fn head(self) -> Option<Notification> {
        match self {
            Self::Head(head) => Some(head),
            Self::Empty | Self::NoBody(_) | Self::Unreadable => None,
        }
    }
}

impl Notification {
    fn new(instance: InstanceId, receipt: ReceiptId, body: Bytes) -> Self {
        let facts = Arc::new(Facts::of(&body, Timestamp::now()));
        let is_json = str::from_utf8(&body).is_ok_and(|text| serde_json::from_str::<IgnoredAny>(text).is_ok());
        Self { instance, receipt, fingerprint: Fingerprint::of(&body), facts, is_malformed: !is_json, body }
    }

    /// The instance whose queue it came from.
    #[must_use]
    pub fn instance(&self) -> InstanceId {
        self.instance
    }

    /// The receipt of this very receive.
    #[must_use]
    pub fn receipt(&self) -> ReceiptId {
        self.receipt
    }

    /// The body, byte for byte as the API sent it, whatever it is.
    #[must_use]
    pub fn body(&self) -> &Bytes {
        &self.body
    }

    /// Whether the body is not valid JSON in UTF-8: consumers, who parse it, are not to get it.
    #[must_use]
    pub fn is_malformed(&self) -> bool {
        self.is_malformed
    }

    /// Its identity within the instance.
    #[must_use]
    pub fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }

    /// The idempotency key: the same for the same body of the same instance, for ever.
    #[must_use]
    pub fn id(&self) -> Uuid {
        let namespace = format!("https://green-api.com/waInstance{}", self.instance);
        Uuid::new_v5(&Uuid::new_v5(&Uuid::NAMESPACE_URL, namespace.as_bytes()), &self.body)
    }

    /// What was found in the body.
    #[must_use]
    pub fn facts(&self) -> &Facts {
        &self.facts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn notification(body: &str) -> Notification {
        let envelope = Bytes::from(format!(r#"{{"receiptId":7,"body":{body}}}"#));
        Answer::read(InstanceId(1_101_000_001), &envelope).head().expect(body)
    }

    #[test]
    fn a_body_stays_byte_for_byte_whatever_it_is() {
        let deep = format!("{}{}", "[".repeat(200), "]".repeat(200));
        let large = format!(r#"{{"text":"{}"}}"#, "x".repeat(2 << 20));
        for body in [
            "{}",
            "null",
            "[ 1 , 1.10, 123456789012345678901234567890, -0.0e-400 ]",
            r#"{"a":1,"a":2}"#,
            r#"{"\ud800":"\udfff \u0000"}"#,
            "{\r\n\t\"typeWebhook\" : \"x\" }",
            "\"text\"",
            &deep,
            &large,
        ] {
            let notification = notification(body);
            assert_eq!(notification.body(), body);
            assert!(!notification.facts().kind.is_empty());
        }
    }

    #[test]
    fn an_answer_is_one_of_four() {
        let read = |answer: &'static [u8]| Answer::read(InstanceId(1), &Bytes::from_static(answer));
        assert!(matches!(read(b" null"), Answer::Empty));
        for answer in [&b"[]"[..], b"{\"body\":{}}", b"<html>", b"{\"receiptId\":-1,\"body\":{}}", b"{\"receiptId\":1"]
        {
            assert!(matches!(read(answer), Answer::Unreadable), "{answer:?}");
        }
        for (answer, rest) in [
            (&b"{\"receiptId\":12}"[..], &b"{\"receiptId\":}"[..]),
            (b"{\"receiptId\":12,\"body\":{\"a\":", b"{\"receiptId\":,\"body\":{\"a\":"),
            (b"{\"receiptId\":12,\"body\":{}}}", b"{\"receiptId\":,\"body\":{}}}"),
        ] {
            let Answer::NoBody(found) = read(answer) else { panic!("{answer:?}") };
            assert_eq!((found.receipt(), found.body().as_ref(), found.is_malformed()), (ReceiptId(12), rest, true));
        }
        let reversed = read(br#" {"body": null, "more": {}, "receiptId": 18446744073709551615 } "#).head().unwrap();
        assert_eq!((reversed.receipt(), reversed.body().as_ref()), (ReceiptId(u64::MAX), &b"null"[..]));
    }

    #[test]
    fn what_consumers_cannot_parse_is_malformed_and_unchanged() {
        for body in [&b"NaN"[..], b"{\"a\":\"\xe2\x82\"}", b"{\"a\":\"\n\"}", b"{\"a\":1,}", b"01", b"\xef\xbb\xbf{}"] {
            let answer = Bytes::from([b"{\"receiptId\":7,\"body\":", body, b"}"].concat());
            let head = Answer::read(InstanceId(1), &answer).head().unwrap();
            assert!(head.is_malformed() && head.body() == body, "{body:?}");
        }
        assert!(!notification(r#"{"\ud800":"\udfff"}"#).is_malformed());
    }

    #[test]
    fn the_id_depends_on_the_instance_and_the_bytes_alone() {
        // Computed with Python's uuid module.
        assert_eq!(notification("{}").id().to_string(), "854fc379-98fc-5384-85a4-78bb5b1141a4");
        assert_ne!(notification("{}").id(), notification("{ }").id());
    }

    #[test]
    fn a_fingerprint_survives_its_text() {
        let fingerprint = Fingerprint::of(b"{}");
        assert_eq!(fingerprint.to_string(), "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a");
        assert_eq!(Fingerprint::from_hex(&fingerprint.to_string()), Some(fingerprint));
        for odd in ["", "44", &"+".repeat(64), &"é".repeat(32)] {
            assert_eq!(Fingerprint::from_hex(odd), None);
        }
    }

    #[test]
    fn debug_shows_no_body() {
        let shown = format!("{:?}", notification(r#"{"textMessage":"secret"}"#));
        assert!(!shown.contains("secret"), "{shown}");
    }
}
