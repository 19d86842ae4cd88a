use super::*;

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
