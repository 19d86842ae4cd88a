use std::fs;

use secrecy::ExposeSecret;

use super::*;

pub(super) const INSTANCE: &str = "instances: [{id: 1101, api_url: 'https://host', api_token: t0ken}]\n";

pub(super) fn parse(text: &str) -> Result<Config, String> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bridge.yaml");
    fs::write(&path, text).unwrap();
    let variables = [("TOKEN", "{from:[the,environment"), ("SECONDS", "30")];
    let variables = variables.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let config = Config::from_file(&path, variables.into_iter());
    config.map_err(|mistakes| mistakes.to_string().replace(&format!("{}:", path.display()), ""))
}

pub(super) fn mistakes(text: &str) -> String {
    parse(text).expect_err(text)
}

#[test]
fn the_smallest_config_has_the_documented_defaults() {
    let config = parse(&format!("{INSTANCE}sink: {{kafka: {{}}}}\n")).unwrap();
    assert_eq!(config.api.receive_timeout(), Duration::from_secs(20));
    let Options::Kafka(kafka) = &config.sink else { panic!("{config:?}") };
    assert_eq!(kafka.topic, "green-api.notifications");
    assert_eq!(kafka.create_topics.as_ref().map(|create| (create.partitions, create.replication)), Some((6, -1)));
    assert!(config.admin.is_none());
    for (sink, wanted) in [("{file: {}}", "File"), ("{stdout: {}}", "Stdout"), ("{amqp: {}}", "Amqp")] {
        let config = parse(&format!("{INSTANCE}sink: {sink}\n")).unwrap();
        assert!(format!("{:?}", config.sink).starts_with(wanted), "{config:?}");
    }
}

#[test]
fn every_key_of_the_contract_is_known() {
    let text = r#"
instances:
  - {id: 1101000001, api_url: "https://1101.api.greenapi.com", api_token_file: /run/secrets/green-api-token}
instances_dir: null
api: {receive_timeout_secs: 20, ca_file: null, proxy: null, webhooks: [incomingWebhook, outgoingWebhook, stateWebhook]}
sink:
  kafka:
    bootstrap_servers: [localhost:9092]
    topic: green-api.notifications
    key: instance
    transactional_id: green-api-bridge
    ledger_topic: green-api-bridge.ledger
    dead_letter_topic: green-api.dead-letters
    create_topics: {partitions: 6, replication: -1}
    properties: {socket.timeout.ms: 10000, ssl.endpoint.identification.algorithm: https, enable.x: true}
    properties_files: {sasl.password: /run/secrets/password}
dead_letter_dir: dead-letters
dead_letter_dir_limit_mib: 1024
admin: {listen: 127.0.0.1:9464}
log: {format: auto, level: info}
"#;
    let config = parse(text).unwrap();
    let Options::Kafka(kafka) = config.sink else { panic!() };
    assert_eq!(kafka.properties["socket.timeout.ms"].expose_secret(), "10000");
    let amqp = r"
instances: [{id: 1, api_url: 'http://h', api_token: x}]
sink:
  amqp:
    uri: [amqp://a/%2f, amqps://b/%2f]
    uri_file: null
    name: green-api-bridge
    exchange: green-api
    routing_key: '{instance}.{type}'
    queue: null
    queue_type: stream
    declare: true
    queue_arguments: {}
    on_unroutable: wait
    dead_letter_queue: green-api.dead-letters
    ca_file: null
    client_identity_file: null
    client_identity_password_file: null
admin: null
";
    let config = parse(amqp).unwrap();
    let Options::Amqp(amqp) = config.sink else { panic!() };
    assert_eq!((amqp.uri.len(), amqp.queue), (2, None));
    assert!(config.admin.is_some_and(|admin| admin.listen.is_none()));
    for off in ["{listen: off}", "{listen: null}"] {
        let config = parse(&format!("{INSTANCE}sink: {{stdout: {{}}}}\nadmin: {off}\n")).unwrap();
        assert!(config.admin.is_some_and(|admin| admin.listen.is_none()), "{off}");
    }
}

#[test]
fn a_kind_that_nobody_knows_is_doubted_and_works() {
    let text = format!(
        "{INSTANCE}api: {{webhooks: [incomingMessageStatusWebhook, incomingWebhok]}}\nsink: {{stdout: {{}}}}\n"
    );
    let doubts = parse(&text).unwrap().doubts;
    let [doubt] = &*doubts else { panic!("{doubts:?}") };
    assert!(
        doubt.to_string().ends_with(":2:48: unknown kind `incomingWebhok`: did you mean `incomingWebhook`?"),
        "{doubt}"
    );
}

#[test]
fn shards_are_for_a_sink_that_replicas_can_share() {
    let with = |shards: u32, sink: &str| format!("{INSTANCE}shards: {shards}\nsink: {{{sink}: {{}}}}\n");
    assert_eq!(mistakes(&with(0, "stdout")), "2:9: `shards` must be 1 to 64, not 0");
    assert_eq!(mistakes(&with(65, "kafka")), "2:9: `shards` must be 1 to 64, not 65");
    let refused = "2:9: `shards` above 1 needs the sink `kafka` or `amqp`: others have one owner";
    for sink in ["stdout: {}", "file: {path: a}"] {
        let text = format!("{INSTANCE}shards: 2\nsink: {{{sink}}}\n");
        assert_eq!(mistakes(&text), refused);
    }
    for sink in ["kafka", "amqp"] {
        assert_eq!(Config::from_text(&with(64, sink), std::iter::empty()).unwrap().shards, 64);
    }
}

#[test]
fn mistakes_of_meaning_are_reported_together() {
    let text = r"
instances:
  - {id: 1, api_url: 'https://host', api_token: a, api_token_file: b}
  - {id: 1, api_url: 'https://host'}
api:
  receive_timeout_secs: 3
sink:
  kafka:
    topic: '{instance}'
    properties: {transactional.id: x}
    create_topics: {partitions: 0}
    transactional_id: ''
";
    assert_eq!(
        mistakes(text),
        "3:10: instance 1 has both `api_token_file` and `api_token`: keep one\n4:10: instance 1 needs `api_token_file` or `api_token`\n4:10: instance 1 is given twice: two readers of one queue disturb each other\n6:25: `receive_timeout_secs` must be 5 to 60, not 3\n12:23: `transactional_id` is empty: it identifies this bridge to the brokers\n9:12: `topic` must begin with literal text before a placeholder\n11:33: `partitions` must be at least 1\n10:36: the property `transactional.id` is set by the bridge itself: remove it"
    );
}

#[test]
fn a_mistake_in_a_file_of_the_folder_is_reported_with_that_file() {
    let folder = tempfile::tempdir().unwrap();
    let (config, instances) = (folder.path().join("bridge.yaml"), folder.path().join("instances"));
    fs::create_dir(&instances).unwrap();
    fs::write(&config, format!("instances_dir: {}\nsink: {{stdout: {{}}}}\n", instances.display())).unwrap();
    fs::write(instances.join("b.yaml"), "\nid: 2\napi_url: https://host\n").unwrap();
    fs::write(instances.join("a.yaml"), "id: 1\napi_url: https://host\napi_token: x\n").unwrap();
    fs::write(instances.join("a.txt"), "not one").unwrap();
    let message = Config::from_file(&config, std::iter::empty()).unwrap_err().to_string();
    let file = instances.join("b.yaml");
    assert_eq!(message, format!("{}:2:5: instance 2 needs `api_token_file` or `api_token`", file.display()));
    fs::remove_file(file).unwrap();
    let config = Config::from_file(&config, std::iter::empty()).unwrap();
    assert_eq!(config.instances.len(), 1);
}

/// What else is behind the broker's name is no part of the topic, and a login no part of a broker's name.
#[test]
fn a_sink_url_for_kafka_is_used_as_it_stands_or_refused() {
    for url in [
        "kafka://host:9092/topic?acks=s3cret",
        "kafka://host:9092/topic#s3cret",
        "kafka://host:9092/a/b",
        "kafka://host:9092/topic/",
        "kafka://host:9092/a%2fb",
        "kafka://u:s3cret@host:9092/topic",
        "kafka://host:0/topic",
        "kafka://host:9092x/topic",
        "kafka://:9092/topic",
        "kafka://host:9092/ topic",
    ] {
        let instance = parse(&format!("{INSTANCE}sink: {{stdout: {{}}}}")).unwrap().instances.remove(0);
        let message = Config::from_parts(instance, Options::from_url(url).unwrap()).expect_err(url).to_string();
        assert!(!message.contains("s3cret"), "{url}: {message}");
    }
}

#[test]
fn arguments_of_the_queue_that_would_let_messages_get_lost_are_refused() {
    let amqp = |more: &str| parse(&format!("{INSTANCE}sink:\n  amqp:\n    queue: q\n{more}\n"));
    for good in [
        "x-single-active-consumer: true",
        "x-max-length: 1000",
        "x-delivery-limit: -1",
        "x-delivery-limit: 3",
        "x-overflow: reject-publish",
        "x-dead-letter-strategy: at-least-once",
        "x-dead-letter-exchange: mine",
        "x-dead-letter-routing-key: '5'",
    ] {
        let config = amqp(&format!("    queue_arguments: {{{good}}}")).expect(good);
        let Options::Amqp(crate::sink::amqp::Options { queue_arguments, .. }) = config.sink else { panic!() };
        assert_eq!(queue_arguments.len(), 1);
    }
    for bad in [
        "x-queue-type: quorum",
        "x-queue-type: classic",
        "x-overflow: drop-head",
        "x-overflow: true",
        "x-dead-letter-strategy: at-most-once",
        "x-dead-letter-exchange: 1",
        "x-dead-letter-routing-key: q",
        "x-dead-letter-routing-key: ''",
        "x-delivery-limit: none",
        "x-delivery-limit: -2",
        "max-length: 5",
        "x-max-length: [5]",
        "x-max-length: 1.5",
        "x-max-length: null",
    ] {
        let message = amqp(&format!("    queue_arguments: {{{bad}}}")).expect_err(bad);
        assert!(
            message.starts_with("5:") && message.contains("queue_arguments") || message.contains("x-max-length"),
            "{bad}: {message}"
        );
    }
    // Of another kind of queue the broker judges.
    for kind in ["classic", "stream"] {
        assert!(amqp(&format!("    queue_type: {kind}\n    queue_arguments: {{x-overflow: drop-head}}")).is_ok());
        assert!(amqp(&format!("    queue_type: {kind}\n    queue_arguments: {{x-queue-type: {kind}}}")).is_err());
    }
    assert!(
        mistakes(&format!("{INSTANCE}sink: {{amqp: {{queue: null, queue_arguments: {{x-max-length: 5}}}}}}\n"))
            .contains("`queue` is null")
    );
}

#[test]
fn no_queue_stands_in_for_another() {
    for bad in [
        "queue: q, dead_letter_queue: q",
        "queue: q, dead_letter_queue: q.rejected",
        "queue: green-api-bridge.owner",
        "dead_letter_queue: green-api-bridge.owner",
        "name: a, queue: a, dead_letter_queue: a.owner",
    ] {
        let message = mistakes(&format!("{INSTANCE}sink: {{amqp: {{{bad}}}}}\n"));
        assert!(message.contains("must be four different queues"), "{bad}: {message}");
    }
    assert!(parse(&format!("{INSTANCE}sink: {{amqp: {{queue: null, dead_letter_queue: x.rejected}}}}\n")).is_ok());
    assert!(mistakes(&format!("{INSTANCE}sink: {{amqp: {{queue: \"a\\nb\"}}}}\n")).contains("no control character"));
}

#[test]
fn no_notification_can_reach_the_ledger_or_the_dead_letters() {
    let kafka = |names: &str| parse(&format!("{INSTANCE}sink: {{kafka: {{{names}}}}}\n"));
    for bad in [
        "topic: x, ledger_topic: x",
        "topic: x, dead_letter_topic: x",
        "ledger_topic: x, dead_letter_topic: x",
        "topic: 'x.{type}', ledger_topic: x.other",
        "topic: 'x.{type}', ledger_topic: x.unknown",
        "topic: 'x.{type}', dead_letter_topic: x.incomingCall",
        "topic: 'x.{instance}', ledger_topic: x.7",
        "topic: 'x{instance}.{type}', dead_letter_topic: x18446744073709551615.other",
        "topic: green-api-bridge.ledger",
        "topic: green-api.dead-letters",
    ] {
        let message = kafka(bad).expect_err(bad);
        assert!(message.contains("`topic` can expand to") || message.contains("are the same"), "{bad}: {message}");
    }
    for good in [
        "topic: 'x.{type}', ledger_topic: x.ledger, dead_letter_topic: x.dead",
        "topic: 'x.{instance}', ledger_topic: x.ledger",
        "topic: 'x.{instance}', ledger_topic: x.007",
    ] {
        assert!(kafka(good).is_ok(), "{good}");
    }
    for url in ["kafka://h/green-api-bridge.ledger", "kafka://h/green-api.dead-letters"] {
        let instance = parse(&format!("{INSTANCE}sink: {{stdout: {{}}}}")).unwrap().instances.remove(0);
        let message = Config::from_parts(instance, Options::from_url(url).unwrap()).expect_err(url).to_string();
        assert!(message.contains("`topic` can expand to"), "{message}");
    }
}
