//! What lies in `deploy/` and the compose file, run by the programs that it is for and against brokers of the tests.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::admin::free_address;
use crate::consumer_samples::{Consumer, Sample, languages};
use crate::deploy::{file, yaml};
use crate::kafka_topics::Topics;
use crate::rabbitmq_queues::Names;
use crate::scene::{ID, Scene, numbered};
use crate::support::{Broker, Worker, command, eventually, foreign_client, run};

/// A service of ours, with other addresses than in the compose network.
struct Service {
    value: Value,
    replaced: Vec<(&'static str, String)>,
}

impl Service {
    fn here(&self, value: &Value) -> String {
        let text = value.as_str().expect("a string");
        self.replaced.iter().fold(text.to_owned(), |text, (there, here)| text.replace(there, here))
    }

    /// Its environment, and the arguments behind the image's entry point.
    fn command(&self, arguments: &[Value], folder: &Path) -> Command {
        let mut command = command();
        command.current_dir(folder).env_remove("BRIDGE_ADMIN_LISTEN");
        command.args(arguments.iter().map(|argument| self.here(argument)));
        for (name, value) in self.value["environment"].as_object().expect("an environment") {
            command.env(name, self.here(value));
        }
        command
    }

    fn start(&self, folder: &Path, log: &str) -> Worker {
        let arguments = self.value["command"].as_array().expect("a command");
        Worker::start(&mut self.command(arguments, folder), &folder.join(log))
    }

    fn is_healthy(&self, folder: &Path) -> bool {
        let test = self.value["healthcheck"]["test"].as_array().expect("a health check");
        assert_eq!((&test[0], &test[1]), (&"CMD".into(), &"/usr/local/bin/green-api-bridge".into()));
        run(&mut self.command(&test[2..], folder)).0 == 0
    }
}

/// Starts the emulator and the three bridges of a profile, by what the compose file says, and waits until all are healthy.
fn start_profile(profile: &str, broker: (&str, &str), folder: &Path) -> Vec<Worker> {
    let compose = yaml("docker-compose.yml");
    let service = |name: &str, replaced| Service { value: compose["services"][name].clone(), replaced };
    let emulator = service("emulator", vec![("0.0.0.0:8080", "127.0.0.1:0".into())]);
    let mut running = vec![emulator.start(folder, "emulator.log")];
    let shown =
        || running[0].log().split("apiUrl ").nth(1).and_then(|rest| rest.split_whitespace().next()).map(str::to_owned);
    eventually("the emulator prints its address", || shown().is_some());
    let url = shown().unwrap();
    let emulator = service("emulator", vec![("http://localhost:8080", url.clone())]);
    eventually("the emulator is healthy", || emulator.is_healthy(folder));
    // The file that is mounted where the image's command looks for it.
    let config = folder.join("bridge.yaml");
    let shipped = file(&format!("deploy/compose/{profile}.yaml"));
    fs::write(&config, shipped.replace("http://emulator:8080", &url).replace(broker.0, broker.1)).unwrap();
    let arguments = ["run", "--config", config.to_str().unwrap()].map(Value::from);
    for number in 1..=3 {
        let admin = free_address().replace("127.0.0.1", "0.0.0.0");
        let bridge = service(&format!("bridge-{profile}-{number}"), vec![("0.0.0.0:9464", admin)]);
        let mount = bridge.value["volumes"][0].as_str().unwrap();
        assert_eq!(mount, format!("./deploy/compose/{profile}.yaml:/etc/green-api-bridge/bridge.yaml:ro"));
        let log = folder.join(format!("bridge-{number}.log"));
        running.push(Worker::start(&mut bridge.command(&arguments, folder), &log));
        eventually("the bridge is healthy", || bridge.is_healthy(folder));
    }
    running
}

#[test]
fn compose_takes_the_file() {
    let project = Path::new(env!("CARGO_MANIFEST_DIR"));
    let profiles = ["kafka", "rabbitmq", "observe"].map(|profile| ["--profile", profile]).concat();
    let mut compose = Command::new("docker-compose");
    compose.current_dir(project).args(profiles).arg("config");
    let (code, services, refused) = run(&mut compose);
    assert_eq!(code, 0, "{refused}");
    for service in ["bridge-kafka-3", "bridge-rabbitmq-3", "grafana"] {
        assert!(services.contains(&format!("\n  {service}:\n")), "{services}");
    }
}

/// The sequence of the instance's notifications, from the first.
fn assert_in_order(lines: &[[String; 3]], instance: &str) {
    for (number, [idinstance, sequence, kind]) in (1..).zip(lines) {
        assert_eq!((idinstance.as_str(), sequence.as_str()), (instance, format!("{number:020}").as_str()));
        assert_eq!(kind, "incomingMessageReceived");
    }
}

/// Each in a group of its own.
fn of_kafka(servers: &str, topic: &str, folder: &Path) -> Vec<Consumer> {
    let start = |&language| {
        let environment = vec![
            ("KAFKA_BOOTSTRAP_SERVERS", servers.to_owned()),
            ("KAFKA_TOPIC", topic.to_owned()),
            ("KAFKA_GROUP", format!("{topic}.{language}")),
            ("KAFKA_DEAD_LETTER_TOPIC", "unused".to_owned()),
        ];
        Sample { language, broker: "kafka", folder: folder.join(language), environment }.start()
    };
    languages("kafka").iter().map(start).collect()
}

#[test]
fn notifications_flow_in_the_profile_kafka_to_the_samples() {
    // Of its own: these are the default names, under which only one bridge may run.
    let (broker, folder) = (Broker::start("kafka"), tempfile::tempdir().unwrap());
    let servers = broker.address("BRIDGE_TEST_KAFKA");
    let _services = start_profile("kafka", ("kafka:19092", &servers), folder.path());
    for consumer in of_kafka(&servers, "green-api.notifications", folder.path()) {
        for instance in ["1101000001", "1101000002", "1101000003", "1101000004"] {
            assert_in_order(&consumer.first_of(instance, 5), instance);
        }
    }
}

#[test]
fn the_samples_for_kafka_never_see_what_was_aborted() {
    let (topics, folder) = (Topics::new(), tempfile::tempdir().unwrap());
    foreign_client("create_kafka.py", &[&topics.servers, &topics.name]);
    foreign_client("abort_kafka.py", &[&topics.servers, &topics.name, ID]);
    for consumer in of_kafka(&topics.servers, &topics.name, folder.path()) {
        assert_in_order(&consumer.first_of(ID, 4), ID);
    }
}

#[test]
fn notifications_flow_in_the_profile_rabbitmq() {
    let (broker, folder) = (Broker::start("rabbitmq"), tempfile::tempdir().unwrap());
    let uri = broker.address("BRIDGE_TEST_AMQP");
    let address = uri.split('@').nth(1).and_then(|rest| rest.split('/').next()).expect("an address").to_owned();
    let _services = start_profile("rabbitmq", ("rabbitmq:5672", &address), folder.path());
    // As its reader is started, with the client that the tests have.
    let reader = &yaml("docker-compose.yml")["services"]["reader-rabbitmq"];
    let command = reader["command"][2].as_str().unwrap();
    let client = command.split_whitespace().find(|word| word.starts_with("pika==")).expect("the client");
    assert!(file("deploy/consumers/python/requirements.txt").lines().any(|line| line == client), "{client}");
    assert!(command.ends_with("exec python /consumers/rabbitmq.py"), "{command}");
    assert_eq!(reader["volumes"][0], "./deploy/consumers/python:/consumers:ro");
    let value = |name: &'static str| {
        (name, reader["environment"][name].as_str().expect(name).replace("rabbitmq:5672", &address))
    };
    let environment = vec![value("AMQP_URI"), value("AMQP_QUEUE")];
    let sample = Sample { language: "python", broker: "rabbitmq", folder: folder.path().join("reader"), environment };
    let consumer = sample.start();
    for instance in ["1101000011", "1101000012", "1101000013", "1101000014"] {
        // A shard that another replica takes over counts from 1 again.
        assert_in_order(&consumer.first_of(instance, 1), instance);
    }
}

#[test]
fn the_tests_have_the_clients_of_the_samples() {
    let (ours, theirs) = (file("tests/clients/requirements.txt"), file("deploy/consumers/python/requirements.txt"));
    for client in theirs.lines() {
        assert!(ours.lines().any(|line| line == client), "{client}");
    }
}

#[test]
fn systemd_takes_the_unit() {
    let unit = file("deploy/systemd/green-api-bridge.service");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("green-api-bridge.service");
    fs::write(
        &path,
        unit.replace("=green-api-bridge run", concat!("=", env!("CARGO_BIN_EXE_green-api-bridge"), " run")),
    )
    .unwrap();
    let (code, _, shown) = run(Command::new("systemd-analyze").arg("verify").arg(&path));
    assert!(code == 0 && shown.is_empty(), "{shown}");
}

/// The headers of a message, against those of the document.
fn assert_headers(message: &str, headers: &Value) {
    let document = yaml("deploy/asyncapi/asyncapi.yaml");
    let mut schema = document["components"]["messages"][message]["headers"].clone();
    schema["additionalProperties"] = false.into();
    schema["components"] = document["components"].clone();
    let validator = jsonschema::options().should_validate_formats(true).build(&schema).expect("a schema");
    if let Some(error) = validator.iter_errors(headers).next() {
        panic!("{error} in {headers}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_asyncapi_document_describes_what_is_published() {
    let document = yaml("deploy/asyncapi/asyncapi.yaml");
    assert_eq!(document["asyncapi"], "3.1.0");
    for channel in document["channels"].as_object().unwrap().values() {
        let message = channel["messages"]["notification"]["$ref"].as_str().unwrap();
        assert!(document.pointer(message.trim_start_matches('#')).is_some(), "{message}");
    }
    for message in document["components"]["messages"].as_object().unwrap().values() {
        assert_eq!(message["payload"]["$ref"], "./notification.schema.json");
    }

    let (scene, topics, names) = (Scene::new().await, Topics::new(), Names::new());
    let bodies = numbered(2);
    scene.push(bodies.iter().map(String::as_str));
    let bridge = scene.start_with("kafka", &topics.sink(""));
    scene.drained();
    bridge.kill();
    for record in topics.read(2) {
        assert_headers("kafka", &serde_json::to_value(record.headers).unwrap());
    }
    scene.push(bodies.iter().map(String::as_str));
    let _bridge = scene.start_with("amqp", &names.sink(""));
    scene.drained();
    let messages = names.read(2);
    // The first of a new owner is marked, which is a header of its own.
    assert_eq!(messages.iter().filter(|message| message.is_marked()).count(), 1);
    for message in messages {
        // Its queues of type quorum add a header of their own.
        let mut headers = message.value["headers"].clone();
        headers.as_object_mut().unwrap().retain(|name, _| !name.starts_with("x-"));
        assert_headers("amqp", &headers);
    }
}
