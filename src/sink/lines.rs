//! The sinks `file` and `stdout`: one `CloudEvents` JSON object a line, attributes first, the
//! member `data` last, with the body embedded unparsed.

use std::collections::HashMap;
use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use self::file::LinesFile;
use super::cloud_event::{self, Place};
use super::session::{Action, Job, Session, SessionError};
use super::worker::Worker;
use super::{DeadLetter, Reason, Sink};
use crate::doubt::Memory;
use crate::notification::{InstanceId, Notification};

#[cfg(test)]
mod contract_tests;
mod file;
#[cfg(any(test, fuzzing))]
mod fuzzing;
pub(super) mod read_back;

#[cfg(any(test, fuzzing))]
pub(crate) use self::fuzzing::assert_reads_its_own;

/// A sink that appends to a file, which one bridge locks. `Ok` from a publish means fsynced. The
/// file is its own memory: an instance's last line tells what was published last.
///
/// # Errors
/// When something is at the path that is no regular file, or no thread can be started.
pub fn file(path: PathBuf) -> Result<impl Sink, String> {
    file::require_regular(&path)?;
    Worker::start("file", move |_shard| LinesFile::acquire(&path)).map_err(|error| no_thread(&error))
}

/// A sink that writes to standard output. It remembers nothing, so the first notification after
/// each start is marked as a possible duplicate.
///
/// # Errors
/// When no thread can be started.
pub fn stdout() -> Result<impl Sink, String> {
    into_writer(io::stdout)
}

fn into_writer<W: Write>(writer: impl Fn() -> W + Send + 'static) -> Result<Worker, String> {
    let acquire = move |_shard| Ok(Stdout { writer: writer(), epoch: unix_milliseconds(), sequences: HashMap::new() });
    Worker::start("stdout", acquire).map_err(|error| no_thread(&error))
}

fn no_thread(error: &io::Error) -> String {
    format!("the sink's thread cannot be started: {error}")
}

/// Whether the file, or else its folder, can be written. Neither locks nor creates it.
pub(super) fn examine(path: &Path) -> Result<String, String> {
    let told = |error: io::Error| format!("sink.file.path {}: {error}", path.display());
    file::require_regular(path)?;
    if path.exists() {
        OpenOptions::new().append(true).open(path).map_err(told)?;
        return Ok("it can be written; exactly once".into());
    }
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let metadata = folder.metadata().map_err(told)?;
    if metadata.is_dir() && !metadata.permissions().readonly() {
        Ok("it will be created; exactly once".into())
    } else {
        Err(format!("sink.file.path {}: its folder cannot be written", path.display()))
    }
}

/// Appends the line of a notification, line feed included.
pub(super) fn write_line(line: &mut Vec<u8>, notification: &Notification, place: &Place) -> serde_json::Result<()> {
    let attributes = cloud_event::attributes(notification, place);
    line.push(b'{');
    for (name, value) in attributes.iter().chain([&("datacontenttype", cloud_event::content_type(notification).into())])
    {
        serde_json::to_writer(&mut *line, name)?;
        line.push(b':');
        serde_json::to_writer(&mut *line, value)?;
        line.push(b',');
    }
    let body = notification.body();
    if notification.is_malformed() || body.iter().any(|byte| matches!(byte, b'\r' | b'\n')) {
        line.extend(b"\"data_base64\":");
        serde_json::to_writer(&mut *line, &STANDARD.encode(body))?;
    } else {
        line.extend(b"\"data\":");
        line.extend_from_slice(body);
    }
    line.extend(b"}\n");
    Ok(())
}

/// A malformed body stays in the same stream, as a dead letter.
fn malformed(notification: &Notification, stream: &dyn fmt::Display) -> Option<DeadLetter> {
    let letter = || DeadLetter {
        reason: Reason::Malformed,
        destination: stream.to_string(),
        kept_in: stream.to_string().into(),
    };
    notification.is_malformed().then(letter)
}

/// Answers a job, of which the line is durably stored.
fn answer(job: Job, sequence: Option<u64>, stream: &dyn fmt::Display) {
    match malformed(job.notification(), stream) {
        Some(letter) if job.action() != Action::Prove => job.dead_lettered(sequence, letter),
        _ => job.stored(sequence),
    }
}

fn unavailable(error: &dyn std::error::Error) -> SessionError {
    SessionError::Unavailable(error.to_string())
}

/// What was just created is only as durable as its entry in its folder.
pub(super) fn sync_entry(path: &Path) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder)?.sync_all()
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
                let place = Place { sequence: *sequence, epoch: Some(self.epoch), marked, dead_letter };
                write_line(&mut lines, job.notification(), &place).map_err(|error| unavailable(&error))?;
            }
        }
        // Standard output cannot be opened again: whoever read it is gone.
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
