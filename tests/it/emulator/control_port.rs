use super::*;

/// What a page of another site can send without asking first, and what it cannot.
async fn posted(session: &Session, verb: &str, path: &str, body: &str, headers: &[(&str, &str)]) -> (u16, String) {
    let url = format!("{}{path}", session.emulator.url());
    let mut request = session.client.request(verb.parse().expect("a method"), url).timeout(PATIENCE);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let response = request.body(body.to_owned()).send().await.expect("an answer");
    (response.status().as_u16(), response.text().await.expect("a text"))
}

#[tokio::test]
async fn a_page_of_another_site_controls_nothing() {
    let session = Session::start().await;
    let of_instance = |endpoint: &str| format!("/_emulator/{ID}/{endpoint}");
    let endpoints = [
        ("POST", of_instance("notifications"), "{}"),
        ("POST", of_instance("generate"), r#"{"count":1}"#),
        ("POST", of_instance("faults"), r#"{"when":"before","kind":"reset","method":"reboot"}"#),
        ("PATCH", of_instance("knobs"), r#"{"delay_ms":0}"#),
        ("POST", "/_emulator/clock".to_owned(), r#"{"advance_ms":1}"#),
    ];
    let foreign = ("Origin", "https://example.org");
    let types =
        ["text/plain", "application/x-www-form-urlencoded", "text/plain; application/json", "application/jsonp"];
    for (verb, path, body) in &endpoints {
        for of_type in types {
            let (status, output) = posted(&session, verb, path, body, &[foreign, ("Content-Type", of_type)]).await;
            assert_eq!(status, 403, "{path} {of_type}: {output}");
            let error = serde_json::from_str::<Value>(&output).expect("JSON")["error"].to_string();
            assert!(error.contains("Content-Type: application/json"), "{error}");
        }
        for headers in [&[foreign][..], &[("Origin", "null")]] {
            assert_eq!(posted(&session, verb, path, body, headers).await.0, 403, "{path} {headers:?}");
        }
    }
    assert!(session.events().is_empty() && session.emulator.queued(ID) == 0);

    let allowed: [&[(&str, &str)]; 3] = [
        &[foreign, ("Content-Type", "application/json")],
        &[foreign, ("Content-Type", "Application/JSON; charset=utf-8")],
        // What `curl -d` sends.
        &[("Content-Type", "application/x-www-form-urlencoded")],
    ];
    for (verb, path, body) in &endpoints {
        for headers in allowed {
            let (status, output) = posted(&session, verb, path, body, headers).await;
            assert_eq!(status, 200, "{path} {headers:?}: {output}");
        }
    }
    assert_eq!(session.emulator.queued(ID), 6);
}

#[tokio::test]
async fn the_journal_keeps_the_last_events_and_counts_the_dropped_ones() {
    let session = Session::start().await;
    (0..100_007).for_each(|_| session.emulator.push(ID, "{}"));
    session.receive().await;
    let journal = session.control("GET", "journal", "").await.json();
    let journal = journal.as_array().expect("an array");
    assert_eq!(journal.len(), 1 + 100_000);
    assert_eq!((&journal[0]["event"], &journal[0]["count"]), (&json!("dropped"), &json!(8)));
    assert!(journal[0]["at_ms"].as_u64() <= journal[1]["at_ms"].as_u64(), "{}", journal[0]);
    assert_eq!((&journal[1]["event"], &journal[100_000]["event"]), (&json!("pushed"), &json!("received")));
    assert_eq!(session.emulator.queued(ID), 100_007, "the queue is whole");
}

#[test]
fn an_emulator_that_others_can_reach_says_so() {
    for (listen, is_open) in [("127.0.0.1:0", false), ("0.0.0.0:0", true)] {
        let folder = tempfile::tempdir().expect("a folder");
        let mut emulator = crate::support::command();
        emulator.args(["emulator", "--listen", listen, "--instance", "1101000001:TOKEN"]);
        let emulator = crate::support::Worker::start(&mut emulator, &folder.path().join("log"));
        emulator.wait_for_log("instance 1101000001: apiUrl");
        let output = emulator.log().contains("the emulator is open to others");
        assert_eq!(output, is_open, "{listen}: {}", emulator.log());
    }
}
