//! Conditions: what stops an instance or a sink, or threatens it. A closed list of names; entering and leaving one is logged
//! once.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

use tracing::{info, warn};

use crate::notification::InstanceId;

/// A named reason why something waits or needs attention. None of them ends the process; each is left when its cause is gone.
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
    /// No usable answer: unreachable, restarting, or a server error.
    UpstreamUnavailable,
    /// Several answers in a row that are not notifications.
    UnreadableAnswer,
    /// The queue keeps returning notifications that were published and deleted.
    StuckHead,
    /// The sink cannot be reached, or refuses notifications.
    SinkUnavailable,
    /// Another bridge owns the sink, or a shard that is assigned to this replica does not open.
    WaitingForOwnership,
    /// The head of the queue vanished without a delete of ours.
    ForeignReader,
    /// The oldest waiting notification is older than 18 hours, of the 24 for which it is kept.
    RetentionAtRisk,
    /// The last notification became a dead letter.
    DeadLetters,
    /// Consumers rejected messages so often that the broker moved them to `{queue}.rejected`.
    RejectedMessages,
}

impl Condition {
    /// All of them.
    pub const ALL: [Self; 16] = [
        Self::WebhookUrlSet,
        Self::TokenRefused,
        Self::WrongHost,
        Self::InstanceNotAuthorized,
        Self::InstanceExpired,
        Self::QuotaExceeded,
        Self::Throttled,
        Self::UpstreamUnavailable,
        Self::UnreadableAnswer,
        Self::StuckHead,
        Self::SinkUnavailable,
        Self::WaitingForOwnership,
        Self::ForeignReader,
        Self::RetentionAtRisk,
        Self::DeadLetters,
        Self::RejectedMessages,
    ];

    /// Those derived from an answer of Green API; the next good answer ends them.
    const UPSTREAM: [Self; 9] = [
        Self::WebhookUrlSet,
        Self::TokenRefused,
        Self::WrongHost,
        Self::InstanceNotAuthorized,
        Self::InstanceExpired,
        Self::QuotaExceeded,
        Self::Throttled,
        Self::UpstreamUnavailable,
        Self::UnreadableAnswer,
    ];

    fn bit(self) -> u16 {
        1 << self as u16
    }

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
            Self::UnreadableAnswer => {
                "Green API answers with something that is no notification, and the queue waits behind it: check that \
                 nothing between here and there changes answers, otherwise ask its support with the digest"
            }
            Self::StuckHead => {
                "Green API confirms deletes and hands out the same notifications again, so the bridge slows down: reboot \
                 the instance from the console, or ask its support"
            }
            Self::SinkUnavailable => {
                "the sink is not available: nothing is lost, notifications wait upstream for 24 hours"
            }
            Self::WaitingForOwnership => {
                "the sink is not owned yet: another bridge has it, and this one takes over when it stops; or, where replicas \
                 share, a shard that is for this one does not open"
            }
            Self::ForeignReader => {
                "something else reads this queue, and what it deletes is lost to the bridge: run one reader per instance"
            }
            Self::RetentionAtRisk => {
                "notifications wait upstream for more than 18 hours and are lost after 24: see what keeps them"
            }
            Self::DeadLetters => {
                "the sink does not take notifications of this instance: see `deadletterreason` at their dead-letter place"
            }
            Self::RejectedMessages => {
                "consumers rejected messages again and again, so they are in the queue of rejected messages: see why, then \
                 consume or purge it"
            }
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
            Self::UnreadableAnswer => "unreadable_answer",
            Self::StuckHead => "stuck_head",
            Self::SinkUnavailable => "sink_unavailable",
            Self::WaitingForOwnership => "waiting_for_ownership",
            Self::ForeignReader => "foreign_reader",
            Self::RetentionAtRisk => "retention_at_risk",
            Self::DeadLetters => "dead_letters",
            Self::RejectedMessages => "rejected_messages",
        })
    }
}

/// A set of conditions that others can read while it changes.
#[derive(Debug, Default)]
pub(crate) struct ConditionSet(AtomicU16);

impl ConditionSet {
    fn contains(&self, condition: Condition) -> bool {
        self.0.load(Ordering::Relaxed) & condition.bit() != 0
    }

    pub(crate) fn insert(&self, condition: Condition) {
        self.0.fetch_or(condition.bit(), Ordering::Relaxed);
    }

    fn remove(&self, condition: Condition) {
        self.0.fetch_and(!condition.bit(), Ordering::Relaxed);
    }

    /// All conditions in the set, in the order of [`Condition::ALL`].
    pub(crate) fn present(&self) -> Vec<Condition> {
        Condition::ALL.into_iter().filter(|condition| self.contains(*condition)).collect()
    }
}

/// The conditions of an instance or, by `default`, of a part of a sink.
#[derive(Debug, Default)]
pub(crate) struct Conditions {
    instance: Option<InstanceId>,
    entered: Arc<ConditionSet>,
    /// Of a sink: there is only one, so a changed cause is logged as well.
    cause: String,
}

impl Conditions {
    /// The conditions of an instance.
    pub fn of(instance: InstanceId, entered: Arc<ConditionSet>) -> Self {
        Self { instance: Some(instance), entered, cause: String::new() }
    }

    /// All current conditions.
    pub fn present(&self) -> Vec<Condition> {
        self.entered.present()
    }

    /// Whether this condition is entered.
    pub fn contains(&self, condition: Condition) -> bool {
        self.entered.contains(condition)
    }

    /// Enters `condition`, and logs it if it is new. Only the last of the conditions derived from answers counts: the others
    /// are left. `cause` must contain no secret.
    pub fn enter(&mut self, condition: Condition, cause: &dyn fmt::Display) {
        if Condition::UPSTREAM.contains(&condition) {
            Condition::UPSTREAM.into_iter().filter(|other| *other != condition).for_each(|other| self.leave(other));
        }
        let is_news = !self.contains(condition);
        let has_new_cause = self.instance.is_none() && self.cause != cause.to_string();
        if is_news || has_new_cause {
            self.entered.insert(condition);
            let instance = self.instance.map(tracing::field::display);
            warn!(event = "condition_entered", instance, %condition, %cause, "{}", condition.advice());
            if self.instance.is_none() {
                self.cause = cause.to_string();
            }
        }
    }

    /// Leaves `condition`, and logs it if it was entered.
    pub fn leave(&mut self, condition: Condition) {
        if self.contains(condition) {
            self.entered.remove(condition);
            let instance = self.instance.map(tracing::field::display);
            info!(event = "condition_cleared", instance, %condition, "condition cleared");
        }
    }

    /// The cause of a sink's conditions, if it is in any.
    pub fn cause(&self) -> Option<&str> {
        (!self.present().is_empty()).then_some(&*self.cause)
    }

    /// Leaves all conditions derived from answers of Green API.
    pub fn leave_upstream(&mut self) {
        for condition in Condition::UPSTREAM {
            self.leave(condition);
        }
    }

    /// Leaves all conditions.
    pub fn leave_all(&mut self) {
        for condition in Condition::ALL {
            self.leave(condition);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn conditions() -> Conditions {
        Conditions::of("1101000001".parse().unwrap(), Arc::default())
    }

    #[test]
    fn what_is_entered_can_be_read_until_it_is_left() {
        let mut conditions = conditions();
        for condition in Condition::ALL {
            conditions.enter(condition, &"a test");
            assert!(conditions.present().contains(&condition));
            conditions.leave(condition);
            assert!(conditions.present().is_empty(), "{condition}");
        }
    }

    #[test]
    fn of_upstream_conditions_only_the_last_counts() {
        let mut conditions = conditions();
        conditions.enter(Condition::DeadLetters, &"");
        conditions.enter(Condition::TokenRefused, &"");
        conditions.enter(Condition::Throttled, &"");
        assert_eq!(conditions.present(), [Condition::Throttled, Condition::DeadLetters]);
        conditions.leave_upstream();
        assert_eq!(conditions.present(), [Condition::DeadLetters]);
    }

    #[test]
    fn names_are_those_of_the_contract() {
        let names: Vec<String> = Condition::ALL.iter().map(ToString::to_string).collect();
        assert_eq!(
            names.join(" "),
            "webhook_url_set token_refused wrong_host instance_not_authorized instance_expired quota_exceeded throttled \
             upstream_unavailable unreadable_answer stuck_head sink_unavailable waiting_for_ownership foreign_reader retention_at_risk dead_letters \
             rejected_messages"
        );
    }
}
