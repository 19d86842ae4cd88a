use super::*;

#[tokio::test]
async fn the_journal_keeps_the_last_events_and_tells_how_many_it_dropped() {
    let session = Session::start().await;
    session.control("POST", "generate", r#"{"count":100007}"#).await;
    session.receive().await;
    let journal = session.control("GET", "journal", "").await.json();
    let journal = journal.as_array().expect("an array");
    assert_eq!(journal.len(), 1 + 100_000);
    assert_eq!((&journal[0]["event"], &journal[0]["count"]), (&json!("dropped"), &json!(8)));
    assert!(journal[0]["at_ms"].as_u64() <= journal[1]["at_ms"].as_u64(), "{}", journal[0]);
    assert_eq!((&journal[1]["event"], &journal[100_000]["event"]), (&json!("pushed"), &json!("received")));
    assert_eq!(session.emulator.queued(ID), 100_007, "the queue is whole");
}
