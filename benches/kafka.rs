//! How long a notification takes into Kafka, and what more instances make of it.
//!
//! `BRIDGE_TEST_KAFKA=HOST:PORT cargo bench --bench kafka`, with the address of a broker for tests.
#![allow(clippy::unwrap_used, reason = "a measurement that fails should say where")]

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use green_api_bridge::config::{Kafka, Sink as SinkConfig};
use green_api_bridge::notification::{InstanceId, Notification};
use green_api_bridge::sink::{self, Sink};
use tokio::task::JoinSet;

const COMMITS: usize = 2000;
/// Upper ends of the histogram's columns, in milliseconds.
const ENDS: [u128; 9] = [2, 3, 5, 10, 20, 50, 90, 110, u128::MAX];

#[tokio::main]
async fn main() {
    let servers = std::env::var("BRIDGE_TEST_KAFKA").expect("BRIDGE_TEST_KAFKA=HOST:PORT of a broker for tests");
    println!("{COMMITS} notifications of one instance, each in a transaction of its own:");
    let mut times = publish(&start(&servers), 1, COMMITS).await;
    times.sort_unstable();
    let mut from = 0;
    for end in ENDS {
        let count = times.iter().filter(|time| (from..end).contains(&time.as_millis())).count();
        let bar = "#".repeat((60 * count).div_ceil(COMMITS));
        let end_shown = if end == u128::MAX { String::new() } else { end.to_string() };
        println!("{from:>5} to {end_shown:>3} ms {count:>6} {bar}");
        from = end;
    }
    let [median, p99] = [times[COMMITS / 2], times[COMMITS * 99 / 100]];
    println!("median {median:?}, 99 % within {p99:?}, longest {:?}\n", times[COMMITS - 1]);

    println!("instances  notifications/s  ratio to one");
    let mut one = None;
    for instances in [1, 10, 100, 1000] {
        let each = (4 * COMMITS / instances).clamp(8, COMMITS);
        let sink = start(&servers);
        publish(&sink, instances, 1).await;
        let begun = Instant::now();
        publish(&sink, instances, each).await;
        #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
        let rate = (instances * each) as f64 / begun.elapsed().as_secs_f64();
        println!("{instances:>9}  {rate:>15.0}  {:>12.1}", rate / *one.get_or_insert(rate));
    }
}

/// A sink on topics of its own.
fn start(servers: &str) -> Arc<dyn Sink> {
    let name = format!("bench-{}", std::time::UNIX_EPOCH.elapsed().unwrap().as_nanos());
    let mut kafka =
        Kafka { bootstrap_servers: vec![servers.into()], transactional_id: name.clone(), ..Kafka::default() };
    kafka.topic.value = format!("{name}.notifications");
    kafka.ledger_topic.value = format!("{name}.ledger");
    kafka.dead_letter_topic.value = format!("{name}.dead");
    sink::start(&SinkConfig::Kafka(kafka), Path::new("dead-letters")).unwrap()
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
                let notification = Notification::from_envelope(instance, &Bytes::from(envelope)).unwrap();
                let begun = Instant::now();
                drop(lane.publish(&notification, false).await.unwrap());
                times.push(begun.elapsed());
            }
            times
        });
    }
    lanes.join_all().await.into_iter().flatten().collect()
}
