//! The Green API: `/waInstance{id}/{method}/{token}`, and the same under `/v3`.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::extract::{ConnectInfo, Request, State};
use axum::http::StatusCode;
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use serde_json::json;
use tokio::io::AsyncWriteExt;
use tokio_util::io::ReaderStream;

use super::answer::{JSON, bad_request, bare, json, nginx, too_many, webhook_is_set, with_allowance};
use super::connection::Connection;
use super::fault::{FaultKind, Method, When};
use super::journals::{last_messages, period_ms};
use super::knobs::ErrorBodyFormat;
use super::queue::Settings;
use super::{Server, Slot, control, receiving};

const LARGEST_SETTINGS: usize = 1024 * 1024;

/// What a path asks for.
struct Call<'path> {
    instance: &'path str,
    method: Method,
    token: Option<&'path str>,
    receipt: Option<&'path str>,
}

/// What the client gets to see.
enum Outcome {
    Answer(Response),
    Reset,
    Hang,
}

/// Answers everything that is not under `/_emulator/`.
///
/// The checks come in the order of the real service: route, instance, rate, token, parameters, webhook.
pub(super) async fn answer(
    State(server): State<Arc<Server>>,
    ConnectInfo(connection): ConnectInfo<Connection>,
    request: Request,
) -> Response {
    let (parts, body) = request.into_parts();
    let path = parts.uri.path();
    if path.starts_with("/_emulator/") {
        return control::unknown_route();
    }
    let Some(call) = Call::parse(parts.method.as_str(), path) else {
        return nginx(StatusCode::NOT_FOUND);
    };
    let Ok(slot) = server.slot(call.instance) else {
        return if call.instance.bytes().all(|byte| byte.is_ascii_digit()) {
            nginx(StatusCode::FORBIDDEN)
        } else {
            bad_request(path, "Parameter idInstance not an integer", ErrorBodyFormat::Path)
        };
    };

    let is_receive = call.method == Method::ReceiveNotification;
    let stale = if is_receive { receiving::stale_head(&server, slot, call.token) } else { None };
    let delay = {
        let mut instance = slot.lock();
        instance.requests += 1;
        Duration::from_millis(instance.knobs.delay_ms)
    };
    pause(delay / 2).await;
    let allowance = slot.lock().allow(server.now_ms(), call.method);
    let outcome = if allowance.is_some_and(|allowance| allowance.remaining.is_none()) {
        Outcome::Answer(too_many(slot.lock().knobs.retry_after_secs))
    } else {
        let query = parts.uri.query();
        act(&server, slot, &call, (path, query), body, stale).await
    };
    pause(delay / 2).await;
    match outcome {
        Outcome::Answer(response) => match allowance {
            Some(allowance) => with_allowance(response, allowance),
            None => response,
        },
        Outcome::Reset => {
            connection.cut();
            Response::default()
        }
        // Dropped with its connection when the client or the emulator goes.
        Outcome::Hang => std::future::pending().await,
    }
}

impl<'path> Call<'path> {
    fn parse(verb: &str, path: &'path str) -> Option<Self> {
        let path = path.strip_prefix("/v3").unwrap_or(path);
        let mut segments = path.strip_prefix("/waInstance")?.split('/');
        let instance = segments.next().filter(|id| !id.is_empty())?;
        let name = segments.next()?.to_ascii_lowercase();
        let (method, _, wanted_verb) = Method::ALL.into_iter().find(|(_, known, _)| *known == name)?;
        let token = segments.next().filter(|token| !token.is_empty());
        let receipt = segments.next().filter(|receipt| !receipt.is_empty());
        let takes_receipt = method == Method::DeleteNotification;
        let fits = verb == wanted_verb && segments.next().is_none() && (takes_receipt || receipt.is_none());
        fits.then_some(Self { instance, method, token, receipt })
    }
}

async fn pause(time: Duration) {
    // A sleep of nothing still waits for the timer's next millisecond.
    if !time.is_zero() {
        tokio::time::sleep(time).await;
    }
}

async fn act(
    server: &Server,
    slot: &Slot,
    call: &Call<'_>,
    (path, query): (&str, Option<&str>),
    body: Body,
    early: Option<Response>,
) -> Outcome {
    let form = slot.lock().knobs.error_body_format;
    let Some(token) = call.token else {
        return Outcome::Answer(bad_request(path, "Parameter apiTokenInstance not define", form));
    };
    if !slot.lock().accepts(token) {
        return Outcome::Answer(bare(StatusCode::UNAUTHORIZED));
    }
    let method = call.method;
    let fault = slot.lock().take_fault(server.now_ms(), method, When::Before);
    if let Some(kind) = fault {
        return apply_fault(kind, Response::default()).await;
    }
    let answer = match (method, early) {
        (_, Some(early)) => early,
        (Method::ReceiveNotification, None) => receiving::receive(server, slot, call.instance, path, query).await,
        (Method::DeleteNotification, None) => receiving::delete(server, slot, call.instance, path, call.receipt),
        (Method::SetSettings, None) => set_settings(server, slot, path, body).await,
        (_, None) => account(server, slot, call, path, query),
    };
    let fault = slot.lock().take_fault(server.now_ms(), method, When::After);
    match fault {
        Some(kind) => apply_fault(kind, answer).await,
        None => Outcome::Answer(answer),
    }
}

/// Everything that only looks at the instance, or takes no parameters.
fn account(server: &Server, slot: &Slot, call: &Call<'_>, path: &str, query: Option<&str>) -> Response {
    let now_ms = server.now_ms();
    let mut instance = slot.lock();
    let text = match call.method {
        Method::GetSettings => match serde_json::to_string(&instance.settings()) {
            Ok(settings) => settings,
            Err(_) => return StatusCode::INTERNAL_SERVER_ERROR.into_response(),
        },
        Method::GetStateInstance => json!({"stateInstance": instance.state(now_ms)}).to_string(),
        Method::GetStatusInstance => json!({"statusInstance": "online"}).to_string(),
        Method::Reboot => {
            instance.reboot(now_ms);
            json!({"isReboot": true}).to_string()
        }
        Method::GetWebhooksCount => json!({"count": instance.webhooks_count(now_ms)}).to_string(),
        Method::ClearWebhooksQueue if instance.has_webhook(now_ms) => {
            return webhook_is_set(call.instance, path, instance.knobs.error_body_format);
        }
        Method::ClearWebhooksQueue => match instance.clear(now_ms) {
            Ok(()) => json!({"isCleared": true, "reason": ""}).to_string(),
            Err(left) => json!({"isCleared": false, "reason": "Too many requests", "leftTime": left}).to_string(),
        },
        Method::LastIncomingMessages | Method::LastOutgoingMessages => {
            let since_ms = now_ms.saturating_sub(period_ms(query));
            last_messages(&instance.history, call.method == Method::LastIncomingMessages, since_ms).to_string()
        }
        Method::ReceiveNotification | Method::DeleteNotification | Method::SetSettings => String::new(),
    };
    json(StatusCode::OK, text)
}

async fn set_settings(server: &Server, slot: &Slot, path: &str, body: Body) -> Response {
    let form = slot.lock().knobs.error_body_format;
    let Ok(body) = to_bytes(body, LARGEST_SETTINGS).await else {
        return bad_request(path, "bad request data: the body is too large or broke off", form);
    };
    match serde_json::from_slice::<Settings>(&body) {
        Ok(changed) if changed.is_empty() => {
            bad_request(path, "bad request data: at least one setting is required", form)
        }
        Ok(changed) => {
            slot.lock().change_settings(server.now_ms(), changed);
            json(StatusCode::OK, r#"{"saveSettings":true}"#)
        }
        Err(error) => bad_request(path, &format!("bad request data: {error}"), form),
    }
}

/// What a fault leaves of an answer.
async fn apply_fault(kind: FaultKind, answer: Response) -> Outcome {
    match kind {
        FaultKind::Answer { status, body, content_type } => {
            let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            let content_type = content_type.unwrap_or_else(|| JSON.to_owned());
            Outcome::Answer((status, [(CONTENT_TYPE, content_type)], body).into_response())
        }
        FaultKind::Reset => Outcome::Reset,
        FaultKind::Hang => Outcome::Hang,
        FaultKind::Truncate => Outcome::Answer(in_halves(answer, None).await),
        FaultKind::Slow(ms) => Outcome::Answer(in_halves(answer, Some(Duration::from_millis(ms))).await),
        FaultKind::Pass => Outcome::Answer(answer),
    }
}

/// Sends half of the body, and the rest after this time, or never.
async fn in_halves(answer: Response, between: Option<Duration>) -> Response {
    let (mut parts, body) = answer.into_parts();
    // It was made here, of bytes that are there.
    let body = to_bytes(body, usize::MAX).await.unwrap_or_default();
    parts.headers.insert(CONTENT_LENGTH, body.len().into());
    let (mut writer, reader) = tokio::io::duplex(body.len().max(1));
    tokio::spawn(async move {
        let (first, second) = body.split_at(body.len() / 2);
        // The client may be gone, which is its own affair.
        writer.write_all(first).await.ok();
        if let Some(time) = between {
            pause(time).await;
            writer.write_all(second).await.ok();
        }
    });
    Response::from_parts(parts, Body::from_stream(ReaderStream::new(reader)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_known_routes_with_their_own_verb_are_calls() {
        for (verb, path, known) in [
            ("GET", "/waInstance1/receiveNotification/T", true),
            ("GET", "/v3/waInstance1/RECEIVEnotification/T", true),
            ("GET", "/waInstance1/receiveNotification/T/", true),
            ("GET", "/waInstance1/receiveNotification", true),
            ("DELETE", "/waInstance1/deleteNotification/T", true),
            ("GET", "/waInstance1/receiveNotification/T/1", false),
            ("DELETE", "/waInstance1/deleteNotification/T/1/2", false),
            ("POST", "/waInstance1/receiveNotification/T", false),
            ("GET", "/waInstance1/sendMessage/T", false),
            ("GET", "/waInstance/receiveNotification/T", false),
            ("GET", "/v2/waInstance1/receiveNotification/T", false),
            ("GET", "/", false),
        ] {
            assert_eq!(Call::parse(verb, path).is_some(), known, "{verb} {path}");
        }
    }
}
