//! Arguments of queues: what a queue is declared with, how an existing queue differs from that, and the policy that
//! removes the difference.

use std::collections::BTreeMap;
use std::fmt;

use lapin::types::{AMQPValue, FieldTable};

use crate::sink::amqp::options::{Argument, Options, QueueType};

/// Keyed by RabbitMQ's names.
pub(super) type Arguments = BTreeMap<String, Argument>;

/// How often a message may be redelivered before it is moved to the queue of rejected messages.
const DELIVERIES: i64 = 20;

/// Practically unlimited. Not -1: RabbitMQ 3.10 accepts that, and drops a message the first time that it is returned to its queue.
const MANY_DELIVERIES: i64 = 1_000_000;

/// The argument that selects the queue type.
const KIND: &str = "x-queue-type";

/// Arguments that a policy can set as well.
const OF_POLICIES: [&str; 12] = [
    "dead-letter-exchange",
    "dead-letter-routing-key",
    "dead-letter-strategy",
    "delivery-limit",
    "expires",
    "max-age",
    "max-length",
    "max-length-bytes",
    "message-ttl",
    "overflow",
    "queue-leader-locator",
    "stream-max-segment-size-bytes",
];

/// The queue that receives messages which consumers rejected too often.
pub(super) fn rejected(queue: &str) -> String {
    format!("{queue}.rejected")
}

/// Arguments of the notification queue. With them no version of RabbitMQ drops a message from a quorum queue because
/// consumers keep failing on it.
pub(super) fn of_queue(config: &Options, queue: &str) -> Arguments {
    let text = |text: &str| Argument::Text(text.to_owned());
    let mut arguments = of_kind(config.queue_type);
    if config.queue_type == QueueType::Quorum {
        arguments.extend([
            ("x-delivery-limit".to_owned(), Argument::Number(DELIVERIES)),
            // Required by at-least-once dead lettering.
            ("x-overflow".to_owned(), text("reject-publish")),
            ("x-dead-letter-exchange".to_owned(), text("")),
            ("x-dead-letter-routing-key".to_owned(), text(&rejected(queue))),
            ("x-dead-letter-strategy".to_owned(), text("at-least-once")),
        ]);
    }
    arguments.extend(config.queue_arguments.clone());
    arguments
}

/// Arguments of a queue whose messages are never dropped, however often they are returned to it: from RabbitMQ 4 on the default
/// limit is 20.
pub(super) fn to_keep(kind: QueueType) -> Arguments {
    let mut arguments = of_kind(kind);
    if kind == QueueType::Quorum {
        arguments.insert("x-delivery-limit".to_owned(), Argument::Number(MANY_DELIVERIES));
    }
    arguments
}

fn of_kind(kind: QueueType) -> Arguments {
    Arguments::from([(KIND.to_owned(), Argument::Text(kind.argument().to_owned()))])
}

/// The same as an AMQP table.
pub(super) fn table(arguments: &Arguments) -> FieldTable {
    let mut table = FieldTable::default();
    for (name, value) in arguments {
        let value = match value {
            Argument::Flag(flag) => AMQPValue::Boolean(*flag),
            Argument::Number(number) => AMQPValue::LongLongInt(*number),
            Argument::Text(text) => AMQPValue::LongString(text.as_str().into()),
        };
        table.insert(name.as_str().into(), value);
    }
    table
}

/// How an existing queue differs from what would be declared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Difference {
    pub name: String,
    wanted: Option<Argument>,
    there: There,
}

/// The value of an argument at the broker.
#[derive(Clone, Debug, PartialEq, Eq)]
enum There {
    Nothing,
    Value(Argument),
    /// Unknown: the broker truncated its message.
    Unread,
}

impl Difference {
    /// Parses "inequivalent arg 'NAME' for queue …: received … but current is …". `None` for other differences, such as
    /// durability, or when the broker does not support the argument.
    pub(super) fn read(text: &str, wanted: &Arguments) -> Option<Self> {
        let (_, rest) = text.split_once("inequivalent arg '")?;
        let (name, rest) = rest.split_once('\'')?;
        if !name.starts_with("x-") {
            return None;
        }
        let wanted = wanted.get(name).cloned();
        let there = rest.rsplit_once(" but current is ").and_then(|(_, there)| value(there, wanted.as_ref()));
        let there = there.unwrap_or(There::Unread);
        Some(Self { name: name.to_owned(), wanted, there })
    }

    /// Whether the queue type differs: quorum, classic, stream.
    pub(super) fn is_of_kind(&self) -> bool {
        self.name == KIND
    }

    /// Sets the argument to the broker's value. Returns whether that changed anything: if not, nothing more can be found
    /// out. A truncated message counts as "not set"; if that is wrong the broker reports the same argument again.
    pub(super) fn apply_to(&mut self, arguments: &mut Arguments) -> bool {
        if self.there == There::Unread && arguments.contains_key(&self.name) {
            self.there = There::Nothing;
        }
        match &self.there {
            There::Unread => false,
            There::Nothing => arguments.remove(&self.name).is_some(),
            There::Value(there) => arguments.insert(self.name.clone(), there.clone()).as_ref() != Some(there),
        }
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, wanted, there } = self;
        let shown = |value: &Option<Argument>| value.as_ref().map_or("none".to_owned(), |value| format!("`{value}`"));
        write!(formatter, "{name} (wanted {}", shown(wanted))?;
        match there {
            There::Nothing => write!(formatter, ", has none)"),
            There::Value(value) => write!(formatter, ", has `{value}`)"),
            There::Unread => write!(formatter, ", has another)"),
        }
    }
}

/// "none", "the value 'V' of type 'T'", or "'V'" when both are of one type. `None` if the text is truncated.
fn value(there: &str, wanted: Option<&Argument>) -> Option<There> {
    if there == "none" {
        return Some(There::Nothing);
    }
    let (text, kind) = match there.strip_prefix("the value '") {
        Some(rest) => rest.strip_suffix('\'')?.rsplit_once("' of type '")?,
        None => (there.strip_prefix('\'')?.strip_suffix('\'')?, ""),
    };
    let is_text = kind == "longstr" || (kind.is_empty() && matches!(wanted, Some(Argument::Text(_))));
    let is_flag = kind == "bool" || (kind.is_empty() && matches!(wanted, Some(Argument::Flag(_))));
    Some(There::Value(match (is_text, is_flag) {
        (true, _) => Argument::Text(text.to_owned()),
        (_, true) => Argument::Flag(text.parse().ok()?),
        _ => Argument::Number(text.parse().ok()?),
    }))
}

/// The command that sets the missing arguments by a policy, ready to be pasted into a shell. A queue has at most one
/// policy, and its own arguments take precedence.
pub(super) fn policy(vhost: &str, queue: &str, differences: &[Difference]) -> String {
    let lacking = differences.iter().filter(|difference| !matches!(difference.there, There::Value(_)));
    let definition: BTreeMap<&str, &Argument> = lacking
        .filter_map(|difference| {
            let name = difference.name.strip_prefix("x-").filter(|name| OF_POLICIES.contains(name))?;
            Some((name, difference.wanted.as_ref()?))
        })
        .collect();
    if definition.is_empty() {
        return "none: only recreating the queue changes it".into();
    }
    let definition = serde_json::to_string(&definition).unwrap_or_default();
    let [vhost, name, pattern, definition] =
        [vhost, &format!("green-api-bridge.{queue}"), &format!("^{}$", literal(queue)), &definition].map(quoted);
    format!("rabbitmqctl set_policy --vhost {vhost} --apply-to queues {name} {pattern} {definition}")
}

/// Quotes for a shell.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// Escapes for a regular expression.
fn literal(text: &str) -> String {
    let mut pattern = String::new();
    for letter in text.chars() {
        match letter {
            '^' | '\\' | ']' => pattern.extend(['\\', letter]),
            letter if letter.is_ascii_alphanumeric() || "-_ '\"".contains(letter) || !letter.is_ascii() => {
                pattern.push(letter);
            }
            // No backslash: the JSON log would double it.
            letter => pattern.extend(['[', letter, ']']),
        }
    }
    pattern
}

#[cfg(test)]
mod tests {
    use super::*;

    fn difference(text: &str, wanted: Argument) -> Option<Difference> {
        let text =
            format!("AMQP soft error: PRECONDITION_FAILED - inequivalent arg 'x-a' for queue 'q' in vhost '/': {text}");
        Difference::read(&text, &Arguments::from([("x-a".to_owned(), wanted)]))
    }

    #[test]
    fn the_value_at_the_broker_is_parsed_from_its_message() {
        let number = || Argument::Number(20);
        let text = |text: &str| Argument::Text(text.into());
        for (text, wanted, there) in [
            ("received the value '20' of type 'long' but current is none", number(), There::Nothing),
            ("received '20' but current is '30'", number(), There::Value(Argument::Number(30))),
            ("received 'a' but current is 'it's but current is b'", text("a"), There::Unread),
            ("received 'a' but current is 'b'", text("a"), There::Value(text("b"))),
            (
                "received none but current is the value '7' of type 'signedint'",
                number(),
                There::Value(Argument::Number(7)),
            ),
            ("received none but current is the value '7' of type 'longstr'", number(), There::Value(text("7"))),
            (
                "received none but current is the value 'true' of type 'bool'",
                number(),
                There::Value(Argument::Flag(true)),
            ),
            ("received the value '20' of type 'long' but curr...", number(), There::Unread),
        ] {
            let read = difference(text, wanted.clone()).expect(text);
            assert_eq!(read, Difference { name: "x-a".into(), wanted: Some(wanted), there }, "{text}");
        }
        for other in ["inequivalent arg 'durable' for", "invalid arg 'x-a'"] {
            assert_eq!(Difference::read(other, &Arguments::default()), None, "{other}");
        }
    }

    #[test]
    fn a_truncated_value_is_asked_for_without_the_argument() {
        let mut asked = Arguments::from([("x-a".to_owned(), Argument::Number(20))]);
        let mut cut = difference("received the value '20' of type 'long' but curr...", Argument::Number(20)).unwrap();
        assert!(cut.apply_to(&mut asked) && asked.is_empty() && cut.there == There::Nothing);
        let mut again = difference("received none but curr...", Argument::Number(20)).unwrap();
        assert!(!again.apply_to(&mut asked) && again.there == There::Unread, "there is one, and no way to know it");
    }

    #[test]
    fn the_command_can_be_pasted_whatever_the_names_are() {
        let limit = difference("received the value '20' of type 'long' but current is none", Argument::Number(20));
        let mut limit = limit.expect("a difference");
        limit.name = "x-delivery-limit".into();
        assert_eq!(
            policy("/", "a.q", &[limit.clone()]),
            r#"rabbitmqctl set_policy --vhost '/' --apply-to queues 'green-api-bridge.a.q' '^a[.]q$' '{"delivery-limit":20}'"#
        );
        let odd = policy("v'; rm -rf ~ #", "$(id)'`\\^]|", &[limit.clone()]);
        assert_eq!(
            odd,
            r#"rabbitmqctl set_policy --vhost 'v'\''; rm -rf ~ #' --apply-to queues 'green-api-bridge.$(id)'\''`\^]|' '^[$][(]id[)]'\''[`]\\\^\][|]$' '{"delivery-limit":20}'"#
        );
        limit.there = There::Value(Argument::Number(3));
        assert!(policy("/", "q", &[limit]).starts_with("none"));
    }
}
