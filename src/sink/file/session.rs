//! The file: locked by its owner, fsynced, and its own memory. If it is moved or removed, a new one is created at the path.

use std::collections::HashMap;
use std::fs::{File, Metadata, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use tracing::{info, warn};

use super::read_back::{self, Remembered};
use crate::doubt::Memory;
use crate::error::SetupError;
use crate::fault;
use crate::input_file;
use crate::notification::InstanceId;
use crate::sink::cloud_event::Position;
use crate::sink::dead_letter::sync_entry;
use crate::sink::json_line::write_line;
use crate::sink::one_stream::{answer, malformed};
use crate::sink::session::{Action, Job, Session, SessionError};

pub(super) struct LinesFile {
    path: PathBuf,
    file: File,
    /// The length that is complete and fsynced.
    length: u64,
    remembered: HashMap<InstanceId, Remembered>,
    /// The memory of files that this process wrote before at the same path.
    earlier: HashMap<InstanceId, Remembered>,
}

/// What happened to a file that was opened at a path.
#[derive(Debug, PartialEq, Eq)]
enum Named {
    Ours,
    /// It has another name now.
    Moved,
    /// It has no name any more.
    Removed,
}

/// How often a group is written again if its file is removed meanwhile.
const ATTEMPTS: usize = 3;

impl LinesFile {
    pub(super) fn acquire(path: &Path) -> Result<Self, SessionError> {
        let context =
            |error: &io::Error| SessionError::Unavailable(format!("sink.file.path {}: {error}", path.display()));
        for _ in 0..ATTEMPTS {
            // Other files are not opened at all, because that may block or have side effects.
            require_regular(path)?;
            let mut file = open(path).map_err(|error| context(&error))?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => {
                    return Err(SessionError::Owned(format!(
                        "sink.file.path {}: locked by another bridge",
                        path.display()
                    )));
                }
                Err(TryLockError::Error(error)) => return Err(context(&error)),
            }
            // The previous owner may have moved to a new file between opening and locking.
            if named(path, &file).map_err(|error| context(&error))? != Named::Ours {
                continue;
            }
            cut_torn_line(&mut file).and_then(|()| sync_entry(path)).map_err(|error| context(&error))?;
            let remembered = read_back::last_of_each(&mut file).map_err(|error| context(&error))?;
            let length = file.metadata().map_err(|error| context(&error))?.len();
            return Ok(Self { path: path.to_owned(), file, length, remembered, earlier: HashMap::new() });
        }
        Err(SessionError::Unavailable(format!("sink.file.path {}: it is moved repeatedly", path.display())))
    }
}

/// Checks that the path is a regular file, or that nothing is there yet.
pub(super) fn require_regular(path: &Path) -> Result<(), SetupError> {
    match path.metadata() {
        Ok(found) if !found.is_file() => {
            Err(format!("sink.file.path {}: it is not a regular file: use one, or the sink `stdout`", path.display())
                .into())
        }
        // Files are not created through links.
        Err(_) if path.is_symlink() => {
            Err(format!("sink.file.path {}: it is a dangling link: use a regular file", path.display()).into())
        }
        _ => Ok(()),
    }
}

/// Opens an existing file for appending.
pub(super) fn appending() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).append(true).custom_flags((OFlag::O_NONBLOCK | OFlag::O_NOCTTY).bits());
    options
}

/// Opens the existing file, or creates a new one that only this user can read, exactly at the path.
fn open(path: &Path) -> io::Result<File> {
    let file = match appending().open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => appending().create_new(true).mode(0o600).open(path),
        opened => opened,
    }?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::other("it is not a regular file any more"));
    }
    if input_file::is_news_that_others_read(path, &metadata) {
        warn!(event = "sink_file_readable_by_others", path = %path.display(), "others can read the sink's file");
    }
    Ok(file)
}

fn named(path: &Path, file: &File) -> io::Result<Named> {
    let identity = |metadata: &Metadata| (metadata.dev(), metadata.ino());
    let ours = file.metadata()?;
    match path.metadata() {
        Ok(there) if identity(&there) == identity(&ours) => Ok(Named::Ours),
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ if ours.nlink() == 0 => Ok(Named::Removed),
        _ => Ok(Named::Moved),
    }
}

impl Session for LinesFile {
    fn memory(&self, instance: InstanceId) -> Memory {
        match self.remembered.get(&instance).or_else(|| self.earlier.get(&instance)) {
            None => Memory::Nothing,
            Some(&Remembered { sequence, fingerprint }) => Memory::Published { sequence, fingerprint },
        }
    }

    /// Another bridge must find the path locked even while there is nothing to store.
    fn probe(&mut self) -> Result<(), SessionError> {
        match self.named()? {
            Named::Ours => Ok(()),
            Named::Moved | Named::Removed => self.begin_another(),
        }
    }

    fn store(&mut self, jobs: &mut Vec<Job>) -> Result<(), SessionError> {
        for _ in 0..ATTEMPTS {
            let sequences = self.write(jobs)?;
            fault::reached("written");
            if self.is_cut()? {
                warn!(
                    event = "sink_file_truncated",
                    path = %self.path.display(),
                    "something cut the sink's file: writing the last group again"
                );
                continue;
            }
            let named = self.named()?;
            if named == Named::Removed {
                // Its contents are unreachable.
                self.begin_another()?;
                continue;
            }
            for (job, sequence) in jobs.drain(..).zip(sequences) {
                if let Some(sequence) = sequence {
                    let fingerprint = job.notification().fingerprint();
                    self.remembered.insert(job.notification().instance(), Remembered { sequence, fingerprint });
                }
                answer(job, sequence, &self.path.display());
            }
            return if named == Named::Moved { self.begin_another() } else { Ok(()) };
        }
        Err(SessionError::Unavailable(format!("sink.file.path {}: it is removed repeatedly", self.path.display())))
    }
}

impl LinesFile {
    /// Writes a line for each job to be published, with the next sequence number of its instance.
    fn write(&mut self, jobs: &[Job]) -> Result<Vec<Option<u64>>, SessionError> {
        let mut lines = Vec::new();
        let mut sequences = Vec::with_capacity(jobs.len());
        for job in jobs {
            let notification = job.notification();
            sequences.push(match job.action() {
                Action::Prove => None,
                Action::Publish { marked: _ } => {
                    let last = self.remembered.get(&notification.instance());
                    let sequence = next_sequence(last).ok_or_else(|| self.exhausted(notification.instance()))?;
                    let dead_letter = malformed(notification, &self.path.display());
                    let position = Position { sequence, dead_letter, ..Position::default() };
                    write_line(&mut lines, notification, &position).map_err(|error| self.unavailable(&error))?;
                    Some(sequence)
                }
            });
        }
        self.append(&lines).map_err(|error| self.unavailable(&error))?;
        Ok(sequences)
    }

    fn named(&self) -> Result<Named, SessionError> {
        named(&self.path, &self.file).map_err(|error| self.unavailable(&error))
    }

    /// Whether the file is shorter than what was written.
    fn is_cut(&self) -> Result<bool, SessionError> {
        let metadata = self.file.metadata().map_err(|error| self.unavailable(&error))?;
        Ok(metadata.len() < self.length)
    }

    /// Continues with the file at the path, or creates one. What was published before stays known; sequences are those of the new
    /// file.
    fn begin_another(&mut self) -> Result<(), SessionError> {
        info!(
            event = "sink_file_moved",
            path = %self.path.display(),
            "the sink's file was moved or removed: going on in a new one"
        );
        let next = Self::acquire(&self.path)?;
        let mut earlier = std::mem::take(&mut self.earlier);
        earlier.extend(self.remembered.drain());
        *self = Self { earlier, ..next };
        Ok(())
    }

    fn unavailable(&self, error: &dyn std::error::Error) -> SessionError {
        SessionError::Unavailable(format!("sink.file.path {}: {error}", self.path.display()))
    }

    fn exhausted(&self, instance: InstanceId) -> SessionError {
        let path = self.path.display();
        SessionError::Unavailable(format!(
            "sink.file.path {path}: the last line of instance {instance} has an invalid sequence: move the file away"
        ))
    }

    /// Writes and fsyncs all of it, or removes it: after a failed fsync the data is readable but may be lost in a power failure.
    fn append(&mut self, lines: &[u8]) -> io::Result<()> {
        // Not the length after the last group: the file may have been truncated since.
        let before = self.file.metadata()?.len();
        let written = self.file.write_all(lines).and_then(|()| self.file.sync_data());
        match written {
            Ok(()) => self.length = before + lines.len() as u64,
            Err(_) => self.file.set_len(before)?,
        }
        written
    }
}

/// Removes a last line without a line feed, left by a crash and never reported as stored. Then fsyncs everything.
fn cut_torn_line(file: &mut File) -> io::Result<()> {
    let (end, length) = (end_of_last_line(file)?, file.seek(SeekFrom::End(0))?);
    if end < length {
        warn!(
            event = "torn_line_removed",
            bytes = length - end,
            "a torn last line was cut off: it was not reported as stored"
        );
        file.set_len(end)?;
    }
    file.sync_all()
}

pub(super) fn end_of_last_line(file: &mut (impl Read + Seek)) -> io::Result<u64> {
    let mut end = file.seek(SeekFrom::End(0))?;
    let mut block = [0; 4096];
    while end > 0 {
        let start = end.saturating_sub(block.len() as u64);
        let bytes = &mut block[..usize::try_from(end - start).unwrap_or(0)];
        file.seek(SeekFrom::Start(start))?;
        file.read_exact(bytes)?;
        if let Some(index) = bytes.iter().rposition(|byte| *byte == b'\n') {
            return Ok(start + index as u64 + 1);
        }
        end = start;
    }
    Ok(0)
}

/// The next sequence number, starting with 1. `None` after the largest possible one, which only somebody else can have written.
fn next_sequence(last: Option<&Remembered>) -> Option<u64> {
    last.map_or(Some(1), |last| last.sequence.checked_add(1))
}
