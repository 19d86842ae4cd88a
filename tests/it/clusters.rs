//! Replicas on a cluster of three brokers of which one dies, again and again: the long run only, for each cluster takes as
//! much memory and time as all other brokers together.

use serde_json::Value;

use crate::kafka_kills::assert_exactly_once;
use crate::kafka_topics::Topics;
use crate::rabbitmq_queues::{Names, assert_each_kept, marks_due};
use crate::replicas::SHARDS;
use crate::scene::{Scene, numbered};
use crate::support::{Broker, Worker, eventually, foreign_client};

const NAMES: [&str; 3] = ["first", "second", "third"];

/// Three replicas under load, while of three nodes one dies, is away, and comes back; each time the node that `choose` names.
fn outlive(
    scene: &Scene,
    sink: &str,
    bodies: &[String],
    cluster: &Broker,
    kind: &str,
    choose: &[&dyn Fn() -> String],
) -> Vec<Worker> {
    let replicas = NAMES.map(|name| scene.start_with(name, sink));
    scene.push_to_all(&bodies[..1]);
    scene.drained();
    for (choose, bodies) in choose.iter().zip(bodies[1..].chunks((bodies.len() - 1) / choose.len())) {
        let node = choose();
        let [before, during, after] =
            [0, 1, 2].map(|part| &bodies[bodies.len() * part / 3..bodies.len() * (part + 1) / 3]);
        scene.push_to_all(before);
        eventually("it is at work", || scene.queued() < scene.instances.len() * before.len() * 2 / 3);
        cluster.tell_node(kind, "kill", &node);
        scene.push_to_all(during);
        // Two are enough.
        scene.drained();
        scene.push_to_all(after);
        cluster.tell_node(kind, "start", &node);
        scene.drained();
        println!("{kind}: node {node} killed and started again");
    }
    replicas.into()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "three brokers: `tests/run --long`"]
async fn whichever_coordinator_of_three_kafka_nodes_dies_each_notification_arrives_once_and_in_order() {
    let cluster = Broker::start("kafka_cluster");
    let bodies = numbered(121);
    let (scene, topics) = (Scene::fleet(60, &[]).await, Topics::at(cluster.address("BRIDGE_TEST_KAFKA")));
    let coordinator = |of: &str| {
        let arguments = [topics.servers.as_str(), &topics.name, &format!("{}-0", topics.name)];
        let found: Value = foreign_client("coordinators_kafka.py", &arguments).remove(0);
        found[of].to_string()
    };
    let (group, transaction) = (|| coordinator("group"), || coordinator("transaction"));
    let sink = format!("{}\nshards: {SHARDS}", topics.sink(""));
    let _replicas = outlive(&scene, &sink, &bodies, &cluster, "kafka", &[&group, &transaction, &group, &transaction]);
    assert_exactly_once(&scene, &topics, &bodies);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "three brokers: `tests/run --long`"]
async fn whichever_of_three_rabbitmq_nodes_dies_nothing_is_lost_or_duplicated_without_a_mark() {
    let cluster = Broker::start("rabbitmq_cluster");
    let bodies = numbered(91);
    let uris = cluster.address("BRIDGE_TEST_AMQP");
    let (scene, names) = (Scene::fleet(60, &[]).await, Names::at(uris.split(',').next().unwrap().to_owned()));
    let sink = names.sink("").replace(&format!("'{}'", names.uri), &format!("['{}']", uris.replace(',', "', '")));
    let sink = format!("{sink}\nshards: {SHARDS}");
    let nodes = ["1", "2", "3"].map(|node| move || node.to_owned());
    let choose = nodes.each_ref().map(|node| node as &dyn Fn() -> String);
    let replicas = outlive(&scene, &sink, &bodies, &cluster, "rabbitmq", &choose);
    let due = replicas.iter().map(|replica| marks_due(&scene, &replica.log())).sum();
    assert_each_kept(&scene, &names.read(60 * bodies.len()), &bodies, due);
}
