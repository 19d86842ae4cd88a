//! The alerts of `deploy/`, evaluated by a real Prometheus that asks a real bridge.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::admin::{free_address, get, health, readiness, readiness_within, start, text};
use crate::deploy::file;
use crate::kafka_kills::assert_exactly_once;
use crate::kafka_poison::noise;
use crate::kafka_topics::Topics;
use crate::rabbitmq_queues::Names;
use crate::scene::{ID, Scene, numbered};
use crate::support::{Broker, Worker, eventually, foreign_client, run};

/// A Prometheus with our config and our alerts, which asks every second; killed when dropped.
struct Prometheus {
    address: String,
    _process: Worker,
}

impl Prometheus {
    /// `folder` is for its data.
    fn start(folder: &Path, bridge: &str) -> Self {
        let config = config(bridge).replace("scrape_interval: 5s", "scrape_interval: 1s\n  evaluation_interval: 1s");
        let path = folder.join("prometheus.yml");
        fs::write(&path, config).unwrap();
        let address = free_address();
        let mut command = Command::new("prometheus");
        command.arg("--config.file").arg(&path).arg("--storage.tsdb.path").arg(folder.join("prometheus"));
        command.args(["--web.listen-address", &address]);
        Self { address, _process: Worker::start(&mut command, &folder.join("prometheus.log")) }
    }

    /// The instances for which an alert's expression is true; empty for a sink or a process.
    async fn raised(&self, alert: &str) -> Vec<(String, String)> {
        let Some((_, answer)) = get(&self.address, "/api/v1/rules?type=alert").await else { return Vec::new() };
        let Ok(answer) = serde_json::from_str::<Value>(&answer) else { return Vec::new() };
        let groups = answer["data"]["groups"].as_array().cloned().unwrap_or_default();
        let mut rules = groups.iter().flat_map(|group| group["rules"].as_array().unwrap());
        let Some(rule) = rules.find(|rule| rule["name"] == alert) else { return Vec::new() };
        assert_ne!(rule["health"], "err", "{rule}");
        let label = |alert: &Value, name: &str| alert["labels"][name].as_str().unwrap_or_default().to_owned();
        let raised = rule["alerts"].as_array().unwrap().iter();
        // Of Green API, or else of Prometheus.
        let name = if alert == "GreenApiBridgeDown" { "instance" } else { "id_instance" };
        raised.map(|alert| (label(alert, name), alert["state"].as_str().unwrap().to_owned())).collect()
    }

    /// The values that a question is answered with.
    async fn values(&self, question: &str) -> Vec<f64> {
        let question: String = url::form_urlencoded::byte_serialize(question.as_bytes()).collect();
        let answer = get(&self.address, &format!("/api/v1/query?query={question}")).await;
        let Some((code, answer)) = answer.filter(|(code, _)| *code != 503) else { return Vec::new() };
        assert_eq!(code, 200, "{answer}");
        let answer: Value = serde_json::from_str(&answer).unwrap();
        let results = answer["data"]["result"].as_array().unwrap().iter();
        results.map(|result| result["value"][1].as_str().unwrap().parse().unwrap()).collect()
    }

    /// Waits until there is one.
    async fn answer(&self, question: &str) -> Vec<f64> {
        let begun = Instant::now();
        loop {
            let values = self.values(question).await;
            if !values.is_empty() {
                return values;
            }
            assert!(begun.elapsed() < Duration::from_secs(60), "no answer: {question}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn wait_for(&self, alert: &str, holds: impl Fn(&[(String, String)]) -> bool) -> Duration {
        let begun = Instant::now();
        loop {
            let raised = self.raised(alert).await;
            if holds(&raised) {
                return begun.elapsed();
            }
            assert!(begun.elapsed() < Duration::from_secs(150), "{alert}: {raised:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

/// What Prometheus is started with by compose, about this bridge.
fn config(bridge: &str) -> String {
    let rules = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/prometheus/alerts.yaml");
    let shipped = file("deploy/prometheus/prometheus.yml");
    let at = format!("targets: ['{bridge}']");
    let here = shipped
        .replace("/etc/prometheus/alerts.yaml", rules.to_str().unwrap())
        .replace("dns_sd_configs", "static_configs")
        .replace(&shipped[shipped.find("names: [").unwrap()..shipped.rfind('}').unwrap()], &at);
    assert!(here.contains(bridge) && here.contains(rules.to_str().unwrap()), "{here}");
    here
}

/// What `promtool` says about a file.
fn assert_passes(arguments: &[&str], path: &Path) {
    let (code, stdout, stderr) = run(Command::new("promtool").args(arguments).arg(path));
    assert_eq!(code, 0, "{stdout}{stderr}");
}

/// What the dashboard asks: the title of a panel, and one of its questions.
fn dashboard() -> Vec<(String, String)> {
    let dashboard: Value = serde_json::from_str(&file("deploy/grafana/green-api-bridge.json")).unwrap();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let panels = dashboard["panels"].as_array().unwrap().iter();
    let questions = panels.flat_map(|panel| {
        let targets = panel["targets"].as_array().unwrap().iter();
        // As with no bridge chosen.
        targets.map(move |target| (text(&panel["title"]), text(&target["expr"]).replace("$bridge", ".*")))
    });
    questions.collect()
}

#[test]
fn prometheus_takes_the_config_and_raises_each_alert_when_it_is_due() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("prometheus.yml");
    fs::write(&path, config("localhost:9464")).unwrap();
    assert_passes(&["check", "config"], &path);
    let rules = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/prometheus/alerts.yaml");
    assert_passes(&["check", "rules"], &rules);
    // As it is shipped, with its way to find the bridges.
    let shipped = file("deploy/prometheus/prometheus.yml");
    fs::write(&path, shipped.replace("/etc/prometheus/alerts.yaml", rules.to_str().unwrap())).unwrap();
    assert_passes(&["check", "config"], &path);
    let cases = include_str!("alerts.yaml").replace("deploy/prometheus/alerts.yaml", rules.to_str().unwrap());
    let path = folder.path().join("cases.yaml");
    fs::write(&path, &cases).unwrap();
    assert_passes(&["test", "rules"], &path);
    let alerts = file("deploy/prometheus/alerts.yaml");
    for name in alerts.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")) {
        assert!(cases.contains(&format!("alertname=\"{name}\"")), "{name} has no case in tests/it/alerts.yaml");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn kafka_stopped_under_load_is_reported_and_raised_and_all_recovers() {
    const SINK_DOWN: &str = "GreenApiBridgeSinkDown";
    let broker = Broker::start("kafka");
    let topics = Topics::at(broker.address("BRIDGE_TEST_KAFKA"));
    let bodies = numbered(200);
    let (scene, address) = (Scene::fleet(20, &bodies[..100]).await, free_address());
    let bridge = start(&scene, &topics.sink(""), &address);
    let prometheus = Prometheus::start(scene.folder.path(), &address);
    eventually("it works", || scene.queued() <= 1_000);
    assert_eq!(readiness(&address, 200).await["sink"], true);
    broker.kill();
    let killed = Instant::now();
    scene.push_to_all(&bodies[100..]);
    let output = readiness(&address, 503).await;
    println!("/readyz after {:?}: {output}", killed.elapsed());
    assert_eq!((&output["ready"], &output["sink"]), (&false.into(), &false.into()), "{output}");
    assert!(output["waiting_for"].to_string().contains("the sink is not connected"), "{output}");
    assert_eq!(health(&address), 1);
    bridge.wait_for_log("sink_unavailable");
    println!("the log reports it {:?} after Kafka ended", killed.elapsed());
    // A broker may restart: it fires after five minutes.
    prometheus.wait_for(SINK_DOWN, |raised| raised.iter().any(|(_, state)| state == "pending")).await;
    println!("{SINK_DOWN} is true {:?} after Kafka ended", killed.elapsed());
    let status: Value = serde_json::from_str(&text(&address, "/status").await).unwrap();
    assert_eq!((&status["sink"]["kind"], &status["sink"]["up"]), (&"kafka".into(), &false.into()));
    broker.start_again();
    let started = Instant::now();
    // Where in a transaction Kafka ended decides how soon a new producer is there: within seconds, or when the transaction
    // has timed out and the pause after that is over.
    readiness_within(&address, 200, Duration::from_secs(180)).await;
    println!("/readyz is 200 {:?} after Kafka was there again", started.elapsed());
    scene.drained();
    prometheus.wait_for(SINK_DOWN, <[_]>::is_empty).await;
    assert_eq!(health(&address), 0);
    assert_exactly_once(&scene, &topics, &bodies);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_condition_of_the_sink_is_not_counted_as_an_instance() {
    let (scene, address) = (Scene::new().await, free_address());
    let _bridge = start(&scene, "{file: {path: nowhere/out.jsonl}}", &address);
    let prometheus = Prometheus::start(scene.folder.path(), &address);
    assert_eq!(prometheus.answer(r#"green_api_bridge_condition{condition="sink_unavailable"}"#).await, [1.0]);
    let mut questions = dashboard().into_iter().filter(|(title, _)| title == "Instances with a condition");
    let (_, with_a_condition) = questions.next().expect("the panel");
    assert_eq!(prometheus.values(&with_a_condition).await, [0.0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_alert_names_the_instance_and_not_the_address() {
    let changed = r#"{"typeWebhook":"stateInstanceChanged","stateInstance":"authorized"}"#.to_owned();
    let (scene, address, topics) = (Scene::fleet(3, &[changed]).await, free_address(), Topics::new());
    scene.emulator.set_token(&scene.instances[1], "another");
    let topic = format!("{}.notifications", topics.name);
    foreign_client("create_kafka.py", &[&topics.servers, &topic, "max.message.bytes=20000"]);
    let bridge = start(&scene, &topics.sink(""), &address);
    readiness(&address, 200).await;
    let prometheus = Prometheus::start(scene.folder.path(), &address);
    prometheus
        .wait_for("GreenApiBridgeInstanceNeedsSomebody", |raised| {
            raised.iter().map(|(instance, _)| instance).eq([&scene.instances[1]])
        })
        .await;
    for (title, question) in dashboard() {
        let values = prometheus.answer(&question).await;
        match title.as_str() {
            "Instances with a condition" | "Sink connected" => assert_eq!(values, [1.0], "{title}"),
            // Who never had one is not quiet since 1970.
            "Quiet for longest" => assert!(values.len() == 2 && values[0] < 300.0, "{title}: {values:?}"),
            // A rate of nothing has no quantile.
            _ => {}
        }
    }
    // An increase is seen by whoever saw that there was none.
    prometheus.answer(r#"green_api_bridge_dead_lettered_total{reason="too_large"}"#).await;
    scene.push([noise(40_000).as_str()]);
    prometheus.wait_for("GreenApiBridgeDeadLetters", |raised| raised.iter().any(|(instance, _)| instance == ID)).await;
    drop(bridge);
    prometheus.wait_for("GreenApiBridgeDown", |raised| raised.iter().any(|(instance, _)| *instance == address)).await;
}

/// Not a single notification comes.
#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_dies_while_nothing_happens_is_noticed() {
    let brokers = [Broker::start("kafka"), Broker::start("rabbitmq")];
    let kafka = Topics::at(brokers[0].address("BRIDGE_TEST_KAFKA")).sink("");
    let rabbitmq = Names::at(brokers[1].address("BRIDGE_TEST_AMQP")).sink(", queue_type: classic");
    for (broker, sink) in brokers.iter().zip([kafka, rabbitmq]) {
        let (scene, address) = (Scene::new().await, free_address());
        let bridge = start(&scene, &sink, &address);
        readiness(&address, 200).await;
        broker.kill();
        let killed = Instant::now();
        assert_eq!(readiness(&address, 503).await["sink"], false);
        println!("/readyz {:?} after the broker ended", killed.elapsed());
        bridge.wait_for_log("sink_unavailable");
        broker.start_again();
        readiness_within(&address, 200, Duration::from_secs(120)).await;
        scene.push(["{}"]);
        scene.drained();
    }
}
