//! The state of an instance: its conditions and pauses, derived from what happens as it is polled.

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

/// How long Green API keeps notifications.
const RETENTION: Duration = Duration::from_secs(24 * 60 * 60);
/// Leaves the operator time to react.
const AT_RISK_SECS: u64 = 18 * 60 * 60;
/// After this many confirmed deletes in a row nobody else reads the queue.
const UNDISTURBED: u32 = 20;
/// How often the age of the head is checked, because the times in bodies may go back and forth.
const AGE_CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// How often an idle queue is asked how many notifications it holds.
const COUNT_INTERVAL: Duration = Duration::from_secs(600);
/// How often the state of the account is asked for, less up to a tenth.
const STATE_INTERVAL: Duration = Duration::from_secs(3600);

/// What is known about an instance, and the conditions and pauses that follow from it.
pub(crate) struct Monitor {
    instance: InstanceId,
    conditions: Conditions,
    metrics: Recorder,
    backoff: Backoff,
    repeats: Repeats,
    age_checked: Option<Instant>,
    counted: Option<Instant>,
    /// When the state of the account is asked for again; `None` at the start.
    state_due: Option<Instant>,
    /// Whether notifications were waiting when the queue was last asked for their number.
    hinted: bool,
    /// Since when notifications may be waiting upstream, in Unix seconds.
    waiting_since: Option<u64>,
    /// The head as last received, if it must still be in the queue because no delete of ours can have removed it.
    expected: Option<Fingerprint>,
    undisturbed: u32,
    /// The last head that was received, whatever happened to it.
    last: Option<Fingerprint>,
    /// The state of the account, if no new messages arrive in it until somebody logs in.
    logged_out: Option<AccountState>,
    /// Whether a notification of another instance was reported.
    has_reported_other: bool,
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
            state_due: None,
            hinted: false,
            waiting_since: None,
            expected: None,
            undisturbed: 0,
            last: None,
            logged_out: None,
            has_reported_other: false,
        }
    }

    /// The pause before the next attempt.
    pub(crate) fn pause(&mut self) -> Duration {
        self.backoff.after_failure()
    }

    /// The queue is about to be polled; no head is in hand.
    pub(crate) fn asking(&mut self) {
        self.metrics.asked.set_to_now();
        self.metrics.in_flight.set(0);
        self.metrics.in_flight_bytes.set(0);
    }

    /// A head was received and judged.
    pub(crate) fn received(&mut self, head: &Notification, verdict: Verdict) {
        let facts = head.facts();
        self.metrics.received.increase(&facts.kind);
        self.metrics.in_flight.set(1);
        self.metrics.in_flight_bytes.set(head.body().len() as u64);
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
        if let Some(named) = facts.instance.filter(|named| *named != self.instance)
            && !std::mem::replace(&mut self.has_reported_other, true)
        {
            let instance = self.instance;
            warn!(event = "other_instance", %instance, %named, "a notification of this queue names another instance");
        }
        match verdict {
            // A stale read says nothing about the current head.
            Verdict::ReceiveAgain { .. } => {}
            // Possibly a very stale read.
            Verdict::Publish { .. } if self.repeats.contains(head.fingerprint()) => self.expected = None,
            Verdict::Publish { .. } | Verdict::DeleteOnly { .. } => self.expect(head.fingerprint()),
        }
        if self.last.replace(head.fingerprint()) != Some(head.fingerprint()) {
            // The queue advances, whatever it answers to deletes.
            self.backoff = Backoff::new();
        }
    }

    /// From now on this head must stay in the queue until a delete of ours removes it.
    fn expect(&mut self, head: Fingerprint) {
        let vanished = self.expected.replace(head).is_some_and(|expected| expected != head);
        // Notifications that are too old are removed by Green API.
        if vanished && !self.conditions.contains(Condition::RetentionAtRisk) {
            self.undisturbed = 0;
            self.conditions.enter(Condition::ForeignReader, &"the head of the queue vanished without a delete of ours");
        }
    }

    /// Whether it is time to ask how many notifications wait, which starts the interval anew. Asked now and then, because the
    /// queue has answered empty while it was full.
    pub(crate) fn take_count_turn(&mut self) -> bool {
        let is_due = self.counted.is_none_or(|counted| counted.elapsed() >= COUNT_INTERVAL);
        if is_due {
            self.counted = Some(Instant::now());
        }
        is_due
    }

    /// Whether it is time to ask for the state of the account, which starts the interval anew. Its changes arrive as
    /// notifications, but not those from before the bridge was started.
    pub(crate) fn take_state_turn(&mut self) -> bool {
        let is_due = self.state_due.is_none_or(|due| Instant::now() >= due);
        if is_due {
            // Spread over time, because thousands start together.
            self.state_due = Some(Instant::now() + STATE_INTERVAL.mul_f64(1.0 - fastrand::f64() / 10.0));
        }
        is_due
    }

    /// The state of the account was asked for. It only enters a condition: notifications from before may still be in the queue.
    pub(crate) fn account(&mut self, state: AccountState) {
        self.metrics.set_state(Some(state));
        if state.needs_login() {
            self.logged_out = Some(state);
            self.leave_upstream();
        }
    }

    /// The queue answered empty; `waiting` is the number of notifications, if it was asked for. That number is unreliable: it
    /// only starts the clock of `retention_at_risk`, which the next head corrects.
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

    /// The sink has stored the head: now, or before if the verdict was to delete it only.
    pub(crate) fn stored(&mut self, head: &Notification, verdict: Verdict, stored: &Stored) {
        match verdict {
            Verdict::Publish { .. } => self.published(head, stored),
            Verdict::DeleteOnly { was_confirmed: true } => {
                self.repeats.redelivered();
                self.judge_repeats();
            }
            Verdict::DeleteOnly { was_confirmed: false } | Verdict::ReceiveAgain { .. } => {}
        }
        self.metrics.in_flight_bytes.set(0);
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
        // Timestamps and clocks may be wrong: no notification is older than its retention or from the future.
        let age = SystemTime::now().duration_since(since).unwrap_or_default().min(RETENTION);
        self.metrics.sink().end_to_end_seconds.observe(age);
    }

    /// Counts and logs a dead letter.
    fn dead_letter(&self, head: &Notification, letter: &DeadLetter) {
        match letter.reason {
            Reason::TooLarge => self.metrics.dead_too_large.increase(),
            Reason::Refused => self.metrics.dead_refused.increase(),
            Reason::Unroutable => self.metrics.dead_unroutable.increase(),
            Reason::Malformed => self.metrics.dead_malformed.increase(),
        }
        let (instance, receipt, reason) = (head.instance(), head.receipt(), letter.reason);
        warn!(
            event = "dead_letter",
            %instance, %receipt, id = %head.id(), %reason, destination = letter.destination, kept_in = %letter.kept_in,
            "dead letter"
        );
    }

    fn judge_repeats(&mut self) {
        if self.repeats.is_stuck() {
            let cause = &"what was published and deleted comes again and again";
            self.conditions.enter(Condition::StuckHead, cause);
        } else {
            self.conditions.leave(Condition::StuckHead);
        }
    }

    /// Whether the queue keeps returning what was published, so that fast polling gains nothing.
    pub(crate) fn is_slow(&self) -> bool {
        self.repeats.is_slow()
    }

    /// The pause before the next receive if it does.
    pub(crate) fn pause_after_repeat(&mut self) -> Option<Duration> {
        self.repeats.pause()
    }

    /// The sink refused the head for now.
    pub(crate) fn refused(&mut self, refusal: &SinkError) {
        self.metrics.publish_refused.increase();
        self.metrics.in_flight_bytes.set(0);
        let (SinkError::Refused(cause) | SinkError::DeadLetterFailed(cause)) = refusal else { return };
        self.conditions.enter(Condition::SinkUnavailable, cause);
        if matches!(refusal, SinkError::DeadLetterFailed(_)) {
            self.conditions.enter(Condition::DeadLetters, cause);
        }
        self.may_wait(now());
    }

    /// A delete was answered, or with `None` it got no answer. If it was not the first one, an earlier delete may have removed
    /// the head.
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
        // The head must still be there only if the queue denied the first delete.
        if answer != Some(Deleted::Unconfirmed) || !is_first {
            self.expected = None;
        }
    }

    /// A request failed; returns the pause before the next one.
    pub(crate) fn failed(&mut self, problem: &Problem) -> Duration {
        self.metrics.unanswered.store(problem.condition == Condition::UpstreamUnavailable, Relaxed);
        self.conditions.enter(problem.condition, &Chain(problem));
        self.may_wait(now());
        self.pause().max(problem.retry_after.unwrap_or_default())
    }

    /// The lane has ended and the head in hand is gone. Whoever owned the shard meanwhile may have deleted it upstream.
    pub(crate) fn lane_ended(&mut self) {
        self.metrics.in_flight.set(0);
        self.expected = None;
    }

    /// The head was discarded because the ownership under which it was received has ended. The next owner receives it again.
    pub(crate) fn discarded(&self) {
        self.metrics.in_flight_bytes.set(0);
        self.metrics.sink().heads_discarded.increase();
    }

    /// The bridge is waiting for the sink and does not poll the queue.
    pub(crate) fn waiting_for_sink(&mut self) {
        self.not_polled(self.metrics.sink().stands_by(self.instance));
    }

    /// While this bridge stands by, another one polls the queue and reports the state of the instance.
    fn not_polled(&mut self, stands_by: bool) {
        if stands_by {
            self.waiting_since = None;
            self.hinted = false;
            self.logged_out = None;
            // It may be another when this bridge takes over.
            self.state_due = None;
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

    /// Green API answered as it should.
    pub(crate) fn recovered(&mut self) {
        self.metrics.unanswered.store(false, Relaxed);
        self.leave_upstream();
        self.backoff = Backoff::new();
    }

    /// Leaves all upstream conditions except the one that no answer reveals.
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
