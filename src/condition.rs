//! What keeps an instance or a sink from going on, or threatens it: a closed list of names, logged
//! once when a condition is entered and once when it is left. [`present`] tells those of all.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tracing::{info, warn};

use crate::notification::InstanceId;

/// A named reason to wait, or to worry. None of them ends the process: each is left when its cause
/// is gone.
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
    /// Answers that are no notification, one after the other.
    UnreadableAnswer,
    /// What was published and deleted comes again and again.
    StuckHead,
    /// The sink cannot be reached, or refuses.
    SinkUnavailable,
    /// Another bridge owns the sink; or a shard that should be ours does not open.
    WaitingForOwnership,
    /// The head of the queue vanished without a delete of ours.
    ForeignReader,
    /// The oldest notification that waits is older than 18 hours, of the 24 that it is kept.
    RetentionAtRisk,
    /// The last notification was kept as a dead letter.
    DeadLetters,
}

impl Condition {
    /// All of them.
    pub const ALL: [Self; 15] = [
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
    ];

    /// Those that an answer of Green API shows; a better answer ends whichever it was.
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
        })
    }
}

/// The conditions that an instance or a sink is in. They can be read with [`present`] as long as
/// this lives.
#[derive(Debug)]
pub struct Conditions {
    number: u64,
    instance: Option<InstanceId>,
    entered: Arc<AtomicU16>,
    /// Of a sink, which is one and not thousands, another cause is news, too.
    cause: String,
}

impl Default for Conditions {
    fn default() -> Self {
        Self::register(None)
    }
}

impl Drop for Conditions {
    fn drop(&mut self) {
        registry().remove(&self.number);
    }
}

impl Conditions {
    /// Those of an instance; `default` makes those of a sink.
    #[must_use]
    pub fn of(instance: InstanceId) -> Self {
        Self::register(Some(instance))
    }

    fn register(instance: Option<InstanceId>) -> Self {
        static NUMBERS: AtomicU64 = AtomicU64::new(0);
        let number = NUMBERS.fetch_add(1, Ordering::Relaxed);
        let entered = Arc::default();
        registry().insert(number, (instance, Arc::clone(&entered)));
        Self { number, instance, entered, cause: String::new() }
    }

    /// Whether it is in this condition.
    #[must_use]
    pub fn contains(&self, condition: Condition) -> bool {
        self.entered.load(Ordering::Relaxed) & condition.bit() != 0
    }

    /// In `condition` from now on; says so if that is news. Of what Green API answers only the last
    /// counts: another such condition is left. `cause` must hold no secret.
    pub fn enter(&mut self, condition: Condition, cause: &dyn fmt::Display) {
        if Condition::UPSTREAM.contains(&condition) {
            Condition::UPSTREAM.into_iter().filter(|other| *other != condition).for_each(|other| self.leave(other));
        }
        let is_news = !self.contains(condition);
        let has_new_cause = self.instance.is_none() && self.cause != cause.to_string();
        if is_news || has_new_cause {
            self.entered.fetch_or(condition.bit(), Ordering::Relaxed);
            let instance = self.instance.map(tracing::field::display);
            warn!(instance, %condition, %cause, "{}", condition.advice());
            if self.instance.is_none() {
                self.cause = cause.to_string();
            }
        }
    }

    /// No longer in `condition`; says so if that is news.
    pub fn leave(&mut self, condition: Condition) {
        if self.contains(condition) {
            self.entered.fetch_and(!condition.bit(), Ordering::Relaxed);
            let instance = self.instance.map(tracing::field::display);
            info!(instance, %condition, "condition is over");
        }
    }

    /// What a sink is in a condition for; `None` when it is in none.
    pub(crate) fn cause(&self) -> Option<&str> {
        (self.entered.load(Ordering::Relaxed) != 0).then_some(&*self.cause)
    }

    /// No longer in any condition that an answer of Green API shows.
    pub fn leave_upstream(&mut self) {
        for condition in Condition::UPSTREAM {
            self.leave(condition);
        }
    }

    /// In no condition at all from now on.
    pub fn leave_all(&mut self) {
        for condition in Condition::ALL {
            self.leave(condition);
        }
    }
}

/// The conditions of this process, of the instances and, with `None`, the sink: of those that are in any, each once.
#[must_use]
pub fn present() -> Vec<(Option<InstanceId>, Vec<Condition>)> {
    // A sink that is shared has those of each shard.
    let mut entered = BTreeMap::<Option<InstanceId>, u16>::new();
    for (instance, conditions) in registry().values() {
        *entered.entry(*instance).or_default() |= conditions.load(Ordering::Relaxed);
    }
    let in_any = entered.into_iter().filter(|(_, entered)| *entered != 0).map(|(instance, entered)| {
        let conditions = Condition::ALL.into_iter().filter(|condition| entered & condition.bit() != 0);
        (instance, conditions.collect())
    });
    in_any.collect()
}

type Registry = BTreeMap<u64, (Option<InstanceId>, Arc<AtomicU16>)>;

/// Locked when an instance starts or ends and when somebody reads, never on the way of a notification.
fn registry() -> MutexGuard<'static, Registry> {
    static REGISTRY: Mutex<Registry> = Mutex::new(BTreeMap::new());
    REGISTRY.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(instance: &str) -> Vec<Condition> {
        let instance = instance.parse().ok();
        present().into_iter().filter(|(other, _)| *other == instance).flat_map(|(_, conditions)| conditions).collect()
    }

    #[test]
    fn what_is_entered_can_be_read_until_it_is_left_or_its_owner_is_gone() {
        let mut conditions = Conditions::of("77".parse().unwrap());
        for condition in Condition::ALL {
            conditions.enter(condition, &"a test");
            assert!(of("77").contains(&condition));
            conditions.leave(condition);
            assert!(of("77").is_empty(), "{condition}");
        }
        conditions.enter(Condition::DeadLetters, &"");
        drop(conditions);
        assert!(of("77").is_empty());
    }

    #[test]
    fn what_all_shards_are_in_is_told_once() {
        let mut shards = [(); 2].map(|()| Conditions::of("80".parse().unwrap()));
        for shard in &mut shards {
            shard.enter(Condition::SinkUnavailable, &"a test");
        }
        assert_eq!(of("80"), [Condition::SinkUnavailable]);
    }

    #[test]
    fn of_upstream_conditions_only_the_last_counts() {
        let mut conditions = Conditions::of("78".parse().unwrap());
        conditions.enter(Condition::DeadLetters, &"");
        conditions.enter(Condition::TokenRefused, &"");
        conditions.enter(Condition::Throttled, &"");
        assert_eq!(of("78"), [Condition::Throttled, Condition::DeadLetters]);
        conditions.leave_upstream();
        assert_eq!(of("78"), [Condition::DeadLetters]);
    }

    #[test]
    fn names_are_those_of_the_contract() {
        let names: Vec<String> = Condition::ALL.iter().map(ToString::to_string).collect();
        assert_eq!(
            names.join(" "),
            "webhook_url_set token_refused wrong_host instance_not_authorized instance_expired quota_exceeded throttled \
             upstream_unavailable unreadable_answer stuck_head sink_unavailable waiting_for_ownership foreign_reader retention_at_risk dead_letters"
        );
    }
}
