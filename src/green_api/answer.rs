//! Interprets the answers of Green API, as documented, observed or inferred. Bodies come in several forms, so they are searched
//! for words; they are never repeated, because they may contain the token.

use hyper::Method;
use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::condition::Condition;

/// Errors longer than this are not searched, so that none costs more than a notification.
const LONGEST_ERROR: usize = 64 << 10;

/// A method of the API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// Wait for the head of the queue.
    Receive,
    /// Delete the head of the queue.
    Delete,
    /// Read the settings.
    GetSettings,
    /// Change the settings.
    SetSettings,
    /// Read the state of the account.
    GetState,
    /// Ask how many notifications wait.
    GetCount,
}

impl Call {
    /// The HTTP method.
    pub(super) fn verb(self) -> Method {
        match self {
            Self::Delete => Method::DELETE,
            Self::SetSettings => Method::POST,
            Self::Receive | Self::GetSettings | Self::GetState | Self::GetCount => Method::GET,
        }
    }

    /// Its name in the URL.
    #[must_use]
    pub fn method(self) -> &'static str {
        match self {
            Self::Receive => "receiveNotification",
            Self::Delete => "deleteNotification",
            Self::GetSettings => "getSettings",
            Self::SetSettings => "setSettings",
            Self::GetState => "getStateInstance",
            Self::GetCount => "getWebhooksCount",
        }
    }
}

/// What an answer means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meaning {
    /// The requested result; for a delete: done.
    Success,
    /// For a receive: the queue is empty, and the body does not matter.
    Empty,
    /// For a delete: no such notification waits to be deleted. Neither an error nor a confirmation.
    NotThere,
    /// Anything else; wait, in this condition.
    Trouble(Condition),
}

/// Interprets an answer. Whether a successful receive contains a notification is determined by
/// [`Answer::read`](crate::notification::Answer::read).
#[must_use]
pub fn meaning(call: Call, status: u16, body: &[u8]) -> Meaning {
    match (status, call) {
        // With 408 and 504 gateways end an idle poll.
        (204 | 408 | 504, Call::Receive) => Meaning::Empty,
        (200..=299, Call::Delete) => deleted(body),
        (200..=299, _) => Meaning::Success,
        (500, Call::Delete) if says(body, "findunackedmessage") => Meaning::NotThere,
        _ => Meaning::Trouble(condition(status, body)),
    }
}

/// What an unexpected body looks like. Nothing of it is repeated.
pub(super) fn form(body: &[u8]) -> &'static str {
    match (body, body.trim_ascii_start()) {
        ([], _) => "empty",
        ([0x1f, 0x8b, ..], _) => "compressed by gzip, which was not asked for",
        ([0x28, 0xb5, 0x2f, 0xfd, ..], _) => "compressed by zstd, which was not asked for",
        (_, [b'<', ..]) => "HTML or XML",
        (_, [b'{' | b'[', ..]) => match serde_json::from_slice::<IgnoredAny>(body) {
            Ok(_) => "JSON of another kind",
            Err(error) if error.is_eof() => "JSON that was cut off",
            Err(_) => "no valid JSON",
        },
        _ => "no JSON object",
    }
}

fn deleted(body: &[u8]) -> Meaning {
    #[derive(Deserialize)]
    struct Answer {
        result: bool,
    }

    match serde_json::from_slice(body) {
        Ok(Answer { result: true }) => Meaning::Success,
        Ok(Answer { result: false }) => Meaning::NotThere,
        Err(_) => Meaning::Trouble(Condition::UpstreamUnavailable),
    }
}

fn condition(status: u16, body: &[u8]) -> Condition {
    match status {
        400 if says(body, "webhook url") => Condition::WebhookUrlSet,
        400 if says(body, "expired") || says(body, "deleted") => Condition::InstanceExpired,
        400 if says(body, "not authorized") => Condition::InstanceNotAuthorized,
        401 => Condition::TokenRefused,
        // Redirects are not followed, because the token would be sent along.
        300..=399 | 403 | 404 => Condition::WrongHost,
        429 => Condition::Throttled,
        466 => Condition::QuotaExceeded,
        _ => Condition::UpstreamUnavailable,
    }
}

/// Whether the body contains these words, given in lower case, unless it is too long for an error.
fn says(body: &[u8], words: &str) -> bool {
    let body = &body[..body.len().min(LONGEST_ERROR)];
    body.windows(words.len()).any(|window| window.eq_ignore_ascii_case(words.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const CALLS: [Call; 6] =
        [Call::Receive, Call::Delete, Call::GetSettings, Call::SetSettings, Call::GetState, Call::GetCount];
    const HTML: &str = "<html><head><title>403 Forbidden</title></head></html>";

    /// The three forms in which an error's text comes.
    fn forms(message: &str) -> [String; 3] {
        [
            format!(r#"{{"statusCode":400,"timestamp":"x","path":"/waInstance1/y/TOKEN","message":"{message}"}}"#),
            format!(r#"{{"code":"INVALID_PARAM","message":"{message}","status":"error"}}"#),
            message.to_owned(),
        ]
    }

    #[test]
    fn errors_mean_the_same_for_every_method_and_form_of_body() {
        use Condition::{
            InstanceExpired, InstanceNotAuthorized, QuotaExceeded, Throttled, TokenRefused, UpstreamUnavailable,
            WebhookUrlSet, WrongHost,
        };
        let table = [
            (400, "Message cannot be received because custom webhook url is set. Go to cabinet", WebhookUrlSet),
            (400, "Instance account is expired. Renew your instance from personal area", InstanceExpired),
            (400, "Instance is deleted", InstanceExpired),
            (400, "instance is starting or not authorized", InstanceNotAuthorized),
            (400, "instance account not authorized", InstanceNotAuthorized),
            (400, "Instance is not authorized", InstanceNotAuthorized),
            (400, "instance in starting process try later", UpstreamUnavailable),
            (400, "bad request data", UpstreamUnavailable),
            (401, "", TokenRefused),
            (301, "", WrongHost),
            (302, HTML, WrongHost),
            (403, HTML, WrongHost),
            (404, HTML, WrongHost),
            (429, "", Throttled),
            (466, r#"{\"invokeStatus\":{\"status\":\"QUOTE_EXCEEDED\"}}"#, QuotaExceeded),
            (469, "contact look-up limit", UpstreamUnavailable),
            (499, "", UpstreamUnavailable),
            (500, "request entity too large", UpstreamUnavailable),
            (502, HTML, UpstreamUnavailable),
            (503, "", UpstreamUnavailable),
            (521, HTML, UpstreamUnavailable),
            (100, "", UpstreamUnavailable),
        ];
        for (status, message, condition) in table {
            for body in forms(message) {
                for call in CALLS {
                    assert_eq!(
                        meaning(call, status, body.as_bytes()),
                        Meaning::Trouble(condition),
                        "{status} {body} {call:?}"
                    );
                }
            }
        }
    }

    #[test]
    fn what_came_instead_is_named() {
        for (body, named) in [
            (&b""[..], "empty"),
            (b"\x1f\x8b\x08\0\0", "compressed by gzip, which was not asked for"),
            (b"\x28\xb5\x2f\xfd\0", "compressed by zstd, which was not asked for"),
            (b" <html>", "HTML or XML"),
            (b"{\"result\":tr", "JSON that was cut off"),
            (b"{\"result\":tru}", "no valid JSON"),
            (b"{}", "JSON of another kind"),
            (b"\xff\xfe", "no JSON object"),
        ] {
            assert_eq!(form(body), named);
        }
    }

    #[test]
    fn a_gateway_may_end_an_idle_poll() {
        for (status, body) in [(204, ""), (408, ""), (408, HTML), (504, HTML)] {
            assert_eq!(meaning(Call::Receive, status, body.as_bytes()), Meaning::Empty, "{status} {body}");
        }
        for call in &CALLS[1..] {
            for status in [408, 504] {
                assert_eq!(meaning(*call, status, b""), Meaning::Trouble(Condition::UpstreamUnavailable));
            }
        }
    }

    #[test]
    fn only_true_confirms_a_delete() {
        for body in [r#"{"result":true}"#, r#"{"result":true,"reason":""}"#, r#"{"reason":null,"result":true}"#] {
            assert_eq!(meaning(Call::Delete, 200, body.as_bytes()), Meaning::Success, "{body}");
        }
        assert_eq!(meaning(Call::Delete, 200, br#"{"result":false,"reason":"no"}"#), Meaning::NotThere);
        let unknown = "Cannot read properties of undefined (reading 'findUnAckedMessage')";
        for body in forms(unknown) {
            assert_eq!(meaning(Call::Delete, 500, body.as_bytes()), Meaning::NotThere);
            assert_eq!(meaning(Call::Receive, 500, body.as_bytes()), Meaning::Trouble(Condition::UpstreamUnavailable));
        }
        for body in ["", "null", "true", r#"{"result":"true"}"#, HTML] {
            assert_eq!(
                meaning(Call::Delete, 200, body.as_bytes()),
                Meaning::Trouble(Condition::UpstreamUnavailable),
                "{body}"
            );
        }
    }
}
