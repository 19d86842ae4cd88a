//! The sink `amqp`: RabbitMQ with publisher confirms. One thread owns the one publishing channel
//! and, on the same connection, the exclusive queue that is the ownership: when the broker lets
//! another bridge have that queue, nothing of ours can arrive any more.

use std::collections::HashMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use lapin::types::ShortString;
use lapin::{Channel, Connection};
use tokio::runtime::Handle;
use tokio::time::timeout;
use tracing::info;

use self::publish::Outcome;
use super::owner::{Action, Client, Failure, Job, Owner};
use super::{Sink, SinkError};
use crate::config;
use crate::doubt::Memory;
use crate::notification::InstanceId;

mod connection;
mod publish;

/// How long the broker may take to confirm a batch, or to answer anything else.
const PATIENCE: Duration = Duration::from_secs(30);

/// A sink that publishes into RabbitMQ. `Ok` from a publish means confirmed and routed. It
/// remembers nothing, so the first notification of an instance under each ownership is marked as
/// a possible duplicate.
///
/// # Errors
/// When a file that the config names cannot be read, or no thread can be started; the text names
/// what to change.
pub fn start(config: &config::Amqp) -> Result<impl Sink + use<>, String> {
    connection::Secrets::read(config)?;
    let (config, runtime) = (config.clone(), Handle::current());
    Client::start("amqp", move || runtime.block_on(acquire(&config, &runtime)))
        .map_err(|error| format!("the sink's thread cannot be started: {error}"))
}

async fn acquire(config: &config::Amqp, runtime: &Handle) -> Result<Amqp, Failure> {
    let connected = connection::connect(config).await?;
    let epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    info!(name = config.name, exchange = config.exchange, "owning the AMQP sink");
    Ok(Amqp {
        _connection: connected.connection,
        channel: connected.channel,
        owner_queue: connected.owner_queue,
        config: config.clone(),
        runtime: runtime.clone(),
        epoch: u64::try_from(epoch.as_millis()).unwrap_or(u64::MAX),
        sequences: HashMap::new(),
    })
}

/// The sink under one ownership.
struct Amqp {
    /// Closed when dropped.
    _connection: Connection,
    channel: Channel,
    owner_queue: ShortString,
    config: config::Amqp,
    runtime: Handle,
    epoch: u64,
    /// The last of each instance under this ownership.
    sequences: HashMap<InstanceId, u64>,
}

impl Owner for Amqp {
    fn memory(&self, _instance: InstanceId) -> Memory {
        Memory::Unknown
    }

    fn store(&mut self, jobs: &mut Vec<Job>) -> Result<(), Failure> {
        let runtime = self.runtime.clone();
        let late = |_elapsed| Failure::Unavailable("the broker did not confirm in 30 s".into());
        let outcomes = runtime.block_on(async { timeout(PATIENCE, self.publish(jobs)).await }).map_err(late)??;
        for (job, outcome) in jobs.drain(..).zip(outcomes) {
            match outcome {
                Outcome::Stored(sequence) => {
                    if let Some(sequence) = sequence {
                        self.sequences.insert(job.notification().instance(), sequence);
                    }
                    job.succeed(None);
                }
                Outcome::Unroutable => job.fail(SinkError::Refused(format!(
                    "no queue takes it: bind one to the exchange {}",
                    self.config.exchange
                ))),
                // Where several queues are bound, another one may have taken it.
                Outcome::Nacked => job.fail(SinkError::Reopen("the broker refused it for at least one queue".into())),
            }
        }
        Ok(())
    }
}

impl Amqp {
    async fn publish(&self, jobs: &[Job]) -> Result<Vec<Outcome>, Failure> {
        if jobs.iter().any(|job| job.action() == Action::Prove) {
            connection::prove_ownership(&self.channel, &self.owner_queue).await?;
        }
        let mut batch = publish::Batch::new(&self.channel, &self.config, self.epoch);
        for job in jobs {
            match job.action() {
                Action::Prove => batch.nothing(),
                Action::Publish { marked } => {
                    let last = self.sequences.get(&job.notification().instance()).copied().unwrap_or(0);
                    batch.publish(job.notification(), last + 1, marked).await?;
                }
            }
        }
        batch.confirmed().await
    }
}
