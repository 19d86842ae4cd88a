//! The sink `stdout`: the lines of the sink `file` on standard output. It remembers nothing, so the first notification
//! after each start is marked as a possible duplicate.

use std::collections::HashMap;
use std::io::{self, Write};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use schemars::JsonSchema;
use serde::Deserialize;

use super::Sink;
use super::cloud_event::Position;
use super::dead_letter::Folder;
use super::driver::{Driver, Kind};
use super::json_line::write_line;
use super::one_stream::{answer, malformed};
use super::session::{Action, Job, Session, SessionError};
use super::worker::Worker;
use crate::doctor::Check;
use crate::doubt::Memory;
use crate::error::SetupError;
use crate::metrics::Metrics;
use crate::notification::InstanceId;
use crate::verify::Audit;

/// Its form as a URL.
pub(super) const FORM: &str = "stdout:";

/// JSON lines on standard output. There are no options.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Stdout")]
pub struct Options {}

impl Options {
    pub(super) fn from_url(rest: &str) -> Result<Self, &'static str> {
        if rest.is_empty() { Ok(Self {}) } else { Err("") }
    }
}

impl Kind for Options {
    fn name(&self) -> &'static str {
        "stdout"
    }

    fn guarantee(&self) -> &'static str {
        "at least once, possible duplicates marked; no memory over a restart"
    }

    fn driver(&self) -> Result<&dyn Driver, SetupError> {
        Ok(self)
    }
}

impl Driver for Options {
    fn start(&self, _dead_letters: Folder, _shards: u16, metrics: &Metrics) -> Result<Arc<dyn Sink>, SetupError> {
        Ok(Arc::new(into_writer(metrics, io::stdout)?))
    }

    fn examine(&self, _shards: u16) -> Vec<Check> {
        vec![Check::of_sink("stdout", Ok("no memory: the first notification after each start is marked".into()))]
    }

    fn audit(&self, _drain: bool, _audit: &mut Audit) -> Result<bool, SetupError> {
        Err("sink.stdout has nothing that could be verified".into())
    }
}

fn into_writer<W: Write>(metrics: &Metrics, writer: impl Fn() -> W + Send + 'static) -> Result<Worker, SetupError> {
    let acquire = move |_shard| Ok(Stdout { writer: writer(), epoch: unix_milliseconds(), sequences: HashMap::new() });
    Worker::start(metrics, acquire).map_err(|error| SetupError::new("the sink's thread cannot be started", error))
}

const STDOUT: &str = "stdout";

struct Stdout<W> {
    writer: W,
    epoch: u64,
    sequences: HashMap<InstanceId, u64>,
}

impl<W: Write> Session for Stdout<W> {
    fn memory(&self, _instance: InstanceId) -> Memory {
        Memory::Unknown
    }

    fn store(&mut self, jobs: &mut Vec<Job>) -> Result<(), SessionError> {
        let mut lines = Vec::new();
        for job in &*jobs {
            if let Action::Publish { marked } = job.action() {
                let sequence = self.sequences.entry(job.notification().instance()).or_default();
                *sequence += 1;
                let dead_letter = malformed(job.notification(), &STDOUT);
                let position = Position { sequence: *sequence, epoch: Some(self.epoch), marked, dead_letter };
                write_line(&mut lines, job.notification(), &position)
                    .map_err(|error| SessionError::Unavailable(error.to_string()))?;
            }
        }
        // Standard output cannot be reopened: its reader is gone.
        self.writer
            .write_all(&lines)
            .and_then(|()| self.writer.flush())
            .map_err(|error| SessionError::Closed(format!("standard output: {error}")))?;
        jobs.drain(..).for_each(|job| answer(job, None, &STDOUT));
        Ok(())
    }
}

fn unix_milliseconds() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use async_trait::async_trait;

    use super::*;
    use crate::sink::contract_test::{self, Harness, Message};
    use crate::sink::json_line::read_messages;

    /// Standard output, but for whose it is.
    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[async_trait]
    impl Harness for Lines {
        async fn start(&self) -> Arc<dyn Sink> {
            let lines = self.clone();
            Arc::new(into_writer(&Metrics::new("stdout"), move || lines.clone()).unwrap())
        }

        async fn read(&self) -> Vec<Message> {
            read_messages(&self.0.lock().unwrap())
        }

        fn remembers(&self) -> bool {
            false
        }

        fn ownership_can_end(&self) -> bool {
            false
        }

        async fn interrupt(&self) {}

        async fn restore(&self) {}
    }

    #[tokio::test]
    async fn standard_output_keeps_the_contract() {
        contract_test::run(&Lines::default()).await;
    }
}
