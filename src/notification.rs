//! A notification as it came: its body untouched, and what can be read off it without ever failing.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use bytes::Bytes;
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};
use uuid::Uuid;

mod facts;

pub use self::facts::Facts;
pub(crate) use self::facts::has_identity;

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
        let digits = text.as_bytes();
        if digits.len() != 64 || !digits.iter().all(u8::is_ascii_hexdigit) {
            return None;
        }
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks(2)) {
            *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
        }
        Some(Self(bytes))
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(formatter, "{byte:02x}"))
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

#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(rename = "receiptId")]
    receipt: ReceiptId,
    // A plain `Option` would take the body `null` for no body.
    #[serde(borrow)]
    body: &'a RawValue,
}

impl Notification {
    /// Takes the answer of `receiveNotification` apart; the body shares its bytes.
    ///
    /// # Errors
    /// When the answer is no JSON object with a whole number `receiptId` and a `body`.
    pub fn from_envelope(instance: InstanceId, envelope: &Bytes) -> Result<Self, serde_json::Error> {
        let Envelope { receipt, body } = serde_json::from_slice(envelope)?;
        let body = envelope.slice_ref(body.get().as_bytes());
        let facts = Arc::new(Facts::of(&body, Timestamp::now()));
        Ok(Self { instance, receipt, fingerprint: Fingerprint::of(&body), facts, body })
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

    /// The body, byte for byte as the API sent it: JSON text, whatever it says.
    #[must_use]
    pub fn body(&self) -> &Bytes {
        &self.body
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

    /// What a look into the body tells.
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
        Notification::from_envelope(InstanceId(1_101_000_001), &envelope).expect(body)
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
    fn an_envelope_needs_a_receipt_and_a_body() {
        for envelope in ["{}", r#"{"receiptId":1}"#, r#"{"body":{}}"#, r#"{"receiptId":-1,"body":{}}"#, "[]", "", "{"] {
            let envelope = Bytes::from(envelope);
            assert!(Notification::from_envelope(InstanceId(1), &envelope).is_err(), "{envelope:?}");
        }
        let reversed = Bytes::from(r#" {"body": null, "more": {}, "receiptId": 18446744073709551615 } "#);
        let reversed = Notification::from_envelope(InstanceId(1), &reversed).expect("valid");
        assert_eq!(
            (reversed.body().as_ref(), reversed.receipt().to_string().as_str()),
            (&b"null"[..], "18446744073709551615")
        );
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
