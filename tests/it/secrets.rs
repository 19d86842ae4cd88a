use std::fmt::Debug;
use std::time::Duration;

use green_api_bridge::config::Config;
use green_api_bridge::emulator::{Fault, FaultKind, Method};
use green_api_bridge::green_api::{GreenApi, Queue, Received};
use green_api_bridge::token::TokenSource;
use secrecy::SecretString;
use url::Url;

use crate::scene::{ID, Scene, TOKEN};

fn assert_harmless(shown: &str) {
    assert!(!shown.contains(TOKEN), "{shown}");
    assert!(!shown.contains("/waInstance"), "a URL with the token's place: {shown}");
}

/// Everything that an error shows, with all that caused it.
fn assert_error_harmless(error: &(dyn std::error::Error + 'static)) {
    assert_harmless(&format!("{error} {error:?} {error:#?}"));
    if let Some(source) = error.source() {
        assert_error_harmless(source);
    }
}

fn assert_debug_harmless(value: &impl Debug) {
    assert_harmless(&format!("{value:?} {value:#?}"));
}

fn queue(url: &str) -> Queue {
    let api = GreenApi::new(Duration::from_secs(5), None, None).unwrap();
    assert_debug_harmless(&api);
    let source = TokenSource::Given(SecretString::from(TOKEN));
    assert_debug_harmless(&source);
    Queue::new(api, ID.parse().unwrap(), Url::parse(url).unwrap(), source).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn no_value_and_no_error_shows_the_token_whatever_the_server_does() {
    let scene = Scene::new().await;
    let queue_here = queue(&scene.emulator.url());
    assert_debug_harmless(&queue_here);
    assert_debug_harmless(&scene.emulator);
    let echo = format!(r#"{{"path":"/waInstance{ID}/receiveNotification/{TOKEN}","message":"webhook url"}}"#);
    let answer = |status, body: &str| FaultKind::Answer { status, body: body.to_owned(), content_type: None };
    for kind in [
        answer(400, &echo),
        answer(500, &echo),
        answer(200, &echo.replace('{', "")),
        answer(200, &echo.replace('{', r#"{"receiptId":1,"#).replace('}', "")),
        answer(302, &echo),
        FaultKind::Reset,
    ] {
        for method in [Method::ReceiveNotification, Method::GetSettings, Method::SetSettings, Method::GetStateInstance]
        {
            scene.fault(Fault::before(kind.clone()).on(method));
        }
        match queue_here.receive().await {
            Err(problem) | Ok(Received::Unreadable(problem)) => assert_error_harmless(&problem),
            Ok(Received::NoBody(rest, problem)) => {
                assert_error_harmless(&problem);
                assert_debug_harmless(&rest);
            }
            other => panic!("{kind:?}: {other:?}"),
        }
        assert_error_harmless(&queue_here.settings().await.unwrap_err());
        assert_error_harmless(&queue_here.change_settings(&serde_json::Map::new()).await.unwrap_err());
        assert_error_harmless(&queue_here.state().await.unwrap_err());
    }
    // Nobody listens, no such host, no such certificate.
    for url in ["http://127.0.0.1:1", "http://host.invalid", &scene.emulator.url().replace("http:", "https:")] {
        assert_error_harmless(&queue(url).receive().await.unwrap_err());
    }
    scene.push([r#"{"text":"t0ken-canary as a message"}"#]);
    let Ok(Received::Head(head)) = queue_here.receive().await else { panic!("a head") };
    assert_debug_harmless(&head);
    let file = scene.path("bridge.yaml");
    let text = format!("instances: [{{id: 1, api_url: 'https://h', api_token: {TOKEN}}}]\nsink: {{stdout: {{}}}}\n");
    std::fs::write(&file, text).unwrap();
    assert_debug_harmless(&Config::from_file(&file, std::iter::empty()).unwrap());
    let missing = TokenSource::File(scene.path("nowhere")).read().unwrap_err();
    assert!(missing.to_string().contains("nowhere"), "{missing}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_client_asks_in_the_way_of_the_api() {
    let scene = Scene::new().await;
    let queue = queue(&format!("{}/v3/", scene.emulator.url()));
    assert_eq!(queue.state().await.unwrap(), "authorized");
    let mut changes = serde_json::Map::new();
    changes.insert("incomingWebhook".into(), "yes".into());
    queue.change_settings(&changes).await.unwrap();
    assert_eq!(queue.settings().await.unwrap()["incomingWebhook"], "yes");
}
