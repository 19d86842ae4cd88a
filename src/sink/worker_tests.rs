use std::collections::HashMap;
use std::future::poll_fn;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::task::Poll;

use super::*;
use crate::metrics::State;
use crate::sink::contract_test::notification;

/// Stores a group when it is allowed to.
struct Gated {
    entered: Sender<Vec<InstanceId>>,
    gate: Receiver<()>,
    last: HashMap<InstanceId, Memory>,
}

impl Session for Gated {
    fn memory(&self, instance: InstanceId) -> Memory {
        self.last.get(&instance).copied().unwrap_or(Memory::Nothing)
    }

    fn store(&mut self, jobs: &mut Vec<Job>) -> Result<(), SessionError> {
        self.entered.send(jobs.iter().map(|job| job.notification().instance()).collect()).unwrap();
        self.gate.recv().unwrap();
        for job in jobs.drain(..) {
            let memory = Memory::Published { sequence: 1, fingerprint: job.notification().fingerprint() };
            self.last.insert(job.notification().instance(), memory);
            job.stored(Some(1));
        }
        Ok(())
    }
}

/// Begins a publish and drops it.
async fn publish_dropped(lane: &mut dyn Lane, instance: InstanceId) {
    let mut publishing = lane.publish(Pending::new(&notification(instance, b"1")), false);
    poll_fn(|context| {
        assert!(publishing.as_mut().poll(context).is_pending());
        Poll::Ready(())
    })
    .await;
}

#[tokio::test]
async fn who_asks_behind_a_dropped_publish_waits_for_its_outcome() {
    let (entered, groups) = channel();
    let (open_gate, gate) = channel();
    let mut session = Some(Gated { entered, gate, last: HashMap::new() });
    let sink = Worker::start(&Metrics::new("gated"), move |_shard| Ok(session.take().unwrap())).unwrap();
    let [busy, dropped]: [InstanceId; 2] = ["1", "2"].map(|id| id.parse().unwrap());
    let (mut first, _) = sink.open(busy).await.unwrap();
    let (mut second, memory) = sink.open(dropped).await.unwrap();
    assert_eq!(memory, Memory::Nothing);
    // While the thread stores, more than one request waits.
    publish_dropped(&mut *first, busy).await;
    assert_eq!(groups.recv().unwrap(), [busy]);
    publish_dropped(&mut *second, dropped).await;
    publish_dropped(&mut *second, dropped).await;
    let mut opening = sink.open(dropped);
    poll_fn(|context| {
        assert!(opening.as_mut().poll(context).is_pending());
        Poll::Ready(())
    })
    .await;
    open_gate.send(()).unwrap();
    assert_eq!(groups.recv().unwrap(), [dropped], "at most one of an instance");
    open_gate.send(()).unwrap();
    assert_eq!(groups.recv().unwrap(), [dropped]);
    open_gate.send(()).unwrap();
    let (_, memory) = opening.await.unwrap();
    let fingerprint = notification(dropped, b"1").fingerprint();
    assert_eq!(memory, Memory::Published { sequence: 1, fingerprint }, "what was dropped is stored by then");
}

/// A second of the clock that the test holds, again and again, until it is so.
async fn until(mut is_so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < Duration::from_secs(60), "it is never so");
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_shard_that_is_ours_and_does_not_open_is_reported_until_it_opens_or_is_anothers() {
    let (answer, answers) = channel();
    let status = Arc::<ShardStatus>::default();
    // Blocks until there is an answer.
    let acquire = move |_shard| answers.recv().unwrap_or(Err(SessionError::Closed("the end".into())));
    let _requests = start(Shard::new(3), acquire, Metrics::new("gated"), Arc::clone(&status), true).unwrap();
    let waits = || status.conditions().contains(Condition::WaitingForOwnership);
    until(waits).await;
    answer.send(Err(SessionError::Elsewhere)).unwrap();
    until(|| !waits()).await;
    // It is asked again, and this time nobody else has it.
    until(waits).await;
    until(|| status.state().0 == State::Opening).await;
    assert!(!status.works() && !status.is_held());
    let (entered, _groups) = channel();
    let (_gate, gate) = channel();
    answer.send(Ok(Gated { entered, gate, last: HashMap::new() })).unwrap();
    until(|| !waits()).await;
    assert!(status.works() && status.is_held());
}
