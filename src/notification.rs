//! A notification as it came: its body untouched, and what can be read off it without ever failing.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use bytes::Bytes;
use jiff::{SignedDuration, Timestamp, Unit, civil};
use schemars::JsonSchema;
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};
use uuid::Uuid;

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
pub struct Fingerprint([u8; 32]);

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

/// One notification, held from its receive to its delete. Cloning shares the body.
#[derive(Clone)]
pub struct Notification {
    instance: InstanceId,
    receipt: ReceiptId,
    received_at: Timestamp,
    body: Bytes,
    fingerprint: Fingerprint,
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
        Ok(Self { instance, receipt, received_at: Timestamp::now(), fingerprint: Fingerprint::of(&body), body })
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

    /// What a look into the body tells. Never fails: what is not there, or not of the expected
    /// form, counts as absent.
    #[must_use]
    pub fn facts(&self) -> Facts<'_> {
        Facts::of(&self.body, self.received_at)
    }
}

/// Whether a body names its time or its message. Two of equal bytes are then one notification.
pub(crate) fn names_itself(body: &[u8]) -> bool {
    members(body, ["timestamp", "idMessage"]).iter().any(Option::is_some)
}

/// What consumers route and sort by, read off a body.
#[derive(Debug, PartialEq, Eq)]
pub struct Facts<'a> {
    /// The `typeWebhook`, or `unknown` when it is absent or not `[A-Za-z0-9_-]{1,64}`.
    pub kind: Cow<'a, str>,
    /// RFC 3339, UTC: the body's `timestamp` in seconds when it lies in the years 1970 to 9999,
    /// otherwise the time of receipt.
    pub time: String,
    /// Seconds since 1970 of the same moment.
    pub unix_seconds: u64,
    /// The chat that it belongs to, for `key: chat`: personal data, not for headers or logs.
    pub chat: Option<Cow<'a, str>>,
}

/// 9999-12-31T23:59:59Z.
const LAST_SECOND: u64 = 253_402_300_799;

impl<'a> Facts<'a> {
    fn of(body: &'a [u8], received_at: Timestamp) -> Self {
        let [kind, timestamp, sender, chat, from, avatar] =
            members(body, ["typeWebhook", "timestamp", "senderData", "chatId", "from", "avatarInfo"]);
        let kind = kind.and_then(text).filter(|kind| is_kind(kind));
        let seconds = timestamp.and_then(|raw| raw.get().parse().ok()).filter(|seconds| *seconds <= LAST_SECOND);
        let nested = |raw: Option<&'a RawValue>| {
            let [chat] = members(raw?.get().as_bytes(), ["chatId"]);
            chat.and_then(text)
        };
        let said = |text: &Cow<'_, str>| !text.is_empty();
        Self {
            kind: kind.unwrap_or(Cow::Borrowed("unknown")),
            time: seconds.map_or_else(|| time_of_receipt(received_at), rfc3339),
            unix_seconds: seconds.unwrap_or_else(|| received_at.as_second().try_into().unwrap_or(0)),
            chat: nested(sender)
                .filter(said)
                .or_else(|| chat.and_then(text).filter(said))
                .or_else(|| from.and_then(text).filter(said))
                .or_else(|| nested(avatar).filter(said)),
        }
    }
}

fn is_kind(text: &str) -> bool {
    (1..=64).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-')
}

/// The civil calendar, because a `Timestamp` ends a day before the year 9999 does.
fn rfc3339(seconds: u64) -> String {
    let since = SignedDuration::from_secs(i64::try_from(seconds.min(LAST_SECOND)).unwrap_or(0));
    let moment = civil::date(1970, 1, 1).at(0, 0, 0, 0).saturating_add(since);
    format!("{moment}Z")
}

fn time_of_receipt(received_at: Timestamp) -> String {
    received_at.round(Unit::Millisecond).unwrap_or(received_at).to_string()
}

fn text(raw: &RawValue) -> Option<Cow<'_, str>> {
    // Borrowed where there are no escapes; a lone surrogate or another type is no text.
    serde_json::from_str::<&str>(raw.get())
        .map(Cow::Borrowed)
        .or_else(|_| serde_json::from_str::<String>(raw.get()).map(Cow::Owned))
        .ok()
}

/// The members of these names in one pass; of a repeated name the last, as most parsers do it.
/// What is no JSON object has no members.
fn members<'a, const N: usize>(json: &'a [u8], names: [&'static str; N]) -> [Option<&'a RawValue>; N] {
    struct Members<const N: usize>([&'static str; N]);

    impl<'de, const N: usize> Visitor<'de> for Members<N> {
        type Value = [Option<&'de RawValue>; N];

        fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
            formatter.write_str("an object")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut found = [None; N];
            while let Some(Name(name)) = map.next_key()? {
                match self.0.iter().position(|wanted| wanted.as_bytes() == &*name) {
                    Some(index) => found[index] = Some(map.next_value()?),
                    None => drop(map.next_value::<IgnoredAny>()?),
                }
            }
            Ok(found)
        }
    }

    serde_json::Deserializer::from_slice(json).deserialize_map(Members(names)).unwrap_or([None; N])
}

/// A member's name as bytes: as text, a name with a lone surrogate would end the look.
struct Name<'a>(Cow<'a, [u8]>);

impl<'de> Deserialize<'de> for Name<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NameVisitor;

        impl<'de> Visitor<'de> for NameVisitor {
            type Value = Name<'de>;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a name")
            }

            fn visit_borrowed_bytes<E>(self, name: &'de [u8]) -> Result<Self::Value, E> {
                Ok(Name(Cow::Borrowed(name)))
            }

            fn visit_bytes<E>(self, name: &[u8]) -> Result<Self::Value, E> {
                Ok(Name(Cow::Owned(name.to_vec())))
            }
        }

        deserializer.deserialize_bytes(NameVisitor)
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
    fn facts_are_read_leniently() {
        let facts = |body: &str| {
            let notification = notification(body);
            let Facts { kind, chat, .. } = notification.facts();
            (kind.into_owned(), chat.map(Cow::into_owned))
        };
        let unknown = || "unknown".to_owned();
        assert_eq!(
            facts(r#"{"typeWebhook":"incomingCall","from":"7@c.us"}"#),
            ("incomingCall".into(), Some("7@c.us".into()))
        );
        assert_eq!(facts(r#"{"typeWebhook":"a","typeWebhook":"b\u002dc","\ud800":0}"#), ("b-c".into(), None));
        assert_eq!(facts(r#"{"senderData":{"chatId":""},"chatId":5,"from":"x"}"#), (unknown(), Some("x".into())));
        assert_eq!(facts(r#"{"senderData":[],"avatarInfo":{"chatId":"a"}}"#), (unknown(), Some("a".into())));
        assert_eq!(facts(r#"{"senderData":{"chatId":"1"},"chatId":"2"}"#), (unknown(), Some("1".into())));
        assert_eq!(facts(r#"{"chatId":"2","from":"3"}"#), (unknown(), Some("2".into())));
        for odd in ["", "a.b", "a b", "é", &"x".repeat(65)] {
            assert_eq!(facts(&format!(r#"{{"typeWebhook":"{odd}"}}"#)), (unknown(), None), "{odd}");
        }
        assert_eq!(facts(&format!(r#"{{"typeWebhook":"{}"}}"#, "x".repeat(64))).0.len(), 64);
        assert_eq!(facts(r#"{"typeWebhook":"\ud800"}"#).0, "unknown");
        assert_eq!(facts("null"), (unknown(), None));
    }

    #[test]
    fn the_time_is_the_bodys_or_that_of_receipt() {
        let time = |timestamp: &str| notification(&format!(r#"{{"timestamp":{timestamp}}}"#)).facts().time;
        assert_eq!(time("0"), "1970-01-01T00:00:00Z");
        assert_eq!(time("1763118257"), "2025-11-14T11:04:17Z");
        assert_eq!(time("253402300799"), "9999-12-31T23:59:59Z");
        for odd in ["253402300800", "-1", "1.5", "1e9", "\"1763118257\"", "null", "[]"] {
            let received = time(odd).parse::<Timestamp>().expect("RFC 3339");
            assert!(Timestamp::now().duration_since(received).abs() < SignedDuration::from_secs(60), "{odd}");
        }
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
