use secrecy::ExposeSecret;

use super::*;

#[test]
fn each_form_names_its_sink() {
    assert!(matches!(Options::from_url("stdout:"), Ok(Options::Stdout(_))));
    assert!(matches!(Options::from_url("file:a/b.jsonl"), Ok(Options::File(file)) if file.path.ends_with("a/b.jsonl")));
    let Ok(Options::Kafka(kafka)) = Options::from_url("kafka://one:9092,two:9093/wa.{instance}") else {
        panic!("kafka")
    };
    assert_eq!(kafka.bootstrap_servers, ["one:9092", "two:9093"]);
    assert_eq!(kafka.topic, "wa.{instance}");
    let Ok(Options::Amqp(amqp)) = Options::from_url("amqps://u:p@host:5671/%2f?exchange=e&heartbeat=5&queue=q") else {
        panic!("amqp")
    };
    assert_eq!((amqp.exchange.as_str(), amqp.queue.as_deref()), ("e", Some("q")));
    assert_eq!(amqp.uri[0].expose_secret(), "amqps://u:p@host:5671/%2f?heartbeat=5");
}

#[test]
fn anything_else_is_answered_with_the_forms_and_not_repeated() {
    for odd in [
        "",
        "stdout",
        "stdout:x",
        "file:",
        "kafka://host:1",
        "kafka:///topic",
        "kafka://,/t",
        "http://u:secret@h",
        "amqp://[secret",
        "amqp://u:secret@host/v#x",
        "amqp://u:secret@host/v?queue=a#x",
        "amqp://u:secret@host/v?queue=a&queue=b",
        "amqp://u:secret@host/v?heartbeat=5&heartbeat=6",
        "amqp://u:secret@host/v?exchang=e",
        "amqp://u:secret@host/a/../b?exchange=e",
        "amqp://u:sec ret@host/v",
    ] {
        let error = Options::from_url(odd).expect_err(odd).to_string();
        assert!(error.starts_with("expected stdout:") && !error.contains("secret"), "{odd}: {error}");
    }
}
