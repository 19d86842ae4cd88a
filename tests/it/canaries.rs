//! Whatever happens with whichever sink: no token, password, phone number or text in a log, in `/metrics`, in `/status`, in
//! `/readyz` or on the page.

use green_api_bridge::emulator::{self, Fault, FaultKind, Method};
use serde_json::Value;

use crate::admin::{free_address, get, start};
use crate::kafka_poison::noise;
use crate::kafka_topics::Topics;
use crate::page::everything_on_it;
use crate::rabbitmq_queues::Names;
use crate::scene::{ID, Scene, TOKEN, answer};
use crate::support::{Worker, eventually, foreign_client, from_test_run};

const PHONE: &str = "79990001122";
const TEXT: &str = "t3xt-canary";
const PASSWORD: &str = "p4ssword-canary";

/// With a canary in place of all that a person may have written, or may be found by.
fn personal(name: &str, value: &mut Value) {
    match value {
        Value::Object(members) => members.iter_mut().for_each(|(name, value)| personal(name, value)),
        Value::Array(items) => items.iter_mut().for_each(|value| personal(name, value)),
        Value::String(text) if text.ends_with("@c.us") || name == "chatId" => *text = format!("{PHONE}@c.us"),
        Value::String(text) if !name.starts_with("type") => *text = format!("{TEXT} {PHONE}"),
        _ => {}
    }
}

fn bodies() -> Vec<String> {
    let odd = format!(r#"{{"typeWebhook":"{TEXT} {PHONE}"}}"#);
    let broken = format!(r#"["{TEXT}","{PHONE}"]"#);
    // Too large for the topic, and the dead letter is logged.
    let large = noise(40_000).replacen(
        "\"text\":\"",
        &format!(r#""senderData":{{"chatId":"{PHONE}@c.us"}},"text":"{TEXT}"#),
        1,
    );
    let every_kind = emulator::notifications().map(|body| {
        let mut value = serde_json::from_str(body).unwrap();
        personal("", &mut value);
        value.to_string()
    });
    every_kind.chain([odd, broken, large]).collect()
}

/// A bridge with this sink, at work or trying to, and all that can go wrong upstream.
struct Case {
    name: &'static str,
    /// Whether the sink takes anything.
    works: bool,
    scene: Scene,
    address: String,
    bridge: Worker,
}

impl Case {
    async fn start(name: &'static str, works: bool, sink: &str) -> Self {
        let (scene, address) = (Scene::fleet(2, &bodies()).await, free_address());
        scene.emulator.set_token(&scene.instances[1], "another");
        let echo = format!(r#"{{"path":"/waInstance{ID}/receiveNotification/{TOKEN}","text":"{TEXT} {PHONE}"}}"#);
        for fault in [answer(400, &echo), answer(500, &echo), answer(200, &echo), FaultKind::Reset] {
            for method in [Method::ReceiveNotification, Method::DeleteNotification] {
                scene.fault(Fault::before(fault.clone()).on(method));
            }
        }
        // At the level `trace`: more than `debug`.
        let bridge = start(&scene, sink, &address);
        Self { name, works, scene, address, bridge }
    }

    async fn shown(&self) -> String {
        if self.works {
            eventually(self.name, || self.scene.emulator.queued(ID) == 0);
            self.bridge.wait_for_log("token_refused");
        } else {
            self.bridge.wait_for_log("sink_unavailable");
        }
        let mut shown = self.bridge.log();
        for path in ["/readyz", "/metrics", "/status", "/"] {
            shown += &get(&self.address, path).await.expect("an answer").1;
        }
        shown + &everything_on_it(&self.address)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_secret_or_personal_is_shown_anywhere_whatever_the_sink_does() {
    let (topics, nobody, names) = (Topics::new(), Topics::at("127.0.0.1:1".into()), Names::new());
    let limited = format!("{}.notifications", topics.name);
    foreign_client("create_kafka.py", &[&topics.servers, &limited, "max.message.bytes=20000"]);
    let authority = from_test_run("BRIDGE_TEST_KAFKA_KEYS") + "/authority.pem";
    let login = format!(
        ", properties: {{ssl.ca.location: '{authority}', security.protocol: SASL_SSL, sasl.mechanism: PLAIN, \
         sasl.username: bridge, sasl.password: {PASSWORD}}}"
    );
    let refused = Topics::at(from_test_run("BRIDGE_TEST_KAFKA_SASL"));
    let stranger = Names::at(names.uri.replace("guest:guest", &format!("stranger:{PASSWORD}")));
    let unroutable = Names::new();
    let cases = [
        ("file", true, "{file: {path: out.jsonl}}".to_owned()),
        ("no folder", false, "{file: {path: nowhere/out.jsonl}}".to_owned()),
        ("Kafka", true, topics.sink(", key: chat")),
        ("no Kafka", false, nobody.sink("")),
        ("Kafka refuses the password", false, refused.sink(&login)),
        ("RabbitMQ", true, names.sink("")),
        ("RabbitMQ, no queue", true, unroutable.sink_without_queue("")),
        ("RabbitMQ refuses the password", false, stranger.sink("")),
    ];
    let mut running = Vec::new();
    for (name, works, sink) in cases {
        running.push(Case::start(name, works, &sink).await);
    }
    for case in &running {
        let shown = case.shown().await;
        for canary in [TOKEN, PASSWORD, PHONE, TEXT] {
            if let Some(place) = shown.find(canary) {
                let around = shown[..place].rfind('\n').unwrap_or_default();
                panic!("{}: {canary} in {}", case.name, &shown[around..place + canary.len()]);
            }
        }
        let output = if case.name.starts_with("Kafka") && case.works { "\"too_large\"" } else { "token_refused" };
        assert!(!case.works || shown.contains(output), "{}: {shown}", case.name);
    }
    // They were there to be shown.
    let stored = std::fs::read_to_string(running[0].scene.path("out.jsonl")).unwrap();
    assert!(stored.contains(PHONE) && stored.contains(TEXT));
}
