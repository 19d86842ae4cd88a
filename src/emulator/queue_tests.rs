use super::*;

fn instance(bodies: &[&'static str]) -> Instance {
    let mut instance = Instance::new(SecretString::from("secret"));
    for body in bodies {
        instance.push(1, &Notification::new(*body));
    }
    instance
}

fn receive(instance: &mut Instance, now_ms: u64) -> Option<(u64, String)> {
    match instance.receive(now_ms) {
        Head::There(receipt, body) => Some((receipt, String::from_utf8(body.into()).expect("text"))),
        Head::Nothing { .. } | Head::Withheld => None,
    }
}

fn receipts(instance: &mut Instance, times: usize) -> Vec<u64> {
    (0..times).filter_map(|_| receive(instance, 1)).map(|(receipt, _)| receipt).collect()
}

#[test]
fn receipts_are_numbered_as_the_knob_says() {
    let numbers = |knob| {
        let mut instance = instance(&["1", "2"]);
        instance.knobs.receipt_ids = knob;
        let (first, _) = receive(&mut instance, 1).expect("a head");
        assert!(instance.delete(1, Some(first)));
        (first, receive(&mut instance, 1).expect("a head").0)
    };
    assert_eq!(numbers(ReceiptIds::Counter), (1, 2));
    assert_eq!(numbers(ReceiptIds::Sparse), (1_000, 2_000));
    assert_eq!(numbers(ReceiptIds::Above31Bits), ((1 << 31) + 1, (1 << 31) + 2));
    assert_eq!(numbers(ReceiptIds::Above53Bits), ((1 << 53) + 1, (1 << 53) + 2));
    let (first, second) = numbers(ReceiptIds::Random);
    assert!(first != second && first > 0);
}

#[test]
fn a_new_receipt_on_redelivery_makes_the_old_one_worthless() {
    let mut instance = instance(&["1"]);
    instance.knobs.receipt_on_redelivery = ReceiptOnRedelivery::New;
    assert_eq!(receipts(&mut instance, 3), [1, 2, 3]);
    assert!(!instance.delete(1, Some(2)));
    assert!(instance.delete(1, Some(3)));
}

#[test]
fn a_reboot_restarts_receipts_and_drops_the_queue_if_configured_to() {
    let mut instance = instance(&["1", "2"]);
    instance.knobs.receipt_ids = ReceiptIds::RestartOnReboot;
    assert_eq!(receipts(&mut instance, 1), [1]);
    assert!(instance.delete(1, Some(1)));
    assert_eq!(receipts(&mut instance, 1), [2]);
    instance.reboot(2);
    assert!(!instance.delete(2, Some(2)));
    assert_eq!(receipts(&mut instance, 1), [1]);
    instance.knobs.reboot_keeps_queue = false;
    instance.reboot(3);
    assert_eq!(instance.queued(), 0);
}

#[test]
fn what_is_older_than_the_retention_expires_also_between_receive_and_delete() {
    let mut instance = instance(&["1"]);
    instance.knobs.retention_ms = 100;
    assert_eq!(receipts(&mut instance, 1), [1]);
    assert!(!instance.delete(101, Some(1)));
    let events: Vec<_> = instance.journal.lines().iter().map(|event| event.event).collect();
    assert_eq!(events[2..], [EventKind::Expired, EventKind::DeleteUnknown]);
}

#[test]
fn redelivery_can_be_delayed_or_never_happen() {
    let mut hidden = instance(&["1", "2"]);
    hidden.knobs.redelivery = Redelivery::Hidden;
    hidden.knobs.hidden_ms = 100;
    assert!(receive(&mut hidden, 1).is_some());
    assert!(matches!(hidden.receive(100), Head::Nothing { until_ms: Some(101) }));
    assert_eq!(receive(&mut hidden, 101), Some((1, "1".to_owned())));
    let mut once = instance(&["1", "2"]);
    once.knobs.redelivery = Redelivery::Never;
    assert_eq!([receive(&mut once, 1), receive(&mut once, 1)], [Some((1, "1".into())), Some((2, "2".into()))]);
    assert!(!once.delete(1, Some(1)));
    assert!(once.delete(1, Some(2)));
}

#[test]
fn duplicates_and_false_empties_come_as_often_as_configured() {
    let mut instance = instance(&[]);
    instance.knobs.duplicate_every = 2;
    (1..=4).for_each(|number| instance.push(1, &Notification::new(number.to_string())));
    assert_eq!(instance.queued(), 6);
    instance.knobs.false_empty_every = 2;
    assert_eq!(receipts(&mut instance, 6), [1, 1, 1]);
}

#[test]
fn unreceived_ones_can_be_deleted_where_that_is_allowed() {
    let mut instance = instance(&["1", "2"]);
    instance.knobs.delete_requires_receive = false;
    assert!(instance.delete(1, Some(1)));
    assert!(!instance.delete(1, Some(1)));
    assert_eq!(receipts(&mut instance, 1), [2]);
}

#[test]
fn the_count_is_refreshed_every_10_seconds_and_may_lie() {
    let mut instance = instance(&["1"]);
    assert_eq!(instance.webhooks_count(1), 1);
    instance.push(2, &Notification::new("2"));
    assert_eq!([instance.webhooks_count(10_000), instance.webhooks_count(10_001)], [1, 2]);
    instance.knobs.webhooks_count = Some(0);
    assert_eq!(instance.webhooks_count(10_001), 0);
}

#[test]
fn the_queue_is_cleared_once_a_minute() {
    let mut instance = instance(&["1"]);
    assert_eq!(instance.clear(1_000), Ok(()));
    assert_eq!((instance.queued(), instance.clear(15_000), instance.clear(61_000)), (0, Err(46), Ok(())));
}

#[test]
fn settings_apply_after_a_delay_and_the_state_says_so() {
    let mut instance = instance(&[]);
    instance.knobs.settings_apply_delay_ms = 100;
    let webhook = serde_json::from_str(r#"{"webhookUrl":"https://example.test"}"#).expect("an object");
    instance.change_settings(1, webhook);
    assert_eq!(instance.state(100), "starting");
    assert!(!instance.has_webhook(100));
    assert!(instance.has_webhook(101));
    assert_eq!(instance.state(101), "authorized");
}

#[test]
fn the_head_keeps_its_receipt_until_it_is_deleted() {
    let mut instance = instance(&["\"first\"", "\"second\""]);
    let first = Some((1, "\"first\"".to_owned()));
    assert_eq!(receive(&mut instance, 2), first);
    assert_eq!(receive(&mut instance, 3), first);
    assert!(instance.delete(4, Some(1)));
    assert_eq!(receive(&mut instance, 5), Some((2, "\"second\"".to_owned())));
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
    assert_eq!(receive(&mut instance, 1), None);
    assert!(instance.journal.lines().is_empty());
    instance.push(2, &Notification::new("1"));
    assert_eq!(receive(&mut instance, 3).map(|(receipt, _)| receipt), Some(1));
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
    let mut instance = instance(&[]);
    assert!(!instance.has_webhook(1));
    let switches: Vec<_> = instance.settings().into_iter().filter(|(name, _)| name.ends_with("Webhook")).collect();
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
        assert_eq!(instance.has_webhook(1), set, "{value}");
    }
}

#[test]
fn digests_are_lower_case_hexadecimal() {
    assert_eq!(Notification::new("").sha256, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
}
