//! What keeps an instance or a sink from going on: a closed list of names, logged when a condition
//! is entered, when its cause becomes another, and when it is left.

use std::fmt;

use tracing::{info, warn};

use crate::notification::InstanceId;

/// A named reason to wait. None of them ends the process: each is left when its cause is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Condition {
    /// Green API pushes to a `webhookUrl` instead of queueing.
    WebhookUrlSet,
    /// Green API refused the token.
    TokenRefused,
    /// The host does not serve this instance.
    WrongHost,
    /// The account is not logged in.
    InstanceNotAuthorized,
    /// The instance is unpaid or deleted.
    InstanceExpired,
    /// The month's quota is used up.
    QuotaExceeded,
    /// Too many requests.
    Throttled,
    /// No usable answer: unreachable, restarting, or an error of the server.
    UpstreamUnavailable,
    /// The sink cannot be reached, or refuses.
    SinkUnavailable,
    /// Another bridge owns the sink.
    WaitingForOwnership,
}

impl Condition {
    /// What the operator can do about it.
    #[must_use]
    pub fn advice(self) -> &'static str {
        match self {
            Self::WebhookUrlSet => {
                "a webhookUrl is set, so the queue cannot be read: clear it with `green-api-bridge setup --apply`"
            }
            Self::TokenRefused => "the token was refused: check `api_token_file` or `api_token` of this instance",
            Self::WrongHost => "this host does not serve the instance: check `id` and `api_url` of this instance",
            Self::InstanceNotAuthorized => "the account is not logged in: log it in from the console",
            Self::InstanceExpired => "the instance is unpaid or deleted: renew it, or take it out of the config",
            Self::QuotaExceeded => "the plan's quota is used up: it renews on the 1st, or change the plan",
            Self::Throttled => "too many requests: is something else using this instance?",
            Self::UpstreamUnavailable => "no usable answer from Green API: check `api_url` and the network if it lasts",
            Self::SinkUnavailable => {
                "the sink is not available: nothing is lost, notifications wait upstream for 24 hours"
            }
            Self::WaitingForOwnership => "another bridge owns this sink: this one takes over when it stops",
        }
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::WebhookUrlSet => "webhook_url_set",
            Self::TokenRefused => "token_refused",
            Self::WrongHost => "wrong_host",
            Self::InstanceNotAuthorized => "instance_not_authorized",
            Self::InstanceExpired => "instance_expired",
            Self::QuotaExceeded => "quota_exceeded",
            Self::Throttled => "throttled",
            Self::UpstreamUnavailable => "upstream_unavailable",
            Self::SinkUnavailable => "sink_unavailable",
            Self::WaitingForOwnership => "waiting_for_ownership",
        })
    }
}

/// The one condition that its owner is in, if any.
#[derive(Debug, Default)]
pub struct Conditions {
    instance: Option<InstanceId>,
    current: Option<(Condition, String)>,
}

impl Conditions {
    /// Those of an instance.
    #[must_use]
    pub fn of(instance: InstanceId) -> Self {
        Self { instance: Some(instance), current: None }
    }

    /// In `condition` from now on; says so if that or its cause is news. `cause` must hold no secret.
    pub fn enter(&mut self, condition: Condition, cause: &dyn fmt::Display) {
        let entered = (condition, cause.to_string());
        if self.current.as_ref() != Some(&entered) {
            let instance = self.instance.map(tracing::field::display);
            warn!(instance, %condition, %cause, "{}", condition.advice());
            self.current = Some(entered);
        }
    }

    /// In no condition from now on; says so if that is news.
    pub fn leave(&mut self) {
        if let Some((condition, _)) = self.current.take() {
            let instance = self.instance.map(tracing::field::display);
            info!(instance, %condition, "condition is over");
        }
    }
}
