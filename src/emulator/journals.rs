//! `lastIncomingMessages` and `lastOutgoingMessages`: messages only, newest first, in a schema of their own.

use serde_json::{Map, Value, json};

use super::queue::Instance;

/// The period of a query, a day unless told, in milliseconds.
pub(super) fn period_ms(query: Option<&str>) -> u64 {
    let minutes = url::form_urlencoded::parse(query.unwrap_or_default().as_bytes())
        .find(|(name, _)| name == "minutes")
        .and_then(|(_, value)| value.parse::<u64>().ok());
    minutes.unwrap_or(24 * 60).saturating_mul(60_000)
}

/// The messages of the period.
pub(super) fn last_messages(instance: &Instance, incoming: bool, since_ms: u64) -> Value {
    let mut messages: Vec<Value> = instance.history(since_ms).filter_map(|body| message(body, incoming)).collect();
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
