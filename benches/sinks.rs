//! The latency of a publish to Kafka and RabbitMQ, and the throughput by number of instances.
//!
//! `BRIDGE_TEST_KAFKA=HOST:PORT BRIDGE_TEST_AMQP=amqp://… cargo bench --bench sinks`, with the addresses of brokers for
//! tests; what is not set is not measured.
#![allow(clippy::unwrap_used, reason = "a measurement that fails should say where")]

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use green_api_bridge::metrics::Metrics;
use green_api_bridge::notification::{Answer, InstanceId};
use green_api_bridge::sink::contract_test::pending;
use green_api_bridge::sink::kind::{self, Options};
use green_api_bridge::sink::{Sink, amqp, kafka};
use tokio::task::JoinSet;

const COUNT: usize = 2000;
/// Upper ends of the histogram's columns, in milliseconds.
const ENDS: [u128; 9] = [2, 3, 5, 10, 20, 50, 90, 110, u128::MAX];

#[tokio::main]
async fn main() {
    let address = |name| std::env::var(name).ok();
    if let Some(servers) = address("BRIDGE_TEST_KAFKA") {
        println!("Kafka: {COUNT} notifications of one instance, each in a transaction of its own");
        measure(|| kafka(&servers)).await;
    }
    if let Some(uri) = address("BRIDGE_TEST_AMQP") {
        println!("RabbitMQ: {COUNT} notifications of one instance, each confirmed by a quorum queue");
        measure(|| amqp(&uri)).await;
    }
}

async fn measure(start: impl Fn() -> Options) {
    let start = || kind::start(&start(), Path::new("dead-letters"), 1024, 1, &Metrics::new("bench")).unwrap();
    let mut times = publish(&start(), 1, COUNT).await;
    times.sort_unstable();
    let mut from = 0;
    for end in ENDS {
        let count = times.iter().filter(|time| (from..end).contains(&time.as_millis())).count();
        let bar = "#".repeat((60 * count).div_ceil(COUNT));
        let end_shown = if end == u128::MAX { String::new() } else { end.to_string() };
        println!("{from:>5} to {end_shown:>3} ms {count:>6} {bar}");
        from = end;
    }
    let [median, p99] = [times[COUNT / 2], times[COUNT * 99 / 100]];
    println!("median {median:?}, 99 % within {p99:?}, longest {:?}\n", times[COUNT - 1]);

    println!("instances  notifications/s  ratio to one");
    let mut one = None;
    for instances in [1, 10, 100, 1000] {
        let each = (4 * COUNT / instances).clamp(8, COUNT);
        let sink = start();
        publish(&sink, instances, 1).await;
        let begun = Instant::now();
        publish(&sink, instances, each).await;
        #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
        let rate = (instances * each) as f64 / begun.elapsed().as_secs_f64();
        println!("{instances:>9}  {rate:>15.0}  {:>12.1}", rate / *one.get_or_insert(rate));
    }
    println!();
}

/// A name of its own for what a sink creates.
fn name() -> String {
    format!("bench-{}", std::time::UNIX_EPOCH.elapsed().unwrap().as_nanos())
}

fn kafka(servers: &str) -> Options {
    let name = name();
    let mut kafka = kafka::Options { transactional_id: name.clone(), ..kafka::Options::default() };
    kafka.bootstrap_servers[0] = servers.into();
    kafka.topic = format!("{name}.notifications");
    kafka.ledger_topic = format!("{name}.ledger");
    kafka.dead_letter_topic = format!("{name}.dead");
    Options::Kafka(kafka)
}

fn amqp(uri: &str) -> Options {
    let name = name();
    let mut amqp = amqp::Options { name: name.clone(), ..amqp::Options::default() };
    amqp.uri[0] = uri.into();
    amqp.exchange.clone_from(&name);
    amqp.queue = Some(format!("{name}.notifications"));
    amqp.dead_letter_queue = format!("{name}.dead");
    Options::Amqp(amqp)
}

/// So many notifications of each instance, one after the other; how long each of them took.
async fn publish(sink: &Arc<dyn Sink>, instances: usize, each: usize) -> Vec<Duration> {
    let mut lanes = JoinSet::new();
    for instance in 1..=instances {
        let instance: InstanceId = instance.to_string().parse().unwrap();
        let sink = Arc::clone(sink);
        lanes.spawn(async move {
            let (mut lane, _) = sink.open(instance).await.unwrap();
            let mut times = Vec::with_capacity(each);
            for number in 0..each {
                let envelope =
                    format!(r#"{{"receiptId":1,"body":{{"idMessage":"{number}","text":"{}"}}}}"#, "x".repeat(500));
                let notification = Answer::read(instance, &Bytes::from(envelope)).head().unwrap();
                let begun = Instant::now();
                drop(lane.publish(pending(&notification), false).await.unwrap());
                times.push(begun.elapsed());
            }
            times
        });
    }
    lanes.join_all().await.into_iter().flatten().collect()
}
