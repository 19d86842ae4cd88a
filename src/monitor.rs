//! How an instance is doing: its conditions, its pauses, and what they are concluded from.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tracing::warn;

use crate::account::AccountState;
use crate::backoff::Backoff;
use crate::condition::{Condition, Conditions};
use crate::doubt::{Deleted, Verdict};
use crate::error::Chain;
use crate::green_api::Problem;
use crate::metrics::{Recorder, now};
use crate::notification::{Fingerprint, InstanceId, Notification};
use crate::repeats::Repeats;
use crate::sink::{DeadLetter, Reason, SinkError, Stored};

/// So long are notifications kept upstream.
const RETENTION: Duration = Duration::from_secs(24 * 60 * 60);
/// There must be time to do something.
const AT_RISK_SECS: u64 = 18 * 60 * 60;
/// So many deletes of ours in a row show that nobody else is reading.
const UNDISTURBED: u32 = 20;
/// How often the age of the head is checked, because the times in bodies may go back and forth.
const AGE_CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// How often an idle queue is asked how many notifications it holds.
const COUNT_INTERVAL: Duration = Duration::from_secs(600);

/// What is known of how an instance is doing, and what follows from it.
pub(crate) struct Monitor {
    instance: InstanceId,
    conditions: Conditions,
    metrics: Recorder,
    backoff: Backoff,
    repeats: Repeats,
    age_checked: Option<Instant>,
    counted: Option<Instant>,
    /// Whether something waited when the queue was last asked.
    hinted: bool,
    /// Since when something may be waiting upstream, in Unix seconds.
    waiting_since: Option<u64>,
    /// The head as it was last received, if it must still be there: no delete of ours can have hit it.
    expected: Option<Fingerprint>,
    undisturbed: u32,
    /// The last head, whatever became of it.
    last: Option<Fingerprint>,
    /// The state that the account said it is in, if nothing arrives in it before somebody logs it in.
    logged_out: Option<AccountState>,
}

impl Monitor {
    pub(crate) fn new(instance: InstanceId, metrics: Recorder) -> Self {
        Self {
            instance,
            conditions: Conditions::of(instance, Arc::clone(&metrics.conditions)),
            metrics,
            backoff: Backoff::new(),
            repeats: Repeats::default(),
            age_checked: None,
            counted: None,
            hinted: false,
            waiting_since: None,
            expected: None,
            undisturbed: 0,
            last: None,
            logged_out: None,
        }
    }

    /// How long to wait before anything is tried again.
    pub(crate) fn pause(&mut self) -> Duration {
        self.backoff.after_failure()
    }

    /// The queue is about to be asked; there is no head in hand.
    pub(crate) fn asking(&mut self) {
        self.metrics.asked.set_to_now();
        self.metrics.in_flight.set(0);
    }

    /// The queue has this head, which is judged so.
    pub(crate) fn received(&mut self, head: &Notification, verdict: Verdict) {
        let facts = head.facts();
        self.metrics.received.increase(&facts.kind);
        self.metrics.in_flight.set(1);
        self.metrics.last_notification.set_to_now();
        if matches!(verdict, Verdict::DeleteOnly { .. }) {
            self.metrics.redelivered.increase();
        }
        let is_at_risk = self.conditions.contains(Condition::RetentionAtRisk);
        if is_at_risk || self.age_checked.is_none_or(|checked| checked.elapsed() >= AGE_CHECK_INTERVAL) {
            self.age_checked = Some(Instant::now());
            self.waiting_since = Some(facts.unix_seconds);
            self.hinted = false;
            self.check_retention(now());
        }
        if let Some(state) = facts.state.as_deref().map(AccountState::named) {
            self.metrics.set_state(Some(state));
            let logged_out = Some(state).filter(|state| state.needs_login());
            if self.logged_out != logged_out {
                self.logged_out = logged_out;
                self.leave_upstream();
            }
        }
        match verdict {
            // A read that lags tells nothing of the head that is there.
            Verdict::ReceiveAgain { .. } => {}
            // Maybe a read that lags far behind.
            Verdict::Publish { .. } if self.repeats.contains(head.fingerprint()) => self.expected = None,
            Verdict::Publish { .. } | Verdict::DeleteOnly { .. } => self.expect(head.fingerprint()),
        }
        if self.last.replace(head.fingerprint()) != Some(head.fingerprint()) {
            // The queue moves on, whatever its answers to deletes say.
            self.backoff = Backoff::new();
        }
    }

    /// From now on this head must be there until a delete of ours hits it.
    fn expect(&mut self, head: Fingerprint) {
        let vanished = self.expected.replace(head).is_some_and(|expected| expected != head);
        // Old ones vanish by themselves.
        if vanished && !self.conditions.contains(Condition::RetentionAtRisk) {
            self.undisturbed = 0;
            self.conditions.enter(Condition::ForeignReader, &"the head of the queue vanished without a delete of ours");
        }
    }

    /// Whether to ask how many notifications wait: now and then, because an empty answer has come
    /// with a full queue.
    pub(crate) fn take_count_turn(&mut self) -> bool {
        let is_due = self.counted.is_none_or(|counted| counted.elapsed() >= COUNT_INTERVAL);
        if is_due {
            self.counted = Some(Instant::now());
        }
        is_due
    }

    /// The queue says that it is empty, and if it was asked, how many wait. That number is a hint
    /// that may lie in both directions: it only starts a clock, and only as long as nothing comes.
    pub(crate) fn empty(&mut self, waiting: Option<u64>) {
        self.recovered();
        self.conditions.leave(Condition::StuckHead);
        self.hinted = waiting.map_or(self.hinted, |waiting| waiting > 0);
        if self.hinted {
            self.may_wait(now());
        } else {
            self.waiting_since = None;
            self.conditions.leave(Condition::RetentionAtRisk);
        }
    }

    /// The sink has it, as it was to be: from now on, or from before.
    pub(crate) fn stored(&mut self, head: &Notification, verdict: Verdict, stored: &Stored) {
        match verdict {
            Verdict::Publish { .. } => self.published(head, stored),
            Verdict::DeleteOnly { was_confirmed: true } => {
                self.repeats.redelivered();
                self.judge_repeats();
            }
            Verdict::DeleteOnly { was_confirmed: false } | Verdict::ReceiveAgain { .. } => {}
        }
        if let Some(sequence) = stored.sequence() {
            self.metrics.sequence.set(sequence);
        }
        self.conditions.leave(Condition::SinkUnavailable);
        if stored.dead_letter().is_some() {
            self.conditions.enter(Condition::DeadLetters, &"the last notification was kept as a dead letter");
        } else {
            self.conditions.leave(Condition::DeadLetters);
        }
    }

    fn published(&mut self, head: &Notification, stored: &Stored) {
        let facts = head.facts();
        self.repeats.published(head.fingerprint(), facts.has_identity);
        self.judge_repeats();
        if let Some(letter) = stored.dead_letter() {
            self.dead_letter(head, letter);
            return;
        }
        self.metrics.published.increase(&facts.kind);
        let since = UNIX_EPOCH + Duration::from_secs(facts.unix_seconds);
        // Whatever a body or a clock says, none is older, and none is of the future.
        let age = SystemTime::now().duration_since(since).unwrap_or_default().min(RETENTION);
        self.metrics.sink().end_to_end_seconds.observe(age);
    }

    /// Counts it, and says once that there is one.
    fn dead_letter(&self, head: &Notification, letter: &DeadLetter) {
        match letter.reason {
            Reason::TooLarge => self.metrics.dead_too_large.increase(),
            Reason::Refused => self.metrics.dead_refused.increase(),
            Reason::Unroutable => self.metrics.dead_unroutable.increase(),
            Reason::Malformed => self.metrics.dead_malformed.increase(),
        }
        let (instance, receipt, reason) = (head.instance(), head.receipt(), letter.reason);
        warn!(%instance, %receipt, id = %head.id(), %reason, destination = letter.destination, kept_in = %letter.kept_in, "dead letter");
    }

    fn judge_repeats(&mut self) {
        if self.repeats.is_stuck() {
            let cause = &"what was published and deleted comes again and again";
            self.conditions.enter(Condition::StuckHead, cause);
        } else {
            self.conditions.leave(Condition::StuckHead);
        }
    }

    /// Whether the queue repeats itself, so that nothing is gained by asking fast.
    pub(crate) fn is_slow(&self) -> bool {
        self.repeats.is_slow()
    }

    /// How long to wait before the next receive when it does.
    pub(crate) fn pause_after_repeat(&mut self) -> Option<Duration> {
        self.repeats.pause()
    }

    /// The sink refused it for now.
    pub(crate) fn refused(&mut self, refusal: &SinkError) {
        self.metrics.publish_refused.increase();
        let (SinkError::Refused(cause) | SinkError::NoRoom(cause)) = refusal else { return };
        self.conditions.enter(Condition::SinkUnavailable, cause);
        if matches!(refusal, SinkError::NoRoom(_)) {
            self.conditions.enter(Condition::DeadLetters, cause);
        }
        self.may_wait(now());
    }

    /// A delete was answered, or with `None` it was not. Of a redelivery, an earlier delete may have hit the head as well.
    pub(crate) fn deleted(&mut self, answer: Option<Deleted>, is_first: bool) {
        if answer == Some(Deleted::Confirmed) {
            self.metrics.in_flight.set(0);
            self.metrics.deletes_confirmed.increase();
            self.metrics.last_success.set_to_now();
            self.recovered();
            self.undisturbed += 1;
            if self.undisturbed >= UNDISTURBED {
                self.conditions.leave(Condition::ForeignReader);
            }
        } else {
            self.metrics.deletes_unconfirmed.increase();
        }
        // It must still be there only if the queue said that this first delete did not hit it.
        if answer != Some(Deleted::Unconfirmed) || !is_first {
            self.expected = None;
        }
    }

    /// A request did not get what it asked for; how long to wait.
    pub(crate) fn failed(&mut self, problem: &Problem) -> Duration {
        self.metrics.unanswered.store(problem.condition == Condition::UpstreamUnavailable, Relaxed);
        self.conditions.enter(problem.condition, &Chain(problem));
        self.may_wait(now());
        self.pause().max(problem.retry_after.unwrap_or_default())
    }

    /// The lane has ended, and with it what was in hand: whoever had the ownership meanwhile may have deleted the head.
    pub(crate) fn lane_ended(&mut self) {
        self.metrics.in_flight.set(0);
        self.expected = None;
    }

    /// The head in hand was received under an ownership that has ended; it is received again, by whoever has the next.
    pub(crate) fn discarded(&self) {
        self.metrics.sink().heads_discarded.increase();
    }

    /// The sink is waited for, so nobody here polls the queue.
    pub(crate) fn waiting_for_sink(&mut self) {
        self.not_polled(self.metrics.sink().stands_by(self.instance));
    }

    /// While this bridge stands by, another one polls the queue, and knows how the instance is doing.
    fn not_polled(&mut self, stands_by: bool) {
        if stands_by {
            self.waiting_since = None;
            self.hinted = false;
            self.logged_out = None;
            self.metrics.unanswered.store(false, Relaxed);
            self.metrics.set_state(None);
            self.conditions.leave_all();
        } else {
            self.may_wait(now());
        }
    }

    fn may_wait(&mut self, now: u64) {
        self.waiting_since.get_or_insert(now);
        self.check_retention(now);
    }

    fn check_retention(&mut self, now: u64) {
        if self.waiting_since.is_some_and(|since| now.saturating_sub(since) > AT_RISK_SECS) {
            self.conditions.enter(Condition::RetentionAtRisk, &"the oldest notification is older than 18 hours");
        } else {
            self.conditions.leave(Condition::RetentionAtRisk);
        }
    }

    /// An answer shows that nothing upstream keeps us.
    pub(crate) fn recovered(&mut self) {
        self.metrics.unanswered.store(false, Relaxed);
        self.leave_upstream();
        self.backoff = Backoff::new();
    }

    /// In no upstream condition, but for the one that no answer shows.
    fn leave_upstream(&mut self) {
        match self.logged_out {
            None => self.conditions.leave_upstream(),
            Some(state) => {
                self.conditions.enter(Condition::InstanceNotAuthorized, &format_args!("its state is {}", state.name()));
            }
        }
    }
}

#[cfg(test)]
#[path = "monitor_tests.rs"]
mod tests;
