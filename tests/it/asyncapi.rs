//! `asyncapi`, read by the official parser and held against what is published.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::support::{command, foreign_client, run};

const INSTANCES: &str =
    "instances: [{id: 1101000001, api_url: 'https://1101.api.greenapi.com', api_token: s3cret-canary}]\n";

/// The document of a sink.
fn document(sink: &str) -> Value {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bridge.yaml");
    fs::write(&path, format!("{INSTANCES}sink: {sink}\n")).unwrap();
    let (code, document, output) = run(command().args(["asyncapi", "--config"]).arg(&path));
    assert_eq!(code, 0, "{output}");
    assert!(!document.contains("canary"), "{document}");
    serde_json::from_str(&document).unwrap()
}

/// What the official parser says about documents, of which it must object to nothing.
fn parsed(documents: &[&Value]) -> Vec<Value> {
    let folder = tempfile::tempdir().unwrap();
    let path = |index: usize| folder.path().join(format!("{index}.json"));
    for (index, document) in documents.iter().enumerate() {
        fs::write(path(index), document.to_string()).unwrap();
    }
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/asyncapi/asyncapi.yaml");
    let paths: Vec<String> =
        (0..documents.len()).map(path).chain([shipped]).map(|path| path.to_str().unwrap().to_owned()).collect();
    let parsed = foreign_client("parse_asyncapi.js", &paths.iter().map(String::as_str).collect::<Vec<_>>());
    for found in &parsed {
        assert_eq!(found["complaints"], Value::Array(Vec::new()), "{found}");
        assert_eq!(found["version"], "3.1.0");
    }
    parsed
}

#[test]
fn the_document_has_the_operator_s_own_names_and_the_official_parser_takes_it() {
    let kafka = document(
        "{kafka: {bootstrap_servers: ['a:1', 'b:2'], topic: 'x.{chat}.{type}', dead_letter_topic: bad, \
         properties: {security.protocol: SASL_SSL, sasl.mechanism: PLAIN, sasl.username: u, sasl.password: canary}}}",
    );
    assert_eq!(kafka["servers"]["broker2"], serde_json::json!({"host": "b:2", "protocol": "kafka-secure"}));
    let channels = kafka["channels"].as_object().unwrap();
    assert_eq!(channels.keys().collect::<Vec<_>>(), ["kafka", "kafkaDeadLetters"]);
    assert_eq!(
        kafka["channels"]["kafka"]["parameters"].as_object().unwrap().keys().collect::<Vec<_>>(),
        ["chat", "type"]
    );
    assert_eq!(kafka["operations"].as_object().unwrap().len(), 2);

    let queue = document("{amqp: {uri: 'amqps://user:canary@host/vhost', queue: q, dead_letter_queue: bad}}");
    let server = serde_json::json!({"host": "host:5671", "pathname": "/vhost", "protocol": "amqps"});
    assert_eq!(queue["servers"]["broker1"], server);
    let exchange = document("{amqp: {exchange: e, queue: null, routing_key: '{instance}.{message}'}}");
    assert_eq!(exchange["channels"]["amqp"]["bindings"]["amqp"]["exchange"]["name"], "e");

    let channels: Vec<Value> =
        parsed(&[&kafka, &queue, &exchange]).into_iter().map(|mut found| found["channels"].take()).collect();
    assert_eq!(channels[0], serde_json::json!(["x.{chat}.{type}", "bad"]));
    assert_eq!(channels[1], serde_json::json!(["q", "bad"]));
    assert_eq!(channels[2], serde_json::json!(["{instance}.{message}", "green-api.dead-letters"]));
}

#[test]
fn an_address_in_a_file_that_is_none_is_reported_without_its_text() {
    let folder = tempfile::tempdir().unwrap();
    let (path, uri) = (folder.path().join("bridge.yaml"), folder.path().join("uri"));
    fs::write(&uri, "s3cret-canary").unwrap();
    fs::write(&path, format!("{INSTANCES}sink: {{amqp: {{uri_file: '{}'}}}}\n", uri.display())).unwrap();
    let (code, _, output) = run(command().args(["asyncapi", "--config"]).arg(&path));
    assert_eq!(code, 78, "{output}");
    assert!(output.contains("sink.amqp.uri_file") && !output.contains("canary"), "{output}");
}

#[test]
fn what_is_no_broker_has_no_document() {
    let (code, _, output) = run(command().args(["asyncapi", "--sink", "stdout:"]));
    assert_eq!(code, 78, "{output}");
    assert!(output.contains("Kafka and RabbitMQ only"), "{output}");
}
