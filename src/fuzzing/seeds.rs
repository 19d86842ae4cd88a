//! What to begin with: what is usual, and what is hostile.

use super::{BETWEEN, SECRET};

const NOTIFICATIONS: &str = include_str!("../emulator/notifications.jsonl");

fn bytes<const N: usize>(seeds: [&str; N]) -> impl Iterator<Item = Vec<u8>> {
    seeds.into_iter().map(|seed| seed.replace("SECRET", SECRET).into_bytes())
}

fn envelope(body: &str) -> String {
    format!(r#"{{"receiptId":7,"body":{body}}}"#)
}

pub(super) fn envelopes() -> Vec<Vec<u8>> {
    let usual = NOTIFICATIONS.lines().map(|body| envelope(body).into_bytes());
    let hostile = bytes([
        "null",
        "{}",
        "",
        " \n",
        r#"{"receiptId":null,"body":{}}"#,
        r#"{"receiptId":"7","body":{}}"#,
        r#"{"receiptId":7.0,"body":{}}"#,
        r#"{"receiptId":-7,"body":{}}"#,
        r#"{"receiptId":7e0,"body":{}}"#,
        r#"{"receiptId":18446744073709551615,"body":null}"#,
        r#"{"receiptId":18446744073709551616,"body":{}}"#,
        r#"{"receiptId":7,"receiptId":8,"body":{},"body":[]}"#,
        r#"{"receiptId":7}"#,
        r#"{"body":{}}"#,
        r#"{"receiptId":7,"body":{"#,
        r#"[7,{"timestamp":1}]"#,
        "[7]",
        "{ , }",
        "null\0\u{feff}",
        r#"{"receiptId":7,"body":NaN}"#,
        r#"{"receiptId":7,"body":{"a":[}}"#,
        r#"{"receiptId":7,"body":}"#,
        r#"{"receiptId":7,"body":{}} {}"#,
        r#" { "body" : [ 1.10 , 1e400 ] , "more" : {} , "receiptId" : 7 } "#,
        r#"{"receiptId":7,"body":"\ud800 \" \\\" {\"receiptId\":8}"}"#,
        r#"{"\u0072eceiptId":7,"b\u006fdy":{"typeWebhook":"a\u002db","timestamp":253402300800}}"#,
        r#"{"receiptId":7,"body":{"typeWebhook":7,"timestamp":"7","chatId":"","from":"","senderData":{"chatId":""}}}"#,
        "{\"receiptId\":7,\"body\":{\r\n\t\"typeWebhook\":\"x\"}}",
        "\u{feff}{\"receiptId\":7,\"body\":{}}",
        r#"{"result":true}"#,
        r#"{"result":false,"reason":"true"}"#,
        r#"{"message":"Error FindUnackedMessage"}"#,
        r#"{"message":"instance is starting or not authorized"}"#,
        "<html><head><title>502</title></head></html>",
    ]);
    // Cut within a letter.
    usual.chain(hostile).chain([b"{\"receiptId\":7,\"body\":\"\xd1\"}".to_vec()]).collect()
}

pub(super) fn configs() -> Vec<Vec<u8>> {
    const INSTANCES: &str = "instances:\n  - {id: 1101, api_url: 'https://host', api_token: SECRET}\n";
    let usual = include_str!("../../deploy/config.example.yaml");
    let sinks = [
        "sink: {stdout: {}}\n",
        "sink: {file: {path: ${FILE:-a.jsonl}}}\nlog: {format: json, level: debug}\n",
        "sink: {kafka: {bootstrap_servers: [a:1], properties: {sasl.password: SECRET}, key: chat}}\n",
        "sink: {kafka: {topic: 'a.{instance}', create_topics: null, properties_files: {sasl.password: /p}}}\n",
        "sink:\n  amqp:\n    uri: amqps://user:SECRET@host:5671/%2f\n    routing_key: '{type}'\n",
        "sink: {amqp: {uri: [amqp://user:SECRET@host, amqp://SECRET]}}\nadmin: {listen: off}\n",
        "sink: {amqp: {uri: {SECRET: 1}}}\n",
        "sink: {amqp: {exchange: \"SECRET\\a\", queue: ''}}\n",
        "sink: amqp://user:SECRET@host/vhost\n",
        "api: {receive_timeout_secs: 20, proxy: 'http://user:SECRET@host', webhooks: [incomingWebhook]}\nsink: {stdout: {}}\n",
        "api: &a {receive_timeout_secs: 7.0}\nsink: *a\n",
        "sink: {stdout: {}}\nsink: {stdout: {}}\n",
        "sink: {stdout: {}}\n---\nsink: {stdout: {}}\n",
        // Found by `config`: what follows `${` is not always a name.
        "sink:\n  file:\n    path: ${1SECRET}\n",
    ]
    .map(|sink| format!("{INSTANCES}{sink}"));
    let hostile = [
        "instances: [{id: SECRET, api_url: 'https://user:SECRET@host', api_token: [SECRET]}]\nsink: {stdout: {}}\n",
        "instances: [{id: 1, api_url: 'https://host/waInstance1/getSettings/SECRET', api_token: ${TOKEN}}]\nsink: x\n",
        "instances: [{id: 1, api_url: 'https://host', api_token: ${TOKEN}, api_token_file: token}]\nsink: {stdout: {}}\n",
        "instances: [{id: 18446744073709551615, api_url: 'https://host', api_token: ''}]\nsink: {stdout: {}}\n",
        "instances_dir: nowhere\nsink: {stdout: ${TOKEN}}\n",
        "\u{feff}sink: {stdout: {}}\n",
        "",
    ]
    .map(str::to_owned);
    let all = sinks.into_iter().chain(hostile).chain([usual.to_owned()]);
    all.map(|text| text.replace("SECRET", SECRET).into_bytes()).collect()
}

#[cfg(feature = "kafka")]
pub(super) fn ledger() -> Vec<Vec<u8>> {
    let sha256 = "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a";
    let entry = |key: &str, sequence: &str, sha256: &str| {
        format!(r#"{key}{}{{"sequence":{sequence},"sha256":"{sha256}"}}"#, '\n')
    };
    let sequences = ["1", "0", "18446744073709551615", "18446744073709551616", "7.0", "-1", "\"7\"", "null"];
    let entries = sequences.map(|sequence| entry("1101000001", sequence, sha256));
    let keys =
        ["01", "+1", "-1", "", "18446744073709551615", "owner:green-api-bridge"].map(|key| entry(key, "1", sha256));
    let hostile = [
        // A tombstone.
        "1101000001\n".to_owned(),
        entry("1", "1", &sha256.to_uppercase()),
        entry("1", "1", &sha256[1..]),
        entry("1", "1", &"é".repeat(32)),
        format!("1\n[1,\"{sha256}\"]"),
        format!("1\n{{\"sequence\":1,\"sequence\":2,\"sha256\":\"{sha256}\"}}"),
        "owner:green-api-bridge\n{\"owner\":\"67e55044-10b1-426f-9247-bb680e5fe0c8\",\"acquisition\":1}".to_owned(),
        format!("\u{feff}1\n{{\"sequence\":1,\"sha256\":\"{sha256}\",\"more\":[[]]}}"),
    ];
    entries.into_iter().chain(keys).chain(hostile).map(String::into_bytes).collect()
}

pub(super) fn files() -> Vec<Vec<u8>> {
    const LINE: &str = r#"{"specversion":"1.0","id":"2664eae1-4f02-5039-b487-363fc5e524e5","sequence":"00000000000000000005","idinstance":"1101000001","data":{}}"#;
    let usual = NOTIFICATIONS.lines().step_by(9);
    let torn = usual.map(|body| [LINE, &envelope(body), &envelope("null"), &LINE[..60]].map(str::to_owned));
    let bodies = ["{\r\n}", "\"\\u0000\\n\"", "[ 1.10 ]", "\"\u{2028}\u{feff}\""].map(envelope);
    let hostile = [
        [String::new(), bodies[0].clone(), bodies[1].clone(), LINE.to_owned()],
        [LINE.replace("{}", "null"), bodies[2].clone(), bodies[3].clone(), "\r".to_owned()],
        [LINE.replace("\"data\":{}", "\"data_base64\":\"e30=\""), String::new(), bodies[0].clone(), String::new()],
        [LINE.replace(":\"", ":[\""), bodies[0].clone(), bodies[0].clone(), "x".repeat(5000)],
        [LINE.replace("1101000001", "18446744073709551616"), envelope("{}"), envelope("{}"), "{".to_owned()],
        [format!("\u{feff}{LINE}\n\n{LINE}{LINE}"), envelope("1"), envelope("2"), LINE[..1].to_owned()],
    ];
    torn.chain(hostile).map(|pieces| pieces.map(String::into_bytes).join(&BETWEEN)).collect()
}

#[cfg(feature = "amqp")]
pub(super) fn amqp_uris() -> Vec<Vec<u8>> {
    bytes([
        "amqp://guest:guest@localhost:5672/%2f",
        "amqps://user:p%40SECRET@rabbit.example.com:5671/vhost?heartbeat=5&auth_mechanism=external",
        "amqp://host",
        "AMQP://HOST/",
        "amqp://[::1]:5672/v",
        "amqp://u:p@[2001:db8::99]",
        "amqp://[fe80::1%25eth0]/",
        "amqp://::1/",
        "amqp://10.0.0.1:0/",
        "amqp://host:65536/",
        "amqp://host:/",
        "amqp://:5672/",
        "amqp://u:p@/v",
        "amqp:///v",
        "amqp:host",
        "amqp://u:12/SECRET@host/v",
        "amqp://u:12#SECRET@host/v",
        "amqp://u@v@host/a/b",
        "amqp://ho\tst/",
        " amqp://host/\n",
        "amqp://h%6fst/%ff",
        "amqp://xn--e1afmkfd.example/",
        "amqp://пример.example/",
        "amqp:\\\\host\\v",
        "amqp://host:5672\\v",
    ])
    .collect()
}

#[cfg(feature = "kafka")]
pub(super) fn kafka_servers() -> Vec<Vec<u8>> {
    bytes([
        "localhost:9092",
        "one:9092,two:9093/topic",
        "one, two:1",
        "[::1]:9092/t",
        "[2001:db8::1]",
        "::1",
        "2001:db8::1:9092",
        "[::1]9092",
        "plaintext://host:9092",
        "PLAINTEXT://host:9092/path",
        "ssl://host:9092",
        "://host",
        "host:0",
        "host:65536",
        "host:",
        ":9092",
        "host:9092x",
        "host:+1",
        "host:-1",
        "user:SECRET@host:9092",
        "host:1,,other:2",
        ",",
        "",
        " host:9092 ",
        "host:9092\n",
        "пример:9092",
    ])
    .collect()
}
