//! One instance in memory: its queue, settings, faults and journal. No I/O, no clock of its own.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use secrecy::{ExposeSecret, SecretString};
use serde::Serialize;
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

use super::fault::{Fault, FaultKind, Method, When};

/// Settings by name, each value as the JSON text that was sent.
pub(super) type Settings = BTreeMap<String, Box<RawValue>>;

/// One line of an instance's journal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Event {
    /// When it happened, in Unix milliseconds.
    pub at_ms: u64,
    /// What happened.
    pub event: EventKind,
    /// The receipt that was handed out or named by the client. Absent on other events.
    #[serde(rename = "receiptId", skip_serializing_if = "Option::is_none")]
    pub receipt_id: Option<u64>,
    /// Lower-case hexadecimal SHA-256 of the body's bytes: on pushed, received and deleted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// The method whose answer a fault took: on faulted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub method: Option<Method>,
}

/// What a journal line is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum EventKind {
    /// A notification entered the queue.
    Pushed,
    /// The head was handed out, for the first time or again.
    Received,
    /// The head was deleted.
    Deleted,
    /// A delete named a receipt that is not the head's, or was never handed out.
    DeleteUnknown,
    /// `setSettings` changed the settings.
    Settings,
    /// A fault replaced an answer.
    Faulted,
}

/// A notification on its way into a queue, digested before any lock is taken.
pub(super) struct Notification {
    body: Bytes,
    sha256: String,
}

impl Notification {
    pub(super) fn new(body: impl Into<Bytes>) -> Self {
        let body = body.into();
        let sha256 = hexadecimal(&Sha256::digest(&body));
        Self { body, sha256 }
    }
}

struct Queued {
    notification: Notification,
    /// Given at the first receive: what was never received cannot be deleted.
    receipt: Option<u64>,
}

pub(super) struct Instance {
    token: SecretString,
    pub(super) state: String,
    pub(super) delay: Duration,
    settings: Settings,
    queue: VecDeque<Queued>,
    last_receipt: u64,
    last_generated: u64,
    faults: Vec<Fault>,
    journal: Vec<Event>,
}

impl Instance {
    /// A new instance: authorized, nothing queued, every notification switch off.
    pub(super) fn new(token: SecretString) -> Self {
        Self {
            token,
            state: "authorized".to_owned(),
            delay: Duration::ZERO,
            settings: new_settings(),
            queue: VecDeque::new(),
            last_receipt: 0,
            last_generated: 0,
            faults: Vec::new(),
            journal: Vec::new(),
        }
    }

    pub(super) fn accepts(&self, token: &str) -> bool {
        self.token.expose_secret() == token
    }

    pub(super) fn set_token(&mut self, token: SecretString) {
        self.token = token;
    }

    pub(super) fn push(&mut self, now_ms: u64, notification: Notification) {
        self.record(now_ms, EventKind::Pushed, None, Some(&notification.sha256));
        self.queue.push_back(Queued { notification, receipt: None });
    }

    /// Hands out the head and its receipt, the same one until it is deleted.
    pub(super) fn receive(&mut self, now_ms: u64) -> Option<(u64, Bytes)> {
        let head = self.queue.front_mut()?;
        let receipt = *head.receipt.get_or_insert_with(|| {
            self.last_receipt += 1;
            self.last_receipt
        });
        let body = head.notification.body.clone();
        let sha256 = head.notification.sha256.clone();
        self.record(now_ms, EventKind::Received, Some(receipt), Some(&sha256));
        Some((receipt, body))
    }

    /// Deletes the head if this is its receipt, and says whether it was.
    pub(super) fn delete(&mut self, now_ms: u64, receipt: Option<u64>) -> bool {
        let handed_out = self.queue.front().and_then(|head| head.receipt);
        if receipt.is_none() || receipt != handed_out {
            self.record(now_ms, EventKind::DeleteUnknown, receipt, None);
            return false;
        }
        let head = self.queue.pop_front();
        let sha256 = head.map(|head| head.notification.sha256);
        self.record(now_ms, EventKind::Deleted, receipt, sha256.as_deref());
        true
    }

    pub(super) fn queued(&self) -> usize {
        self.queue.len()
    }

    pub(super) fn settings(&self) -> &Settings {
        &self.settings
    }

    pub(super) fn change_settings(&mut self, now_ms: u64, changed: Settings) {
        self.settings.extend(changed);
        self.record(now_ms, EventKind::Settings, None, None);
    }

    /// Whether notifications are pushed to a webhook, which refuses receive and delete.
    pub(super) fn has_webhook(&self) -> bool {
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
        self.record(now_ms, EventKind::Faulted, None, None);
        if let Some(event) = self.journal.last_mut() {
            event.method = Some(method);
        }
        Some(kind)
    }

    pub(super) fn journal(&self) -> &[Event] {
        &self.journal
    }

    /// Reserves running numbers for generated messages and returns the first of them.
    pub(super) fn reserve_numbers(&mut self, count: u64) -> u64 {
        let first = self.last_generated + 1;
        self.last_generated += count;
        first
    }

    fn record(&mut self, at_ms: u64, event: EventKind, receipt_id: Option<u64>, sha256: Option<&str>) {
        let sha256 = sha256.map(ToOwned::to_owned);
        self.journal.push(Event { at_ms, event, receipt_id, sha256, method: None });
    }
}

fn new_settings() -> Settings {
    let text = include_str!("settings.json");
    serde_json::from_str(text).expect("settings.json is checked by a test")
}

fn hexadecimal(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |value: u8| char::from(DIGITS[usize::from(value)]);
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn instance(bodies: &[&'static str]) -> Instance {
        let mut instance = Instance::new(SecretString::from("secret"));
        for body in bodies {
            instance.push(1, Notification::new(*body));
        }
        instance
    }

    #[test]
    fn the_head_keeps_its_receipt_until_it_is_deleted() {
        let mut instance = instance(&["\"first\"", "\"second\""]);
        let first = Some((1, Bytes::from("\"first\"")));
        assert_eq!(instance.receive(2), first);
        assert_eq!(instance.receive(3), first);
        assert!(instance.delete(4, Some(1)));
        assert_eq!(instance.receive(5), Some((2, Bytes::from("\"second\""))));
        assert_eq!(instance.queued(), 1);
    }

    #[test]
    fn what_was_not_received_cannot_be_deleted() {
        let mut instance = instance(&["1", "2"]);
        assert!(!instance.delete(2, Some(1)));
        assert!(!instance.delete(2, None));
        instance.receive(2);
        assert!(!instance.delete(2, Some(2)));
        assert_eq!(instance.queued(), 2);
    }

    #[test]
    fn a_receipt_deletes_once() {
        let mut instance = instance(&["1", "2"]);
        instance.receive(2);
        assert!(instance.delete(3, Some(1)));
        assert!(!instance.delete(4, Some(1)));
        assert_eq!(instance.queued(), 1);
    }

    #[test]
    fn an_empty_queue_hands_out_nothing_and_uses_no_receipt() {
        let mut instance = instance(&[]);
        assert_eq!(instance.receive(1), None);
        assert!(instance.journal().is_empty());
        instance.push(2, Notification::new("1"));
        assert_eq!(instance.receive(3).map(|(receipt, _)| receipt), Some(1));
    }

    #[test]
    fn a_fault_is_used_up_and_spares_other_methods() {
        let mut instance = instance(&[]);
        let mut fault = Fault::before(FaultKind::Reset).on(Method::DeleteNotification);
        fault.times = 2;
        instance.add_fault(fault);
        let mut take = |method, when| instance.take_fault(1, method, when).is_some();
        assert!(!take(Method::ReceiveNotification, When::Before));
        assert!(!take(Method::DeleteNotification, When::After));
        assert!(take(Method::DeleteNotification, When::Before));
        assert!(take(Method::DeleteNotification, When::Before));
        assert!(!take(Method::DeleteNotification, When::Before));
    }

    #[test]
    fn a_new_instance_has_no_webhook_and_every_switch_off() {
        let instance = instance(&[]);
        assert!(!instance.has_webhook());
        let switches: Vec<_> = instance.settings().iter().filter(|(name, _)| name.ends_with("Webhook")).collect();
        assert_eq!(switches.len(), 14);
        for (name, value) in switches {
            assert_eq!(value.get(), "\"no\"", "{name}");
        }
    }

    #[test]
    fn a_webhook_that_is_null_or_empty_is_none() {
        let mut instance = instance(&[]);
        for (value, set) in [("\"https://example.test\"", true), ("null", false), ("\"\"", false)] {
            let changed = serde_json::from_str(&format!("{{\"webhookUrl\":{value}}}")).expect("an object");
            instance.change_settings(1, changed);
            assert_eq!(instance.has_webhook(), set, "{value}");
        }
    }

    #[test]
    fn digests_are_lower_case_hexadecimal() {
        assert_eq!(Notification::new("").sha256, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    }
}
