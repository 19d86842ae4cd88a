use super::*;

impl Session {
    async fn turn(&self, knobs: &str) {
        assert_eq!(self.control("PATCH", "knobs", knobs).await.status, 200, "{knobs}");
    }

    /// A receive of an empty queue that does not wait.
    async fn receive_nothing(&self) -> Answer {
        self.turn(r#"{"receive_timeout_default_secs":0,"receive_timeout_min_secs":0}"#).await;
        self.receive().await
    }
}

#[tokio::test]
async fn knobs_are_shown_and_those_that_are_not_named_stay() {
    let session = Session::start().await;
    session.turn(r#"{"hidden_ms":7}"#).await;
    let shown = session.control("PATCH", "knobs", r#"{"rate_burst":3}"#).await.json();
    assert_eq!(
        (&shown["hidden_ms"], &shown["rate_burst"], &shown["redelivery"]),
        (&json!(7), &json!(3), &json!("immediate"))
    );
    assert_eq!(session.control("GET", "knobs", "").await.json(), shown);
}

#[tokio::test]
async fn an_empty_queue_answers_in_the_form_of_the_knob() {
    let session = Session::start().await;
    for (form, status, text) in [("null", 200, "null"), ("empty", 200, ""), ("{}", 200, "{}"), ("408", 408, "")] {
        session.turn(&json!({"empty_answer": form}).to_string()).await;
        let answer = session.receive_nothing().await;
        assert_eq!((answer.status, answer.text.as_str()), (status, text), "{form}");
    }
    session.turn(r#"{"empty_answer":"504"}"#).await;
    let answer = session.receive_nothing().await;
    assert_eq!((answer.status, answer.content_type.as_str()), (504, "text/html"));
}

#[tokio::test]
async fn a_wait_out_of_range_is_refused_where_the_knob_says_so() {
    let session = Session::start().await;
    session.turn(r#"{"receive_timeout_out_of_range":"reject400"}"#).await;
    let path = format!("{}?receiveTimeout=2", receive_path());
    assert_eq!(session.call("GET", &path, "").await.status, 400);
}

#[tokio::test]
async fn a_delete_of_nothing_is_answered_in_the_form_of_the_knob() {
    let session = Session::start().await;
    session.turn(r#"{"delete_unknown":"500_findUnAcked"}"#).await;
    let answer = session.delete("1").await;
    assert!(answer.status == 500 && answer.text.contains("findUnAckedMessage"), "{}", answer.text);
}

#[tokio::test]
async fn a_400_has_the_form_of_the_knob() {
    let session = Session::start().await;
    let message = "Parameter receiptId must be a Number";
    for (form, text) in [
        ("code", format!(r#"{{"code":"INVALID_PARAM","message":"{message}","status":"error"}}"#)),
        ("text", message.to_owned()),
        ("empty", String::new()),
    ] {
        session.turn(&json!({"error_body_format": form}).to_string()).await;
        assert_eq!(session.delete("x").await.text, text);
    }
}

#[tokio::test]
async fn rates_are_limited_before_the_token_is_checked_and_headers_say_so() {
    let session = Session::start().await;
    session.turn(r#"{"rate_limit":true,"rate_burst":2}"#).await;
    let url = |token: &str| format!("{}/waInstance{ID}/getStateInstance/{token}", session.emulator.url());
    let mut seen = Vec::new();
    for token in ["wrong", TOKEN, TOKEN] {
        let answer = session.client.get(url(token)).send().await.expect("an answer");
        let header = |name: &str| answer.headers().get(name).map(|value| value.to_str().expect("ASCII").to_owned());
        assert_eq!(header("x-ratelimit-replenish-rate").as_deref(), Some("1"));
        assert_eq!(header("retry-after"), None);
        seen.push((answer.status().as_u16(), header("x-ratelimit-remaining").expect("a header")));
    }
    assert_eq!(seen, [(401, "1".to_owned()), (200, "0".to_owned()), (429, "0".to_owned())]);
    session.turn(r#"{"retry_after_secs":7}"#).await;
    let answer = session.client.get(url(TOKEN)).send().await.expect("an answer");
    assert_eq!((answer.status().as_u16(), answer.headers()["retry-after"].to_str().expect("ASCII")), (429, "7"));
    assert_eq!(answer.text().await.expect("a body"), "");
    // Another method has a limit of its own, and a second of the emulated clock refills this one.
    assert_eq!(session.get("getSettings").await.status, 200);
    session.call("POST", "/_emulator/clock", r#"{"advance_ms":1000}"#).await;
    assert_eq!(session.get("getStateInstance").await.status, 200);
}

#[tokio::test]
async fn the_clock_can_be_advanced_past_the_retention() {
    let session = Session::start().await;
    session.emulator.push(ID, "1");
    session.receive().await;
    session.call("POST", "/_emulator/clock", r#"{"advance_ms":86400000}"#).await;
    assert_eq!(session.delete("1").await.json()["result"], false);
    assert_eq!(session.events()[2..], [EventKind::Expired, EventKind::DeleteUnknown]);
}

#[tokio::test]
async fn the_count_the_clearing_and_the_reboot_answer_as_documented() {
    let session = Session::start().await;
    session.emulator.push(ID, "1");
    assert_eq!(session.get("getWebhooksCount").await.text, r#"{"count":1}"#);
    let clear = format!("/waInstance{ID}/clearWebhooksQueue/{TOKEN}");
    assert_eq!(session.call("DELETE", &clear, "").await.text, r#"{"isCleared":true,"reason":""}"#);
    let again = session.call("DELETE", &clear, "").await.json();
    assert_eq!((&again["isCleared"], &again["reason"]), (&json!(false), &json!("Too many requests")));
    assert!(again["leftTime"].as_u64().is_some_and(|left| (1..=60).contains(&left)), "{again}");
    assert_eq!(session.get("reboot").await.text, r#"{"isReboot":true}"#);
    assert_eq!(session.events()[1..], [EventKind::Cleared, EventKind::Rebooted]);
}

#[tokio::test]
async fn journals_hold_messages_only_newest_first_in_a_schema_of_their_own() {
    let session = Session::start().await;
    emulator::notifications().for_each(|body| session.emulator.push(ID, body));
    session.control("POST", "generate", r#"{"count":2}"#).await;
    let incoming = session.get("lastIncomingMessages").await.json();
    let newest = &incoming[0];
    assert_eq!((&newest["type"], &newest["textMessage"]), (&json!("incoming"), &json!("Message 2")));
    assert_eq!(newest["senderId"], newest["chatId"]);
    assert!(incoming.as_array().expect("an array").len() > 20);
    let outgoing = session.get("lastOutgoingMessages").await.json();
    assert!(outgoing.as_array().expect("an array").iter().all(|message| message["type"] == "outgoing"));
    session.call("POST", "/_emulator/clock", r#"{"advance_ms":120000}"#).await;
    let path = format!("/waInstance{ID}/lastIncomingMessages/{TOKEN}?minutes=1");
    assert_eq!(session.call("GET", &path, "").await.text, "[]");
}

#[tokio::test]
async fn only_the_first_of_several_receivers_gets_the_head_where_the_knob_says_so() {
    let session = Session::start().await;
    session.turn(r#"{"concurrent_receivers":"one_gets_head_others_null"}"#).await;
    let mut polls = [session.raw("GET", &receive_path()).await, session.raw("GET", &receive_path()).await];
    for poll in &mut polls {
        assert_silent(poll).await;
    }
    session.emulator.push(ID, "{}");
    let mut bodies = Vec::new();
    for poll in polls {
        let (answer, _) = rest_of(poll).await;
        bodies.push(String::from_utf8(answer).expect("text").rsplit("\r\n").next().expect("a body").to_owned());
    }
    assert_eq!(bodies, [r#"{"receiptId":1,"body":{}}"#, "null"]);
}

#[tokio::test]
async fn an_unauthorized_instance_is_refused_where_the_knob_says_so() {
    let session = Session::start().await;
    session.emulator.push(ID, "{}");
    session.turn(r#"{"state":"notAuthorized"}"#).await;
    assert_eq!(session.receive().await.status, 200);
    session.turn(r#"{"receive_when_not_authorized":"400"}"#).await;
    let answer = session.receive().await;
    assert!(answer.status == 400 && answer.text.contains("not authorized"), "{}", answer.text);
}

#[tokio::test]
async fn a_stale_server_answers_with_the_head_of_the_moment_a_receive_arrived() {
    let session = Session::start().await;
    session.emulator.push(ID, "1");
    session.emulator.push(ID, "2");
    session.receive().await;
    session.turn(r#"{"stale_heads":true,"delay_ms":400}"#).await;
    let mut early = session.raw("GET", &receive_path()).await;
    assert_silent(&mut early).await;
    session.turn(r#"{"delay_ms":0}"#).await;
    assert_eq!(session.delete("1").await.json()["result"], true);
    let (answer, _) = rest_of(early).await;
    assert!(String::from_utf8(answer).expect("text").ends_with(r#"{"receiptId":1,"body":1}"#));
}

#[tokio::test]
async fn an_answer_can_be_cut_in_half_or_slowed_down() {
    let session = Session::start().await;
    session.emulator.push(ID, "\"long enough to be cut\"");
    let path = receive_path();
    session.emulator.fault(ID, Fault::after(FaultKind::Truncate));
    assert!(session.send("GET", &path, "").await.is_err());
    let begin = Instant::now();
    session.emulator.fault(ID, Fault::after(FaultKind::Slow(300)));
    assert_eq!(session.receive().await.text, r#"{"receiptId":1,"body":"long enough to be cut"}"#);
    assert!(begin.elapsed() >= Duration::from_millis(300));
    session.emulator.fault(ID, Fault::before(FaultKind::Pass));
    session.emulator.fault(ID, Fault::before(answer_500()));
    assert_eq!([session.receive().await.status, session.receive().await.status], [200, 500]);
}
