//! `/_emulator/`: what to queue, what to get wrong, what has happened.

use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{DefaultBodyLimit, Path, Request, State};
use axum::http::header::{CONTENT_TYPE, ORIGIN};
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, patch, post};
use secrecy::SecretString;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use super::fault::Fault;
use super::generate::{Generate, generate};
use super::queue::{Notification, Settings};
use super::{Refused, Server, Slot};

pub(super) const HELP: &str = include_str!("help.txt");
const LARGEST_BODY: usize = 64 * 1024 * 1024;

pub(super) fn router() -> Router<Arc<Server>> {
    Router::new()
        .route("/_emulator", get(help))
        .route("/_emulator/", get(help))
        .route("/_emulator/clock", post(advance_clock))
        .route("/_emulator/{id}", get(overview))
        .route("/_emulator/{id}/journal", get(journal))
        .route("/_emulator/{id}/notifications", post(inject))
        .route("/_emulator/{id}/generate", post(generate_some))
        .route("/_emulator/{id}/faults", post(add_fault))
        .route("/_emulator/{id}/knobs", patch(turn_knobs).get(show_knobs))
        .method_not_allowed_fallback(wrong_verb)
        .layer(middleware::from_fn(not_for_another_site))
        .layer(DefaultBodyLimit::max(LARGEST_BODY))
}

pub(super) fn unknown_route() -> Response {
    Refusal(StatusCode::NOT_FOUND, "no such control endpoint; see GET /_emulator/".to_owned()).into_response()
}

/// A 4xx that says what to change.
struct Refusal(StatusCode, String);

impl Refusal {
    fn bad(reason: impl Into<String>) -> Self {
        Self(StatusCode::BAD_REQUEST, reason.into())
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let mut response = answer(&json!({"error": self.1}));
        *response.status_mut() = self.0;
        response
    }
}

/// Refuses what any page in a browser on this machine could send here: forms and plain text need no CORS preflight. JSON needs
/// one, and we never grant it.
async fn not_for_another_site(request: Request, next: Next) -> Result<Response, Refusal> {
    let headers = request.headers();
    if request.method().is_safe() || !headers.contains_key(ORIGIN) || is_json(headers) {
        return Ok(next.run(request).await);
    }
    let reason = "a request with an `Origin`, which is a browser's, must have Content-Type: application/json";
    Err(Refusal(StatusCode::FORBIDDEN, reason.to_owned()))
}

fn is_json(headers: &HeaderMap) -> bool {
    let of_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    of_type.split(';').next().is_some_and(|of_type| of_type.trim().eq_ignore_ascii_case("application/json"))
}

async fn help() -> Response {
    ([(CONTENT_TYPE, "text/plain; charset=utf-8")], HELP).into_response()
}

async fn wrong_verb() -> Refusal {
    let reason = "this control endpoint takes another method; see GET /_emulator/";
    Refusal(StatusCode::METHOD_NOT_ALLOWED, reason.to_owned())
}

#[derive(Serialize)]
struct Overview<'instance> {
    queued: usize,
    state: &'instance str,
    settings: Settings,
}

async fn overview(State(server): State<Arc<Server>>, Path(id): Path<String>) -> Result<Response, Refusal> {
    let mut instance = find(&server, &id)?.lock();
    let (settings, state) = (instance.settings(), instance.state(server.now_ms()).to_owned());
    Ok(answer(&Overview { queued: instance.queued(), state: &state, settings }))
}

async fn journal(State(server): State<Arc<Server>>, Path(id): Path<String>) -> Result<Response, Refusal> {
    // Copied, so that writing out a long journal does not hold up the instance.
    let events = find(&server, &id)?.lock().journal.lines();
    Ok(answer(&events))
}

async fn inject(
    State(server): State<Arc<Server>>,
    Path(id): Path<String>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Refusal> {
    let slot = find(&server, &id)?;
    let body = complete(body)?;
    // Only checked: what is queued are the bytes as they came.
    if let Err(error) = serde_json::from_slice::<&RawValue>(&body) {
        return Err(Refusal::bad(format!("the notification is not JSON: {error}")));
    }
    Ok(answer(&json!({"queued": slot.push(server.now_ms(), [Notification::new(body)])})))
}

async fn generate_some(
    State(server): State<Arc<Server>>,
    Path(id): Path<String>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Refusal> {
    find(&server, &id)?;
    let wanted: Generate = parse(body)?;
    let queued = generate(&server, &id, &wanted).map_err(|Refused(reason)| Refusal::bad(reason))?;
    Ok(answer(&json!({"queued": queued})))
}

async fn add_fault(
    State(server): State<Arc<Server>>,
    Path(id): Path<String>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Refusal> {
    let slot = find(&server, &id)?;
    let fault: Fault = parse(body)?;
    fault.check().map_err(|Refused(reason)| Refusal::bad(reason))?;
    slot.lock().add_fault(fault);
    Ok(answer(&json!({"added": true})))
}

async fn show_knobs(State(server): State<Arc<Server>>, Path(id): Path<String>) -> Result<Response, Refusal> {
    Ok(answer(&find(&server, &id)?.lock().knobs))
}

/// What is absent stays as it is.
async fn turn_knobs(
    State(server): State<Arc<Server>>,
    Path(id): Path<String>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Refusal> {
    let slot = find(&server, &id)?;
    let mut wanted: Map<String, Value> = parse(body)?;
    // All or nothing: the checks that can fail come first.
    let token = match wanted.remove("token") {
        None => None,
        Some(Value::String(token)) if fits_a_path(&token) => Some(SecretString::from(token)),
        Some(_) => {
            return Err(Refusal::bad("`token` must be letters, digits, `-` or `_`: it is a part of the URL's path"));
        }
    };
    let mut instance = slot.lock();
    let Ok(Value::Object(mut knobs)) = serde_json::to_value(&instance.knobs) else {
        return Err(Refusal::bad("the knobs cannot be shown"));
    };
    knobs.extend(wanted);
    instance.knobs = serde_json::from_value(knobs.into()).map_err(|error| Refusal::bad(error.to_string()))?;
    if let Some(token) = token {
        instance.set_token(token);
    }
    let response = answer(&instance.knobs);
    drop(instance);
    slot.arrived.notify_waiters();
    Ok(response)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Advance {
    advance_ms: u64,
}

async fn advance_clock(
    State(server): State<Arc<Server>>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Refusal> {
    let Advance { advance_ms } = parse(body)?;
    server.advance_clock(advance_ms);
    Ok(answer(&json!({"now_ms": server.now_ms()})))
}

/// Whether this can stand in a URL's path as it is.
pub(super) fn fits_a_path(text: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    !text.is_empty() && text.bytes().all(fits)
}

fn find<'server>(server: &'server Server, id: &str) -> Result<&'server Slot, Refusal> {
    server.slot(id).map_err(|Refused(reason)| Refusal(StatusCode::NOT_FOUND, reason))
}

fn complete(body: Result<Bytes, BytesRejection>) -> Result<Bytes, Refusal> {
    body.map_err(|rejection| match rejection.status() {
        StatusCode::PAYLOAD_TOO_LARGE => {
            let reason = format!("the body is larger than {LARGEST_BODY} bytes");
            Refusal(StatusCode::PAYLOAD_TOO_LARGE, reason)
        }
        status => Refusal(status, rejection.body_text()),
    })
}

/// Whatever the content type is: `curl -d` claims a form.
fn parse<Wanted: DeserializeOwned>(body: Result<Bytes, BytesRejection>) -> Result<Wanted, Refusal> {
    serde_json::from_slice(&complete(body)?).map_err(|error| Refusal::bad(error.to_string()))
}

fn answer(value: &impl Serialize) -> Response {
    match serde_json::to_vec(value) {
        Ok(text) => ([(CONTENT_TYPE, "application/json; charset=utf-8")], text).into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}
