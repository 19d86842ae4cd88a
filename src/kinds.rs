//! The kinds of notification that are told apart: bodies say what they like, and labels and topics must be few.

/// The documented kinds, and whatever else.
pub(crate) const KINDS: [&str; 12] = [
    "incomingMessageReceived",
    "outgoingMessageReceived",
    "outgoingAPIMessageReceived",
    "outgoingMessageStatus",
    "stateInstanceChanged",
    "statusInstanceChanged",
    "deviceInfo",
    "incomingCall",
    "outgoingCall",
    "incomingBlock",
    "quotaExceeded",
    OTHER,
];

/// What is usable and not documented.
pub(crate) const OTHER: &str = "other";

/// What is absent or unusable.
const UNKNOWN: &str = "unknown";

/// Where a word is listed; what is not known comes last.
pub(crate) fn listed(words: &[&str], word: &str) -> usize {
    words.iter().position(|known| *known == word).unwrap_or(words.len() - 1)
}

/// What `{type}` becomes in a topic: no content makes a topic of its own.
pub(crate) fn in_topic(kind: &str) -> &'static str {
    if kind == UNKNOWN { UNKNOWN } else { KINDS[listed(&KINDS, kind)] }
}

/// Everything that `{type}` can become in a topic.
pub(crate) fn in_topics() -> Vec<&'static str> {
    KINDS.into_iter().chain([UNKNOWN]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kinds_are_those_that_consumers_are_told_of() {
        let schema = include_str!("../deploy/asyncapi/notification.schema.json");
        let told = schema.lines().filter_map(|line| line.trim().strip_prefix(r#""const": ""#)?.strip_suffix('"'));
        assert_eq!(told.chain([OTHER]).collect::<Vec<_>>(), KINDS);
    }

    #[cfg(feature = "emulator")]
    #[test]
    fn every_example_is_of_a_documented_kind() {
        for body in crate::emulator::notifications() {
            let value: serde_json::Value = serde_json::from_str(body).expect(body);
            let kind = value["typeWebhook"].as_str().expect(body);
            assert_eq!(in_topic(kind), kind);
        }
    }

    #[test]
    fn content_makes_no_topic_of_its_own() {
        for (kind, topic) in
            [("incomingCall", "incomingCall"), ("unknown", "unknown"), ("ledger", "other"), ("", "other")]
        {
            assert_eq!(in_topic(kind), topic);
        }
        assert!(in_topics().contains(&in_topic("ledger")));
    }
}
