use std::time::{Duration, Instant};

use green_api_bridge::emulator::{EventKind, Fault, Method};
use serde_json::Value;

use crate::scene::{ID, Scene, answer, times};
use crate::support::{event, eventually};

/// Attributes of the lines of the file sink, and their data, decoded.
fn lines(scene: &Scene) -> Vec<(Value, Vec<u8>)> {
    use base64::Engine;
    let text = std::fs::read_to_string(scene.path("out.jsonl")).unwrap_or_default();
    let line = |line: &str| {
        let value: Value = serde_json::from_str(line).expect("JSON");
        let data = match value["data_base64"].as_str() {
            Some(data) => base64::engine::general_purpose::STANDARD.decode(data).unwrap(),
            None => value["data"].to_string().into_bytes(),
        };
        (value, data)
    };
    text.lines().map(line).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_is_no_json_becomes_a_dead_letter_and_stops_nothing() {
    let scene = Scene::new().await;
    let odd: [&[u8]; 5] =
        [b"NaN", b"{\"text\":\"\xe2\x82\"}", b"{\"text\":\"a\nb\"}", b"\xef\xbb\xbf{}", b"{\"a\":1,}"];
    scene.push([r#"{"idMessage":"first"}"#]);
    for body in odd {
        scene.emulator.push(ID, body);
    }
    scene.push([r#"{"idMessage":"last"}"#]);
    let worker = scene.start_into_file();
    scene.drained();
    let lines = lines(&scene);
    assert_eq!(lines.len(), 7);
    for (index, (line, data)) in lines.iter().enumerate() {
        assert_eq!(line["sequence"], format!("{:020}", index + 1));
        let is_odd = (1..=5).contains(&index);
        assert_eq!(line["deadletterreason"].as_str(), is_odd.then_some("malformed"), "{line}");
        assert_eq!(line["originaldestination"].as_str(), is_odd.then_some("out.jsonl"), "{line}");
        let content_type = if is_odd { "application/octet-stream" } else { "application/json" };
        assert_eq!(line["datacontenttype"], content_type);
        if is_odd {
            assert_eq!(data, odd[index - 1]);
        }
    }
    assert!(worker.log().contains(r#""reason":"malformed""#), "{}", worker.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_envelope_is_read_however_it_is_written() {
    let body = r#"{"idMessage":"whole"}"#;
    for envelope in [
        format!(r#"{{"receiptId":"1","body":{body}}}"#),
        format!(r#"{{"receiptId":1.0,"body":{body}}}"#),
        format!(r#"{{"receiptId":9,"receiptId":1,"body":{body}}}"#),
        format!("\u{feff}{{\"body\":{body},\"receiptId\":1}}"),
        format!("{{\"receiptId\":1,\"body\":{body}}}\0\0\n"),
        format!(r#"{{"receipt\u0049d":1,"body":{body},"more":[{{}}]}}"#),
    ] {
        let scene = Scene::new().await;
        scene.push([body]);
        scene.fault(Fault::after(answer(200, &envelope)).on(Method::ReceiveNotification));
        let worker = scene.start_into_file();
        scene.drained();
        assert_eq!(scene.bodies(), [body], "{envelope}");
        // And not by another receive.
        assert_eq!(scene.count(EventKind::Faulted), 1, "{envelope}");
        assert!(!worker.log().contains("upstream_unavailable"), "{envelope}: {}", worker.log());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_ends_early_is_received_again() {
    let scene = Scene::new().await;
    scene.push([r#"{"idMessage":"whole"}"#]);
    for cut in [r#"{"receiptId":1,"body":{"idMess"#, r#"{"receiptId":1,"body":{"idMessage":"who"#, r#"{"receiptId":1,"#]
    {
        scene.fault(Fault::after(answer(200, cut)).on(Method::ReceiveNotification));
    }
    let worker = scene.start_into_file();
    scene.drained();
    assert_eq!(scene.bodies(), [r#"{"idMessage":"whole"}"#]);
    assert!(!worker.log().contains(&event("dead_letter")), "{}", worker.log());
    assert!(worker.log().contains("upstream_unavailable") && !worker.log().contains("idMess"), "{}", worker.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_without_a_body_becomes_a_dead_letter_after_a_minute() {
    let scene = Scene::new().await;
    scene.push(["{}"]);
    scene.fault(times(1_000, Fault::after(answer(200, r#"{"receiptId":1}"#)).on(Method::ReceiveNotification)));
    let begun = Instant::now();
    let _worker = scene.start_into_file();
    // The pauses grow up to a minute.
    while scene.count(EventKind::Deleted) == 0 {
        assert!(begun.elapsed() < Duration::from_secs(200), "it is stuck");
        assert!(scene.lines().is_empty() || begun.elapsed() > Duration::from_secs(60), "too early");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let (line, data) = lines(&scene).remove(0);
    assert_eq!((line["deadletterreason"].as_str(), &data[..]), (Some("malformed"), &br#"{"receiptId":}"#[..]));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_notification_is_reported_with_its_digest_and_never_its_text() {
    let scene = Scene::new().await;
    scene.push(["{}"]);
    let canary = "m3ssage-canary";
    for odd in [format!("<html>{canary}"), format!(r#"{{"body":"{canary}"}}"#), format!("[\"{canary}\"]")] {
        scene.fault(Fault::after(answer(200, &odd)).on(Method::ReceiveNotification));
    }
    let worker = scene.start_into_file();
    worker.wait_for_log("unreadable_answer");
    scene.drained();
    eventually("it is entered and left", || worker.log().matches(r#""condition":"unreadable_answer""#).count() == 2);
    let log = worker.log();
    assert_eq!(scene.bodies(), ["{}"]);
    assert!(log.contains("SHA-256 ") && !log.contains(canary), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_notification_over_64_mib_is_never_deleted() {
    let scene = Scene::new().await;
    scene.emulator.push(ID, format!(r#"{{"text":"{}"}}"#, "x".repeat(65 << 20)));
    let worker = scene.start_into_file();
    worker.wait_for_log(r#""condition":"unreadable_answer""#);
    assert!(worker.log().contains("larger than 64 MiB"), "{}", worker.log());
    eventually("it is received again", || scene.count(EventKind::Received) > 1);
    assert_eq!((scene.count(EventKind::Deleted), scene.count(EventKind::DeleteUnknown)), (0, 0));
}
