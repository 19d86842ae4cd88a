//! What is read from a body.

use std::borrow::Cow;
use std::fmt;

use jiff::{SignedDuration, Timestamp, Unit, civil};
use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::InstanceId;
use super::chat::ChatKind;

/// What consumers route and sort by, read off a body.
#[derive(Debug, PartialEq, Eq)]
pub struct Facts {
    /// The `typeWebhook`, or `unknown` when it is absent or not `[A-Za-z0-9_-]{1,64}`.
    pub kind: String,
    /// RFC 3339, UTC: the body's `timestamp` in seconds when it lies in the years 1970 to 9999,
    /// otherwise the time of receipt.
    pub time: String,
    /// Seconds since 1970 of the same moment.
    pub unix_seconds: u64,
    /// The chat that it belongs to, for `key: chat`: personal data, not for headers or logs.
    pub chat: Option<String>,
    /// What kind of chat that is.
    pub chat_kind: ChatKind,
    /// The `idMessage`, if it is a text of `[A-Za-z0-9_-]{1,128}`.
    pub message: Option<String>,
    /// The `typeMessage` of its `messageData`, if it is a text of `[A-Za-z0-9_-]{1,64}`.
    pub message_kind: Option<String>,
    /// The `stateInstance` of a `stateInstanceChanged`.
    pub state: Option<String>,
    /// The instance that it says it is of, its `idInstance`.
    pub instance: Option<InstanceId>,
    /// Whether the body identifies itself, by a non-empty `idMessage` or an integer `timestamp`: two
    /// of equal bytes are then one notification.
    pub has_identity: bool,
}

/// 9999-12-31T23:59:59Z.
const LAST_SECOND: u64 = 253_402_300_799;

impl Facts {
    /// Never fails: what is not there, or not of the expected form, counts as absent.
    pub(super) fn of(body: &[u8], received_at: Timestamp) -> Self {
        let [kind, timestamp, sender, chat, from, avatar, state, message, instance, data] = members(
            body,
            [
                "typeWebhook",
                "timestamp",
                "senderData",
                "chatId",
                "from",
                "avatarInfo",
                "stateInstance",
                "idMessage",
                "instanceData",
                "messageData",
            ],
        );
        let [id] = nested(instance, ["idInstance"]);
        let [sender_chat, chat_type] = nested(sender, ["chatId", "chatType"]);
        let [avatar_chat] = nested(avatar, ["chatId"]);
        let [message_kind] = nested(data, ["typeMessage"]);
        let kind = kind.and_then(text).filter(|kind| is_word(kind, 64)).unwrap_or_else(|| "unknown".into());
        let state = state.filter(|_| kind == "stateInstanceChanged").and_then(text);
        let seconds = timestamp.and_then(|raw| raw.get().parse().ok()).filter(|seconds| *seconds <= LAST_SECOND);
        let mut chats = [sender_chat, chat, from, avatar_chat].into_iter().flatten().filter_map(text);
        let chat = chats.find(|chat| !chat.is_empty());
        Self {
            kind,
            time: seconds.map_or_else(|| time_of_receipt(received_at), rfc3339),
            unix_seconds: seconds.unwrap_or_else(|| received_at.as_second().try_into().unwrap_or(0)),
            chat_kind: ChatKind::of(chat.as_deref(), chat_type.and_then(text).as_deref()),
            chat,
            message: message.and_then(text).filter(|id| is_word(id, 128)),
            message_kind: message_kind.and_then(text).filter(|kind| is_word(kind, 64)),
            state,
            instance: id.and_then(|id| id.get().parse().ok()),
            has_identity: is_identity(message, timestamp),
        }
    }
}

/// The chat of a body: see [`Facts::chat`].
#[cfg_attr(not(feature = "kafka"), allow(dead_code, reason = "only Kafka has keys"))]
pub(crate) fn chat(body: &[u8]) -> Option<String> {
    Facts::of(body, Timestamp::UNIX_EPOCH).chat
}

/// Whether a body identifies itself: see [`Facts::has_identity`].
pub(crate) fn has_identity(body: &[u8]) -> bool {
    let [message, timestamp] = members(body, ["idMessage", "timestamp"]);
    is_identity(message, timestamp)
}

fn is_identity(message: Option<&RawValue>, timestamp: Option<&RawValue>) -> bool {
    // Any number of digits, but no fraction and no exponent.
    let is_integer = |raw: &RawValue| {
        let digits = raw.get().strip_prefix('-').unwrap_or(raw.get());
        !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit())
    };
    // What is no text, a lone surrogate say, is still not empty.
    let is_text = |raw: &RawValue| raw.get().starts_with('"') && raw.get() != "\"\"";
    message.is_some_and(is_text) || timestamp.is_some_and(is_integer)
}

fn is_word(text: &str, longest: usize) -> bool {
    (1..=longest).contains(&text.len())
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

/// A lone surrogate or another type is no text.
fn text(raw: &RawValue) -> Option<String> {
    serde_json::from_str(raw.get()).ok()
}

/// The members of an object that may not be there.
fn nested<'a, const N: usize>(object: Option<&'a RawValue>, names: [&'static str; N]) -> [Option<&'a RawValue>; N] {
    object.map_or([None; N], |object| members(object.get().as_bytes(), names))
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

    #[test]
    fn facts_are_read_leniently() {
        let facts = |body: &str| {
            let Facts { kind, chat, .. } = Facts::of(body.as_bytes(), Timestamp::now());
            (kind, chat)
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
        let time =
            |timestamp: &str| Facts::of(format!(r#"{{"timestamp":{timestamp}}}"#).as_bytes(), Timestamp::now()).time;
        assert_eq!(time("0"), "1970-01-01T00:00:00Z");
        assert_eq!(time("1763118257"), "2025-11-14T11:04:17Z");
        assert_eq!(time("253402300799"), "9999-12-31T23:59:59Z");
        for odd in ["253402300800", "-1", "1.5", "1e9", "\"1763118257\"", "null", "[]"] {
            let received = time(odd).parse::<Timestamp>().expect("RFC 3339");
            assert!(Timestamp::now().duration_since(received).abs() < SignedDuration::from_secs(60), "{odd}");
        }
    }

    #[test]
    fn a_body_identifies_itself_by_its_message_or_its_time() {
        for body in [r#"{"idMessage":"x"}"#, r#"{"timestamp":0}"#, r#"{"timestamp":-1,"idMessage":7}"#] {
            assert!(has_identity(body.as_bytes()), "{body}");
        }
        for body in [
            "{}",
            "null",
            r#"{"idMessage":""}"#,
            r#"{"idMessage":7,"timestamp":"7"}"#,
            r#"{"timestamp":1.5}"#,
            r#"{"timestamp":1e3}"#,
            r#"{"timestamp":null,"nested":{"idMessage":"x"}}"#,
        ] {
            assert!(!has_identity(body.as_bytes()), "{body}");
        }
        assert!(Facts::of(br#"{"idMessage":"x"}"#, Timestamp::now()).has_identity);
    }

    #[test]
    fn what_consumers_route_by_is_a_word_or_absent() {
        let facts = |body: &str| {
            let Facts { message, message_kind, chat_kind, .. } = Facts::of(body.as_bytes(), Timestamp::now());
            (message, message_kind, chat_kind.name())
        };
        let body =
            r#"{"idMessage":"BAE5_1-2","messageData":{"typeMessage":"textMessage"},"senderData":{"chatId":"7@c.us"}}"#;
        assert_eq!(facts(body), (Some("BAE5_1-2".into()), Some("textMessage".into()), "private"));
        let channel = r#"{"senderData":{"chatId":"-72000000000002","chatType":"channel"}}"#;
        assert_eq!(facts(channel), (None, None, "channel"));
        for odd in ["", "a b", "a.b", "é", &"x".repeat(129)] {
            let body = format!(r#"{{"idMessage":"{odd}","messageData":{{"typeMessage":"{odd}"}},"chatId":""}}"#);
            assert_eq!(facts(&body), (None, None, "none"), "{odd}");
        }
        let longest = format!(r#"{{"idMessage":"{}","messageData":[]}}"#, "x".repeat(128));
        assert_eq!(facts(&longest).0.map(|id| id.len()), Some(128));
        assert_eq!(facts(r#"{"idMessage":7,"typeMessage":"textMessage","from":"-1"}"#), (None, None, "group"));
    }

    #[test]
    fn a_body_may_name_its_instance() {
        let named = |body: &str| Facts::of(body.as_bytes(), Timestamp::now()).instance.map(|id| id.to_string());
        assert_eq!(named(r#"{"instanceData":{"wid":"7@c.us","idInstance":1101}}"#).as_deref(), Some("1101"));
        for odd in [r#"{"idInstance":1}"#, r#"{"instanceData":{"idInstance":"1"}}"#, r#"{"instanceData":[]}"#, "null"] {
            assert_eq!(named(odd), None, "{odd}");
        }
    }

    #[test]
    fn a_change_of_state_has_the_state() {
        let state = |kind: &str, state: &str| {
            let body = format!(r#"{{"stateInstance":{state},"typeWebhook":"{kind}"}}"#);
            Facts::of(body.as_bytes(), Timestamp::now()).state
        };
        assert_eq!(state("stateInstanceChanged", r#""blocked""#).as_deref(), Some("blocked"));
        assert_eq!((state("incomingCall", r#""blocked""#), state("stateInstanceChanged", "1")), (None, None));
    }
}
