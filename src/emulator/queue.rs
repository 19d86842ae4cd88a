//! One instance in memory: its queue, settings, faults and journal. No I/O, no clock of its own.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use secrecy::{ExposeSecret, SecretString};
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

use super::fault::{Fault, FaultKind, Method, When};
use super::journal::{Event, EventKind, Journal};
use super::journals::History;
use super::knobs::{Knobs, ReceiptIds, ReceiptOnRedelivery, Redelivery};
use super::rate::{Allowance, Rates};

/// Settings by name, each value as the JSON text that was sent.
pub(super) type Settings = BTreeMap<String, Box<RawValue>>;

/// A notification on its way into a queue, digested before any lock is taken.
#[derive(Clone)]
pub(super) struct Notification {
    body: Bytes,
    sha256: String,
}

impl Notification {
    pub(super) fn new(body: impl Into<Bytes>) -> Self {
        let body = body.into();
        let sha256 = hex::encode(Sha256::digest(&body));
        Self { body, sha256 }
    }
}

struct Queued {
    notification: Notification,
    pushed_ms: u64,
    /// Given at the first receive: what was never received cannot be deleted.
    receipt: Option<u64>,
    hidden_until_ms: u64,
}

/// What a receive finds.
pub(super) enum Head {
    There(u64, Bytes),
    /// Nothing, until something arrives or this time has come.
    Nothing {
        until_ms: Option<u64>,
    },
    /// There is a head, but the answer is that of an empty queue.
    Withheld,
}

pub(super) struct Instance {
    token: SecretString,
    pub(super) knobs: Knobs,
    settings: Settings,
    /// What `setSettings` said, and when it applies.
    coming: Option<(u64, Settings)>,
    queue: VecDeque<Queued>,
    /// What receives still return until then, although it is deleted.
    lagging: Option<(u64, u64, Notification)>,
    last_receipt: u64,
    last_generated: u64,
    pushes: u32,
    receives: u32,
    pub(super) receivers: Receivers,
    /// How many requests came, whatever they were answered.
    pub(super) requests: u64,
    faults: Vec<Fault>,
    rates: Rates,
    pub(super) journal: Journal,
    pub(super) history: History,
    count: Option<(u64, usize)>,
    cleared_ms: Option<u64>,
}

/// The receives that wait, by number, first come first.
#[derive(Default)]
pub(super) struct Receivers {
    pub(super) next: u64,
    pub(super) waiting: VecDeque<u64>,
    /// Receivers with a lower number lost the head to another.
    pub(super) dismissed: u64,
}

/// How long `getWebhooksCount` answers the same.
const COUNT_REFRESH_MS: u64 = 10_000;
/// How long `clearWebhooksQueue` refuses to do it again.
const CLEAR_PAUSE_MS: u64 = 60_000;

impl Instance {
    /// A new instance: authorized, nothing queued, every notification switch off.
    pub(super) fn new(token: SecretString) -> Self {
        Self {
            token,
            knobs: Knobs::default(),
            settings: new_settings(),
            coming: None,
            queue: VecDeque::new(),
            lagging: None,
            last_receipt: 0,
            last_generated: 0,
            pushes: 0,
            receives: 0,
            receivers: Receivers::default(),
            requests: 0,
            faults: Vec::new(),
            rates: Rates::default(),
            journal: Journal::default(),
            history: History::default(),
            count: None,
            cleared_ms: None,
        }
    }

    pub(super) fn accepts(&self, token: &str) -> bool {
        self.token.expose_secret() == token
    }

    pub(super) fn set_token(&mut self, token: SecretString) {
        self.token = token;
    }

    /// Counts a request against the limits, if there are any.
    pub(super) fn allow(&mut self, now_ms: u64, method: Method) -> Option<Allowance> {
        self.knobs.rate_limit.then(|| self.rates.take(now_ms, method, &self.knobs))
    }

    pub(super) fn push(&mut self, now_ms: u64, notification: &Notification) {
        self.pushes += 1;
        let every = self.knobs.duplicate_every;
        let copies = if every > 0 && self.pushes.is_multiple_of(every) { 2 } else { 1 };
        self.history.add(now_ms, &notification.body);
        for _ in 0..copies {
            self.record(now_ms, EventKind::Pushed, None, Some(&notification.sha256));
            let notification = notification.clone();
            self.queue.push_back(Queued { notification, pushed_ms: now_ms, receipt: None, hidden_until_ms: 0 });
        }
    }

    /// Hands out the head and its receipt, as the knobs say.
    pub(super) fn receive(&mut self, now_ms: u64) -> Head {
        self.settle(now_ms);
        if self.knobs.redelivery == Redelivery::Never && self.queue.front().is_some_and(|head| head.receipt.is_some()) {
            self.drop_head(now_ms, EventKind::Lost, None);
        }
        self.lagging.take_if(|(until_ms, ..)| *until_ms <= now_ms);
        if let Some((_, receipt, deleted)) = self.lagging.clone() {
            self.record(now_ms, EventKind::Received, Some(receipt), Some(&deleted.sha256));
            return Head::There(receipt, deleted.body);
        }
        let next_receipt = self.next_receipt();
        let Some(head) = self.queue.front_mut() else { return Head::Nothing { until_ms: None } };
        if self.knobs.redelivery == Redelivery::Hidden && head.hidden_until_ms > now_ms {
            return Head::Nothing { until_ms: Some(head.hidden_until_ms) };
        }
        self.receives += 1;
        let every = self.knobs.false_empty_every;
        if every > 0 && self.receives.is_multiple_of(every) {
            return Head::Withheld;
        }
        head.hidden_until_ms = now_ms.saturating_add(self.knobs.hidden_ms);
        let keeps = self.knobs.receipt_on_redelivery == ReceiptOnRedelivery::Same;
        let receipt = head.receipt.filter(|_| keeps).unwrap_or(next_receipt);
        if receipt == next_receipt {
            self.last_receipt += 1;
        }
        head.receipt = Some(receipt);
        let body = head.notification.body.clone();
        let sha256 = head.notification.sha256.clone();
        self.record(now_ms, EventKind::Received, Some(receipt), Some(&sha256));
        Head::There(receipt, body)
    }

    fn next_receipt(&self) -> u64 {
        let number = self.last_receipt + 1;
        match self.knobs.receipt_ids {
            ReceiptIds::Counter | ReceiptIds::RestartOnReboot => number,
            ReceiptIds::Sparse => number * 1000,
            // Odd, so it goes round all of its 31 bits before it repeats one.
            ReceiptIds::Random => number.wrapping_mul(0x9E37_79B1) % (1 << 31),
            ReceiptIds::Above31Bits => (1 << 31) + number,
            ReceiptIds::Above53Bits => (1 << 53) + number,
        }
    }

    /// Deletes the head if this is its receipt, and says whether it was.
    pub(super) fn delete(&mut self, now_ms: u64, receipt: Option<u64>) -> bool {
        self.settle(now_ms);
        let unreceived = (!self.knobs.delete_requires_receive).then(|| self.next_receipt());
        let handed_out = self.queue.front().and_then(|head| head.receipt.or(unreceived));
        if receipt.is_none() || receipt != handed_out {
            self.record(now_ms, EventKind::DeleteUnknown, receipt, None);
            return false;
        }
        if self.queue.front().is_some_and(|head| head.receipt.is_none()) {
            self.last_receipt += 1;
        }
        if self.knobs.head_stays {
            self.record(now_ms, EventKind::DeleteIgnored, receipt, None);
            return true;
        }
        let (lag_ms, head) = (self.knobs.receive_lag_ms, self.queue.front());
        let lagging = head.zip(receipt).filter(|_| lag_ms > 0);
        self.lagging = lagging.map(|(head, receipt)| (now_ms + lag_ms, receipt, head.notification.clone()));
        self.drop_head(now_ms, EventKind::Deleted, receipt);
        true
    }

    fn drop_head(&mut self, now_ms: u64, why: EventKind, receipt: Option<u64>) {
        if let Some(head) = self.queue.pop_front() {
            self.record(now_ms, why, receipt, Some(&head.notification.sha256));
        }
    }

    /// What the passing of time changes.
    fn settle(&mut self, now_ms: u64) {
        while self.queue.front().is_some_and(|head| now_ms.saturating_sub(head.pushed_ms) >= self.knobs.retention_ms) {
            self.drop_head(now_ms, EventKind::Expired, None);
        }
        if let Some((_, settings)) = self.coming.take_if(|(applies_ms, _)| *applies_ms <= now_ms) {
            self.settings.extend(settings);
        }
    }

    pub(super) fn queued(&self) -> usize {
        self.queue.len()
    }

    /// How many wait, as it was some seconds ago, or as a knob says.
    pub(super) fn webhooks_count(&mut self, now_ms: u64) -> u64 {
        self.settle(now_ms);
        if self.count.is_none_or(|(at_ms, _)| now_ms >= at_ms + COUNT_REFRESH_MS) {
            self.count = Some((now_ms, self.queue.len()));
        }
        let counted = self.count.map_or(0, |(_, count)| count as u64);
        self.knobs.webhooks_count.unwrap_or(counted)
    }

    /// Empties the queue.
    ///
    /// # Errors
    ///
    /// The seconds until it is allowed again.
    pub(super) fn clear(&mut self, now_ms: u64) -> Result<(), u64> {
        let allowed_ms = self.cleared_ms.map_or(0, |at_ms| at_ms + CLEAR_PAUSE_MS);
        if now_ms < allowed_ms {
            return Err((allowed_ms - now_ms).div_ceil(1000));
        }
        self.cleared_ms = Some(now_ms);
        self.queue.clear();
        self.record(now_ms, EventKind::Cleared, None, None);
        Ok(())
    }

    /// Restarts the instance: whether its queue and its receipts survive is a matter of knobs.
    pub(super) fn reboot(&mut self, now_ms: u64) {
        self.record(now_ms, EventKind::Rebooted, None, None);
        if !self.knobs.reboot_keeps_queue {
            self.queue.clear();
        }
        if self.knobs.receipt_ids == ReceiptIds::RestartOnReboot {
            self.last_receipt = 0;
            self.queue.iter_mut().for_each(|queued| queued.receipt = None);
        }
    }

    /// What `getStateInstance` answers.
    pub(super) fn state(&mut self, now_ms: u64) -> &str {
        self.settle(now_ms);
        if self.coming.is_some() { "starting" } else { &self.knobs.state }
    }

    /// The settings as they were last set, applied already or not.
    pub(super) fn settings(&self) -> Settings {
        let coming = self.coming.iter().flat_map(|(_, settings)| settings.clone());
        self.settings.clone().into_iter().chain(coming).collect()
    }

    pub(super) fn change_settings(&mut self, now_ms: u64, changed: Settings) {
        let earlier = self.coming.take().map(|(_, settings)| settings).unwrap_or_default();
        let changed = earlier.into_iter().chain(changed).collect();
        self.coming = Some((now_ms + self.knobs.settings_apply_delay_ms, changed));
        self.settle(now_ms);
        self.record(now_ms, EventKind::Settings, None, None);
    }

    /// Whether notifications are pushed to a webhook, which refuses receive and delete.
    pub(super) fn has_webhook(&mut self, now_ms: u64) -> bool {
        self.settle(now_ms);
        self.settings
            .get("webhookUrl")
            .and_then(|url| serde_json::from_str::<String>(url.get()).ok())
            .is_some_and(|url| !url.is_empty())
    }

    pub(super) fn add_fault(&mut self, fault: Fault) {
        self.faults.push(fault);
    }

    /// Uses up the oldest fault that fits, once.
    pub(super) fn take_fault(&mut self, now_ms: u64, method: Method, when: When) -> Option<FaultKind> {
        let position = self.faults.iter().position(|fault| fault.fits(method, when))?;
        let kind = self.faults[position].kind.clone();
        if self.faults[position].times > 1 {
            self.faults[position].times -= 1;
        } else {
            self.faults.remove(position);
        }
        if kind == FaultKind::Pass {
            return None;
        }
        self.journal.record(Event { method: Some(method), ..Event::of(now_ms, EventKind::Faulted) });
        Some(kind)
    }

    /// Reserves running numbers for generated messages and returns the first of them.
    pub(super) fn reserve_numbers(&mut self, count: u64) -> u64 {
        let first = self.last_generated + 1;
        self.last_generated += count;
        first
    }

    fn record(&mut self, at_ms: u64, event: EventKind, receipt_id: Option<u64>, sha256: Option<&str>) {
        let sha256 = sha256.map(ToOwned::to_owned);
        self.journal.record(Event { receipt_id, sha256, ..Event::of(at_ms, event) });
    }
}

fn new_settings() -> Settings {
    let text = include_str!("settings.json");
    serde_json::from_str(text).expect("settings.json is checked by a test")
}

#[cfg(test)]
#[path = "queue_tests.rs"]
mod tests;
