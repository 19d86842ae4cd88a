//! The samples of `deploy/consumers`, in each language and from each broker, while everything around them breaks: at the end
//! each notification is in their database once, what they cannot handle is put aside, and they end when they are asked to.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::kafka_security::permission;
use crate::kafka_topics::{Record, Topics};
use crate::rabbitmq_queues::Names;
use crate::scene::{ID, Scene, numbered};
use crate::support::{Broker, eventually, foreign_client, from_test_run, is_long, run};

const INSTANCES: usize = 10;
/// Of each instance: in three parts.
const BODIES: usize = 200;
const FIRST: usize = 20;
const SECOND: usize = 80;
/// What anybody may write where notifications are expected.
const POISON: [&str; 2] = ["not JSON", r#"{"cut"#];
/// How long a sample may take to finish what it has in hand, on a machine that does much else.
const ENDS_WITHIN: Duration = Duration::from_secs(15);

/// What makes anything a notification, but for its body.
fn attributes(prefix: &str, id: &str) -> Value {
    let attributes = [("id", id), ("source", "somebody"), ("idinstance", ID), ("sequence", "1"), ("type", "any")];
    attributes.into_iter().map(|(name, value)| (format!("{prefix}_{name}"), Value::from(value))).collect()
}

/// How a sample is started: its folder is where it keeps what it remembers and prints.
pub struct Sample {
    pub language: &'static str,
    pub broker: &'static str,
    pub folder: PathBuf,
    pub environment: Vec<(&'static str, String)>,
}

impl Sample {
    pub fn start(&self) -> Consumer {
        self.start_with("notifications.sqlite")
    }

    fn start_with(&self, database: &str) -> Consumer {
        fs::create_dir_all(&self.folder).unwrap();
        let append = |path: &Path| File::options().create(true).append(true).open(path).unwrap();
        let (output, log) = (self.folder.join("output"), self.folder.join("log"));
        let mut command = script();
        command.args([self.language, self.broker]).current_dir(&self.folder).env("DATABASE", database);
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        let command = command.stdin(Stdio::null()).stdout(append(&output)).stderr(append(&log));
        Consumer { child: command.spawn().expect("tests/consumer"), output, log }
    }

    fn database(&self) -> PathBuf {
        self.folder.join("notifications.sqlite")
    }

    fn rows(&self) -> Vec<Value> {
        foreign_client("read_sqlite.py", &[self.database().to_str().unwrap()])
    }

    /// What its database holds are these bodies of each instance, once each.
    fn assert_has(&self, scene: &Scene, bodies: &[String]) {
        let expected = scene.instances.iter().flat_map(|id| {
            let source = format!("/green-api/waInstance{id}");
            bodies.iter().map(move |body| (source.clone(), body.clone()))
        });
        let expected: BTreeSet<_> = expected.collect();
        eventually("all notifications are in the database", || self.rows().len() >= expected.len());
        let rows = self.rows();
        let text = |row: &Value, name: &str| row[name].as_str().expect(name).to_owned();
        let found: BTreeSet<_> = rows.iter().map(|row| (text(row, "source"), text(row, "body"))).collect();
        assert_eq!(rows.len(), expected.len(), "{}: some twice", self.language);
        assert!(found == expected, "{}: others than what was sent", self.language);
        for row in rows {
            assert_eq!((text(&row, "id").len(), text(&row, "sequence").len()), (36, 20), "{row}");
            assert_eq!(row["type"], "com.green-api.incomingCall");
        }
    }
}

/// A sample at work; killed when dropped.
pub struct Consumer {
    child: Child,
    output: PathBuf,
    log: PathBuf,
}

impl Consumer {
    /// What it has printed, and those before it in this folder: instance, sequence, and kind of each notification.
    pub fn lines(&self) -> Vec<[String; 3]> {
        let text = fs::read_to_string(&self.output).unwrap();
        let words =
            |line: &str| line.split(' ').map(str::to_owned).collect::<Vec<_>>().try_into().expect("three words");
        // The last one may be half there.
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        whole.lines().map(words).collect()
    }

    /// Waits for so many lines.
    pub fn prints(&self, count: usize) {
        eventually("a consumer prints what it reads", || self.lines().len() >= count);
    }

    /// Waits for so many of an instance, and returns the first of them.
    pub fn first_of(&self, instance: &str, count: usize) -> Vec<[String; 3]> {
        let of_it = || self.lines().into_iter().filter(|line| line[0] == instance);
        eventually("a consumer prints what it reads", || of_it().count() >= count);
        of_it().take(count).collect()
    }

    /// Asks it to end, and expects that it does.
    fn stop(mut self, signal: Signal) {
        let begun = Instant::now();
        let process = nix::unistd::Pid::from_raw(self.child.id().try_into().unwrap());
        nix::sys::signal::kill(process, signal).unwrap();
        let status = self.ended();
        assert!(status.success(), "{status}: {}", fs::read_to_string(&self.log).unwrap());
        assert!(begun.elapsed() < ENDS_WITHIN, "{:?} after {signal}", begun.elapsed());
    }

    /// Waits for its end.
    fn ended(&mut self) -> ExitStatus {
        eventually("a consumer ends", || self.child.try_wait().unwrap().is_some());
        self.child.wait().unwrap()
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = fs::read_to_string(&self.log).unwrap_or_default();
            println!("--- {} lines, and {}:\n{log}", self.lines().len(), self.log.display());
        }
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// Those in the plain run, and with `tests/run --long` all that there are for this broker.
pub fn languages(broker: &str) -> &'static [&'static str] {
    let languages: &[&str] = match (is_long(), broker) {
        (false, _) => &["python", "node", "java"],
        (true, "kafka") => &["python", "node", "java", "go"],
        (true, _) => &["python", "node", "java", "go", "php"],
    };
    // Fetched and built first, for which nobody knows how long it takes.
    for language in languages {
        let (code, _, shown) = run(script().arg(language));
        assert_eq!(code, 0, "{shown}");
    }
    languages
}

/// Becomes a sample. Where tests run in the background of a script, SIGINT is ignored, and Java leaves it like that.
fn script() -> Command {
    let mut command = Command::new("env");
    command.arg("--default-signal=INT").arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/consumer"));
    command
}

/// Of all samples at the same time, which wait most of it.
fn all_start(samples: &[Sample]) -> Vec<Consumer> {
    samples.iter().map(Sample::start).collect()
}

/// Held by another process until dropped.
struct Lock(Child);

impl Lock {
    fn of(sample: &Sample) -> Self {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients/lock_sqlite.py");
        let mut command = Command::new(from_test_run("BRIDGE_TEST_PYTHON"));
        command.arg(script).arg(sample.database()).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "locked\n");
        Self(process)
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// Their databases fail, they are killed, and the broker goes away, each while there is much to read.
fn survive(samples: &[Sample], scene: &Scene, bodies: &[String], broker: &Broker) -> Vec<Consumer> {
    let mut consumers = all_start(samples);
    let read = INSTANCES * FIRST;
    for consumer in &consumers {
        consumer.prints(read);
    }
    let locks: Vec<Lock> = samples.iter().map(Lock::of).collect();
    scene.push_to_all(&bodies[FIRST..SECOND]);
    for consumer in &mut consumers {
        let status = consumer.ended();
        assert!(!status.success(), "{status} although its database failed");
    }
    drop(locks);
    consumers = all_start(samples);
    let mut printed: Vec<usize> = consumers.iter().map(|consumer| consumer.lines().len()).collect();
    let mut waiting: Vec<usize> = (0..consumers.len()).collect();
    eventually("all are in the midst of it, and killed", || {
        waiting.retain(|&index| {
            let consumer = &mut consumers[index];
            if consumer.lines().len() < printed[index] + 100 {
                return true;
            }
            consumer.child.kill().unwrap();
            consumer.ended();
            printed[index] = consumer.lines().len();
            false
        });
        waiting.is_empty()
    });
    consumers = all_start(samples);
    scene.push_to_all(&bodies[SECOND..]);
    for (consumer, before) in consumers.iter().zip(printed) {
        consumer.prints(before + 30);
    }
    broker.kill();
    broker.start_again();
    scene.drained();
    consumers
}

/// All of it has arrived, nothing comes again after an orderly end.
fn assert_done(samples: &[Sample], scene: &Scene, bodies: &[String], consumers: Vec<Consumer>) {
    for (sample, consumer) in samples.iter().zip(consumers) {
        consumer.prints(INSTANCES * bodies.len());
        sample.assert_has(scene, bodies);
        consumer.stop(Signal::SIGTERM);
        fs::remove_file(sample.folder.join("output")).unwrap();
    }
    // With an empty database they would take everything that was not acknowledged.
    let consumers: Vec<Consumer> = samples.iter().map(|sample| sample.start_with("empty.sqlite")).collect();
    scene.push([r#"{"typeWebhook":"last"}"#]);
    for consumer in consumers {
        consumer.prints(1);
        let lines = consumer.lines();
        assert!(lines.len() == 1 && lines[0][2] == "last", "{lines:?}");
        consumer.stop(Signal::SIGINT);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn samples_for_kafka_keep_each_notification_once() {
    let bodies = numbered(BODIES);
    let (scene, broker) = (Scene::fleet(INSTANCES, &bodies[..FIRST]).await, Broker::start("kafka"));
    let topics = Topics::at(broker.address("BRIDGE_TEST_KAFKA"));
    let _bridge = scene.start_with("bridge", &topics.sink(""));
    scene.drained();
    let name = &topics.name;
    let copies = topics.read(INSTANCES * FIRST).into_iter().step_by(30).map(|record| {
        let Record { key, headers, body, .. } = record;
        json!({"key": key, "headers": headers, "value": body})
    });
    let poison = POISON.map(|body| json!({"key": ID, "headers": attributes("ce", body), "value": body}));
    let foreign: Vec<String> = copies.chain(poison).map(|record| record.to_string()).collect();
    let topic = format!("{name}.notifications");
    let arguments = [topics.servers.as_str(), &topic].into_iter().chain(foreign.iter().map(String::as_str));
    foreign_client("write_kafka.py", &arguments.collect::<Vec<_>>());
    permission(&topics, &[&format!("allow:topic:{name}.*:read,write,describe"), &format!("allow:group:{name}.*:read")]);
    let sample = |&language| {
        let dead = format!("{name}.{language}");
        foreign_client("create_kafka.py", &[&topics.servers, &dead]);
        let environment = vec![
            ("KAFKA_BOOTSTRAP_SERVERS", broker.address("BRIDGE_TEST_KAFKA_SASL")),
            ("KAFKA_CA_FILE", broker.address("BRIDGE_TEST_KAFKA_KEYS") + "/authority.pem"),
            ("KAFKA_USERNAME", "bridge".into()),
            ("KAFKA_PASSWORD", "test-password".into()),
            ("KAFKA_TOPIC", topic.clone()),
            ("KAFKA_GROUP", dead.clone()),
            ("KAFKA_DEAD_LETTER_TOPIC", dead),
        ];
        Sample { language, broker: "kafka", folder: scene.path(language), environment }
    };
    let samples: Vec<Sample> = languages("kafka").iter().map(sample).collect();
    let consumers = survive(&samples, &scene, &bodies, &broker);
    assert_done(&samples, &scene, &bodies, consumers);
    for sample in &samples {
        let letters = topics.read_from(sample.language, POISON.len());
        assert_eq!(
            letters.iter().map(|letter| letter.body.as_str()).collect::<Vec<_>>(),
            POISON,
            "{}",
            sample.language
        );
        for Record { key, headers, body, .. } in letters {
            assert_eq!((key.as_str(), &headers["ce_id"]), (ID, &body));
            assert!(!headers["reason"].is_empty());
        }
    }
}

/// A queue of a service's own beside the bridge's, with a place for what the service rejects.
fn bind(names: &Names, queue: &str) {
    let rejected = format!("{queue}.rejected");
    let arguments =
        json!({"x-queue-type": "quorum", "x-dead-letter-exchange": "", "x-dead-letter-routing-key": rejected});
    names.operate(&[
        ("queue_declare", json!({"queue": rejected, "durable": true, "arguments": {"x-queue-type": "quorum"}})),
        ("queue_declare", json!({"queue": queue, "durable": true, "arguments": arguments})),
        ("queue_bind", json!({"queue": queue, "exchange": names.name, "routing_key": "#"})),
    ]);
}

#[tokio::test(flavor = "multi_thread")]
async fn samples_for_rabbitmq_keep_each_notification_once() {
    let bodies = numbered(BODIES);
    let (scene, broker) = (Scene::fleet(INSTANCES, &[]).await, Broker::start("rabbitmq"));
    let names = Names::at(broker.address("BRIDGE_TEST_AMQP"));
    let _bridge = scene.start_with("bridge", &names.sink(""));
    scene.push([r#"{"typeWebhook":"first"}"#]);
    scene.drained();
    assert_eq!(names.read(1)[0].body, r#"{"typeWebhook":"first"}"#);
    let sample = |&language| {
        let kind = if language == "python" { "notifications" } else { language };
        let queue = format!("{}.{kind}", names.name);
        if queue != names.queue() {
            bind(&names, &queue);
        }
        let environment = vec![
            ("AMQP_URI", broker.address("BRIDGE_TEST_AMQPS").replace("://", "://guest:guest@")),
            ("AMQP_CA_FILE", broker.folder().join("tls/ca.pem").display().to_string()),
            ("AMQP_QUEUE", queue),
        ];
        Sample { language, broker: "rabbitmq", folder: scene.path(language), environment }
    };
    let samples: Vec<Sample> = languages("rabbitmq").iter().map(sample).collect();
    scene.push_to_all(&bodies[..FIRST]);
    scene.drained();
    for sample in &samples {
        let queue = &sample.environment[2].1;
        foreign_client("copy_rabbitmq.py", &[&names.uri, queue, queue, "0", "70", "71", "199"]);
        let publish = |body| {
            let properties = json!({"headers": attributes("cloudEvents", body)});
            let message = json!({"exchange": "", "routing_key": queue, "body": body, "properties": properties});
            ("basic_publish", message)
        };
        names.operate(&POISON.map(publish));
    }
    let consumers = survive(&samples, &scene, &bodies, &broker);
    assert_done(&samples, &scene, &bodies, consumers);
    for sample in &samples {
        let rejected = format!("{}.rejected", sample.environment[2].1.rsplit_once('.').unwrap().1);
        let letters = names.read_from(&rejected, POISON.len());
        assert_eq!(
            letters.iter().map(|letter| letter.body.as_str()).collect::<Vec<_>>(),
            POISON,
            "{}",
            sample.language
        );
    }
}
