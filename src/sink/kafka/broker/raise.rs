//! Raising `shards`: copies the ledger entries of the former shards to the shards to which their instances belong now.
//!
//! This happens once, in a single transaction that also records the new number of shards. The replica that does it has fenced
//! all former owners, and all replicas that attempt the same: each begins with the producer of the first former shard, and that
//! producer commits.

use std::collections::HashMap;
use std::thread::sleep;
use std::time::{Duration, Instant};

use rdkafka::ClientConfig;
use tracing::info;
use uuid::Uuid;

use super::entries::Entry;
use super::ledger::{Ledger, Sentinel};
use super::producer::{Attempt, Producer};
use super::record::Record;
use crate::notification::InstanceId;
use crate::sink::kafka::options::Options;
use crate::sink::session::SessionError;
use crate::sink::shard::Shard;

/// How long another replica may take to finish raising before it counts as dead.
const RAISE_TIMEOUT: Duration = Duration::from_secs(10);

/// The transactional id of a shard; with `shards: 1` that of the bridge.
pub(super) fn transactional_id(config: &Options, shard: Shard, shards: u16) -> String {
    let id = &config.transactional_id;
    if shards == 1 { id.clone() } else { format!("{id}-{}", shard.index()) }
}

/// Ensures that the ledger has this number of shards. `owner` identifies this process.
pub(super) fn ensure_division(
    client: &ClientConfig,
    config: &Options,
    shards: u16,
    owner: Uuid,
) -> Result<(), SessionError> {
    let raise = Raise { client, config, shards, owner };
    match raise.division()? {
        None => Ok(()),
        Some(former) if former == shards => Ok(()),
        Some(former) if former > shards => Err(SessionError::Unavailable(format!(
            "ledger_topic {}: it was written with `shards: {former}`, and `shards` is {shards}: it can only be raised",
            config.ledger_topic
        ))),
        Some(former) => raise.from(former),
    }
}

struct Raise<'a> {
    client: &'a ClientConfig,
    config: &'a Options,
    shards: u16,
    owner: Uuid,
}

impl Raise<'_> {
    /// The ledger of a shard, one of `shards`.
    fn ledger(&self, shard: Shard, shards: u16) -> Ledger {
        Ledger::new(self.client, self.config, &transactional_id(self.config, shard, shards), shard)
    }

    fn division(&self) -> Result<Option<u16>, SessionError> {
        self.ledger(Shard::new(0), self.shards).division(&self.config.transactional_id)
    }

    fn from(&self, former: u16) -> Result<(), SessionError> {
        // Under a key of its own, so that it is not mistaken for the sentinel of an owner.
        let key = format!("{}/raising", self.config.transactional_id);
        // Unique to this attempt: entries written after the barrier of an earlier attempt must be read as well.
        let barrier = Sentinel { owner: self.owner, acquisition: fastrand::u64(..), shards: former };
        let begun = Ledger::new(self.client, self.config, &key, Shard::new(0)).last_sentinel("read_uncommitted")?;
        if begun.is_some_and(|begun| begun.owner != self.owner && begun.shards == former) && self.was_raised()? {
            return Ok(());
        }
        let mut known = HashMap::<InstanceId, Entry>::new();
        let mut first = None;
        for shard in (0..former).map(Shard::new) {
            let mut client = self.client.clone();
            client.set("transactional.id", transactional_id(self.config, shard, former));
            let producer = Producer::new(&client)?;
            let ledger = Ledger::new(self.client, self.config, &key, shard);
            if let Err(failure) = commit(&producer, &[ledger.sentinel(&barrier)?]) {
                return if self.was_raised()? { Ok(()) } else { Err(failure) };
            }
            // Everything that a former owner stored precedes it.
            let entries = ledger.read_until(&barrier)?;
            let is_here = |instance: &InstanceId| Shard::of(*instance, former) == shard;
            if let Some((instance, why)) = entries.unusable.iter().find(|(instance, _)| is_here(instance)) {
                return Err(SessionError::Unavailable(format!(
                    "ledger_topic {}: the entry of {instance} in partition {} cannot be used, so `shards` cannot be raised: \
                     {why}",
                    self.config.ledger_topic,
                    shard.index()
                )));
            }
            for (instance, entry) in entries.of {
                // An earlier raise leaves older entries behind.
                let last = known.entry(instance).or_insert(entry);
                *last = if entry.sequence > last.sequence { entry } else { *last };
            }
            first.get_or_insert(producer);
        }
        // Another replica may have finished before this one fenced it.
        if self.division()? == Some(self.shards) {
            return Ok(());
        }
        let Some(first) = first else { return Ok(()) };
        commit(&first, &self.copies(&known)?)?;
        info!(
            event = "shards_raised",
            former,
            shards = self.shards,
            instances = known.len(),
            "raised the number of shards"
        );
        Ok(())
    }

    fn copies(&self, known: &HashMap<InstanceId, Entry>) -> Result<Vec<Record>, SessionError> {
        let divided = Sentinel { owner: self.owner, acquisition: 0, shards: self.shards };
        let mut records = vec![self.ledger(Shard::new(0), self.shards).sentinel(&divided)?];
        for (instance, entry) in known {
            let ledger = self.ledger(Shard::of(*instance, self.shards), self.shards);
            records.push(ledger.entry(*instance, *entry)?);
        }
        Ok(records)
    }

    /// Waits for another replica to finish; returns whether it did.
    fn was_raised(&self) -> Result<bool, SessionError> {
        let begun = Instant::now();
        while self.division()? != Some(self.shards) {
            if begun.elapsed() > RAISE_TIMEOUT {
                return Ok(false);
            }
            sleep(Duration::from_millis(500));
        }
        Ok(true)
    }
}

/// Commits these ledger records in a transaction of their own.
pub(super) fn commit(producer: &Producer, records: &[Record]) -> Result<(), SessionError> {
    match producer.attempt(&records.iter().collect::<Vec<_>>(), None) {
        Attempt::Committed(_) | Attempt::CommittedSlowly(_) => Ok(()),
        Attempt::Refused(refused) => {
            let why = refused.into_iter().next().map(|refusal| refusal.why).unwrap_or_default();
            Err(SessionError::Unavailable(format!("ledger_topic: {why}")))
        }
        Attempt::Forbidden(why) | Attempt::Failed(why) => Err(SessionError::Unavailable(why)),
    }
}
