//! `lastIncomingMessages` and `lastOutgoingMessages`: messages only, newest first, in a schema of their own.

use std::collections::VecDeque;

use bytes::Bytes;
use serde_json::{Map, Value, json};

/// How many notifications the journals look back on.
const MOST: usize = 5_000;
/// And on how many bytes of them.
const MOST_BYTES: usize = 64 * 1024 * 1024;

/// The last notifications that were queued, oldest first.
#[derive(Default)]
pub(super) struct History {
    bodies: VecDeque<(u64, Bytes)>,
    bytes: usize,
}

impl History {
    pub(super) fn add(&mut self, now_ms: u64, body: &Bytes) {
        self.bytes += body.len();
        self.bodies.push_back((now_ms, body.clone()));
        while self.bodies.len() > MOST || self.bytes > MOST_BYTES {
            let Some((_, oldest)) = self.bodies.pop_front() else { return };
            self.bytes -= oldest.len();
        }
    }
}

/// The period of a query, in milliseconds; default one day.
pub(super) fn period_ms(query: Option<&str>) -> u64 {
    let minutes = url::form_urlencoded::parse(query.unwrap_or_default().as_bytes())
        .find(|(name, _)| name == "minutes")
        .and_then(|(_, value)| value.parse::<u64>().ok());
    minutes.unwrap_or(24 * 60).saturating_mul(60_000)
}

/// The messages of the period.
pub(super) fn last_messages(history: &History, incoming: bool, since_ms: u64) -> Value {
    let of_the_period = history.bodies.iter().filter(|(at_ms, _)| *at_ms >= since_ms);
    let mut messages: Vec<Value> = of_the_period.filter_map(|(_, body)| message(body, incoming)).collect();
    messages.reverse();
    messages.into()
}

fn message(body: &[u8], incoming: bool) -> Option<Value> {
    let body: Value = serde_json::from_slice(body).ok()?;
    let kind = body.get("typeWebhook")?.as_str()?;
    let is_incoming = kind == "incomingMessageReceived";
    if is_incoming != incoming || !kind.ends_with("MessageReceived") {
        return None;
    }
    let (sender, data) = (body.get("senderData")?, body.get("messageData")?);
    let mut message = Map::new();
    message.insert("type".into(), json!(if incoming { "incoming" } else { "outgoing" }));
    for name in ["idMessage", "timestamp"] {
        message.insert(name.into(), body.get(name)?.clone());
    }
    message.insert("typeMessage".into(), data.get("typeMessage")?.clone());
    message.insert("chatId".into(), sender.get("chatId")?.clone());
    for (name, of) in [("senderId", "sender"), ("senderName", "senderName"), ("senderContactName", "senderContactName")]
    {
        if let Some(value) = sender.get(of).filter(|_| incoming) {
            message.insert(name.into(), value.clone());
        }
    }
    if let Some(text) = data.pointer("/textMessageData/textMessage") {
        message.insert("textMessage".into(), text.clone());
    }
    if !incoming {
        message.insert("statusMessage".into(), json!("delivered"));
        message.insert("sendByApi".into(), json!(kind == "outgoingAPIMessageReceived"));
    }
    Some(message.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_are_looked_back_on_and_no_more() {
        let mut history = History::default();
        let small = Bytes::from_static(b"{}");
        (0..10_000).for_each(|at_ms| history.add(at_ms, &small));
        let oldest = |history: &History| history.bodies.front().map(|(at_ms, _)| *at_ms);
        assert_eq!((history.bodies.len(), oldest(&history)), (5_000, Some(5_000)));
        let large = Bytes::from(vec![b' '; 40 * 1024 * 1024]);
        (1..=3).for_each(|at_ms| history.add(at_ms, &large));
        assert_eq!((history.bodies.len(), oldest(&history), history.bytes), (1, Some(3), large.len()));
    }
}
