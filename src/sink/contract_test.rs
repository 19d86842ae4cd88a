//! The contract of sinks as a test: [`run`] holds a sink against what [`Sink`], [`Lane`](super::Lane)
//! and [`Memory`] promise, in a real store. Every built-in sink passes it, and so should yours.
#![allow(clippy::unwrap_used, reason = "a test ends with a panic where a promise is broken")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::{Lane, Pending, Reason, Sink, SinkError, Stored};
use crate::doubt::Memory;
use crate::notification::{Answer, Fingerprint, InstanceId, Notification};

/// Longer than any sink takes for anything.
const STEP_TIMEOUT: Duration = Duration::from_secs(120);

/// A later owner that is not in by then waits until the earlier one is gone.
const TAKE_OVER: Duration = Duration::from_secs(5);

/// Where a sink under test stores, and what can be done to it. Nobody else uses it meanwhile.
#[async_trait]
pub trait Harness: Sync {
    /// Starts a sink there, as a new process of the bridge would.
    async fn start(&self) -> Arc<dyn Sink>;

    /// Everything that consumers can read there, of each instance in its order, dead letters
    /// included; again on every call.
    async fn read(&self) -> Vec<Message>;

    /// Whether the sink remembers over a restart what it published last.
    fn remembers(&self) -> bool;

    /// A valid body that cannot be stored like others: it becomes a dead letter, or is refused.
    fn unwanted(&self) -> Option<Vec<u8>> {
        None
    }

    /// Whether the sink's ownership can end before its process does: by another owner, or by an interruption.
    fn ownership_can_end(&self) -> bool {
        true
    }

    /// Ends the ownership of the sink that runs, at the latest when it next tries to store; where
    /// that can be done, it has no other before [`restore`](Self::restore).
    async fn interrupt(&self);

    /// Undoes what [`interrupt`](Self::interrupt) did.
    async fn restore(&self);
}

/// A notification as consumers read it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// The attribute `idinstance`.
    pub instance: InstanceId,
    /// The body, byte for byte.
    pub body: Vec<u8>,
    /// The attribute `sequence`.
    pub sequence: u64,
    /// Whether it has the attribute `possibleduplicate`.
    pub marked: bool,
    /// Whether it is a dead letter.
    pub dead_letter: bool,
}

impl Message {
    /// From the attributes around a body, without what a transport puts before their names.
    /// `None` without an instance.
    pub fn new<'a>(attributes: impl IntoIterator<Item = (&'a str, &'a str)>, body: Vec<u8>) -> Option<Self> {
        let (mut instance, mut sequence, mut marked, mut dead_letter) = (None, 0, false, false);
        for (name, value) in attributes {
            match name {
                "idinstance" => instance = value.parse().ok(),
                "sequence" => sequence = value.parse().unwrap_or_default(),
                "possibleduplicate" => marked = value == "true",
                "deadletterreason" => dead_letter = true,
                _ => {}
            }
        }
        Some(Self { instance: instance?, body, sequence, marked, dead_letter })
    }
}

/// What the line hands to a lane, for tests and benchmarks of sinks.
#[must_use]
pub fn pending(notification: &Notification) -> Pending {
    Pending::new(notification)
}

/// Holds the sink of this place against the whole contract. Takes seconds, or as long as the sink needs to come back
/// after an interruption.
///
/// # Panics
/// Where a promise is broken; the text names it.
pub async fn run(harness: &impl Harness) {
    stores_in_order_and_remembers(harness).await;
    sets_one_apart_and_not_its_group(harness).await;
    survives_dropped_futures(harness).await;
    if harness.ownership_can_end() {
        yields_to_a_later_owner(harness).await;
        comes_back_and_refuses_lanes_of_an_earlier_ownership(harness).await;
    }
}

/// Many lanes at once, each in order, unaltered, counted from 1, marked where it was asked for; and known after a
/// restart.
async fn stores_in_order_and_remembers(harness: &impl Harness) {
    let bodies: Vec<Vec<u8>> =
        ["null", "{ \"a\":1.10, \"a\":2 }", r#"{"\ud800":"\u0000"}"#, "[1e400]", "{\r\n}", "\"ä\""]
            .map(|body| body.as_bytes().to_vec())
            .into_iter()
            .chain((0..14).map(|number| format!("{{\"n\":{number}}}").into_bytes()))
            .collect();
    let instances: Vec<InstanceId> = (0..8).map(|_| new_instance()).collect();
    let sink = harness.start().await;
    let mut lanes = JoinSet::new();
    for &instance in &instances {
        let (sink, bodies, remembers) = (Arc::clone(&sink), bodies.clone(), harness.remembers());
        lanes.spawn(async move {
            let (mut lane, memory) = open(&*sink, instance).await;
            let first = if remembers { Memory::Nothing } else { Memory::Unknown };
            assert_eq!(memory, first, "memory: of an instance for which nothing was stored");
            for (sequence, body) in (1..).zip(&bodies) {
                let marked = sequence == 1 && !remembers;
                let stored = publish(&mut *lane, instance, body, marked).await.unwrap();
                assert_eq!(stored.instance(), instance, "proof: names the instance");
                assert_eq!(stored.receipt(), notification(instance, body).receipt(), "proof: names the receipt");
                assert!(stored.dead_letter().is_none(), "a good one is no dead letter");
                assert_eq!(stored.sequence(), remembers.then_some(sequence), "sequence: counted from 1");
            }
        });
    }
    lanes.join_all().await;
    drop(sink);
    let (sink, read) = (harness.start().await, harness.read().await);
    for &instance in &instances {
        let expected = |(sequence, body): (u64, &Vec<u8>)| Message {
            instance,
            body: body.clone(),
            sequence,
            marked: sequence == 1 && !harness.remembers(),
            dead_letter: false,
        };
        assert_eq!(
            of(&read, instance),
            (1..).zip(&bodies).map(expected).collect::<Vec<_>>(),
            "order: of instance {instance}"
        );
        let (mut lane, memory) = open(&*sink, instance).await;
        assert_remembered(harness, memory, 20, bodies.last().unwrap());
        let again = notification(instance, bodies.last().unwrap());
        let stored = within("a proof", lane.already_stored(Pending::new(&again))).await.unwrap();
        assert_eq!((stored.receipt(), stored.sequence()), (again.receipt(), None), "proof: of what was stored before");
        let next = publish(&mut *lane, instance, b"\"next\"", !harness.remembers()).await.unwrap();
        assert_eq!(next.sequence(), harness.remembers().then_some(21), "sequence: goes on after a restart");
    }
    let read = harness.read().await;
    assert!(instances.iter().all(|instance| of(&read, *instance).len() == 21), "proof: it stores nothing");
}

/// What is no JSON, or is unwanted for another reason, is kept apart or refused, and its neighbours are stored.
async fn sets_one_apart_and_not_its_group(harness: &impl Harness) {
    let sink = harness.start().await;
    let malformed = (b"{\"a\":NaN}".to_vec(), Some(Reason::Malformed));
    let unwanted = harness.unwanted().map(|body| (body, None));
    for (body, reason) in [malformed].into_iter().chain(unwanted) {
        let (bad, mut lanes) = (new_instance(), JoinSet::new());
        for number in 0..9 {
            let sink = Arc::clone(&sink);
            lanes.spawn(async move {
                let instance = new_instance();
                let (mut lane, _) = open(&*sink, instance).await;
                for body in [format!("1{number}"), format!("2{number}")] {
                    let stored = publish(&mut *lane, instance, body.as_bytes(), false).await;
                    let stored = stored.expect("a neighbour of one that is not stored is stored");
                    assert!(stored.dead_letter().is_none(), "a neighbour of a dead letter is none");
                }
                instance
            });
        }
        let (mut lane, _) = open(&*sink, bad).await;
        let is_kept = match publish(&mut *lane, bad, &body, false).await {
            Ok(stored) => {
                let letter = stored.dead_letter().expect("what cannot be stored like others is a dead letter");
                assert!(reason.is_none_or(|reason| letter.reason == reason), "dead letter: {letter:?}");
                assert_eq!(stored.sequence(), harness.remembers().then_some(1), "sequence: dead letters count");
                true
            }
            Err(SinkError::Refused(_)) if reason.is_none() => false,
            other => panic!("neither kept apart nor refused: {other:?}"),
        };
        drop(publish(&mut *lane, bad, b"\"good\"", false).await.expect("the next one of its instance is stored"));
        let (neighbours, read) = (lanes.join_all().await, harness.read().await);
        for instance in neighbours {
            assert_eq!(of(&read, instance).len(), 2, "the neighbours are stored, once");
        }
        let read = of(&read, bad);
        let good = read.iter().filter(|message| !message.dead_letter && message.body == b"\"good\"").count();
        assert_eq!(good, 1, "{read:?}");
        if is_kept && reason.is_some() {
            let kept = read.iter().filter(|message| message.dead_letter && message.body == body).count();
            assert_eq!(kept, 1, "a dead letter is kept, byte for byte: {read:?}");
        }
    }
}

/// A publish that is dropped may have stored or not; what the next lane says of it stays true.
async fn survives_dropped_futures(harness: &impl Harness) {
    let (sink, instance) = (harness.start().await, new_instance());
    let (mut lane, mut memory) = open(&*sink, instance).await;
    // While the sink stores for others, what it is asked for comes together.
    let mut others = JoinSet::new();
    for other in [new_instance(), new_instance()] {
        let sink = Arc::clone(&sink);
        others.spawn(async move {
            let (mut lane, _) = open(&*sink, other).await;
            loop {
                drop(publish(&mut *lane, other, b"\"other\"", false).await);
                tokio::task::yield_now().await;
            }
        });
    }
    let mut stored = Vec::new();
    for number in 0..30_u64 {
        let body = format!("{{\"dropped\":{number}}}");
        let moment = Duration::from_micros(number * number * 20);
        let next = notification(instance, body.as_bytes());
        let marked = memory == Memory::Unknown;
        let publishing = lane.publish(Pending::new(&next), marked);
        if let Ok(done) = timeout(moment, publishing).await {
            drop(done.expect("a publish that is not dropped succeeds"));
            stored.push(body);
            memory = Memory::Nothing;
            continue;
        }
        drop(timeout(moment / 2, sink.open(instance)).await);
        (lane, memory) = open(&*sink, instance).await;
        match memory {
            Memory::Published { fingerprint, .. } if fingerprint == Fingerprint::of(body.as_bytes()) => {
                stored.push(body);
            }
            Memory::Published { .. } | Memory::Nothing => {}
            Memory::Unknown => {
                drop(publish(&mut *lane, instance, body.as_bytes(), true).await.unwrap());
                stored.push(body);
            }
        }
    }
    drop(publish(&mut *lane, instance, b"\"last\"", memory == Memory::Unknown).await.unwrap());
    stored.push("\"last\"".to_owned());
    others.shutdown().await;
    let mut read = of(&harness.read().await, instance);
    if !harness.remembers() {
        // A copy is one only behind its first, and marked.
        let mut index = 1;
        while index < read.len() {
            if read[index].marked && read[index].body == read[index - 1].body {
                read.remove(index);
            } else {
                index += 1;
            }
        }
    }
    assert_eq!(bodies(&read), stored, "the outcome of a dropped publish stays true");
}

/// When another process owns the sink, this one stores nothing any more; or the other one waits.
async fn yields_to_a_later_owner(harness: &impl Harness) {
    let (sink, instance) = (harness.start().await, new_instance());
    let (mut lane, _) = open(&*sink, instance).await;
    let later = harness.start().await;
    let mut opening = {
        let later = Arc::clone(&later);
        tokio::spawn(async move { within("the later owner's lane", later.open(instance)).await })
    };
    let (mut stored, begun, mut is_owner) = (Vec::new(), Instant::now(), true);
    while is_owner && !opening.is_finished() && begun.elapsed() < TAKE_OVER {
        let body = format!("{{\"earlier\":{}}}", stored.len());
        match publish(&mut *lane, instance, body.as_bytes(), false).await {
            Ok(_) => stored.push(body),
            Err(_) => is_owner = false,
        }
    }
    if is_owner && !opening.is_finished() {
        drop((lane, sink));
    } else {
        let opened = within("the later owner", &mut opening).await;
        let behind = publish(&mut *lane, instance, b"\"late\"", false).await;
        assert!(behind.is_err(), "ownership: the earlier owner stored behind the later one");
        within("`lost` after another took over", lane.lost()).await;
        drop((lane, sink));
        opening = tokio::spawn(async move { opened.unwrap() });
    }
    let (mut lane, memory) = opening.await.unwrap().expect("the later owner opens a lane");
    let read = of(&harness.read().await, instance);
    assert!(bodies(&read).starts_with(&stored), "stored before the end of an ownership: {read:?}");
    if harness.remembers() && !read.is_empty() {
        assert_remembered(harness, memory, read.len() as u64, &read.last().unwrap().body);
    }
    drop(publish(&mut *lane, instance, b"\"later\"", memory == Memory::Unknown).await.unwrap());
    assert_eq!(bodies(&of(&harness.read().await, instance))[read.len()..], ["\"later\""], "nothing came late");
}

/// Waits while the place is out of reach, goes on by itself, and knows what it stored; a lane that was opened before
/// stores nothing.
async fn comes_back_and_refuses_lanes_of_an_earlier_ownership(harness: &impl Harness) {
    let (sink, instance, other) = (harness.start().await, new_instance(), new_instance());
    let (mut lane, _) = open(&*sink, instance).await;
    let (mut idle, _) = open(&*sink, other).await;
    drop(publish(&mut *lane, instance, b"1", false).await.unwrap());
    assert!(timeout(Duration::ZERO, idle.lost()).await.is_err(), "lost: the ownership has not ended");
    harness.interrupt().await;
    let publishing = tokio::spawn(async move { publish(&mut *lane, instance, b"2", false).await });
    within("the end of the ownership", idle.lost()).await;
    let opening = {
        let sink = Arc::clone(&sink);
        tokio::spawn(async move { open(&*sink, instance).await })
    };
    let stale = tokio::spawn(async move {
        let stale = publish(&mut *idle, other, b"\"stale\"", false).await;
        let proof = within("a proof", idle.already_stored(Pending::new(&notification(other, b"1")))).await;
        [stale, proof]
    });
    harness.restore().await;
    for stale in within("what an earlier lane is asked for", stale).await.unwrap() {
        let is_refused = matches!(stale, Err(SinkError::OwnershipLost | SinkError::OutcomeUnknown(_)));
        assert!(is_refused, "ownership: a lane of an earlier one neither stores nor proves: {stale:?}");
    }
    let second = within("the publish during the interruption", publishing).await.unwrap();
    let (mut lane, memory) = within("the next ownership", opening).await.unwrap();
    let read = bodies(&of(&harness.read().await, instance));
    match second {
        Ok(_) => assert_eq!(read, ["1", "2"], "what is reported as stored is stored"),
        Err(SinkError::Refused(_) | SinkError::OwnershipLost) => assert_eq!(read, ["1"], "not stored, for certain"),
        Err(SinkError::OutcomeUnknown(_)) => assert!(read == ["1"] || read == ["1", "2"], "{read:?}"),
        Err(end) => panic!("an interruption is no end: {end}"),
    }
    assert_remembered(harness, memory, read.len() as u64, read.last().unwrap().as_bytes());
    drop(publish(&mut *lane, instance, b"3", memory == Memory::Unknown).await.unwrap());
    assert_eq!(
        bodies(&of(&harness.read().await, instance)),
        [read, vec!["3".to_owned()]].concat(),
        "it goes on by itself"
    );
    assert!(of(&harness.read().await, other).is_empty(), "ownership: a lane of an earlier one stored something");
}

fn assert_remembered(harness: &impl Harness, memory: Memory, sequence: u64, last: &[u8]) {
    let expected = if harness.remembers() {
        Memory::Published { sequence, fingerprint: Fingerprint::of(last) }
    } else {
        Memory::Unknown
    };
    assert_eq!(memory, expected, "memory: what was published last");
}

fn of(messages: &[Message], instance: InstanceId) -> Vec<Message> {
    messages.iter().filter(|message| message.instance == instance).cloned().collect()
}

fn bodies(messages: &[Message]) -> Vec<String> {
    messages.iter().map(|message| String::from_utf8_lossy(&message.body).into_owned()).collect()
}

async fn open(sink: &dyn Sink, instance: InstanceId) -> (Box<dyn Lane>, Memory) {
    within("a lane", sink.open(instance)).await.expect("a lane is opened, however long it takes")
}

async fn publish(lane: &mut dyn Lane, instance: InstanceId, body: &[u8], marked: bool) -> Result<Stored, SinkError> {
    within("a publish", lane.publish(Pending::new(&notification(instance, body)), marked)).await
}

async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    timeout(STEP_TIMEOUT, future).await.unwrap_or_else(|_| panic!("{what}: not within {STEP_TIMEOUT:?}"))
}

/// As it comes out of a queue, under a receipt that depends on the body.
pub(crate) fn notification(instance: InstanceId, body: &[u8]) -> Notification {
    let envelope = [format!("{{\"receiptId\":{},\"body\":", body.len()).as_bytes(), body, b"}"].concat();
    Answer::read(instance, &Bytes::from(envelope)).head().expect("a body stands whole in its envelope")
}

/// One that no run has used before.
fn new_instance() -> InstanceId {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let milliseconds = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
    format!("{milliseconds}{:03}", COUNT.fetch_add(1, Ordering::Relaxed) % 1000).parse().unwrap()
}
