use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use green_api_bridge::emulator::{self, Emulator, EventKind, Fault, FaultKind, Method, When};
use reqwest::header::CONTENT_TYPE;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const ID: &str = "1101000001";
const TOKEN: &str = "d75b3a66374942c5b3c019c698abc2067e151558acbd412345";
const JSON: &str = "application/json; charset=utf-8";
/// Far longer than anything here takes, far shorter than a test run hanging.
const PATIENCE: Duration = Duration::from_secs(30);

/// An emulator with one instance and a client for it.
struct Session {
    emulator: Emulator,
    client: reqwest::Client,
}

/// What a client sees of an answer.
struct Answer {
    status: u16,
    content_type: String,
    text: String,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.text).expect("the answer is JSON")
    }
}

impl Session {
    async fn start() -> Self {
        let listen = SocketAddr::from(([127, 0, 0, 1], 0));
        let instances = [(ID.to_owned(), TOKEN.to_owned())];
        let emulator = Emulator::start(listen, instances).await.expect("a free port");
        let client = reqwest::Client::builder().no_proxy().build().expect("a client");
        Self { emulator, client }
    }

    async fn send(&self, verb: &str, path: &str, body: &str) -> reqwest::Result<Answer> {
        let verb = verb.parse().expect("a method");
        let url = format!("{}{path}", self.emulator.url());
        let request = self.client.request(verb, url).timeout(PATIENCE).body(body.to_owned());
        let response = request.send().await?;
        let content_type = response.headers().get(CONTENT_TYPE).map(|value| value.to_str().expect("ASCII").to_owned());
        Ok(Answer {
            status: response.status().as_u16(),
            content_type: content_type.unwrap_or_default(),
            text: response.text().await?,
        })
    }

    async fn call(&self, verb: &str, path: &str, body: &str) -> Answer {
        self.send(verb, path, body).await.expect("an answer")
    }

    async fn get(&self, method: &str) -> Answer {
        self.call("GET", &format!("/waInstance{ID}/{method}/{TOKEN}"), "").await
    }

    async fn receive(&self) -> Answer {
        self.get("receiveNotification").await
    }

    async fn delete(&self, receipt: &str) -> Answer {
        self.call("DELETE", &format!("/waInstance{ID}/deleteNotification/{TOKEN}/{receipt}"), "").await
    }

    async fn set_settings(&self, settings: &str) -> Answer {
        self.call("POST", &format!("/waInstance{ID}/setSettings/{TOKEN}"), settings).await
    }

    async fn control(&self, verb: &str, endpoint: &str, body: &str) -> Answer {
        self.call(verb, &format!("/_emulator/{ID}/{endpoint}"), body).await
    }

    fn events(&self) -> Vec<EventKind> {
        self.emulator.journal(ID).into_iter().map(|event| event.event).collect()
    }

    /// Sends a request by hand and returns the open connection.
    async fn raw(&self, verb: &str, path: &str) -> TcpStream {
        let mut stream = TcpStream::connect(self.emulator.address()).await.expect("a connection");
        let request = format!("{verb} {path} HTTP/1.1\r\nHost: emulator\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.expect("the request is sent");
        stream
    }
}

/// Reads until the connection ends: the bytes of the answer and how it ended.
async fn rest_of(mut stream: TcpStream) -> (Vec<u8>, Result<(), io::ErrorKind>) {
    let mut answer = Vec::new();
    let end = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect("the connection ends");
    (answer, end.map(|_| ()).map_err(|error| error.kind()))
}

/// The server has the request and neither answers nor hangs up.
async fn assert_silent(stream: &mut TcpStream) {
    let silence = tokio::time::timeout(Duration::from_millis(300), stream.read_u8()).await;
    assert!(silence.is_err(), "the connection answered or ended: {silence:?}");
}

fn receive_path() -> String {
    format!("/waInstance{ID}/receiveNotification/{TOKEN}")
}

fn answer_500() -> FaultKind {
    FaultKind::Answer { status: 500, body: "broken".to_owned(), content_type: Some("text/plain".to_owned()) }
}

// The queue

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

// Routes, tokens, settings

#[tokio::test]
async fn v3_and_any_case_of_the_method_are_accepted() {
    let session = Session::start().await;
    session.emulator.push(ID, "{}");
    for path in [
        format!("/v3/waInstance{ID}/receiveNotification/{TOKEN}"),
        format!("/waInstance{ID}/ReceiveNotification/{TOKEN}"),
        format!("/v3/waInstance{ID}/RECEIVENOTIFICATION/{TOKEN}"),
    ] {
        assert_eq!(session.call("GET", &path, "").await.text, r#"{"receiptId":1,"body":{}}"#, "{path}");
    }
    let path = format!("/v3/waInstance{ID}/DeleteNotification/{TOKEN}/1");
    assert_eq!(session.call("DELETE", &path, "").await.json()["result"], true);
}

#[tokio::test]
async fn an_unknown_route_comes_before_the_instance_and_the_instance_before_the_token() {
    let session = Session::start().await;
    for (verb, path, status) in [
        ("GET", "/nowhere".to_owned(), 404),
        ("GET", format!("/waInstance999/noMethod/{TOKEN}"), 404),
        ("POST", format!("/waInstance{ID}/receiveNotification/wrong"), 404),
        ("GET", "/waInstance999/receiveNotification/wrong".to_owned(), 403),
    ] {
        let answer = session.call(verb, &path, "").await;
        assert_eq!((answer.status, answer.content_type.as_str()), (status, "text/html"), "{path}");
        assert!(answer.text.contains("<center>nginx</center>"), "{}", answer.text);
        assert!(answer.text.contains(&format!("<h1>{status} ")), "{}", answer.text);
    }
}

#[tokio::test]
async fn a_wrong_token_comes_before_waiting_parameters_and_webhook() {
    let session = Session::start().await;
    session.set_settings(r#"{"webhookUrl":"https://example.test"}"#).await;
    // The wait of 60 seconds would outlast the client's patience.
    for (verb, method, rest) in [
        ("GET", "receiveNotification", "?receiveTimeout=60"),
        ("DELETE", "deleteNotification", "/abc"),
        ("GET", "getSettings", ""),
        ("POST", "setSettings", ""),
        ("GET", "getStateInstance", ""),
    ] {
        let answer = session.call(verb, &format!("/waInstance{ID}/{method}/wrong{rest}"), "").await;
        assert_eq!((answer.status, answer.text.as_str()), (401, ""), "{method}");
        assert_eq!(answer.content_type, "application/json");
    }
}

#[tokio::test]
async fn parameters_come_before_the_webhook() {
    let session = Session::start().await;
    session.set_settings(r#"{"webhookUrl":"https://example.test"}"#).await;
    let message = session.delete("abc").await.json()["message"].clone();
    assert_eq!(message, "Parameter receiptId must be a Number");
    let answer = session.call("GET", &format!("/waInstance{ID}/receiveNotification"), "").await;
    assert_eq!((answer.status, &answer.json()["message"]), (400, &json!("Parameter apiTokenInstance not define")));
    let answer = session.call("GET", &format!("/waInstanceX/receiveNotification/{TOKEN}"), "").await;
    assert_eq!((answer.status, &answer.json()["message"]), (400, &json!("Parameter idInstance not an integer")));
}

#[tokio::test]
async fn a_webhook_refuses_receive_and_delete_until_it_is_cleared() {
    let session = Session::start().await;
    session.emulator.push(ID, "{}");
    session.receive().await;
    session.set_settings(r#"{"webhookUrl":"https://example.test"}"#).await;

    let receive = session.call("GET", &format!("{}?receiveTimeout=5", receive_path()), "").await;
    let path = format!("/v3/waInstance{ID}/deleteNotification/{TOKEN}/1");
    let delete = session.call("DELETE", &path, "").await;
    for (answer, path) in [(receive, receive_path()), (delete, path)] {
        assert_eq!((answer.status, answer.content_type.as_str()), (400, JSON));
        assert!(answer.text.starts_with(r#"{"statusCode":400,"timestamp":"2"#), "{}", answer.text);
        assert_eq!(answer.json()["path"], path);
        let message = answer.json()["message"].clone();
        let wanted = format!(
            "Message cannot be received because custom webhook url is set. Go to cabinet, clear webhook url for \
             instance: {ID} and wait for about 1 minute for another attempt"
        );
        assert_eq!(message, wanted);
    }
    assert_eq!(session.emulator.queued(ID), 1);

    session.set_settings(r#"{"webhookUrl":""}"#).await;
    assert_eq!(session.delete("1").await.json()["result"], true);
}

#[tokio::test]
async fn settings_start_off_and_change_one_by_one() {
    let session = Session::start().await;
    let before = session.get("getSettings").await.json();
    assert_eq!((&before["incomingWebhook"], &before["webhookUrl"]), (&json!("no"), &json!("")));

    let answer = session.set_settings(r#"{"incomingWebhook":"yes","odd":{"n":1.10,"big":99999999999999999999}}"#).await;
    assert_eq!((answer.status, answer.text.as_str()), (200, r#"{"saveSettings":true}"#));
    let answer = session.get("getSettings").await;
    assert!(answer.text.contains(r#""odd":{"n":1.10,"big":99999999999999999999}"#), "{}", answer.text);
    let mut after = answer.json();
    assert_eq!(after["incomingWebhook"], "yes");
    after["incomingWebhook"] = json!("no");
    after.as_object_mut().expect("an object").remove("odd");
    assert_eq!(after, before);
}

#[tokio::test]
async fn settings_that_set_nothing_are_refused() {
    let session = Session::start().await;
    for body in ["{}", "", "[]", "{\"incomingWebhook\":", "\"yes\""] {
        let answer = session.set_settings(body).await;
        assert_eq!(answer.status, 400, "{body}");
        assert_eq!(answer.json()["statusCode"], 400);
    }
    assert!(session.events().is_empty());
}

#[tokio::test]
async fn the_state_is_what_the_knob_says() {
    let session = Session::start().await;
    assert_eq!(session.get("getStateInstance").await.text, r#"{"stateInstance":"authorized"}"#);
    session.control("PATCH", "knobs", r#"{"state":"notAuthorized"}"#).await;
    assert_eq!(session.get("getStateInstance").await.text, r#"{"stateInstance":"notAuthorized"}"#);
    // The queue is served all the same.
    session.emulator.push(ID, "{}");
    assert_eq!(session.receive().await.status, 200);
}

#[tokio::test]
async fn a_changed_token_is_valid_at_once() {
    let session = Session::start().await;
    session.emulator.set_token(ID, "another");
    assert_eq!(session.get("getStateInstance").await.status, 401);
    let path = format!("/waInstance{ID}/getStateInstance/another");
    assert_eq!(session.call("GET", &path, "").await.status, 200);
    let knobs = format!(r#"{{"token":"{TOKEN}"}}"#);
    let answer = session.control("PATCH", "knobs", &knobs).await;
    assert!(!answer.text.contains(TOKEN), "{}", answer.text);
    assert_eq!(session.get("getStateInstance").await.status, 200);
}

#[tokio::test]
async fn instances_do_not_share_anything_but_the_port() {
    let listen = SocketAddr::from(([127, 0, 0, 1], 0));
    let instances = [("1", "one"), ("2", "two")].map(|(id, token)| (id.to_owned(), token.to_owned()));
    let emulator = Emulator::start(listen, instances).await.expect("a free port");
    emulator.push("1", "{}");
    assert_eq!((emulator.queued("1"), emulator.queued("2")), (1, 0));
    assert!(emulator.journal("2").is_empty());
    let session = Session { emulator, client: reqwest::Client::builder().no_proxy().build().expect("a client") };
    assert_eq!(session.call("GET", "/waInstance2/getStateInstance/one", "").await.status, 401);
    assert_eq!(session.call("GET", "/waInstance2/getStateInstance/two", "").await.status, 200);
}

// Faults and delay

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

    session.control("PATCH", "knobs", r#"{"delay_ms":0}"#).await;
    let begin = Instant::now();
    session.receive().await;
    assert!(begin.elapsed() < Duration::from_millis(600));
}

// Journal and control

#[tokio::test]
async fn the_journal_tells_everything_in_order() {
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
        (r#"{"when":"before","kind":"explode"}"#, "expected one of `answer`, `reset`, `hang`"),
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
        (r#"{"deley_ms":5}"#, "unknown field `deley_ms`, expected one of `delay_ms`, `state`, `token`"),
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

// The server itself

#[tokio::test]
async fn dropping_the_emulator_ends_its_connections_and_frees_its_port() {
    let session = Session::start().await;
    let address = session.emulator.address();
    let mut poll = session.raw("GET", &receive_path()).await;
    assert_silent(&mut poll).await;
    drop(session);
    let (answer, _) = rest_of(poll).await;
    assert!(answer.is_empty());
    let begin = Instant::now();
    let refused = |error: io::Error| error.kind() == io::ErrorKind::ConnectionRefused;
    while !TcpStream::connect(address).await.is_err_and(refused) {
        assert!(begin.elapsed() < PATIENCE, "the port is still open");
    }
}

#[tokio::test]
async fn an_instance_given_twice_is_refused() {
    let twice = [(ID.to_owned(), "one".to_owned()), (ID.to_owned(), "two".to_owned())];
    let refused = Emulator::start(SocketAddr::from(([127, 0, 0, 1], 0)), twice).await;
    let error = refused.expect_err("it is given twice");
    assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    assert_eq!(error.to_string(), format!("instance {ID} is given twice"));
}

#[tokio::test]
async fn the_token_is_never_shown() {
    let session = Session::start().await;
    let shown = format!("{:?} {:#?}", session.emulator, session.emulator);
    assert!(shown.contains(ID) && !shown.contains(TOKEN), "{shown}");
    session.emulator.fault(ID, Fault::before(answer_500()));
    session.get("getSettings").await;
    assert!(!format!("{:?}", session.emulator.journal(ID)).contains(TOKEN));
}

#[tokio::test]
async fn the_vendor_s_python_client_works_unmodified() {
    let python = std::env::var_os("BRIDGE_TEST_PYTHON")
        .expect("BRIDGE_TEST_PYTHON must name a Python with tests/clients/requirements.txt installed: run tests/run");
    let session = Session::start().await;
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/clients/vendor_python.py");
    let output = tokio::process::Command::new(python)
        .arg(script)
        .args([&session.emulator.url(), ID, TOKEN])
        .env("NO_PROXY", "*")
        .output()
        .await
        .expect("the interpreter starts");
    let (said, complained) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}\n{complained}");
    assert!(said.contains("the vendor's SDK is content"), "{said}");
    let deleted = session.events().into_iter().filter(|event| *event == EventKind::Deleted).count();
    assert_eq!(deleted, 2);
}
