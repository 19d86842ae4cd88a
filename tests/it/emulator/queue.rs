use super::*;

#[tokio::test]
async fn a_head_stays_until_it_is_deleted() {
    let session = Session::start().await;
    session.emulator.push(ID, r#"{"n":1}"#);
    session.emulator.push(ID, r#"{"n":2}"#);

    for _ in 0..3 {
        let answer = session.receive().await;
        assert_eq!((answer.status, answer.content_type.as_str()), (200, JSON));
        assert_eq!(answer.text, r#"{"receiptId":1,"body":{"n":1}}"#);
    }
    assert_eq!(session.emulator.queued(ID), 2);
    assert_eq!(session.delete("1").await.text, r#"{"result":true,"reason":""}"#);
    assert_eq!(session.receive().await.text, r#"{"receiptId":2,"body":{"n":2}}"#);
    assert_eq!(session.emulator.queued(ID), 1);
}

#[tokio::test]
async fn an_empty_queue_answers_null_when_the_wait_is_over() {
    let session = Session::start().await;
    let begin = Instant::now();
    // Below the least wait of 5 seconds, so that is what it takes.
    let path = format!("{}?receiveTimeout=1", receive_path());
    let answer = session.call("GET", &path, "").await;
    assert_eq!((answer.status, answer.text.as_str()), (200, "null"));
    assert_eq!(answer.content_type, JSON);
    let waited = begin.elapsed();
    assert!(waited >= Duration::from_secs(5) && waited < PATIENCE, "{waited:?}");
}

#[tokio::test]
async fn a_push_wakes_every_waiting_receiver_at_once() {
    let session = Session::start().await;
    let path = format!("{}?receiveTimeout=60", receive_path());
    let mut polls = [session.raw("GET", &path).await, session.raw("GET", &path).await];
    for poll in &mut polls {
        assert_silent(poll).await;
    }
    // The wait of 60 seconds would outlast the patience of `rest_of`.
    session.emulator.push(ID, "{}");
    for poll in polls {
        let (answer, _) = rest_of(poll).await;
        let answer = String::from_utf8(answer).expect("text");
        assert!(answer.ends_with("\r\n\r\n{\"receiptId\":1,\"body\":{}}"), "{answer}");
    }
}

#[tokio::test]
async fn a_receipt_deletes_only_the_head_and_only_once() {
    let session = Session::start().await;
    session.emulator.push(ID, "{}");
    // Nothing was received yet.
    assert_eq!(session.delete("1").await.json()["result"], false);
    session.receive().await;
    for unknown in ["2", "0", "99999999999999999999999"] {
        let answer = session.delete(unknown).await;
        assert_eq!((answer.status, &answer.json()["result"]), (200, &json!(false)), "{unknown}");
        assert_ne!(answer.json()["reason"], "");
    }
    assert_eq!(session.delete("1").await.json()["result"], true);
    assert_eq!(session.delete("1").await.json()["result"], false);
}

#[tokio::test]
async fn a_receipt_that_is_no_number_is_refused() {
    let session = Session::start().await;
    for receipt in ["abc", "", "-1", "1.0"] {
        let answer = session.delete(receipt).await;
        assert_eq!(answer.status, 400, "{receipt}");
        assert_eq!(answer.json()["message"], "Parameter receiptId must be a Number");
    }
}

#[tokio::test]
async fn odd_bodies_survive_byte_for_byte() {
    let session = Session::start().await;
    let deep = format!("{}1{}", "[".repeat(200), "]".repeat(200));
    let large = format!(r#"{{"text":"{}"}}"#, "ж".repeat(1024 * 1024));
    let odd = [
        r#"{"typeWebhook":"somethingNew","x":[]}"#,
        "{}",
        "null",
        r#"{"n":184467440737095516160,"e":1E400,"z":-0.00}"#,
        r#"{"a":1,"a":2}"#,
        r#"{"text":"\ud800 \u0000 \/"}"#,
        "{\r\n  \"text\" : \"indented\"\n}",
        " {} \n",
        &deep,
        &large,
    ];
    let examples = emulator::notifications().map(str::to_owned);
    let bodies = odd.map(str::to_owned).into_iter().chain(examples);
    for (position, body) in bodies.enumerate() {
        let answer = session.control("POST", "notifications", &body).await;
        assert_eq!((answer.status, answer.text.as_str()), (200, r#"{"queued":1}"#), "{body:.99}");
        let receipt = position + 1;
        let text = session.receive().await.text;
        assert!(text == format!(r#"{{"receiptId":{receipt},"body":{body}}}"#), "{body:.99}");
        assert_eq!(session.delete(&receipt.to_string()).await.json()["result"], true);
    }
}

#[tokio::test]
async fn a_pushed_body_is_not_even_looked_at() {
    let session = Session::start().await;
    session.emulator.push(ID, "{broken");
    assert_eq!(session.receive().await.text, r#"{"receiptId":1,"body":{broken}"#);
}

#[test]
fn there_is_an_example_of_every_kind() {
    let bodies: Vec<Value> = emulator::notifications().map(|body| serde_json::from_str(body).expect("JSON")).collect();
    assert_eq!(bodies.len(), 96);
    let mut kinds: Vec<_> = bodies.iter().map(|body| body["typeWebhook"].as_str().expect("a kind")).collect();
    kinds.sort_unstable();
    kinds.dedup();
    assert_eq!(kinds.len(), 11, "{kinds:?}");
}
