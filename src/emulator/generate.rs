//! Text messages with a running number, at once or at a rate.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use serde_json::json;
use tokio::time::Instant;

use super::queue::Notification;
use super::{Refused, Server, now_ms};

/// A longer run at once would hold everything in memory twice and the lock for seconds.
const MOST_AT_ONCE: u64 = 1_000_000;
const CHATS: u64 = 5;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Generate {
    count: u64,
    #[serde(default)]
    per_second: Option<f64>,
}

impl Generate {
    /// As many as there may be, at this rate.
    pub(super) fn steadily(per_second: f64) -> Self {
        Self { count: MOST_AT_ONCE, per_second: Some(per_second) }
    }
}

/// Queues what is asked for and returns how many notifications wait now; with a rate the rest follows in the background.
pub(super) fn generate(server: &Arc<Server>, id: &str, wanted: &Generate) -> Result<usize, Refused> {
    let count = wanted.count;
    if count > MOST_AT_ONCE {
        return Err(Refused(format!("`count` must be at most {MOST_AT_ONCE}, not {count}")));
    }
    if let Some(per_second) = wanted.per_second
        && !(0.001..=1_000_000.0).contains(&per_second)
    {
        return Err(Refused(format!("`per_second` must be 0.001 to 1000000, not {per_second}")));
    }
    let slot = server.slot(id)?;
    let first = slot.lock().reserve_numbers(count);
    let numbers = first..first + count;
    let Some(per_second) = wanted.per_second else {
        let all: Vec<_> = numbers.map(|number| text_message(id, number)).collect();
        return Ok(slot.push(server.now_ms(), all));
    };
    let (server, id) = (Arc::clone(server), id.to_owned());
    tokio::spawn(async move {
        let stopped = server.stopped.clone();
        stopped.run_until_cancelled(push_at_rate(&server, &id, numbers, per_second)).await
    });
    Ok(slot.lock().queued())
}

async fn push_at_rate(server: &Server, id: &str, numbers: Range<u64>, per_second: f64) {
    let Ok(slot) = server.slot(id) else { return };
    let interval = Duration::from_secs_f64(per_second.recip());
    // Due times are counted from the start, so that late timers do not slow the run down.
    let mut due = Instant::now();
    for number in numbers {
        tokio::time::sleep_until(due).await;
        slot.push(server.now_ms(), [text_message(id, number)]);
        due += interval;
    }
}

fn text_message(instance: &str, number: u64) -> Notification {
    let chat = number % CHATS;
    let chat_id = format!("7999000100{chat}@c.us");
    let name = format!("Contact {chat}");
    // The real one is a number; an instance of a test may be called anything.
    let id_instance = instance.parse::<u64>().map_or_else(|_| json!(instance), |id| json!(id));
    let body = json!({
        "typeWebhook": "incomingMessageReceived",
        "instanceData": {
            "idInstance": id_instance,
            "wid": "79990000001@c.us",
            "typeInstance": "whatsapp",
        },
        "timestamp": now_ms() / 1000,
        "idMessage": format!("EMULATOR{number:024}"),
        "senderData": {
            "chatId": chat_id,
            "chatName": name,
            "sender": chat_id,
            "senderName": name,
            "senderContactName": name,
        },
        "messageData": {
            "typeMessage": "textMessage",
            "textMessageData": {"textMessage": format!("Message {number}")},
        },
    });
    Notification::new(body.to_string())
}
