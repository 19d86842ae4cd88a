//! The sinks `file` and `stdout`: one `CloudEvents` JSON object a line, attributes first, the
//! member `data` last, with the body embedded unparsed.

use std::collections::HashMap;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use tracing::warn;

use self::read_back::Remembered;
use super::Sink;
use super::cloud_event::{self, CONTENT_TYPE, Place};
use super::owner::{Action, Client, Failure, Job, Owner};
use crate::doubt::Memory;
use crate::notification::{InstanceId, Notification};

pub(super) mod read_back;

/// A sink that appends to a file, which one bridge locks. `Ok` from a publish means fsynced. The
/// file is its own memory: an instance's last line tells what was published last.
///
/// # Errors
/// When no thread can be started.
pub fn file(path: PathBuf) -> io::Result<impl Sink> {
    Client::start("file", move || LinesFile::acquire(&path))
}

/// A sink that writes to standard output. It remembers nothing, so the first notification after
/// each start is marked as a possible duplicate.
///
/// # Errors
/// When no thread can be started.
pub fn stdout() -> io::Result<impl Sink> {
    Client::start("stdout", || Ok(Stdout { epoch: unix_milliseconds(), sequences: HashMap::new() }))
}

/// Whether the file, or else its folder, can be written. Neither locks nor creates it.
pub(super) fn examine(path: &Path) -> Result<String, String> {
    let told = |error: io::Error| format!("sink.file.path {}: {error}", path.display());
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
    for (name, value) in attributes.iter().chain([&("datacontenttype", CONTENT_TYPE.into())]) {
        serde_json::to_writer(&mut *line, name)?;
        line.push(b':');
        serde_json::to_writer(&mut *line, value)?;
        line.push(b',');
    }
    let body = notification.body();
    if body.iter().any(|byte| matches!(byte, b'\r' | b'\n')) {
        line.extend(b"\"data_base64\":");
        serde_json::to_writer(&mut *line, &STANDARD.encode(body))?;
    } else {
        line.extend(b"\"data\":");
        line.extend_from_slice(body);
    }
    line.extend(b"}\n");
    Ok(())
}

struct LinesFile {
    file: File,
    /// What of it is whole and on the disk.
    length: u64,
    remembered: HashMap<InstanceId, Remembered>,
}

impl LinesFile {
    fn acquire(path: &Path) -> Result<Self, Failure> {
        let told = |error: &io::Error| Failure::Unavailable(format!("sink.file.path {}: {error}", path.display()));
        let mut options = OpenOptions::new();
        let mut file = options.read(true).append(true).create(true).open(path).map_err(|error| told(&error))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(Failure::Owned(format!("sink.file.path {}: locked by another bridge", path.display())));
            }
            Err(TryLockError::Error(error)) => return Err(told(&error)),
        }
        cut_torn_line(&mut file).and_then(|()| sync_entry(path)).map_err(|error| told(&error))?;
        let remembered = read_back::last_of_each(&mut file).map_err(|error| told(&error))?;
        let length = file.metadata().map_err(|error| told(&error))?.len();
        Ok(Self { file, length, remembered })
    }
}

impl Owner for LinesFile {
    fn memory(&self, instance: InstanceId) -> Memory {
        match self.remembered.get(&instance) {
            None => Memory::Nothing,
            Some(&Remembered { sequence, fingerprint }) => Memory::Published { sequence, fingerprint },
        }
    }

    fn store(&mut self, jobs: &mut Vec<Job>) -> Result<(), Failure> {
        let mut lines = Vec::new();
        let mut places = Vec::with_capacity(jobs.len());
        for job in &*jobs {
            let notification = job.notification();
            places.push(match job.action() {
                Action::Prove => None,
                Action::Publish { marked: _ } => {
                    let last = self.remembered.get(&notification.instance());
                    let sequence = last.map_or(1, |last| last.sequence + 1);
                    let place = Place { sequence, ..Place::default() };
                    write_line(&mut lines, notification, &place).map_err(|error| unavailable(&error))?;
                    Some(sequence)
                }
            });
        }
        self.append(&lines).map_err(|error| unavailable(&error))?;
        for (job, sequence) in jobs.drain(..).zip(places) {
            if let Some(sequence) = sequence {
                let fingerprint = job.notification().fingerprint();
                self.remembered.insert(job.notification().instance(), Remembered { sequence, fingerprint });
            }
            job.succeed(sequence);
        }
        Ok(())
    }
}

impl LinesFile {
    /// All of it on the disk, or none of it in the file: what a failed fsync leaves behind reads
    /// like a line and may be gone after a power cut.
    fn append(&mut self, lines: &[u8]) -> io::Result<()> {
        let written = self.file.write_all(lines).and_then(|()| self.file.sync_data());
        match written {
            Ok(()) => self.length += lines.len() as u64,
            Err(_) => self.file.set_len(self.length)?,
        }
        written
    }
}

fn unavailable(error: &dyn std::error::Error) -> Failure {
    Failure::Unavailable(error.to_string())
}

/// A crash in the middle of a write leaves a last line without its line feed: it was never
/// reported as stored, so it goes. Then everything that is left is on the disk, not only written.
fn cut_torn_line(file: &mut File) -> io::Result<()> {
    let length = file.seek(SeekFrom::End(0))?;
    let mut end = length;
    let mut block = [0; 4096];
    while end > 0 {
        let start = end.saturating_sub(block.len() as u64);
        let bytes = &mut block[..usize::try_from(end - start).unwrap_or(0)];
        file.seek(SeekFrom::Start(start))?;
        file.read_exact(bytes)?;
        match bytes.iter().rposition(|byte| *byte == b'\n') {
            Some(index) => {
                end = start + index as u64 + 1;
                break;
            }
            None => end = start,
        }
    }
    if end < length {
        warn!(bytes = length - end, "a torn last line was cut off: it was not reported as stored");
        file.set_len(end)?;
    }
    file.sync_all()
}

/// What was just created is only as durable as its entry in its folder.
pub(super) fn sync_entry(path: &Path) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder)?.sync_all()
}

struct Stdout {
    epoch: u64,
    sequences: HashMap<InstanceId, u64>,
}

impl Owner for Stdout {
    fn memory(&self, _instance: InstanceId) -> Memory {
        Memory::Unknown
    }

    fn store(&mut self, jobs: &mut Vec<Job>) -> Result<(), Failure> {
        let mut lines = Vec::new();
        for job in &*jobs {
            if let Action::Publish { marked } = job.action() {
                let sequence = self.sequences.entry(job.notification().instance()).or_default();
                *sequence += 1;
                let place = Place { sequence: *sequence, epoch: Some(self.epoch), marked, dead_letter: None };
                write_line(&mut lines, job.notification(), &place).map_err(|error| unavailable(&error))?;
            }
        }
        let mut stdout = io::stdout().lock();
        // Standard output cannot be opened again: whoever read it is gone.
        stdout
            .write_all(&lines)
            .and_then(|()| stdout.flush())
            .map_err(|error| Failure::Closed(format!("standard output: {error}")))?;
        jobs.drain(..).for_each(|job| job.succeed(None));
        Ok(())
    }
}

fn unix_milliseconds() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
