//! What topic templates can expand to: they must not reach the bridge's own topics.

use std::collections::BTreeSet;

use crate::kinds;
use crate::notification::{ChatKind, InstanceId};

/// The possible values of `{type}`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Types {
    /// The values that the bridge uses.
    Documented,
    /// Also those that earlier versions used: any type of a notification.
    #[cfg_attr(not(feature = "kafka"), allow(dead_code, reason = "only Kafka has topics"))]
    Any,
}

/// Whether the template can expand to this name.
pub(crate) fn can_become(template: &str, name: &str, types: Types) -> bool {
    let mut rest = template;
    // The possible numbers of characters consumed so far.
    let mut used = BTreeSet::from([0]);
    while !rest.is_empty() && !used.is_empty() {
        let from = |place: usize| &name[place..];
        if let Some(behind) = rest.strip_prefix("{instance}") {
            used = used.into_iter().flat_map(|place| instances(from(place)).map(move |end| place + end)).collect();
            rest = behind;
        } else if let Some(behind) = rest.strip_prefix("{type}") {
            used =
                used.into_iter().flat_map(|place| kinds_at(from(place), types).map(move |end| place + end)).collect();
            rest = behind;
        } else if let Some(behind) = rest.strip_prefix("{message}") {
            used = one_of(&kinds::messages_in_topics(), name, used);
            rest = behind;
        } else if let Some(behind) = rest.strip_prefix("{chat}") {
            used = one_of(&ChatKind::ALL.map(ChatKind::name), name, used);
            rest = behind;
        } else {
            // Only an invalid template has another brace here.
            let brace = rest.char_indices().skip(1).find(|(_, letter)| *letter == '{');
            let end = brace.map_or(rest.len(), |(end, _)| end);
            let (literal, behind) = rest.split_at(end);
            used = used
                .into_iter()
                .filter(|place| from(*place).starts_with(literal))
                .map(|place| place + literal.len())
                .collect();
            rest = behind;
        }
    }
    used.contains(&name.len())
}

/// Where one of these words can end in the name.
fn one_of(words: &[&str], name: &str, used: BTreeSet<usize>) -> BTreeSet<usize> {
    let ends = |place: usize| {
        let here = words.iter().filter(move |word| name[place..].starts_with(**word));
        here.map(move |word| place + word.len())
    };
    used.into_iter().flat_map(ends).collect()
}

/// The possible ends of an instance id at the beginning.
fn instances(text: &str) -> impl Iterator<Item = usize> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let is_one = |number: &str| number.parse().is_ok_and(|id: InstanceId| id.to_string() == number);
    (1..=digits).filter(move |end| is_one(&text[..*end]))
}

/// The possible ends of a type at the beginning.
fn kinds_at(text: &str, types: Types) -> impl Iterator<Item = usize> {
    let documented = kinds::in_topics().into_iter().filter(|kind| text.starts_with(kind)).map(str::len);
    let usable = |byte: &u8| byte.is_ascii_alphanumeric() || b"_-".contains(byte);
    let any = if types == Types::Any { text.bytes().take(64).take_while(usable).count() } else { 0 };
    documented.chain(1..=any)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_template_can_become_is_decided_exactly() {
        for (template, name, documented, any) in [
            ("x", "x", true, true),
            ("x", "xy", false, false),
            ("x.{type}", "x.ledger", false, true),
            ("x.{type}", "x.other", true, true),
            ("x.{type}", "x.unknown", true, true),
            ("x.{type}", "x.incomingCall", true, true),
            ("x.{type}", "x.incomingCall.y", false, false),
            ("x.{type}", "x.incomingcall", false, true),
            ("x.{type}", "x.", false, false),
            ("x.{instance}", "x.1101", true, true),
            ("x.{instance}", "x.01101", false, false),
            ("x.{instance}", "x.18446744073709551616", false, false),
            ("x{instance}0", "x100", true, true),
            ("x{instance}{instance}", "x12", true, true),
            ("x{instance}{instance}", "x1", false, false),
            ("x{type}{type}", "xotherunknown", true, true),
            ("x.{type}.{instance}.z", "x.other.7.z", true, true),
            ("x.{type}.{instance}.z", "x.other..z", false, false),
            ("x-{type}", "x-outgoingCall", true, true),
            ("x.{message}", "x.textMessage", true, true),
            ("x.{message}", "x.other", true, true),
            ("x.{message}", "x.none", true, true),
            ("x.{message}", "x.unknown", false, false),
            ("x.{chat}", "x.private", true, true),
            ("x.{chat}", "x.none", true, true),
            ("x.{chat}", "x.ledger", false, false),
            ("x{chat}{message}.{type}", "xgrouptextMessage.other", true, true),
        ] {
            assert_eq!(can_become(template, name, Types::Documented), documented, "{template} {name}");
            assert_eq!(can_become(template, name, Types::Any), any, "{template} {name}");
        }
        let (many, name) = ("x".to_owned() + &"{instance}".repeat(30), "x".to_owned() + &"1".repeat(100) + "y");
        assert!(!can_become(&many, &name, Types::Documented), "and in no time");
    }
}
