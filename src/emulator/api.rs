//! The Green API: `/waInstance{id}/{method}/{token}`, and the same under `/v3`.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::extract::{ConnectInfo, Request, State};
use axum::http::header::{ACCESS_CONTROL_ALLOW_ORIGIN, CONTENT_TYPE};
use axum::http::{HeaderName, StatusCode};
use axum::response::{IntoResponse, Response};
use serde_json::json;
use tokio::time::{Instant, timeout_at};

use super::connection::Connection;
use super::fault::{FaultKind, Method, When};
use super::queue::Settings;
use super::{Server, Slot, control, now_ms};

const JSON: &str = "application/json; charset=utf-8";
const ANY_ORIGIN: (HeaderName, &str) = (ACCESS_CONTROL_ALLOW_ORIGIN, "*");
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
/// The checks come in the order of the real service: route, instance, token, parameters, webhook.
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
            bad_request(path, "Parameter idInstance not an integer")
        };
    };

    let delay = slot.lock().delay;
    pass(delay / 2).await;
    let outcome = act(slot, &call, path, parts.uri.query(), body).await;
    pass(delay / 2).await;
    match outcome {
        Outcome::Answer(response) => response,
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
        let (method, wanted_verb) = match segments.next()?.to_ascii_lowercase().as_str() {
            "receivenotification" => (Method::ReceiveNotification, "GET"),
            "deletenotification" => (Method::DeleteNotification, "DELETE"),
            "getsettings" => (Method::GetSettings, "GET"),
            "setsettings" => (Method::SetSettings, "POST"),
            "getstateinstance" => (Method::GetStateInstance, "GET"),
            _ => return None,
        };
        let token = segments.next().filter(|token| !token.is_empty());
        let receipt = segments.next().filter(|receipt| !receipt.is_empty());
        let takes_receipt = method == Method::DeleteNotification;
        let fits = verb == wanted_verb && segments.next().is_none() && (takes_receipt || receipt.is_none());
        fits.then_some(Self { instance, method, token, receipt })
    }
}

async fn pass(time: Duration) {
    // A sleep of nothing still waits for the timer's next millisecond.
    if !time.is_zero() {
        tokio::time::sleep(time).await;
    }
}

async fn act(slot: &Slot, call: &Call<'_>, path: &str, query: Option<&str>, body: Body) -> Outcome {
    let Some(token) = call.token else {
        return Outcome::Answer(bad_request(path, "Parameter apiTokenInstance not define"));
    };
    if !slot.lock().accepts(token) {
        let headers = [(CONTENT_TYPE, "application/json"), ANY_ORIGIN];
        return Outcome::Answer((StatusCode::UNAUTHORIZED, headers).into_response());
    }
    let method = call.method;
    if let Some(kind) = slot.lock().take_fault(now_ms(), method, When::Before) {
        return Outcome::from(kind);
    }
    let answer = match method {
        Method::ReceiveNotification => receive(slot, call.instance, path, query).await,
        Method::DeleteNotification => delete(slot, call, path),
        Method::GetSettings => match serde_json::to_vec(slot.lock().settings()) {
            Ok(settings) => json(StatusCode::OK, settings),
            Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
        },
        Method::SetSettings => set_settings(slot, path, body).await,
        Method::GetStateInstance => json(StatusCode::OK, json!({"stateInstance": slot.lock().state}).to_string()),
    };
    match slot.lock().take_fault(now_ms(), method, When::After) {
        Some(kind) => Outcome::from(kind),
        None => Outcome::Answer(answer),
    }
}

async fn receive(slot: &Slot, instance: &str, path: &str, query: Option<&str>) -> Response {
    let deadline = Instant::now() + receive_timeout(query);
    loop {
        // Listening before looking: what arrives in between still rings.
        let arrived = slot.arrived.notified();
        if slot.lock().has_webhook() {
            return webhook_is_set(instance, path);
        }
        let head = slot.lock().receive(now_ms());
        if let Some((receipt, body)) = head {
            let mut answer = format!("{{\"receiptId\":{receipt},\"body\":").into_bytes();
            answer.reserve_exact(body.len() + 1);
            answer.extend_from_slice(&body);
            answer.push(b'}');
            return json(StatusCode::OK, answer);
        }
        if timeout_at(deadline, arrived).await.is_err() {
            return json(StatusCode::OK, "null");
        }
    }
}

/// 5 to 60 seconds; outside of that the nearest, and 5 for what is no number (an SDK really sends `?5`).
fn receive_timeout(query: Option<&str>) -> Duration {
    let seconds = url::form_urlencoded::parse(query.unwrap_or_default().as_bytes())
        .find(|(name, _)| name == "receiveTimeout")
        .and_then(|(_, value)| value.parse::<f64>().ok())
        .filter(|seconds| !seconds.is_nan())
        .unwrap_or(5.0);
    Duration::from_secs_f64(seconds.clamp(5.0, 60.0))
}

fn delete(slot: &Slot, call: &Call<'_>, path: &str) -> Response {
    let digits = call.receipt.filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
    let Some(receipt) = digits else {
        return bad_request(path, "Parameter receiptId must be a Number");
    };
    let mut instance = slot.lock();
    if instance.has_webhook() {
        return webhook_is_set(call.instance, path);
    }
    // A number too large for a receipt is one that was never handed out.
    let answer = if instance.delete(now_ms(), receipt.parse().ok()) {
        r#"{"result":true,"reason":""}"#
    } else {
        r#"{"result":false,"reason":"The notification to delete was not found"}"#
    };
    json(StatusCode::OK, answer)
}

async fn set_settings(slot: &Slot, path: &str, body: Body) -> Response {
    let Ok(body) = to_bytes(body, LARGEST_SETTINGS).await else {
        return bad_request(path, "bad request data: the body is too large or broke off");
    };
    match serde_json::from_slice::<Settings>(&body) {
        Ok(changed) if changed.is_empty() => bad_request(path, "bad request data: at least one setting is required"),
        Ok(changed) => {
            slot.lock().change_settings(now_ms(), changed);
            json(StatusCode::OK, r#"{"saveSettings":true}"#)
        }
        Err(error) => bad_request(path, &format!("bad request data: {error}")),
    }
}

impl From<FaultKind> for Outcome {
    fn from(kind: FaultKind) -> Self {
        match kind {
            FaultKind::Answer { status, body, content_type } => {
                let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
                let content_type = content_type.unwrap_or_else(|| JSON.to_owned());
                Self::Answer((status, [(CONTENT_TYPE, content_type)], body).into_response())
            }
            FaultKind::Reset => Self::Reset,
            FaultKind::Hang => Self::Hang,
        }
    }
}

fn webhook_is_set(instance: &str, path: &str) -> Response {
    let message = format!(
        "Message cannot be received because custom webhook url is set. Go to cabinet, \
         clear webhook url for instance: {instance} and wait for about 1 minute for another attempt"
    );
    bad_request(path, &message)
}

/// The path echoes the token, as that of the real service does: clients must not log it.
fn bad_request(path: &str, message: &str) -> Response {
    let (path, message) = (json!(path), json!(message));
    let now = jiff::Timestamp::now();
    let text = format!(r#"{{"statusCode":400,"timestamp":"{now:.3}","path":{path},"message":{message}}}"#);
    json(StatusCode::BAD_REQUEST, text)
}

fn json(status: StatusCode, text: impl Into<Body>) -> Response {
    (status, [(CONTENT_TYPE, JSON), ANY_ORIGIN], text.into()).into_response()
}

/// What the proxy in front of the service says when it knows no such place.
fn nginx(status: StatusCode) -> Response {
    let page = format!(
        "<html>\r\n<head><title>{status}</title></head>\r\n<body>\r\n\
         <center><h1>{status}</h1></center>\r\n<hr><center>nginx</center>\r\n</body>\r\n</html>\r\n"
    );
    (status, [(CONTENT_TYPE, "text/html")], page).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_receive_timeout_is_5_to_60_seconds() {
        for (query, seconds) in [
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
            assert_eq!(receive_timeout(query), Duration::from_secs(seconds), "{query:?}");
        }
    }

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
