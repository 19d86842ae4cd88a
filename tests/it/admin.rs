use std::net::TcpListener;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::scene::{ID, Scene, numbered};
use crate::support::{Worker, command, event, eventually, run};

/// A free port of this machine: not one that an outgoing connection or a broker of the tests may take before it is used.
pub fn free_address() -> String {
    let mut addresses = std::iter::repeat_with(|| format!("127.0.0.1:{}", fastrand::u16(12_000..20_000)));
    addresses.find(|address| TcpListener::bind(address).is_ok()).unwrap()
}

pub fn start(scene: &Scene, sink: &str, address: &str) -> Worker {
    let mut command = scene.command_with("bridge", sink);
    Worker::start(command.env("BRIDGE_ADMIN_LISTEN", address), &scene.path("bridge.log"))
}

pub async fn get(address: &str, path: &str) -> Option<(u16, String)> {
    let answer = reqwest::get(format!("http://{address}{path}")).await.ok()?;
    Some((answer.status().as_u16(), answer.text().await.unwrap()))
}

pub async fn text(address: &str, path: &str) -> String {
    let (code, text) = get(address, path).await.expect("an answer");
    assert_eq!(code, 200, "{path}: {text}");
    text
}

/// Waits until `/readyz` answers so, and returns what it says.
pub async fn readiness(address: &str, code: u16) -> Value {
    readiness_within(address, code, Duration::from_secs(60)).await
}

pub async fn readiness_within(address: &str, code: u16, limit: Duration) -> Value {
    let begun = Instant::now();
    loop {
        if let Some((_, text)) = get(address, "/readyz").await.filter(|(answered, _)| *answered == code) {
            return serde_json::from_str(&text).unwrap();
        }
        assert!(begun.elapsed() < limit, "/readyz has not answered {code} in {limit:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

pub fn health(address: &str) -> i32 {
    run(command().arg("health").env("BRIDGE_ADMIN_LISTEN", address)).0
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_that_happened_can_be_read() {
    let (scene, address) = (Scene::fleet(3, &numbered(5)).await, free_address());
    let _bridge = start(&scene, "{file: {path: out.jsonl}}", &address);
    scene.drained();
    assert_eq!(readiness(&address, 200).await["ready"], true);
    assert_eq!((text(&address, "/livez").await.as_str(), health(&address)), ("ok\n", 0));

    let status: Value = serde_json::from_str(&text(&address, "/status").await).unwrap();
    assert_eq!((&status["sink"]["kind"], &status["sink"]["up"]), (&"file".into(), &true.into()));
    assert_eq!(status["sink"]["guarantee"], "exactly once");
    let instances = status["instances"].as_array().unwrap();
    assert_eq!(instances.len(), 3);
    for instance in instances {
        assert_eq!((&instance["published"], &instance["sequence"]), (&5.into(), &5.into()), "{instance}");
        assert!(instance["conditions"].as_array().unwrap().is_empty(), "{instance}");
        assert!(instance["last_notification"].as_str().unwrap().ends_with('Z'), "{instance}");
    }

    // The last delete takes effect a moment before its answer is counted.
    let confirmed = format!(r#"green_api_bridge_deletes_total{{id_instance="{ID}",outcome="confirmed"}} 5"#);
    let mut metrics = String::new();
    while !metrics.contains(&confirmed) {
        metrics = text(&address, "/metrics").await;
    }
    for line in [
        format!(
            r#"green_api_bridge_notifications_published_total{{id_instance="{ID}",sink="file",type="incomingCall"}} 5"#
        ),
        format!(r#"green_api_bridge_notifications_received_total{{id_instance="{ID}",type="incomingCall"}} 5"#),
        format!(r#"green_api_bridge_in_flight_notifications{{id_instance="{ID}"}} 0"#),
        format!(r#"green_api_bridge_polls_total{{id_instance="{ID}",outcome="notification"}} "#),
        r#"green_api_bridge_sink_up{sink="file"} 1"#.into(),
        r#"green_api_bridge_publish_duration_seconds_count{sink="file"} 15"#.into(),
        r#"green_api_bridge_end_to_end_latency_seconds_count{sink="file"} 15"#.into(),
        r#"green_api_bridge_poll_duration_seconds_count{outcome="notification"} "#.into(),
        "process_resident_memory_bytes ".into(),
        "# EOF".into(),
    ] {
        assert!(metrics.contains(&line), "{line} is not in\n{metrics}");
    }

    let page = text(&address, "/").await;
    assert!(page.contains("<title>green-api-bridge</title>") && !page.contains("http"), "self-contained");
}

/// Name, type and labels of every metric: dashboards and alerts of others rely on them.
const METRICS: [(&str, &str, &[&str]); 29] = [
    ("process_resident_memory_bytes", "gauge", &[]),
    ("process_open_fds", "gauge", &[]),
    ("process_threads", "gauge", &[]),
    ("process_cpu_seconds", "counter", &[]),
    ("green_api_bridge_polls", "counter", &["id_instance", "outcome"]),
    ("green_api_bridge_deletes", "counter", &["id_instance", "outcome"]),
    ("green_api_bridge_redeliveries", "counter", &["id_instance"]),
    ("green_api_bridge_dead_lettered", "counter", &["id_instance", "reason"]),
    ("green_api_bridge_in_flight_notifications", "gauge", &["id_instance"]),
    ("green_api_bridge_last_success_timestamp_seconds", "gauge", &["id_instance"]),
    ("green_api_bridge_last_notification_timestamp_seconds", "gauge", &["id_instance"]),
    ("green_api_bridge_in_flight_bytes", "gauge", &[]),
    ("green_api_bridge_notifications_received", "counter", &["id_instance", "type"]),
    ("green_api_bridge_notifications_published", "counter", &["id_instance", "sink", "type"]),
    ("green_api_bridge_instance_state", "gauge", &["id_instance", "state"]),
    ("green_api_bridge_condition", "gauge", &["id_instance", "condition"]),
    ("green_api_bridge_poll_duration_seconds", "histogram", &["outcome"]),
    ("green_api_bridge_sink_up", "gauge", &["sink"]),
    ("green_api_bridge_shard_held", "gauge", &["shard"]),
    ("green_api_bridge_shard_moves", "counter", &["reason"]),
    ("green_api_bridge_shard_opening_seconds", "histogram", &["sink"]),
    ("green_api_bridge_replicas", "gauge", &["sink"]),
    ("green_api_bridge_heads_discarded", "counter", &["sink"]),
    ("green_api_bridge_dead_letter_dir_bytes", "gauge", &[]),
    ("green_api_bridge_rejected_messages", "gauge", &["sink"]),
    ("green_api_bridge_publish_errors", "counter", &["sink", "error_type"]),
    ("green_api_bridge_publish_duration_seconds", "histogram", &["sink"]),
    ("green_api_bridge_end_to_end_latency_seconds", "histogram", &["sink"]),
    ("green_api_bridge_build_info", "gauge", &["version", "revision", "librdkafka"]),
];

#[tokio::test(flavor = "multi_thread")]
async fn the_metrics_are_those_of_the_contract_and_their_labels_are_bounded() {
    // What no document knows must not become a label.
    let odd = [
        r#"{"typeWebhook":"somethingElse","timestamp":0}"#.to_owned(),
        r#"{"typeWebhook":"stateInstanceChanged","stateInstance":"inAnotherWorld"}"#.to_owned(),
    ];
    let (scene, address) = (Scene::fleet(3, &odd).await, free_address());
    scene.emulator.set_token(&scene.instances[2], "another");
    let bridge = start(&scene, "{file: {path: out.jsonl}}", &address);
    bridge.wait_for_log("token_refused");
    eventually("the others are read", || scene.queued() == 2);
    let metrics = text(&address, "/metrics").await;
    let output: Vec<&str> = metrics.lines().filter_map(|line| line.strip_prefix("# TYPE ")).collect();
    assert_eq!(output, METRICS.map(|(name, kind, _)| format!("{name} {kind}")));
    for line in metrics.lines().filter(|line| !line.starts_with('#')) {
        let (series, _) = line.rsplit_once(' ').expect(line);
        let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
        let base = ["_total", "_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end));
        let of = |wanted: &str| METRICS.iter().find(|(name, ..)| *name == wanted);
        let (_, kind, wanted) = of(name).or_else(|| of(base?)).expect(line);
        let labels = labels.trim_end_matches('}').split(',').filter_map(|label| label.split_once('='));
        for (label, value) in labels.clone() {
            let value = value.trim_matches('"');
            // Words of our own, and nothing that grows with what is carried.
            let is_bounded = match label {
                "id_instance" => value.is_empty() || scene.instances.iter().any(|id| id == value),
                "le" => value == "+Inf" || value.parse::<f64>().is_ok(),
                "version" | "revision" | "librdkafka" => value.len() < 41,
                _ => value.chars().all(|character| character.is_ascii_alphabetic() || character == '_'),
            };
            assert!(is_bounded, "{line}");
        }
        let names: Vec<&str> = labels.map(|(label, _)| label).filter(|label| *label != "le").collect();
        assert_eq!(&names, wanted, "{line}");
        assert!(!(kind == &"histogram" && names.contains(&"id_instance")), "{line}");
    }
    for line in [
        format!(r#"green_api_bridge_notifications_received_total{{id_instance="{ID}",type="other"}} 1"#),
        format!(r#"green_api_bridge_instance_state{{id_instance="{ID}",state="other"}} 1"#),
        format!(r#"green_api_bridge_polls_total{{id_instance="{ID}",outcome="error"}} 0"#),
    ] {
        assert!(metrics.contains(&line), "{line} is not in\n{metrics}");
    }
    let refused = format!(r#"green_api_bridge_polls_total{{id_instance="{}",outcome="error"}} 0"#, scene.instances[2]);
    assert!(!metrics.contains(&refused), "{metrics}");
    let page = include_str!("../../deploy/docs/operating.md");
    for (name, kind, labels) in METRICS {
        let shown = if kind == "counter" { format!("{name}_total") } else { name.into() };
        let row = match shown.strip_prefix("green_api_bridge_") {
            Some(shown) if labels.is_empty() => format!("\n| `{shown}` | {kind} | |"),
            Some(shown) => format!("\n| `{shown}` | {kind} | `{}` |", labels.join("`, `")),
            None => format!("`{shown}`"),
        };
        assert!(page.contains(&row), "{row} is not on the page");
    }
    let of_an_instance = metrics.lines().filter(|line| line.contains(&format!(r#"id_instance="{ID}""#))).count();
    assert!(of_an_instance < 20, "{of_an_instance} series for each of thousands");
}

/// What `/metrics` says once it has this line.
pub async fn metrics_with(address: &str, line: &str) -> String {
    let begun = Instant::now();
    loop {
        let metrics = text(address, "/metrics").await;
        if metrics.contains(line) {
            return metrics;
        }
        assert!(begun.elapsed() < Duration::from_secs(60), "{line} is not in\n{metrics}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_state_of_an_account_and_the_age_of_a_notification_are_measured() {
    let (scene, address) = (Scene::new().await, free_address());
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let changed = |state: &str, age: u64| {
        let timestamp = now - age;
        format!(r#"{{"typeWebhook":"stateInstanceChanged","stateInstance":"{state}","timestamp":{timestamp}}}"#)
    };
    let _bridge = start(&scene, "{file: {path: out.jsonl}}", &address);
    readiness(&address, 200).await;
    let state = |state: &str| format!(r#"green_api_bridge_instance_state{{id_instance="{ID}",state="{state}"}} 1"#);
    // It is asked for at the start.
    metrics_with(&address, &state("authorized")).await;
    let ages = [("starting", 200), ("authorized", 7200), ("notAuthorized", 100_000)];
    scene.push(ages.map(|(state, age)| changed(state, age)).iter().map(String::as_str));
    let metrics = metrics_with(&address, &state("notAuthorized")).await;
    assert!(!metrics.contains(&state("authorized")), "{metrics}");
    scene.drained();
    let stored = r#"green_api_bridge_end_to_end_latency_seconds_count{sink="file"} 3"#;
    let metrics = metrics_with(&address, stored).await;
    let buckets = metrics.lines().filter_map(|line| {
        let (end, count) =
            line.strip_prefix("green_api_bridge_end_to_end_latency_seconds_bucket{le=\"")?.split_once('"')?;
        Some((end, count.rsplit_once(' ')?.1))
    });
    let steps = [("60.0", "0"), ("300.0", "1"), ("3600.0", "1"), ("21600.0", "2"), ("64800.0", "2"), ("+Inf", "3")];
    let output: Vec<(&str, &str)> = buckets.filter(|(end, _)| steps.iter().any(|(wanted, _)| wanted == end)).collect();
    assert_eq!(output, steps);
    let sum = metrics
        .lines()
        .find_map(|line| line.strip_prefix(r#"green_api_bridge_end_to_end_latency_seconds_sum{sink="file"} "#));
    let sum: f64 = sum.unwrap().parse().unwrap();
    // Nothing is kept for more than a day, whatever it says.
    assert!((93_800.0..93_900.0).contains(&sum), "{sum}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_notification_is_in_flight_until_its_delete_is_answered() {
    let (scene, address) = (Scene::new().await, free_address());
    scene.emulator.turn(ID, |knobs| knobs.delay_ms = 1_000);
    let _bridge = start(&scene, "{file: {path: out.jsonl}}", &address);
    readiness(&address, 200).await;
    let in_flight = |count: u8| format!(r#"green_api_bridge_in_flight_notifications{{id_instance="{ID}"}} {count}"#);
    metrics_with(&address, &in_flight(0)).await;
    scene.push(["{}"]);
    let metrics = metrics_with(&address, &in_flight(1)).await;
    // It is stored at once; only its delete takes long.
    assert!(metrics.contains("green_api_bridge_in_flight_bytes 0"), "{metrics}");
    let deleted = format!(r#"green_api_bridge_deletes_total{{id_instance="{ID}",outcome="confirmed"}} 1"#);
    let metrics = metrics_with(&address, &deleted).await;
    assert!(metrics.contains(&in_flight(0)), "{metrics}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_that_is_thrown_away_with_its_ownership_is_counted() {
    let (scene, address) = (Scene::new().await, free_address());
    let bridge = scene.command_with("bridge", "{file: {path: out.jsonl}}");
    let mut limited = Command::new("sh");
    limited.current_dir(&scene.folder).args(["-c", "ulimit -f 8 && exec \"$0\" \"$@\""]);
    limited.arg(bridge.get_program()).args(bridge.get_args());
    // The log is a file as well.
    limited.env("BRIDGE_ADMIN_LISTEN", &address).env("RUST_LOG", "error");
    let _bridge = Worker::start(&mut limited, &scene.path("bridge.log"));
    readiness(&address, 200).await;
    metrics_with(&address, r#"green_api_bridge_heads_discarded_total{sink="file"} 0"#).await;
    // Larger than any file may be.
    scene.push([format!(r#""{}""#, "a".repeat(10_000)).as_str()]);
    metrics_with(&address, r#"green_api_bridge_heads_discarded_total{sink="file"} 1"#).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_ready_is_named_and_comes_back() {
    let (scene, address) = (Scene::new().await, free_address());
    // A file in a folder that is not there yet.
    let bridge = start(&scene, "{file: {path: later/out.jsonl}}", &address);
    let readiness_of_sink = readiness(&address, 503).await;
    assert_eq!((&readiness_of_sink["sink"], health(&address)), (&false.into(), 1));
    let output = readiness_of_sink["waiting_for"].to_string();
    assert!(output.contains("the sink is not connected") && !output.contains("Green API"), "{output}");
    bridge.wait_for_log("sink_unavailable");
    let metrics = text(&address, "/metrics").await;
    assert!(
        metrics.contains(r#"green_api_bridge_condition{id_instance="",condition="sink_unavailable"} 1"#),
        "{metrics}"
    );
    std::fs::create_dir(scene.path("later")).unwrap();
    readiness(&address, 200).await;
    assert!(!text(&address, "/metrics").await.contains("sink_unavailable"));
    // Nobody answers for Green API any more.
    drop(scene.emulator);
    let readiness_of_fleet = readiness(&address, 503).await;
    assert_eq!((&readiness_of_fleet["sink"], &readiness_of_fleet["fleet"]), (&true.into(), &false.into()));
    assert_eq!(readiness_of_fleet["waiting_for"], serde_json::json!(["no instance gets an answer from Green API"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_that_is_not_logged_in_is_a_condition_and_no_unreadiness() {
    let (scene, address) = (Scene::fleet(2, &[]).await, free_address());
    scene.emulator.set_token(&scene.instances[1], "another");
    let _bridge = start(&scene, "{file: {path: out.jsonl}}", &address);
    readiness(&address, 200).await;
    scene.push([r#"{"typeWebhook":"stateInstanceChanged","stateInstance":"notAuthorized"}"#]);
    let mut status = String::new();
    while !["token_refused", "instance_not_authorized"].iter().all(|condition| status.contains(condition)) {
        status = text(&address, "/status").await;
    }
    assert_eq!((readiness(&address, 200).await["ready"].as_bool(), health(&address)), (Some(true), 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_taken_port_is_a_failure_only_for_who_asked_for_it() {
    let scene = Scene::new().await;
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let asked = start(&scene, "{stdout: {}}", &address);
    assert_eq!(asked.ended().code(), Some(1));
    let output = std::fs::read_to_string(scene.path("bridge.log")).unwrap();
    assert!(output.contains("set `admin.listen`"), "{output}");
    // Whoever holds the default port, this test or another process, it is taken.
    let _default = TcpListener::bind("127.0.0.1:9464");
    let mut silent = scene.command_with("silent", "{stdout: {}}");
    let silent = Worker::start(silent.env_remove("BRIDGE_ADMIN_LISTEN"), &scene.path("silent.log"));
    silent.wait_for_log("the admin port 127.0.0.1:9464 cannot be opened");
    silent.wait_for_log(&event("running"));
}

#[test]
fn no_bridge_is_not_healthy() {
    assert_eq!(health(&free_address()), 1);
    let (code, _, output) = run(command().arg("health"));
    assert!(code == 1 && output.contains("off"), "{output}");
}

/// Every metric that the dashboard and the alerts name.
#[tokio::test(flavor = "multi_thread")]
async fn the_dashboard_and_the_alerts_name_only_what_there_is() {
    let (scene, address) = (Scene::fleet(1, &numbered(1)).await, free_address());
    let _bridge = start(&scene, "{file: {path: out.jsonl}}", &address);
    scene.drained();
    let metrics = text(&address, "/metrics").await;
    let deploy = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy");
    let mut count = 0;
    for file in ["grafana/green-api-bridge.json", "prometheus/alerts.yaml"] {
        let named = std::fs::read_to_string(deploy.join(file)).unwrap();
        let is_name = |character: char| character.is_ascii_lowercase() || character == '_';
        let words = named.split(|character| !is_name(character));
        for name in words.filter(|word| word.starts_with("green_api_bridge_") || word.starts_with("process_")) {
            let base = name.trim_end_matches("_total").trim_end_matches("_bucket").trim_end_matches("_count");
            assert!(metrics.contains(&format!("# TYPE {base} ")), "{file}: {name} is not in\n{metrics}");
            count += 1;
        }
    }
    assert!(count > 10, "{count} names");
}

#[test]
fn every_alert_has_its_runbook() {
    let alerts = include_str!("../../deploy/prometheus/alerts.yaml");
    let page = include_str!("../../deploy/docs/operating.md");
    let names: Vec<&str> = alerts.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    assert!(names.len() >= 5, "{names:?}");
    for name in names {
        let anchor = name.to_lowercase();
        let row = format!("| <a id=\"{anchor}\"></a>**{name}** |");
        assert!(page.contains(&row), "no runbook for {name} on the page");
        let (_, rest) = alerts.split_once(&format!("- alert: {name}\n")).unwrap();
        let url = format!("runbook_url: {}/blob/main/deploy/docs/operating.md#{anchor}", env!("CARGO_PKG_REPOSITORY"));
        assert!(rest.split("- alert: ").next().unwrap().contains(&url), "{name}: {url}");
    }
}
