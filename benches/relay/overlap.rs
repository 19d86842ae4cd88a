//! One instance, 40 ms away: the bridge against a loop that does one thing after the other.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use green_api_bridge::emulator::Emulator;
use green_api_bridge::fleet;
use green_api_bridge::green_api::{Queue, Received};
use green_api_bridge::metrics::Metrics;
use green_api_bridge::sink::contract_test::pending;
use green_api_bridge::sink::kind::{self, Options};
use green_api_bridge::sink::{Sink, file};
use tokio_util::sync::CancellationToken;

use crate::stage;

const ROUND_TRIP: Duration = Duration::from_millis(40);
const COUNT: u16 = 300;

pub async fn run() {
    let folder = tempfile::tempdir().unwrap();
    let sequential = timed(&folder.path().join("sequential"), |queue, sink, _| one_after_the_other(queue, sink)).await;
    let bridge = timed(&folder.path().join("bridge"), bridge).await;
    println!("overlap: {COUNT} notifications of one instance into a file, {ROUND_TRIP:?} of round trip");
    println!("  receive, store, delete in turn  {sequential:7.1} a second");
    println!("  the bridge                      {bridge:7.1} a second, {:.2} times as many", bridge / sequential);
}

/// How many notifications a second this carries.
async fn timed<F: Future<Output = ()>>(
    file: &Path,
    carry: impl FnOnce(Queue, Arc<dyn Sink>, Arc<Emulator>) -> F,
) -> f64 {
    let ids = stage::ids(1);
    let emulator = Arc::new(stage::emulator(&ids).await);
    (0..COUNT).for_each(|number| emulator.push(&ids[0], format!("{{\"idMessage\":\"{number}\"}}")));
    emulator.set_delay(&ids[0], ROUND_TRIP);
    let sink =
        kind::start(&Options::File(file::Options { path: file.into() }), file, 1024, 1, &Metrics::new("file")).unwrap();
    let begun = Instant::now();
    carry(stage::queues(&emulator, &ids).remove(0), sink, Arc::clone(&emulator)).await;
    let rate = f64::from(COUNT) / begun.elapsed().as_secs_f64();
    assert_eq!(std::fs::read_to_string(file).unwrap().lines().count(), usize::from(COUNT));
    rate
}

async fn one_after_the_other(queue: Queue, sink: Arc<dyn Sink>) {
    let (mut lane, _) = sink.open(queue.instance()).await.unwrap();
    for _ in 0..COUNT {
        let Received::Head(head) = queue.receive().await.unwrap() else { panic!("the queue is empty") };
        let stored = lane.publish(pending(&head), false).await.unwrap();
        queue.delete(stored).await.unwrap();
    }
}

async fn bridge(queue: Queue, sink: Arc<dyn Sink>, emulator: Arc<Emulator>) {
    let (stop, id) = (CancellationToken::new(), queue.instance().to_string());
    let (_no_changes, changes) = tokio::sync::mpsc::channel(1);
    let fleet = tokio::spawn(fleet::run(vec![queue], changes, sink, Metrics::new("file"), stop.clone()));
    while emulator.queued(&id) > 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    stop.cancel();
    fleet.await.unwrap().unwrap();
}
