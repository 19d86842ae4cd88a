use super::*;

#[tokio::test]
async fn the_journal_lists_everything_in_order() {
    let session = Session::start().await;
    session.emulator.push(ID, "{}");
    session.set_settings(r#"{"incomingWebhook":"yes"}"#).await;
    session.delete("7").await;
    session.receive().await;
    session.receive().await;
    session.emulator.fault(ID, Fault::after(answer_500()));
    session.delete("1").await;

    let digest = "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a";
    let journal = session.control("GET", "journal", "").await.json();
    let mut untimed = journal.as_array().expect("an array").clone();
    let mut times = Vec::new();
    for event in &mut untimed {
        times.push(
            event.as_object_mut().expect("an object").remove("at_ms").and_then(|at| at.as_u64()).expect("a time"),
        );
    }
    assert!(times.is_sorted());
    assert_eq!(
        Value::from(untimed),
        json!([
            {"event": "pushed", "sha256": digest},
            {"event": "settings"},
            {"event": "delete_unknown", "receiptId": 7},
            {"event": "received", "receiptId": 1, "sha256": digest},
            {"event": "received", "receiptId": 1, "sha256": digest},
            {"event": "deleted", "receiptId": 1, "sha256": digest},
            {"event": "faulted", "method": "deleteNotification"},
        ])
    );
    let same = serde_json::to_value(session.emulator.journal(ID)).expect("JSON");
    assert_eq!(same, journal);
}

#[tokio::test]
async fn the_overview_shows_depth_state_and_settings() {
    let session = Session::start().await;
    session.emulator.push(ID, "{}");
    let answer = session.call("GET", &format!("/_emulator/{ID}"), "").await;
    let settings = session.get("getSettings").await.json();
    assert_eq!(answer.json(), json!({"queued": 1, "state": "authorized", "settings": settings}));
    assert!(!answer.text.contains(TOKEN));
}

#[tokio::test]
async fn generated_messages_have_running_numbers_and_several_chats() {
    let session = Session::start().await;
    assert_eq!(session.control("POST", "generate", r#"{"count":7}"#).await.text, r#"{"queued":7}"#);
    session.control("POST", "generate", r#"{"count":3,"per_second":1000}"#).await;
    let mut chats = std::collections::BTreeSet::new();
    for number in 1..=10 {
        // Those that come at a rate wake the receive.
        let notification = session.receive().await.json();
        let body = &notification["body"];
        assert_eq!(body["idMessage"], format!("EMULATOR{number:024}"));
        assert_eq!(body["messageData"]["textMessageData"]["textMessage"], format!("Message {number}"));
        assert_eq!(body["instanceData"]["idInstance"], 1_101_000_001);
        chats.insert(body["senderData"]["chatId"].to_string());
        session.delete(&notification["receiptId"].to_string()).await;
    }
    assert_eq!(chats.len(), 5);
    assert_eq!(session.emulator.queued(ID), 0);
}

#[tokio::test]
async fn a_rate_spreads_generated_messages_over_time() {
    let session = Session::start().await;
    let answer = session.control("POST", "generate", r#"{"count":5,"per_second":5}"#).await;
    assert!(answer.json()["queued"].as_u64() <= Some(1), "{}", answer.text);
    let begin = Instant::now();
    while session.emulator.queued(ID) < 5 {
        assert!(begin.elapsed() < PATIENCE);
        tokio::task::yield_now().await;
    }
    let journal = session.emulator.journal(ID);
    let spread = journal[4].at_ms - journal[0].at_ms;
    assert!(spread >= 400, "{spread} ms");
}

/// Each body is refused with 400 and a text that holds the reason.
async fn assert_refused(session: &Session, verb: &str, endpoint: &str, cases: &[(&str, &str)]) {
    for (body, reason) in cases {
        let answer = session.control(verb, endpoint, body).await;
        assert_eq!((answer.status, answer.content_type.as_str()), (400, JSON), "{body}");
        let error = answer.json()["error"].as_str().expect("a text").to_owned();
        assert!(error.contains(reason), "{body}: {error}");
    }
    // A refused request changes nothing.
    assert_eq!(session.get("getStateInstance").await.text, r#"{"stateInstance":"authorized"}"#);
    assert!(session.events().is_empty());
}

#[tokio::test]
async fn a_notification_that_is_not_json_is_refused() {
    let session = Session::start().await;
    let cases =
        [("{not json", "not JSON: key must be a string"), ("", "not JSON: EOF"), ("{} {}", "trailing characters")];
    assert_refused(&session, "POST", "notifications", &cases).await;
}

#[tokio::test]
async fn a_generator_that_makes_no_sense_is_refused() {
    let session = Session::start().await;
    let cases = [
        (r#"{"per_second":1}"#, "missing field `count`"),
        (r#"{"count":1000001}"#, "at most 1000000"),
        (r#"{"count":1,"per_second":0}"#, "`per_second` must be"),
    ];
    assert_refused(&session, "POST", "generate", &cases).await;
}

#[tokio::test]
async fn a_fault_that_cannot_be_carried_out_is_refused() {
    let session = Session::start().await;
    let cases = [
        (r#"{"kind":"reset"}"#, "missing field `when`"),
        (
            r#"{"when":"before","kind":"explode"}"#,
            "expected one of `answer`, `reset`, `hang`, `truncate`, `slow`, `pass`",
        ),
        (r#"{"when":"before","kind":"reset","method":"sendMessage"}"#, "expected one of `receiveNotification`"),
        (r#"{"when":"before","kind":"reset","times":0}"#, "`times` must be at least 1"),
        (r#"{"when":"before","kind":{"answer":{"status":99}}}"#, "`status` must be 200 to 599"),
        (r#"{"when":"before","kind":{"answer":{"status":500,"content_type":"\n"}}}"#, "`content_type`"),
    ];
    assert_refused(&session, "POST", "faults", &cases).await;
}

#[tokio::test]
async fn an_unknown_or_impossible_knob_is_refused() {
    let session = Session::start().await;
    let cases = [
        (r#"{"deley_ms":5}"#, "unknown field `deley_ms`, expected one of `delay_ms`, `state`"),
        (r#"{"delay_ms":5,"redelivery":"sometimes"}"#, "expected one of `immediate`, `hidden`, `never`"),
        (r#"{"state":"x","token":"a/b"}"#, "`token` must be"),
    ];
    assert_refused(&session, "PATCH", "knobs", &cases).await;
}

#[tokio::test]
async fn a_control_call_to_nowhere_says_where_to_look() {
    let session = Session::start().await;
    for (verb, endpoint, status) in [("POST", "knobs", 405), ("GET", "nothing", 404)] {
        let answer = session.control(verb, endpoint, "{}").await;
        assert_eq!((answer.status, answer.content_type.as_str()), (status, JSON), "{endpoint}");
        assert!(answer.text.contains("GET /_emulator/"), "{}", answer.text);
    }
    let answer = session.call("POST", "/_emulator/999/notifications", "{}").await;
    assert_eq!(answer.status, 404);
    assert_eq!(answer.json()["error"], format!("there is no instance 999; the emulator has {ID}"));
}

#[tokio::test]
async fn a_notification_may_have_64_mebibytes_and_no_more() {
    let session = Session::start().await;
    let largest = format!("\"{}\"", "x".repeat(64 * 1024 * 1024 - 2));
    assert_eq!(session.control("POST", "notifications", &largest).await.status, 200);
    let answer = session.control("POST", "notifications", &format!("{largest} ")).await;
    assert_eq!(answer.status, 413);
    assert!(answer.text.contains("67108864 bytes"), "{}", answer.text);
    assert_eq!(session.emulator.queued(ID), 1);
}

#[tokio::test]
async fn the_help_page_names_every_endpoint() {
    let session = Session::start().await;
    for path in ["/_emulator/", "/_emulator"] {
        let answer = session.call("GET", path, "").await;
        assert_eq!((answer.status, answer.content_type.as_str()), (200, "text/plain; charset=utf-8"));
        for endpoint in ["notifications", "generate", "journal", "faults", "knobs"] {
            assert!(answer.text.contains(&format!("/_emulator/{{id}}/{endpoint}")), "{endpoint}");
        }
    }
}
