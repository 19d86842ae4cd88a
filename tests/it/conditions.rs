use std::time::Duration;

use green_api_bridge::emulator::{EventKind, Fault, Method, Redelivery};

use crate::scene::{ID, Scene, answer, numbered, times};
use crate::support::{Worker, event, eventually};

fn entered(name: &str) -> String {
    format!(r#""condition":"{name}","cause""#)
}

fn left(name: &str) -> String {
    format!(r#""event":"condition_cleared","instance":"{ID}","condition":"{name}""#)
}

/// Entered once and left once, as the log tells.
fn assert_once(worker: &Worker, name: &str) {
    worker.wait_for_log(&left(name));
    let log = worker.log();
    assert_eq!((log.matches(&entered(name)).count(), log.matches(&left(name)).count()), (1, 1), "{name}: {log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_condition_of_the_upstream_is_entered_and_left_once() {
    let cases = [
        ("webhook_url_set", 400, "custom webhook url is set"),
        ("token_refused", 401, ""),
        ("wrong_host", 403, "<html>"),
        ("instance_not_authorized", 400, "instance account not authorized"),
        ("instance_expired", 400, "Instance account is expired."),
        ("quota_exceeded", 466, r#"{"invokeStatus":{"status":"QUOTE_EXCEEDED"}}"#),
        ("throttled", 429, ""),
        ("upstream_unavailable", 502, "<html>"),
    ];
    let mut running = Vec::new();
    for (name, status, body) in cases {
        let scene = Scene::new().await;
        scene.fault(times(2, Fault::before(answer(status, body)).on(Method::ReceiveNotification)));
        scene.push(["{}"]);
        running.push((name, scene.start_into_file(), scene));
    }
    for (name, worker, scene) in running {
        scene.drained();
        assert_once(&worker, name);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_that_was_logged_out_before_the_start_is_one_until_it_says_otherwise() {
    let scene = Scene::new().await;
    scene.emulator.turn(ID, |knobs| knobs.state = "notAuthorized".to_owned());
    scene.push(numbered(5).iter().map(String::as_str));
    let worker = scene.start_into_file();
    worker.wait_for_log(r#""cause":"its state is notAuthorized""#);
    scene.drained();
    assert!(!worker.log().contains(&event("condition_cleared")), "{}", worker.log());
    scene.push([r#"{"typeWebhook":"stateInstanceChanged","stateInstance":"authorized"}"#]);
    assert_once(&worker, "instance_not_authorized");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_state_that_is_not_answered_delays_nothing() {
    let scene = Scene::new().await;
    scene.fault(Fault::before(answer(500, "<html>")).on(Method::GetStateInstance));
    scene.push(["1"]);
    let worker = scene.start_into_file();
    scene.drained();
    assert!(!worker.log().contains("WARN"), "{}", worker.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_notification_of_another_instance_is_reported_once_and_published() {
    let scene = Scene::new().await;
    let of = |id: &str, message: u8| format!(r#"{{"instanceData":{{"idInstance":{id}}},"idMessage":"{message}"}}"#);
    scene.push([of(ID, 1), of("1101999999", 2), of("1101999999", 3)].iter().map(String::as_str));
    let worker = scene.start_into_file();
    scene.drained();
    let log = worker.log();
    assert_eq!(log.matches(&event("other_instance")).count(), 1, "{log}");
    assert!(log.contains(&format!(r#""instance":"{ID}","named":"1101999999""#)), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_of_another_form_is_named() {
    for (method, named) in [
        (Method::ReceiveNotification, "the answer is no notification but HTML or XML"),
        (Method::DeleteNotification, "HTTP 200 with an answer that is HTML or XML"),
    ] {
        let scene = Scene::new().await;
        scene.fault(Fault::before(answer(200, "<html>")).on(method));
        scene.push(["1"]);
        let worker = scene.start_into_file();
        scene.drained();
        worker.wait_for_log(named);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_that_says_it_is_logged_out_is_one_until_it_says_otherwise() {
    let scene = Scene::new().await;
    let changed = |state: &str| format!(r#"{{"typeWebhook":"stateInstanceChanged","stateInstance":"{state}"}}"#);
    let mut bodies = vec![changed("authorized"), changed("notAuthorized")];
    // Its queue is served all the same, and that alone proves nothing.
    bodies.extend(numbered(5));
    scene.push(bodies.iter().map(String::as_str));
    let worker = scene.start_into_file();
    worker.wait_for_log(r#""cause":"its state is notAuthorized""#);
    scene.drained();
    assert!(!worker.log().contains(&event("condition_cleared")), "{}", worker.log());
    // What keeps it from answering at all comes first, and does not make it forget.
    scene.fault(times(1, Fault::before(answer(401, "")).on(Method::ReceiveNotification)));
    scene.push([changed("blocked").as_str()]);
    worker.wait_for_log(r#""cause":"its state is blocked""#);
    scene.push([changed("authorized").as_str()]);
    scene.drained();
    let over = left("instance_not_authorized");
    eventually("it is over", || worker.log().matches(&over).count() == 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_that_vanishes_without_our_delete_shows_a_foreign_reader_until_it_stops() {
    let scene = Scene::new().await;
    let bodies = numbered(100);
    // Handed out to another, a head is gone for the one who had it before.
    scene.emulator.turn(ID, |knobs| {
        knobs.redelivery = Redelivery::Never;
        knobs.delay_ms = 60;
    });
    scene.push(bodies.iter().map(String::as_str));
    let worker = scene.start_into_file();
    eventually("the first is received", || scene.count(EventKind::Received) > 0);
    let url = format!("{}/waInstance{ID}/receiveNotification/{}", scene.emulator.url(), crate::scene::TOKEN);
    // What it takes before the bridge has seen it, nobody can miss: once is not enough.
    let thief = async {
        while !worker.log().contains(&entered("foreign_reader")) {
            reqwest::get(&url).await.unwrap();
        }
    };
    tokio::time::timeout(Duration::from_secs(30), thief).await.unwrap();
    scene.emulator.turn(ID, |knobs| knobs.redelivery = Redelivery::Immediate);
    scene.drained();
    assert_once(&worker, "foreign_reader");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_head_puts_the_retention_at_risk_until_a_young_one_follows() {
    let scene = Scene::new().await;
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let hours_old = |hours: u64| format!(r#"{{"timestamp":{}}}"#, now - hours * 3600);
    scene.push([hours_old(19).as_str()]);
    let worker = scene.start_into_file();
    worker.wait_for_log(&entered("retention_at_risk"));
    scene.push([hours_old(17).as_str()]);
    assert_once(&worker, "retention_at_risk");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_queue_is_asked_for_its_count_and_an_error_harms_nobody() {
    let scene = Scene::new().await;
    scene.emulator.turn(ID, |knobs| {
        knobs.receive_timeout_max_secs = 0.2;
        knobs.receive_timeout_min_secs = 0.1;
    });
    scene.fault(Fault::before(answer(500, "")).on(Method::GetWebhooksCount));
    let _worker = scene.start_into_file();
    eventually("the count is asked for", || scene.count(EventKind::Faulted) == 1);
    scene.push(["1"]);
    scene.drained();
    assert_eq!(scene.bodies(), ["1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_count_that_lies_harms_nobody() {
    let scene = Scene::new().await;
    scene.emulator.turn(ID, |knobs| {
        knobs.webhooks_count = Some(5);
        knobs.receive_timeout_max_secs = 0.2;
        knobs.receive_timeout_min_secs = 0.1;
        knobs.false_empty_every = 2;
    });
    scene.push(["1", "2", "3"]);
    let worker = scene.start_into_file();
    scene.drained();
    assert_eq!(scene.bodies(), ["1", "2", "3"]);
    assert!(!worker.log().contains("retention_at_risk"), "{}", worker.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sink_s_own_conditions_are_entered_and_left_once() {
    let scene = Scene::new().await;
    let worker = scene.start("file:later/out.jsonl");
    worker.wait_for_log("sink_unavailable");
    std::fs::create_dir(scene.path("later")).unwrap();
    worker.wait_for_log(&event("condition_cleared"));
    assert_eq!(worker.log().matches("sink_unavailable").count(), 2, "{}", worker.log());
    let second = Worker::start(&mut scene.command("file:later/out.jsonl"), &scene.path("second-log"));
    second.wait_for_log("waiting_for_ownership");
    worker.kill();
    second.wait_for_log(&event("condition_cleared"));
    assert_eq!(second.log().matches("waiting_for_ownership").count(), 2, "{}", second.log());
}

#[cfg(feature = "broker-tests")]
#[tokio::test(flavor = "multi_thread")]
async fn a_dead_letter_is_a_condition_until_the_next_one_is_stored_where_it_belongs() {
    let (scene, name) = (Scene::new().await, format!("test-{}", uuid::Uuid::new_v4().simple()));
    let sink = format!(
        "{{kafka: {{bootstrap_servers: ['{}'], topic: {name}.notifications, ledger_topic: {name}.ledger, \
         dead_letter_topic: {name}.dead, transactional_id: {name}, properties: {{message.max.bytes: 20000}}}}}}",
        crate::support::from_test_run("BRIDGE_TEST_KAFKA")
    );
    let random: String = (0..6_000).map(|_| uuid::Uuid::new_v4().simple().to_string()).collect();
    scene.push([format!("\"{random}\"").as_str()]);
    let worker = scene.start_with("bridge", &sink);
    worker.wait_for_log(&entered("dead_letters"));
    scene.push(["{}"]);
    assert_once(&worker, "dead_letters");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_requests_a_second_are_never_throttled() {
    let scene = Scene::new().await;
    scene.emulator.turn(ID, |knobs| {
        knobs.rate_limit = true;
        knobs.rate_burst = Some(3);
    });
    let bodies = numbered(300);
    scene.push(bodies.iter().map(String::as_str));
    let begun = std::time::Instant::now();
    let worker = scene.start_into_file();
    scene.drained();
    let took = begun.elapsed();
    assert!(took >= Duration::from_secs(3), "{took:?}: faster than allowed");
    assert_eq!(scene.bodies(), bodies);
    assert!(!worker.log().contains("throttled"), "{}", worker.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_429_that_says_how_long_is_obeyed() {
    let scene = Scene::new().await;
    scene.emulator.turn(ID, |knobs| {
        knobs.rate_limit = true;
        knobs.rate_burst = Some(0);
        knobs.retry_after_secs = Some(6);
    });
    scene.push(["{}"]);
    let worker = scene.start_into_file();
    worker.wait_for_log("throttled");
    let begun = std::time::Instant::now();
    scene.emulator.turn(ID, |knobs| knobs.rate_limit = false);
    scene.drained();
    assert!(begun.elapsed() >= Duration::from_secs(5), "{:?}", begun.elapsed());
}
