//! The kind of chat that a notification belongs to. It does not reveal who is in it.

/// The kind of a chat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChatKind {
    /// Of two, one of whom may be a bot.
    Private,
    /// A group, in which its members write.
    Group,
    /// A channel, in which its owners write.
    Channel,
    /// `WhatsApp`'s stories.
    Status,
    /// A list of recipients.
    Broadcast,
    /// The notification belongs to no chat.
    None,
    /// Not a form that is known.
    Other,
}

impl ChatKind {
    /// All of them.
    pub const ALL: [Self; 7] =
        [Self::Private, Self::Group, Self::Channel, Self::Status, Self::Broadcast, Self::None, Self::Other];

    /// Its name in attributes, topics and routing keys.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Private => "private",
            Self::Group => "group",
            Self::Channel => "channel",
            Self::Status => "status",
            Self::Broadcast => "broadcast",
            Self::None => "none",
            Self::Other => "other",
        }
    }

    /// By the `chatType` of Telegram and MAX, or else by the form of the chat's id.
    pub(super) fn of(chat: Option<&str>, chat_type: Option<&str>) -> Self {
        let Some(chat) = chat else { return Self::None };
        match chat_type {
            Some("user" | "bot" | "private") => Self::Private,
            Some("group" | "supergroup") => Self::Group,
            Some("channel") => Self::Channel,
            _ => Self::of_id(chat),
        }
    }

    fn of_id(chat: &str) -> Self {
        let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        match chat.rsplit_once('@') {
            Some(("", _)) => Self::Other,
            Some((_, "c.us" | "s.whatsapp.net" | "lid")) => Self::Private,
            Some((_, "g.us")) => Self::Group,
            Some((_, "newsletter")) => Self::Channel,
            Some(("status", "broadcast")) => Self::Status,
            Some((_, "broadcast")) => Self::Broadcast,
            None if is_number(chat) => Self::Private,
            None if chat.strip_prefix('-').is_some_and(is_number) => Self::Group,
            _ => Self::Other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kind_follows_from_the_type_or_the_form_of_the_id() {
        use ChatKind::{Broadcast, Channel, Group, Other, Private, Status};
        for (chat, kind) in [
            // WhatsApp
            ("79990000001@c.us", Private),
            ("79990000001@s.whatsapp.net", Private),
            ("79990000001:12@s.whatsapp.net", Private),
            ("100000000000001@lid", Private),
            ("120363000000000001@g.us", Group),
            ("79990000001-1500000000@g.us", Group),
            ("120363000000000001@newsletter", Channel),
            ("status@broadcast", Status),
            ("1500000000@broadcast", Broadcast),
            // Telegram and MAX
            ("10000001", Private),
            ("-1000000000001", Group),
            ("-72000000000002", Group),
            // Neither
            ("", Other),
            ("-", Other),
            ("@c.us", Other),
            ("10000001@c.uk", Other),
            ("somebody", Other),
            ("1.5", Other),
            ("--1", Other),
        ] {
            assert_eq!(ChatKind::of(Some(chat), None), kind, "{chat}");
            assert_eq!(ChatKind::of(Some(chat), Some("of another kind")), kind, "{chat}");
            assert_eq!(ChatKind::of(Some(chat), Some("channel")), Channel, "{chat}");
        }
        for (chat_type, kind) in [("user", Private), ("bot", Private), ("group", Group), ("supergroup", Group)] {
            assert_eq!(ChatKind::of(Some("-72000000000002"), Some(chat_type)), kind);
        }
        assert_eq!(ChatKind::of(None, Some("channel")), ChatKind::None);
    }
}
