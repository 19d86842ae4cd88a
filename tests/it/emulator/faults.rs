use super::*;

#[tokio::test]
async fn an_answer_in_place_of_acting_leaves_the_queue_alone() {
    let session = Session::start().await;
    session.emulator.push(ID, "{}");
    session.receive().await;
    session.emulator.fault(ID, Fault::before(answer_500()).on(Method::DeleteNotification));
    // Another method is spared.
    assert_eq!(session.receive().await.status, 200);
    let answer = session.delete("1").await;
    assert_eq!((answer.status, answer.content_type.as_str(), answer.text.as_str()), (500, "text/plain", "broken"));
    assert_eq!(session.emulator.queued(ID), 1);
    assert_eq!(session.delete("1").await.json()["result"], true);
}

#[tokio::test]
async fn an_answer_after_acting_hides_that_it_acted() {
    let session = Session::start().await;
    session.emulator.push(ID, "{}");
    session.receive().await;
    session.emulator.fault(ID, Fault::after(answer_500()));
    assert_eq!(session.delete("1").await.status, 500);
    assert_eq!(session.emulator.queued(ID), 0);
    assert_eq!(session.delete("1").await.json()["result"], false);
}

#[tokio::test]
async fn a_reset_closes_the_connection_without_an_answer() {
    let session = Session::start().await;
    for (fault, acted) in [(Fault::before(FaultKind::Reset), false), (Fault::after(FaultKind::Reset), true)] {
        session.emulator.push(ID, "{}");
        let receipt = session.receive().await.json()["receiptId"].to_string();
        session.emulator.fault(ID, fault);
        let path = format!("/waInstance{ID}/deleteNotification/{TOKEN}/{receipt}");
        let end = rest_of(session.raw("DELETE", &path).await).await;
        assert_eq!(end, (Vec::new(), Err(io::ErrorKind::ConnectionReset)));
        assert_eq!(session.emulator.queued(ID), usize::from(!acted));
        session.delete(&receipt).await;
    }
}

#[tokio::test]
async fn an_http_client_sees_a_reset_as_a_failed_request() {
    let session = Session::start().await;
    let mut fault = Fault::before(FaultKind::Reset).on(Method::SetSettings);
    // Some clients try again on a new connection.
    fault.times = u32::MAX;
    session.emulator.fault(ID, fault);
    let path = format!("/waInstance{ID}/setSettings/{TOKEN}");
    let failed = session.send("POST", &path, r#"{"incomingWebhook":"yes"}"#).await;
    assert!(failed.is_err_and(|error| error.is_request() && !error.is_timeout()));
    assert!(!session.events().contains(&EventKind::Settings));
}

#[tokio::test]
async fn a_reset_strikes_a_long_poll_that_waits_already() {
    let session = Session::start().await;
    let mut poll = session.raw("GET", &receive_path()).await;
    assert_silent(&mut poll).await;
    session.emulator.fault(ID, Fault::after(FaultKind::Reset).on(Method::ReceiveNotification));
    session.emulator.push(ID, "{}");
    assert_eq!(rest_of(poll).await, (Vec::new(), Err(io::ErrorKind::ConnectionReset)));
    assert_eq!(session.events(), [EventKind::Pushed, EventKind::Received, EventKind::Faulted]);
}

#[tokio::test]
async fn a_hang_keeps_the_connection_open_until_the_client_goes() {
    for (fault, acted) in [(Fault::before(FaultKind::Hang), false), (Fault::after(FaultKind::Hang), true)] {
        let session = Session::start().await;
        session.emulator.push(ID, "{}");
        session.receive().await;
        session.emulator.fault(ID, fault);
        let path = format!("/waInstance{ID}/deleteNotification/{TOKEN}/1");
        let mut stream = session.raw("DELETE", &path).await;
        let begin = Instant::now();
        while !session.events().contains(&EventKind::Faulted) {
            assert!(begin.elapsed() < PATIENCE, "the fault never struck");
            tokio::task::yield_now().await;
        }
        assert_silent(&mut stream).await;
        assert_eq!(session.emulator.queued(ID), usize::from(!acted));
        // The others go on.
        assert_eq!(session.get("getStateInstance").await.status, 200);
    }
}

#[tokio::test]
async fn a_fault_strikes_as_often_as_it_says_and_spares_the_wrong_token() {
    let session = Session::start().await;
    let fault = r#"{"method":"getSettings","when":"before","times":2,"kind":{"answer":{"status":429}}}"#;
    assert_eq!(session.control("POST", "faults", fault).await.status, 200);
    let path = format!("/waInstance{ID}/getSettings/wrong");
    assert_eq!(session.call("GET", &path, "").await.status, 401);
    let mut statuses = Vec::new();
    for _ in 0..3 {
        statuses.push(session.get("getSettings").await.status);
    }
    assert_eq!(statuses, [429, 429, 200]);
}

#[tokio::test]
async fn faults_can_be_made_over_http() {
    let session = Session::start().await;
    let page = r#"{"when":"after","kind":{"answer":{"status":502,"body":"<html>","content_type":"text/html"}}}"#;
    assert_eq!(session.control("POST", "faults", page).await.text, r#"{"added":true}"#);
    let answer = session.get("getStateInstance").await;
    assert_eq!((answer.status, answer.text.as_str()), (502, "<html>"));
    assert_eq!(answer.content_type, "text/html");

    let reset = r#"{"when":"before","kind":"reset","method":"getStateInstance"}"#;
    session.control("POST", "faults", reset).await;
    let path = format!("/waInstance{ID}/getStateInstance/{TOKEN}");
    let end = rest_of(session.raw("GET", &path).await).await;
    assert_eq!(end, (Vec::new(), Err(io::ErrorKind::ConnectionReset)));
}

#[test]
fn a_fault_reads_as_documented() {
    let fault: Fault =
        serde_json::from_str(r#"{"method":"receiveNotification","when":"after","kind":"hang"}"#).expect("a fault");
    assert_eq!(fault, Fault::after(FaultKind::Hang).on(Method::ReceiveNotification));
    assert_eq!((fault.times, fault.when), (1, When::After));
}

#[tokio::test]
async fn half_of_the_delay_passes_before_the_server_acts_and_half_after() {
    let session = Session::start().await;
    session.emulator.set_delay(ID, Duration::from_millis(600));
    session.emulator.push(ID, "{}");
    session.receive().await;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_millis();
    let journal = session.emulator.journal(ID);
    let before = journal[1].at_ms - journal[0].at_ms;
    assert!(before >= 300, "acted after {before} ms");
    let after = now - u128::from(journal[1].at_ms);
    assert!(after >= 300, "answered {after} ms after acting");

    // Without a delay nothing waits for one: this one would outlast the test's patience.
    session.emulator.set_delay(ID, 10 * PATIENCE);
    session.control("PATCH", "knobs", r#"{"delay_ms":0}"#).await;
    tokio::time::timeout(PATIENCE, session.receive()).await.expect("an answer without delay");
}
