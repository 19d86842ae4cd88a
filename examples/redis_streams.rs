//! Write your own sink: Redis Streams, exactly once, in one file.
//!
//! A sink of your own is a [`Session`], storage under one ownership; [`Worker`] makes a sink of it, with the thread, the
//! groups, the pauses and the probes. What a session does stands below in the order in which to write it:
//!
//! 1. `acquire` takes the ownership, shuts out whoever had it before, and reads what is remembered.
//! 2. `memory` tells that of an instance, `store` stores a group together with it, `probe` proves the ownership.
//! 3. Whatever goes wrong ends the session; nothing is guessed, the next one reads the memory again.
//!
//! To run it, one instance or several with commas between them:
//!
//! ```sh
//! export GREEN_API_URL=https://1101.api.greenapi.com GREEN_API_ID_INSTANCE=1101000001 GREEN_API_TOKEN=…
//! cargo run --example redis_streams redis://127.0.0.1:6379
//! ```
//!
//! What is stored is as durable as this one Redis. Only with `appendonly yes` and `appendfsync always` does its answer mean
//! that it is on the disk; and a failover forgets what had not reached the replica.

use std::collections::HashMap;
use std::env;
use std::error::Error;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use green_api_bridge::doubt::Memory;
use green_api_bridge::fleet;
use green_api_bridge::green_api::{GreenApi, Queue};
use green_api_bridge::metrics::Metrics;
use green_api_bridge::notification::{Fingerprint, InstanceId};
use green_api_bridge::sink::cloud_event::{self, Position};
use green_api_bridge::sink::session::{Action, Job, Session, SessionError};
use green_api_bridge::sink::worker::Worker;
use green_api_bridge::sink::{DeadLetter, Reason, SinkError};
use green_api_bridge::token::TokenSource;
use redis::{Client, Cmd, Connection, RedisError};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// A Redis that is silent for longer is unavailable: the thread of the sink must never wait for ever.
const TIMEOUT: Duration = Duration::from_secs(5);

/// What an answer has to be worth: see above. Anything but `noeviction` may throw the memory away.
const SETTINGS: [(&str, &str); 3] =
    [("appendonly", "yes"), ("appendfsync", "always"), ("maxmemory-policy", "noeviction")];

/// Takes the ownership and reads the memory in one step: nobody before us writes after it. The newest process wins; one
/// that had the ownership and finds another's has lost it for good, or two would take it from each other for ever.
const ACQUIRE: &str = r"
    local owner = redis.call('GET', KEYS[1])
    local process, session, again = ARGV[1], ARGV[2], ARGV[3]
    if again == '1' and owner and string.sub(owner, 1, #process) ~= process then return false end
    redis.call('SET', KEYS[1], process .. session)
    return redis.call('HGETALL', KEYS[2])
";

/// Stores a group, or without one proves the ownership. A script that fails half way is not undone, so each entry comes
/// with its memory, the entry first: it is what may be refused, when its key holds something else than a stream.
const STORE: &str = r"
    local owner = redis.call('GET', KEYS[1])
    if owner ~= ARGV[1] then return owner end
    local at = 2
    while at <= #ARGV do
        local stream, instance, memory, count = ARGV[at], ARGV[at + 1], ARGV[at + 2], ARGV[at + 3]
        redis.call('XADD', KEYS[tonumber(stream)], '*', unpack(ARGV, at + 4, at + 3 + count))
        redis.call('HSET', KEYS[2], instance, memory)
        at = at + 4 + count
    end
    return owner
";

/// Where the streams stand among the keys of a script, which count from 1.
const NOTIFICATIONS: usize = 3;
const DEAD_LETTERS: usize = 4;

/// Owner, memory, and two streams. One stream for all instances: a consumer reads one key, and finds each instance in
/// order. Nothing is trimmed: what has been consumed is known to the consumers alone (`XTRIM`).
#[derive(Clone)]
struct Keys([String; 4]);

impl Keys {
    /// In braces, so that a cluster has them all in one slot: a script may touch no other.
    fn new(name: &str) -> Self {
        Self(["owner", "memory", "notifications", "dead-letters"].map(|key| format!("{{{name}}}:{key}")))
    }

    fn command(&self, script: &str) -> Cmd {
        let mut command = redis::cmd("EVAL");
        command.arg(script).arg(self.0.len()).arg(&self.0);
        command
    }
}

/// A fence and not a lock: a lock that runs out can run out unseen, between our look at it and our write, whereas each
/// script looks at the owner in the moment in which it writes.
struct RedisSession {
    connection: Connection,
    keys: Keys,
    /// Of this session, not of this process: a script of an earlier one, given up after [`TIMEOUT`], may still arrive.
    token: String,
    memory: HashMap<InstanceId, (u64, Fingerprint)>,
}

/// Starts the sink. `name` stands before its keys; of one name one process may run.
///
/// # Errors
/// When `url` is none of Redis, or no thread can be started.
pub fn start(url: &str, name: &str, metrics: &Metrics) -> Result<Worker, Box<dyn Error>> {
    let (client, keys) = (Client::open(url)?, Keys::new(name));
    let (process, mut session, mut has_owned) = (Uuid::new_v4(), 0_u64, false);
    let worker = Worker::start(metrics, move |_shard| {
        session += 1;
        let acquired = acquire(&client, &keys, &process.to_string(), session, has_owned)?;
        has_owned = true;
        Ok(acquired)
    });
    Ok(worker?)
}

fn acquire(
    client: &Client,
    keys: &Keys,
    process: &str,
    number: u64,
    has_owned: bool,
) -> Result<RedisSession, SessionError> {
    let mut connection = client.get_connection_with_timeout(TIMEOUT).map_err(unavailable)?;
    connection.set_read_timeout(Some(TIMEOUT)).map_err(unavailable)?;
    connection.set_write_timeout(Some(TIMEOUT)).map_err(unavailable)?;
    if !has_owned {
        warn_of_settings(&mut connection);
    }
    let session = format!("/{number}");
    let mut command = keys.command(ACQUIRE);
    let command = command.arg(process).arg(&session).arg(i32::from(has_owned));
    let remembered: Option<HashMap<String, String>> = command.query(&mut connection).map_err(unavailable)?;
    let remembered = remembered.ok_or_else(fenced)?;
    let memory = remembered.iter().map(|(instance, last)| remember(instance, last)).collect::<Option<_>>();
    let memory = memory.ok_or_else(|| SessionError::Unavailable(format!("{} is not ours to read", keys.0[1])))?;
    Ok(RedisSession { connection, keys: keys.clone(), token: format!("{process}{session}"), memory })
}

fn remember(instance: &str, last: &str) -> Option<(InstanceId, (u64, Fingerprint))> {
    let (sequence, fingerprint) = last.split_once(' ')?;
    Some((instance.parse().ok()?, (sequence.parse().ok()?, Fingerprint::from_hex(fingerprint)?)))
}

fn warn_of_settings(connection: &mut Connection) {
    for (setting, wanted) in SETTINGS {
        let found = redis::cmd("CONFIG").arg("GET").arg(setting).query::<HashMap<String, String>>(connection);
        let found = found.map(|mut found| found.remove(setting).unwrap_or_default());
        if found.as_deref() != Ok(wanted) {
            let found = found.unwrap_or_else(|error| error.to_string());
            tracing::warn!(setting, found, wanted, "what this Redis has answered may be lost in a crash");
        }
    }
}

/// Also after an answer that was lost: whether it was stored, the next session reads in the memory.
#[expect(clippy::needless_pass_by_value, reason = "as `map_err` hands it over")]
fn unavailable(error: RedisError) -> SessionError {
    SessionError::Unavailable(error.to_string())
}

fn fenced() -> SessionError {
    SessionError::Fenced("another process owns the streams".into())
}

impl RedisSession {
    fn run(&mut self, command: &Cmd) -> Result<(), SessionError> {
        match command.query::<Option<String>>(&mut self.connection).map_err(unavailable)? {
            Some(owner) if owner == self.token => Ok(()),
            Some(_) => Err(fenced()),
            None => Err(SessionError::Renew("somebody deleted the key of the owner".into())),
        }
    }

    fn position(&self, job: &Job, marked: bool) -> Position {
        let notification = job.notification();
        let sequence = self.memory.get(&notification.instance()).map_or(1, |(last, _)| last + 1);
        // Consumers parse what they read.
        let dead_letter = notification.is_malformed().then(|| DeadLetter {
            reason: Reason::Malformed,
            destination: self.keys.0[NOTIFICATIONS - 1].clone(),
            kept_in: self.keys.0[DEAD_LETTERS - 1].clone().into(),
        });
        Position { sequence, marked, dead_letter, ..Position::default() }
    }
}

impl Session for RedisSession {
    fn memory(&self, instance: InstanceId) -> Memory {
        let last = self.memory.get(&instance);
        last.map_or(Memory::Nothing, |&(sequence, fingerprint)| Memory::Published { sequence, fingerprint })
    }

    fn probe(&mut self) -> Result<(), SessionError> {
        self.store(&mut Vec::new())
    }

    fn store(&mut self, jobs: &mut Vec<Job>) -> Result<(), SessionError> {
        let mut command = self.keys.command(STORE);
        command.arg(&self.token);
        let mut positions = Vec::with_capacity(jobs.len());
        for job in jobs.iter() {
            // That the script runs at all is the proof that `Prove` asks for.
            let Action::Publish { marked } = job.action() else {
                positions.push(None);
                continue;
            };
            let (notification, position) = (job.notification(), self.position(job, marked));
            let stream = if position.dead_letter.is_some() { DEAD_LETTERS } else { NOTIFICATIONS };
            let memory = format!("{} {}", position.sequence, notification.fingerprint());
            let attributes = cloud_event::attributes(notification, &position);
            command.arg(stream).arg(notification.instance().to_string()).arg(memory).arg(2 * (attributes.len() + 2));
            for (name, value) in &attributes {
                command.arg(name).arg(value.as_bytes());
            }
            command.arg("datacontenttype").arg(cloud_event::content_type(notification));
            command.arg("data").arg(&notification.body()[..]);
            positions.push(Some(position));
        }
        self.run(&command)?;
        // Certain from here on.
        for (job, position) in jobs.drain(..).zip(positions) {
            let Some(Position { sequence, dead_letter, .. }) = position else {
                job.stored(None);
                continue;
            };
            let notification = job.notification();
            self.memory.insert(notification.instance(), (sequence, notification.fingerprint()));
            match dead_letter {
                Some(letter) => job.dead_lettered(Some(sequence), letter),
                None => job.stored(Some(sequence)),
            }
        }
        Ok(())
    }
}

#[tokio::main]
async fn main() -> Result<ExitCode, Box<dyn Error>> {
    // Nothing below INFO: there the HTTP client tells URLs, and the token is in them.
    tracing_subscriber::fmt().json().flatten_event(true).with_writer(std::io::stderr).init();
    let variable = |name: &str| env::var(name).map_err(|error| format!("{name}: {error}"));
    let redis = env::args().nth(1).ok_or("usage: redis_streams redis://HOST:PORT")?;
    let (url, ids, tokens) =
        (variable("GREEN_API_URL")?, variable("GREEN_API_ID_INSTANCE")?, variable("GREEN_API_TOKEN")?);
    let api = GreenApi::new(Duration::from_secs(20), None, None)?;
    let mut queues = Vec::new();
    for (id, token) in ids.split(',').zip(tokens.split(',')) {
        queues.push(Queue::new(api.clone(), id.parse()?, url.parse()?, TokenSource::Given(token.into()))?);
    }
    let metrics = Metrics::new("redis");
    let sink = Arc::new(start(&redis, "green-api", &metrics)?);
    let stop = CancellationToken::new();
    let [mut interrupt, mut terminate] = [signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?];
    tokio::spawn({
        let stop = stop.clone();
        async move {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            stop.cancel();
        }
    });
    // Nobody starts or stops instances meanwhile.
    let (_changes, no_changes) = mpsc::channel(1);
    match fleet::run(queues, no_changes, sink, metrics, stop).await {
        // As `green-api-bridge run`: not to be started again.
        Err(SinkError::Fenced(cause)) => {
            tracing::error!(cause, "another bridge took over");
            Ok(ExitCode::from(79))
        }
        ended => Ok(ended.map(|()| ExitCode::SUCCESS)?),
    }
}
