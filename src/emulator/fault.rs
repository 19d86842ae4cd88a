//! What can be made to go wrong, on purpose and a given number of times.

use axum::http::{HeaderValue, StatusCode};
use serde::{Deserialize, Serialize};

use super::Refused;

/// A method of the Green API that the emulator knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Method {
    /// `GET receiveNotification`
    ReceiveNotification,
    /// `DELETE deleteNotification`
    DeleteNotification,
    /// `GET getSettings`
    GetSettings,
    /// `POST setSettings`
    SetSettings,
    /// `GET getStateInstance`
    GetStateInstance,
    /// `GET getStatusInstance`
    GetStatusInstance,
    /// `GET reboot`
    Reboot,
    /// `GET getWebhooksCount`
    GetWebhooksCount,
    /// `DELETE clearWebhooksQueue`
    ClearWebhooksQueue,
    /// `GET lastIncomingMessages`
    LastIncomingMessages,
    /// `GET lastOutgoingMessages`
    LastOutgoingMessages,
}

impl Method {
    /// Every method with its name in a URL, in lower case, and its verb.
    pub(super) const ALL: [(Self, &'static str, &'static str); 11] = [
        (Self::ReceiveNotification, "receivenotification", "GET"),
        (Self::DeleteNotification, "deletenotification", "DELETE"),
        (Self::GetSettings, "getsettings", "GET"),
        (Self::SetSettings, "setsettings", "POST"),
        (Self::GetStateInstance, "getstateinstance", "GET"),
        (Self::GetStatusInstance, "getstatusinstance", "GET"),
        (Self::Reboot, "reboot", "GET"),
        (Self::GetWebhooksCount, "getwebhookscount", "GET"),
        (Self::ClearWebhooksQueue, "clearwebhooksqueue", "DELETE"),
        (Self::LastIncomingMessages, "lastincomingmessages", "GET"),
        (Self::LastOutgoingMessages, "lastoutgoingmessages", "GET"),
    ];
}

/// Something to go wrong with the next request, or the next few.
///
/// A fault strikes only a request with a known instance and the right token. Several wait their turn: the oldest that
/// fits is used up first.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fault {
    /// The method to strike; `None` is any.
    #[serde(default)]
    pub method: Option<Method>,
    /// How many requests it affects; default 1.
    #[serde(default = "once")]
    pub times: u32,
    /// Before or after the server acts.
    pub when: When,
    /// What the client gets to see.
    pub kind: FaultKind,
}

/// Whether a fault applies before or after the server acts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum When {
    /// The server does not act: nothing is handed out, deleted or set. Applies to the next request.
    Before,
    /// The server acts, then its answer is lost. Applies to the next answer, also of a long poll that already waits.
    After,
}

/// What the client sees of a fault.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum FaultKind {
    /// Another answer.
    Answer {
        /// The HTTP status, 200 to 599.
        status: u16,
        /// The body; default empty.
        #[serde(default)]
        body: String,
        /// The `Content-Type`, default `application/json; charset=utf-8`.
        #[serde(default)]
        content_type: Option<String>,
    },
    /// The connection is reset without a byte of an answer.
    Reset,
    /// No answer ever; the connection stays open until the client goes.
    Hang,
    /// Half of the answer's body, then the connection ends.
    Truncate,
    /// The answer, the second half of its body so many milliseconds after the first.
    Slow(u64),
    /// Nothing: this request is let through, so that a later fault strikes a later one.
    Pass,
}

impl Fault {
    /// Strikes the next request of any method; the server does not act.
    #[must_use]
    pub fn before(kind: FaultKind) -> Self {
        Self { method: None, times: once(), when: When::Before, kind }
    }

    /// Strikes the next answer of any method; the server has acted.
    #[must_use]
    pub fn after(kind: FaultKind) -> Self {
        Self { method: None, times: once(), when: When::After, kind }
    }

    /// Strikes this method only.
    #[must_use]
    pub fn on(self, method: Method) -> Self {
        Self { method: Some(method), ..self }
    }

    pub(super) fn fits(&self, method: Method, when: When) -> bool {
        self.when == when && self.method.is_none_or(|wanted| wanted == method)
    }

    /// Refuses what could not be carried out when the fault is due.
    pub(super) fn check(&self) -> Result<(), Refused> {
        if self.times == 0 {
            return Err(Refused("`times` must be at least 1".to_owned()));
        }
        if let FaultKind::Answer { status, content_type, .. } = &self.kind {
            // A 1xx is not an answer, it announces one.
            if !(200..=599).contains(status) || StatusCode::from_u16(*status).is_err() {
                return Err(Refused(format!("`status` must be 200 to 599, not {status}")));
            }
            if content_type.as_ref().is_some_and(|value| HeaderValue::from_str(value).is_err()) {
                return Err(Refused("`content_type` must be a header value of visible ASCII".to_owned()));
            }
        }
        Ok(())
    }
}

fn once() -> u32 {
    1
}
