//! Sinks that break one promise each: the test of the contract has to notice every one.

use std::collections::HashMap;
use std::mem::take;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use green_api_bridge::doubt::Memory;
use green_api_bridge::notification::InstanceId;
use green_api_bridge::sink::contract_test::{self, Harness, Message};
use green_api_bridge::sink::{DeadLetter, Lane, Pending, Reason, Sink, SinkError, Stored};
use tokio::sync::watch;
use tokio::time::sleep;

/// A promise, and that it is broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Defect {
    None,
    ReportsWhatIsNotStored,
    StoresTheLatestFirst,
    AltersBodies,
    LeavesOutANumber,
    ForgetsAtARestart,
    RemembersOneTooFew,
    StoresAgainToProve,
    TakesWhatIsNoJson,
    RefusesTheNeighbours,
    StoresLateWhatWasDropped,
    StoresBehindALaterOwner,
    StoresUnderAnEarlierOwnership,
    ProvesAnEarlierOwnership,
    NeverLosesALane,
    LosesLanesAtOnce,
    EndsWithAnInterruption,
}

/// The text of the panic that shows it.
const SHOWN_BY: [(Defect, &str); 16] = [
    (Defect::ReportsWhatIsNotStored, "order: of instance"),
    (Defect::StoresTheLatestFirst, "order: of instance"),
    (Defect::AltersBodies, "order: of instance"),
    (Defect::LeavesOutANumber, "sequence: counted from 1"),
    (Defect::ForgetsAtARestart, "memory: what was published last"),
    (Defect::RemembersOneTooFew, "memory: what was published last"),
    (Defect::StoresAgainToProve, "proof: it stores nothing"),
    (Defect::TakesWhatIsNoJson, "is a dead letter"),
    (Defect::RefusesTheNeighbours, "a neighbour of one that is not stored"),
    (Defect::StoresLateWhatWasDropped, "the outcome of a dropped publish stays true"),
    (Defect::StoresBehindALaterOwner, "ownership: the earlier owner stored"),
    (Defect::StoresUnderAnEarlierOwnership, "ownership: a lane of an earlier one"),
    (Defect::ProvesAnEarlierOwnership, "ownership: a lane of an earlier one"),
    (Defect::NeverLosesALane, "`lost` after another took over: not within"),
    (Defect::LosesLanesAtOnce, "lost: the ownership has not ended"),
    (Defect::EndsWithAnInterruption, "ownership: a lane of an earlier one"),
];

/// A sink that stores in memory.
struct InMemory {
    defect: Defect,
    stored: Arc<Mutex<Stock>>,
    /// How many ownerships there were, and whether there can be one now.
    ownership: watch::Sender<(u64, bool)>,
}

#[derive(Default)]
struct Stock {
    messages: Vec<Message>,
    remembered: HashMap<InstanceId, Vec<Memory>>,
    was_refused: bool,
}

#[async_trait]
impl Harness for InMemory {
    async fn start(&self) -> Arc<dyn Sink> {
        if self.defect == Defect::ForgetsAtARestart {
            self.stored.lock().unwrap().remembered.clear();
        }
        self.ownership.send_modify(|(count, _)| *count += 1);
        Arc::new(Shelves {
            defect: self.defect,
            stored: Arc::clone(&self.stored),
            first: self.ownership.borrow().0,
            ownership: self.ownership.subscribe(),
        })
    }

    async fn read(&self) -> Vec<Message> {
        // What comes late is there by then.
        sleep(Duration::from_secs(1)).await;
        self.stored.lock().unwrap().messages.clone()
    }

    fn remembers(&self) -> bool {
        true
    }

    async fn interrupt(&self) {
        // Half an ownership further: it is the same sink's.
        self.ownership.send_modify(|(count, possible)| (*count, *possible) = (*count + HALF, false));
    }

    async fn restore(&self) {
        self.ownership.send_modify(|(_, possible)| *possible = true);
    }
}

/// Ownerships of one sink share what is below this bit.
const HALF: u64 = 1 << 32;

struct Shelves {
    defect: Defect,
    stored: Arc<Mutex<Stock>>,
    first: u64,
    ownership: watch::Receiver<(u64, bool)>,
}

#[async_trait]
impl Sink for Shelves {
    async fn open(&self, instance: InstanceId) -> Result<(Box<dyn Lane>, Memory), SinkError> {
        let mut ownership = self.ownership.clone();
        let (now, _) = *ownership.wait_for(|(_, possible)| *possible).await.unwrap();
        if now % HALF != self.first % HALF {
            return Err(SinkError::Fenced("another one".into()));
        }
        let remembered = self.stored.lock().unwrap().remembered.get(&instance).cloned().unwrap_or_default();
        let back = if self.defect == Defect::RemembersOneTooFew { 2 } else { 1 };
        let memory = remembered.len().checked_sub(back).map_or(Memory::Nothing, |index| remembered[index]);
        let lane = Shelved { defect: self.defect, stored: Arc::clone(&self.stored), mine: now, ownership };
        Ok((Box::new(lane), memory))
    }
}

struct Shelved {
    defect: Defect,
    stored: Arc<Mutex<Stock>>,
    mine: u64,
    ownership: watch::Receiver<(u64, bool)>,
}

impl Shelved {
    fn check(&self, may_be_later: Defect, may_be_earlier: Defect) -> Result<(), SinkError> {
        let (now, _) = *self.ownership.borrow();
        match now {
            now if now == self.mine => Ok(()),
            now if now % HALF != self.mine % HALF && self.defect == may_be_later => Ok(()),
            now if now % HALF != self.mine % HALF => Err(SinkError::Fenced("another one".into())),
            _ if self.defect == may_be_earlier => Ok(()),
            _ if self.defect == Defect::EndsWithAnInterruption => Err(SinkError::Closed("interrupted".into())),
            _ => Err(SinkError::OwnershipLost),
        }
    }
}

#[async_trait]
impl Lane for Shelved {
    async fn publish(&mut self, pending: Pending, marked: bool) -> Result<Stored, SinkError> {
        if self.defect == Defect::StoresLateWhatWasDropped {
            let (stored, notification) = (Arc::clone(&self.stored), pending.notification().clone());
            let mut late = Late(Some((stored, notification.instance(), notification.body().to_vec())));
            sleep(Duration::from_millis(5)).await;
            late.0 = None;
        } else {
            sleep(Duration::from_millis(5)).await;
        }
        self.check(Defect::StoresBehindALaterOwner, Defect::StoresUnderAnEarlierOwnership)?;
        let notification = pending.notification();
        let instance = notification.instance();
        let mut stock = self.stored.lock().unwrap();
        if self.defect == Defect::RefusesTheNeighbours {
            if take(&mut stock.was_refused) {
                return Err(SinkError::Refused("a neighbour was".into()));
            }
            stock.was_refused = notification.is_malformed();
        }
        let numbers = stock.remembered.get(&instance).map_or(1, |last| last.len() as u64 + 1);
        let gap = u64::from(self.defect == Defect::LeavesOutANumber && numbers > 1);
        let dead_letter = notification.is_malformed() && self.defect != Defect::TakesWhatIsNoJson;
        let mut body = notification.body().to_vec();
        if self.defect == Defect::AltersBodies {
            body.retain(|byte| *byte != b' ');
        }
        let message = Message { instance, body, sequence: numbers + gap, marked, dead_letter };
        if self.defect == Defect::StoresTheLatestFirst {
            stock.messages.insert(0, message);
        } else if self.defect != Defect::ReportsWhatIsNotStored {
            stock.messages.push(message);
        }
        let memory = Memory::Published { sequence: numbers, fingerprint: notification.fingerprint() };
        stock.remembered.entry(instance).or_default().push(memory);
        let stored = pending.stored(Some(numbers + gap));
        let letter = || DeadLetter { reason: Reason::Malformed, destination: "shelf".into(), kept_in: "shelf".into() };
        Ok(if dead_letter { stored.as_dead_letter(letter()) } else { stored })
    }

    async fn already_stored(&mut self, pending: Pending) -> Result<Stored, SinkError> {
        self.check(Defect::ProvesAnEarlierOwnership, Defect::ProvesAnEarlierOwnership)?;
        if self.defect == Defect::StoresAgainToProve {
            let (instance, body) = (pending.notification().instance(), pending.notification().body().to_vec());
            let message = Message { instance, body, sequence: 0, marked: false, dead_letter: false };
            self.stored.lock().unwrap().messages.push(message);
        }
        Ok(pending.stored(None))
    }

    async fn lost(&mut self) {
        let is_over = |(now, _): &(u64, bool)| *now != self.mine && self.defect != Defect::NeverLosesALane;
        if self.defect != Defect::LosesLanesAtOnce {
            self.ownership.wait_for(is_over).await.unwrap();
        }
    }
}

/// Stores when it is dropped, and a while later.
struct Late(Option<(Arc<Mutex<Stock>>, InstanceId, Vec<u8>)>);

impl Drop for Late {
    fn drop(&mut self) {
        if let Some((stored, instance, body)) = self.0.take() {
            tokio::spawn(async move {
                sleep(Duration::from_millis(50)).await;
                let message = Message { instance, body, sequence: 0, marked: false, dead_letter: false };
                stored.lock().unwrap().messages.push(message);
            });
        }
    }
}

/// What the panic said; `None`: it keeps the contract.
async fn found_in(defect: Defect) -> Option<String> {
    let shelf = InMemory { defect, stored: Arc::default(), ownership: watch::Sender::new((0, true)) };
    let ended = tokio::spawn(async move { contract_test::run(&shelf).await }).await;
    let panic = ended.err()?.into_panic();
    let text = panic.downcast_ref::<String>().cloned();
    Some(text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap())
}

#[tokio::test(start_paused = true)]
async fn a_sink_that_breaks_a_promise_is_found_and_one_that_keeps_them_is_not() {
    assert_eq!(found_in(Defect::None).await, None);
    for (defect, text) in SHOWN_BY {
        let found = found_in(defect).await.unwrap_or_else(|| panic!("{defect:?} was not found"));
        assert!(found.contains(text), "{defect:?}: {found}");
    }
}
