//! The known kinds of notifications and messages. Bodies may name any kind, but the number of labels and topics must be bounded.

/// The documented kinds, and the one for all others.
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

/// The documented kinds of messages, `typeMessage`, and the one for all others.
const MESSAGES: [&str; 29] = [
    "textMessage",
    "extendedTextMessage",
    "quotedMessage",
    "imageMessage",
    "videoMessage",
    "documentMessage",
    "audioMessage",
    "stickerMessage",
    "locationMessage",
    "contactMessage",
    "contactsArrayMessage",
    "reactionMessage",
    "pollMessage",
    "pollUpdateMessage",
    "editedMessage",
    "deletedMessage",
    "groupInviteMessage",
    "buttonsMessage",
    "buttonsResponseMessage",
    "listMessage",
    "listResponseMessage",
    "templateMessage",
    "templateButtonsReplyMessage",
    // So spelt in an example of the documentation.
    "templateButtonReplyMessage",
    "interactiveButtons",
    "interactiveButtonsReply",
    "orderMessage",
    "productMessage",
    OTHER,
];

/// Stands for kinds that are valid but not documented.
pub(crate) const OTHER: &str = "other";

/// Stands for kinds that are absent or invalid.
const UNKNOWN: &str = "unknown";

/// Stands for the kind of message of a notification that has none.
pub(crate) const NONE: &str = "none";

/// The index of a word in a list whose last element stands for all others.
pub(crate) fn listed(words: &[&str], word: &str) -> usize {
    words.iter().position(|known| *known == word).unwrap_or(words.len() - 1)
}

/// The value of `{type}` in a topic: content never creates topics.
pub(crate) fn in_topic(kind: &str) -> &'static str {
    if kind == UNKNOWN { UNKNOWN } else { KINDS[listed(&KINDS, kind)] }
}

/// All values of `{type}` in a topic.
pub(crate) fn in_topics() -> Vec<&'static str> {
    KINDS.into_iter().chain([UNKNOWN]).collect()
}

/// The value of `{message}` in a topic.
pub(crate) fn message_in_topic(kind: Option<&str>) -> &'static str {
    kind.map_or(NONE, |kind| MESSAGES[listed(&MESSAGES, kind)])
}

/// All values of `{message}` in a topic.
pub(crate) fn messages_in_topics() -> Vec<&'static str> {
    MESSAGES.into_iter().chain([NONE]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kinds_are_those_of_the_schema() {
        let schema = include_str!("../deploy/asyncapi/notification.types.schema.json");
        let documented = |property: &str| {
            let of_property = format!(r#""{property}": {{"type": "string", "const": ""#);
            let kinds = schema.lines().filter_map(|line| line.trim().strip_prefix(&of_property)?.split('"').next());
            kinds.chain([OTHER]).collect::<Vec<_>>()
        };
        assert_eq!(documented("typeWebhook"), KINDS);
        assert_eq!(documented("typeMessage"), MESSAGES);
    }

    #[cfg(feature = "emulator")]
    #[test]
    fn every_example_is_of_a_documented_kind() {
        for body in crate::emulator::notifications() {
            let value: serde_json::Value = serde_json::from_str(body).expect(body);
            let kind = value["typeWebhook"].as_str().expect(body);
            assert_eq!(in_topic(kind), kind);
            let message = value["messageData"]["typeMessage"].as_str();
            assert_eq!(message_in_topic(message), message.unwrap_or(NONE));
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
        for (kind, topic) in [(Some("textMessage"), "textMessage"), (Some("ledger"), "other"), (None, "none")] {
            assert_eq!(message_in_topic(kind), topic);
            assert!(messages_in_topics().contains(&topic));
        }
    }
}
