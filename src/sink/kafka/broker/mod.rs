//! The sink `kafka`: one transactional producer, owned by one thread. A transaction holds the
//! records of all instances that wait and, for each, an entry in the ledger: the compacted topic
//! that remembers what was published last.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use tokio::runtime::Handle;
use tracing::info;
use uuid::Uuid;

use self::ledger::{Ledger, Sentinel};
use self::producer::{Attempt, Producer};
use self::session::Kafka;
use self::topic_memory::TopicMemory;
use self::topics::Topics;
use crate::doctor::Check;
use crate::sink::Sink;
use crate::sink::dead_letter::Folder;
use crate::sink::driver::Driver;
use crate::sink::kafka::options::Options;
use crate::sink::session::{Acquire, SessionError, Shard};
use crate::sink::worker::Worker;
use crate::verify::Audit;

mod client;
mod clock;
mod doctor;
mod entries;
mod errors;
mod ledger;
mod partitions;
mod producer;
mod published;
mod record;
mod route;
mod session;
mod topic_memory;
mod topics;
mod unreachable;
mod unusable;

#[cfg(any(test, fuzzing))]
pub(crate) use self::entries::assert_reads_its_own;

impl Driver for Options {
    fn supported(&self) -> Result<(), String> {
        client::without_files(self).map(drop)
    }

    /// `Ok` from a publish means committed.
    fn start(&self, folder: Folder) -> Result<Arc<dyn Sink>, String> {
        client::configure(self)?;
        let acquisition = Acquisition {
            config: self.clone(),
            folder,
            runtime: Handle::current(),
            topic_memory: TopicMemory::default(),
            owner: Uuid::new_v4(),
            count: 0,
            owned: false,
        };
        let worker = Worker::start("kafka", acquisition);
        Ok(Arc::new(worker.map_err(|error| format!("the sink's thread cannot be started: {error}"))?))
    }

    fn examine(&self) -> Vec<Check> {
        doctor::examine(self)
    }

    fn audit(&self, _drain: bool, audit: &mut Audit) -> Result<bool, String> {
        published::audit(self, audit)
    }
}

/// Takes ownership, again and again in the life of a process.
struct Acquisition {
    config: Options,
    folder: Folder,
    /// Only the admin client needs it: its answers are futures.
    runtime: Handle,
    topic_memory: TopicMemory,
    owner: Uuid,
    count: u64,
    /// Whether a sentinel of ours was ever read back. Before that, another owner in the ledger is
    /// not a rival who took over but the predecessor.
    owned: bool,
}

impl Acquire for Acquisition {
    type Session<'a> = Kafka<'a>;

    /// Fences the former owner, proves that the transactional id is ours by committing a sentinel
    /// into the ledger, and reads the ledger up to that sentinel: what stands before it is decided
    /// for good.
    fn acquire(&mut self, _shard: Shard) -> Result<Kafka<'_>, SessionError> {
        // Read anew, because the files of `properties_files` may have changed.
        let client = client::configure(&self.config).map_err(SessionError::Unavailable)?;
        let topics = Topics::new(&client, &self.config, self.runtime.clone())?;
        let ledger = Ledger::new(&client, &self.config);
        topics.ensure_ledger(&mut self.topic_memory)?;
        if self.owned {
            self.look_for_a_rival(&ledger)?;
        }
        self.count += 1;
        let sentinel = Sentinel { owner: self.owner, acquisition: self.count };
        let producer = Producer::new(&client)?;
        match producer.attempt(&[&ledger.sentinel(&sentinel)?], None) {
            Attempt::Committed | Attempt::CommittedSlowly => {}
            Attempt::Refused(refused) => {
                let why = refused.into_iter().next().map(|refusal| refusal.why).unwrap_or_default();
                return Err(SessionError::Unavailable(format!("ledger_topic: {why}")));
            }
            Attempt::Forbidden(why) | Attempt::Failed(why) => return Err(SessionError::Unavailable(why)),
        }
        let entries = ledger.read_until(&sentinel)?;
        self.owned = true;
        self.topic_memory.tell_strange(&self.config.ledger_topic.value, &entries);
        info!(instances = entries.of.len(), transactional_id = self.config.transactional_id, "owning the Kafka sink");
        Ok(Kafka {
            producer,
            ledger,
            topics,
            topic_memory: &mut self.topic_memory,
            looked: None,
            look: client::metadata_refresh(&client),
            config: &self.config,
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
    /// `_FENCED` has two causes: a rival, and our own transaction that took too long. The ledger
    /// tells them apart, and has to be asked before we fence the rival in turn.
    fn look_for_a_rival(&self, ledger: &Ledger) -> Result<(), SessionError> {
        if ledger.has_another_owner(self.owner)? {
            return Err(SessionError::Fenced(format!(
                "another process uses the transactional_id `{}`: look for a second bridge with this config",
                self.config.transactional_id
            )));
        }
        Ok(())
    }
}
