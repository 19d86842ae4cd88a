//! The forms of the service's answers.

use axum::body::Body;
use axum::http::header::{ACCESS_CONTROL_ALLOW_ORIGIN, CONTENT_TYPE, RETRY_AFTER};
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde_json::json;

use super::knobs::{EmptyAnswer, ErrorBodyFormat};
use super::rate::Allowance;

pub(super) const JSON: &str = "application/json; charset=utf-8";
const ANY_ORIGIN: (HeaderName, &str) = (ACCESS_CONTROL_ALLOW_ORIGIN, "*");

pub(super) fn json(status: StatusCode, text: impl Into<Body>) -> Response {
    (status, [(CONTENT_TYPE, JSON), ANY_ORIGIN], text.into()).into_response()
}

/// 401 and 429 have no body, and say that it is JSON.
pub(super) fn bare(status: StatusCode) -> Response {
    (status, [(CONTENT_TYPE, "application/json"), ANY_ORIGIN]).into_response()
}

pub(super) fn too_many(retry_after_secs: Option<u64>) -> Response {
    let mut response = bare(StatusCode::TOO_MANY_REQUESTS);
    if let Some(seconds) = retry_after_secs {
        response.headers_mut().insert(RETRY_AFTER, seconds.into());
    }
    response
}

pub(super) fn with_allowance(mut response: Response, allowance: Allowance) -> Response {
    let headers = response.headers_mut();
    headers.insert("x-ratelimit-remaining", HeaderValue::from(allowance.remaining.unwrap_or(0)));
    headers.insert("x-ratelimit-replenish-rate", HeaderValue::from(allowance.per_second));
    response
}

pub(super) fn empty(form: EmptyAnswer) -> Response {
    match form {
        EmptyAnswer::Null => json(StatusCode::OK, "null"),
        EmptyAnswer::Empty => json(StatusCode::OK, ""),
        EmptyAnswer::Object => json(StatusCode::OK, "{}"),
        EmptyAnswer::Timeout => bare(StatusCode::REQUEST_TIMEOUT),
        EmptyAnswer::GatewayTimeout => nginx(StatusCode::GATEWAY_TIMEOUT),
    }
}

pub(super) fn webhook_is_set(instance: &str, path: &str, form: ErrorBodyFormat) -> Response {
    let message = format!(
        "Message cannot be received because custom webhook url is set. Go to cabinet, \
         clear webhook url for instance: {instance} and wait for about 1 minute for another attempt"
    );
    bad_request(path, &message, form)
}

/// The path echoes the token, as that of the real service does: clients must not log it.
pub(super) fn bad_request(path: &str, message: &str, form: ErrorBodyFormat) -> Response {
    let text = match form {
        ErrorBodyFormat::Path => {
            let (path, message, now) = (json!(path), json!(message), jiff::Timestamp::now());
            format!(r#"{{"statusCode":400,"timestamp":"{now:.3}","path":{path},"message":{message}}}"#)
        }
        ErrorBodyFormat::Code => {
            let message = json!(message);
            format!(r#"{{"code":"INVALID_PARAM","message":{message},"status":"error"}}"#)
        }
        ErrorBodyFormat::Text => message.to_owned(),
        ErrorBodyFormat::Empty => String::new(),
    };
    json(StatusCode::BAD_REQUEST, text)
}

/// What the proxy in front of the service says when it knows no such place.
pub(super) fn nginx(status: StatusCode) -> Response {
    let page = format!(
        "<html>\r\n<head><title>{status}</title></head>\r\n<body>\r\n\
         <center><h1>{status}</h1></center>\r\n<hr><center>nginx</center>\r\n</body>\r\n</html>\r\n"
    );
    (status, [(CONTENT_TYPE, "text/html")], page).into_response()
}
