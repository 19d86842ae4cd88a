use super::*;
use crate::metrics::Metrics;
use crate::notification::Answer;

const HOUR: u64 = 60 * 60;

fn instance() -> InstanceId {
    "1101000001".parse().unwrap()
}

fn new_monitor() -> Monitor {
    Monitor::new(instance(), Metrics::new("test").of_instance(instance()))
}

#[test]
fn what_is_not_seen_for_18_hours_is_at_risk() {
    let mut monitor = new_monitor();
    let is_at_risk = |monitor: &Monitor| monitor.conditions.contains(Condition::RetentionAtRisk);
    monitor.may_wait(0);
    monitor.may_wait(18 * HOUR);
    assert!(!is_at_risk(&monitor));
    monitor.may_wait(18 * HOUR + 1);
    assert!(is_at_risk(&monitor));
    // A count that says 0 and an empty answer are two witnesses; one that says more is none.
    monitor.empty(Some(3));
    assert!(is_at_risk(&monitor));
    monitor.empty(None);
    assert!(is_at_risk(&monitor), "not asked again, so it still says 3");
    monitor.empty(Some(0));
    assert!(!is_at_risk(&monitor));
    monitor.empty(Some(3));
    assert!(!is_at_risk(&monitor), "since just now");
}

#[test]
fn the_state_is_asked_for_at_the_start_and_by_whoever_takes_over() {
    let mut monitor = new_monitor();
    assert_eq!([(); 2].map(|()| monitor.take_state_turn()), [true, false]);
    monitor.not_polled(false);
    assert!(!monitor.take_state_turn(), "an outage of the sink changes no account");
    monitor.not_polled(true);
    assert_eq!([(); 2].map(|()| monitor.take_state_turn()), [true, false], "another bridge served it meanwhile");
}

#[test]
fn a_stand_by_is_not_at_risk_however_long_it_waits() {
    let mut monitor = new_monitor();
    let is_at_risk = |monitor: &Monitor| monitor.conditions.contains(Condition::RetentionAtRisk);
    monitor.may_wait(0);
    monitor.not_polled(true);
    monitor.not_polled(false);
    assert!(!is_at_risk(&monitor), "the clock starts when nobody looks");
    monitor.waiting_since = Some(0);
    monitor.not_polled(false);
    assert!(is_at_risk(&monitor));
    monitor.not_polled(true);
    assert!(!is_at_risk(&monitor));
}

#[test]
fn who_stands_by_is_in_no_condition_and_reports_no_state() {
    let mut monitor = new_monitor();
    let logged_out = r#"{"receiptId":1,"body":{"typeWebhook":"stateInstanceChanged","stateInstance":"blocked"}}"#;
    let head = Answer::read(instance(), &bytes::Bytes::from(logged_out)).head().unwrap();
    monitor.received(&head, Verdict::Publish { marked: false });
    monitor.recovered();
    monitor.conditions.enter(Condition::ForeignReader, &"a test");
    let observed = |monitor: &Monitor| {
        let is_reported = |condition: &Condition| monitor.conditions.contains(*condition);
        (Condition::ALL.iter().filter(|condition| is_reported(condition)).count(), monitor.metrics.state())
    };
    assert_eq!(observed(&monitor), (2, Some(AccountState::Blocked)));
    monitor.not_polled(false);
    assert_eq!(observed(&monitor), (2, Some(AccountState::Blocked)), "nobody else looks");
    monitor.not_polled(true);
    assert_eq!(observed(&monitor), (0, None));
    monitor.recovered();
    assert_eq!(observed(&monitor), (0, None), "what was known is old");
}

#[test]
fn a_head_that_is_gone_when_the_lane_is_opened_again_was_deleted_by_another_owner() {
    let head = |receipt: u8| {
        let envelope = format!(r#"{{"receiptId":{receipt},"body":{{"n":{receipt}}}}}"#);
        Answer::read(instance(), &bytes::Bytes::from(envelope)).head().unwrap()
    };
    for (ends, is_foreign) in [(true, false), (false, true)] {
        let mut monitor = new_monitor();
        monitor.received(&head(1), Verdict::Publish { marked: false });
        if ends {
            monitor.lane_ended();
        }
        monitor.received(&head(2), Verdict::Publish { marked: false });
        assert_eq!(monitor.conditions.contains(Condition::ForeignReader), is_foreign);
    }
}

#[test]
fn a_head_that_cannot_be_deleted_is_tried_less_and_less_often() {
    let head = |body: &str| {
        let envelope = bytes::Bytes::from(format!(r#"{{"receiptId":1,"body":{body}}}"#));
        Answer::read(instance(), &envelope).head().unwrap()
    };
    let stuck = head(r#"{"typeWebhook":"stateInstanceChanged","stateInstance":"blocked"}"#);
    let ends: [fn(&mut Monitor); 2] =
        [|monitor| monitor.deleted(Some(Deleted::Unconfirmed), false), |monitor| monitor.deleted(None, true)];
    for ended in ends {
        let mut monitor = new_monitor();
        let mut pauses = Vec::new();
        for _ in 0..9 {
            monitor.received(&stuck, Verdict::DeleteOnly { was_confirmed: false });
            ended(&mut monitor);
            pauses.push(monitor.pause().as_secs());
        }
        assert!(pauses[0] < 2 && pauses[8] == 60, "{pauses:?}");
        monitor.received(&head("{}"), Verdict::Publish { marked: false });
        assert!(monitor.pause().as_secs() < 2, "the queue moves on");
    }
}

#[test]
fn an_idle_queue_is_asked_for_its_count_now_and_then() {
    let mut monitor = new_monitor();
    assert_eq!([monitor.take_count_turn(), monitor.take_count_turn()], [true, false]);
}
