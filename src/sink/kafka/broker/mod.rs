//! The sink `kafka`: one transactional producer per shard, each on a thread of its own. A transaction contains the records of
//! all waiting instances and a ledger entry for each: the ledger is a compacted topic that records what was published last.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tracing::info;
use uuid::Uuid;

use self::group::Group;
use self::ledger::{Ledger, Sentinel};
use self::producer::Producer;
use self::session::Kafka;
use self::topic_memory::TopicMemory;
use self::topics::Topics;
use crate::doctor::Check;
use crate::error::SetupError;
use crate::metrics::Metrics;
use crate::sink::Sink;
use crate::sink::assignment::Opened;
use crate::sink::dead_letter::Folder;
use crate::sink::driver::Driver;
use crate::sink::kafka::options::Options;
use crate::sink::redrive::Redrive;
use crate::sink::session::{Acquire, SessionError, Shard};
use crate::sink::shared::Shared;
use crate::sink::worker::Worker;
use crate::verify::Audit;

mod client;
mod clock;
mod doctor;
mod entries;
mod errors;
mod group;
mod ledger;
mod partitions;
mod producer;
mod published;
mod raise;
mod record;
mod redrive;
mod rights;
mod route;
mod session;
mod topic_memory;
mod topics;
mod unreachable;
mod unusable;

#[cfg(any(test, fuzzing))]
pub(crate) use self::entries::assert_reads_its_own;

impl Driver for Options {
    fn supported(&self) -> Result<(), SetupError> {
        client::without_files(self).map(drop)
    }

    /// `Ok` from a publish means committed.
    fn start(&self, folder: Folder, shards: u16, metrics: &Metrics) -> Result<Arc<dyn Sink>, SetupError> {
        let client = client::configure(self)?;
        let no_thread = |error: std::io::Error| SetupError::new("the sink's threads cannot be started", error);
        let group = (shards > 1).then(|| Arc::new(Group::new(&client, self, shards)));
        let acquisition = |_shard| Acquisition {
            config: self.clone(),
            folder: folder.clone(),
            runtime: Handle::current(),
            topic_memory: TopicMemory::default(),
            owner: Uuid::new_v4(),
            count: 0,
            owned: false,
            shards,
            group: group.clone(),
            not_before: None,
        };
        let worker = Worker::start_each(metrics, (0..shards).map(acquisition)).map_err(no_thread)?;
        Ok(match group {
            None => Arc::new(worker),
            Some(group) => Arc::new(Shared::new(worker, group)),
        })
    }

    fn examine(&self, shards: u16) -> Vec<Check> {
        doctor::examine(self, shards)
    }

    fn audit(&self, _drain: bool, audit: &mut Audit) -> Result<bool, SetupError> {
        published::audit(self, audit)
    }

    fn redrive(&self, redrive: &mut Redrive, dead_letters: &Path) -> Result<(), SetupError> {
        redrive::redrive(self, redrive, dead_letters)
    }
}

/// Opens sessions, one after the other.
struct Acquisition {
    config: Options,
    folder: Folder,
    /// For the admin client, whose answers are futures.
    runtime: Handle,
    topic_memory: TopicMemory,
    owner: Uuid,
    count: u64,
    /// Whether a sentinel of ours was ever read back. Before that another owner in the ledger is our predecessor, not a rival.
    owned: bool,
    /// The number of shards, and the group that assigns them; `None` with `shards: 1`.
    shards: u16,
    group: Option<Arc<Group>>,
    /// Set when another replica fenced this one.
    not_before: Option<Instant>,
}

impl Acquire for Acquisition {
    type Session<'a> = Kafka<'a>;

    /// Fences the former owner, proves ownership of the transactional id by committing a sentinel to the ledger, and reads the
    /// ledger up to that sentinel: everything before it is decided.
    fn acquire(&mut self, shard: Shard) -> Result<Kafka<'_>, SessionError> {
        if self.not_before.is_some_and(|then| then > Instant::now()) {
            return Err(SessionError::Elsewhere);
        }
        let mut opened = self.opened(shard)?;
        // Read again because the files of `properties_files` may have changed.
        let mut client = client::configure(&self.config)?;
        let transactional_id = raise::transactional_id(&self.config, shard, self.shards);
        client.set("transactional.id", &transactional_id);
        let topics = Topics::new(&client, &self.config, self.runtime.clone())?;
        let ledger = Ledger::new(&client, &self.config, &transactional_id, shard);
        topics.ensure_ledger(self.shards, &mut self.topic_memory)?;
        if self.owned {
            self.check_for_rival(&ledger)?;
        }
        self.count += 1;
        let sentinel = Sentinel { owner: self.owner, acquisition: self.count, shards: self.shards };
        let producer = Producer::new(&client)?;
        raise::commit(&producer, &[ledger.sentinel(&sentinel)?])?;
        let entries = ledger.read_until(&sentinel)?;
        self.owned = true;
        if opened.as_ref().is_some_and(|opened| !opened.is_held()) {
            return Err(SessionError::Elsewhere);
        }
        if let Some(opened) = &mut opened {
            opened.begin();
        }
        self.topic_memory.report_foreign(&self.config.ledger_topic, &entries);
        info!(event = "sink_owned", instances = entries.of.len(), transactional_id, "owning the Kafka sink");
        Ok(Kafka {
            producer,
            ledger,
            topics,
            topic_memory: &mut self.topic_memory,
            checked: None,
            check_interval: client::metadata_refresh(&client),
            config: &self.config,
            opened,
            valid_for: self.group.is_some().then(|| client::session_timeout(&client) / 2),
            largest: client::largest_record(&client),
            folder: &self.folder,
            sentinel,
            clock_limits: HashMap::new(),
            entries,
            reread: Instant::now(),
        })
    }
}

impl Acquisition {
    /// The shard if it is assigned to this replica; `None` with `shards: 1`.
    fn opened(&mut self, shard: Shard) -> Result<Option<Opened>, SessionError> {
        let Some(group) = &self.group else { return Ok(None) };
        // Shard 0 creates the ledger topic and reports what is wrong with it, on behalf of all.
        if shard.index() == 0 && !group.has_joined() {
            let client = client::configure(&self.config)?;
            let topics = Topics::new(&client, &self.config, self.runtime.clone())?;
            topics.ensure_ledger(self.shards, &mut self.topic_memory)?;
            raise::ensure_division(&client, &self.config, self.shards, self.owner)?;
            group
                .join()
                .map_err(|error| SessionError::Unavailable(format!("the consumer group: no thread: {error}")))?;
        }
        let opened = group.open(shard);
        if opened.is_held() {
            return Ok(Some(opened));
        }
        // The next owner is not a rival.
        self.owned = false;
        Err(SessionError::Elsewhere)
    }

    /// `_FENCED` has two causes: a rival, or our own transaction exceeding its timeout. The ledger distinguishes them, and has
    /// to be consulted before we fence the rival in turn.
    fn check_for_rival(&mut self, ledger: &Ledger) -> Result<(), SessionError> {
        if self.group.is_some() {
            if ledger.may_have_another_owner(self.owner)? {
                self.owned = false;
                // Longer than a heartbeat, so that a replica that was suspended learns of its lost assignment first.
                self.not_before = Some(Instant::now() + Duration::from_millis(1000 + fastrand::u64(..500)));
                return Err(SessionError::Elsewhere);
            }
        } else if ledger.has_another_owner(self.owner)? {
            return Err(SessionError::Fenced(format!(
                "another process uses the transactional_id `{}`: look for a second bridge with this config",
                self.config.transactional_id
            )));
        }
        Ok(())
    }
}
