//! `receiveNotification` and `deleteNotification`.

use std::time::Duration;

use axum::http::StatusCode;
use axum::response::Response;
use bytes::Bytes;
use tokio::time::{Instant, timeout_at};

use super::answer::{bad_request, empty, json, webhook_is_set};
use super::knobs::{ConcurrentReceivers, DeleteUnknown, Knobs, OutOfRange, WhenNotAuthorized};
use super::queue::Head;
use super::{Server, Slot};

/// A receive among those that wait; it gives up its place when it ends or its client goes.
struct Place<'slot> {
    slot: &'slot Slot,
    number: u64,
}

impl<'slot> Place<'slot> {
    fn take(slot: &'slot Slot) -> Self {
        let mut instance = slot.lock();
        let number = instance.receivers.next;
        instance.receivers.next += 1;
        instance.receivers.waiting.push_back(number);
        drop(instance);
        Self { slot, number }
    }

    /// What there is for this receive, or why it is refused.
    fn look(&self, now_ms: u64, (id, path): (&str, &str)) -> Result<Head, Box<Response>> {
        let mut instance = self.slot.lock();
        let form = instance.knobs.error_body_format;
        if instance.has_webhook(now_ms) {
            return Err(webhook_is_set(id, path, form).into());
        }
        let serves = instance.knobs.receive_when_not_authorized == WhenNotAuthorized::Serve;
        if !serves && instance.state(now_ms) != "authorized" {
            return Err(bad_request(path, "instance is starting or not authorized", form).into());
        }
        if instance.knobs.concurrent_receivers == ConcurrentReceivers::AllGetHead || instance.queued() == 0 {
            return Ok(instance.receive(now_ms));
        }
        let receivers = &mut instance.receivers;
        if self.number >= receivers.dismissed && receivers.waiting.front() == Some(&self.number) {
            receivers.dismissed = receivers.next;
            return Ok(instance.receive(now_ms));
        }
        Ok(Head::Withheld)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.slot.lock().receivers.waiting.retain(|number| *number != self.number);
    }
}

/// The head at the moment when the request arrived, if the server answers with that (`stale_heads`).
pub(super) fn stale_head(server: &Server, slot: &Slot, token: Option<&str>) -> Option<Response> {
    let mut instance = slot.lock();
    if !instance.knobs.stale_heads || !token.is_some_and(|token| instance.accepts(token)) {
        return None;
    }
    match instance.receive(server.now_ms()) {
        Head::There(receipt, body) => Some(head(receipt, &body)),
        Head::Nothing { .. } | Head::Withheld => None,
    }
}

pub(super) async fn receive(server: &Server, slot: &Slot, id: &str, path: &str, query: Option<&str>) -> Response {
    let knobs = slot.lock().knobs.clone();
    let form = knobs.error_body_format;
    let Some(wait) = receive_timeout(query, &knobs) else {
        return bad_request(path, "Validation failed. Details: receiveTimeout is out of range", form);
    };
    let deadline = Instant::now() + wait;
    let place = Place::take(slot);
    loop {
        // Listening before looking: what arrives in between still rings.
        let arrived = slot.arrived.notified();
        let now_ms = server.now_ms();
        let found = match place.look(now_ms, (id, path)) {
            Ok(found) => found,
            Err(refusal) => return *refusal,
        };
        let again = match found {
            Head::There(receipt, body) => return head(receipt, &body),
            Head::Withheld => return empty(knobs.empty_answer),
            Head::Nothing { until_ms: None } => deadline,
            Head::Nothing { until_ms: Some(until_ms) } => {
                deadline.min(Instant::now() + Duration::from_millis(until_ms.saturating_sub(now_ms)))
            }
        };
        if timeout_at(again, arrived).await.is_err() && Instant::now() >= deadline {
            return empty(knobs.empty_answer);
        }
    }
}

fn head(receipt: u64, body: &Bytes) -> Response {
    let mut answer = format!("{{\"receiptId\":{receipt},\"body\":").into_bytes();
    answer.reserve_exact(body.len() + 1);
    answer.extend_from_slice(body);
    answer.push(b'}');
    json(StatusCode::OK, answer)
}

/// The default is for what is no number, too (an SDK really sends `?5`). `None`: refused.
fn receive_timeout(query: Option<&str>, knobs: &Knobs) -> Option<Duration> {
    let (least, most) = (knobs.receive_timeout_min_secs, knobs.receive_timeout_max_secs);
    let wanted = url::form_urlencoded::parse(query.unwrap_or_default().as_bytes())
        .find(|(name, _)| name == "receiveTimeout")
        .and_then(|(_, value)| value.parse::<f64>().ok())
        .filter(|seconds| !seconds.is_nan())
        .unwrap_or(knobs.receive_timeout_default_secs);
    let fits = (least..=most).contains(&wanted);
    let seconds = match knobs.receive_timeout_out_of_range {
        OutOfRange::Reject if !fits => return None,
        OutOfRange::Accept => wanted.clamp(0.0, 86_400.0),
        // Not `clamp`, which panics if somebody turned the knobs past each other.
        OutOfRange::Clamp | OutOfRange::Reject => wanted.min(most).max(least),
    };
    Some(Duration::try_from_secs_f64(seconds).unwrap_or_default())
}

pub(super) fn delete(server: &Server, slot: &Slot, id: &str, path: &str, receipt: Option<&str>) -> Response {
    let mut instance = slot.lock();
    let form = instance.knobs.error_body_format;
    let digits = receipt.filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
    let Some(receipt) = digits else {
        return bad_request(path, "Parameter receiptId must be a Number", form);
    };
    let now_ms = server.now_ms();
    if instance.has_webhook(now_ms) {
        return webhook_is_set(id, path, form);
    }
    // A number too large for a receipt is one that was never handed out.
    if instance.delete(now_ms, receipt.parse().ok()) {
        return json(StatusCode::OK, r#"{"result":true,"reason":""}"#);
    }
    match instance.knobs.delete_unknown {
        DeleteUnknown::ResultFalse => {
            json(StatusCode::OK, r#"{"result":false,"reason":"The notification to delete was not found"}"#)
        }
        DeleteUnknown::FindUnAcked => json(
            StatusCode::INTERNAL_SERVER_ERROR,
            r#"{"statusCode":500,"message":"Cannot read properties of undefined (reading 'findUnAckedMessage')"}"#,
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_receive_timeout_is_5_to_60_seconds_unless_knobs_say_otherwise() {
        let seconds = |query, knobs: &Knobs| receive_timeout(query, knobs).map(|wait| wait.as_secs());
        let knobs = Knobs::default();
        for (query, wanted) in [
            (None, 5),
            (Some("receiveTimeout=20"), 20),
            (Some("receiveTimeout=60"), 60),
            (Some("receiveTimeout=2"), 5),
            (Some("receiveTimeout=-1"), 5),
            (Some("receiveTimeout=61"), 60),
            (Some("receiveTimeout=99999999999999999999"), 60),
            (Some("receiveTimeout="), 5),
            (Some("receiveTimeout=NaN"), 5),
            (Some("5"), 5),
        ] {
            assert_eq!(seconds(query, &knobs), Some(wanted), "{query:?}");
        }
        let rejects = Knobs { receive_timeout_out_of_range: OutOfRange::Reject, ..Knobs::default() };
        assert_eq!(seconds(Some("receiveTimeout=2"), &rejects), None);
        assert_eq!(seconds(Some("receiveTimeout=6"), &rejects), Some(6));
        let accepts = Knobs { receive_timeout_out_of_range: OutOfRange::Accept, ..Knobs::default() };
        assert_eq!(seconds(Some("receiveTimeout=2"), &accepts), Some(2));
        assert_eq!(seconds(Some("receiveTimeout=90"), &accepts), Some(90));
    }
}
