//! The file: locked by its owner, fsynced, and its own memory. It is the one that its path names;
//! whoever moves or removes it gets a new one there.

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
use crate::sink::cloud_event::Place;
use crate::sink::dead_letter::sync_entry;
use crate::sink::json_line::write_line;
use crate::sink::one_stream::{answer, malformed};
use crate::sink::session::{Action, Job, Session, SessionError};

pub(super) struct LinesFile {
    path: PathBuf,
    file: File,
    /// What of it is whole and on the disk.
    length: u64,
    remembered: HashMap<InstanceId, Remembered>,
    /// What stands in the files that this process wrote before at the path.
    earlier: HashMap<InstanceId, Remembered>,
}

/// What a path has become of a file that was opened there.
#[derive(Debug, PartialEq, Eq)]
enum Named {
    Ours,
    /// The file has another name now.
    Moved,
    /// The file has no name any more.
    Removed,
}

/// How often a group is written again when its file is removed meanwhile.
const ATTEMPTS: usize = 3;

impl LinesFile {
    pub(super) fn acquire(path: &Path) -> Result<Self, SessionError> {
        let context =
            |error: &io::Error| SessionError::Unavailable(format!("sink.file.path {}: {error}", path.display()));
        for _ in 0..ATTEMPTS {
            // Others are not even opened: that may block, or have an effect.
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
            // Between opening and locking its last owner may have been told of a move.
            if named(path, &file).map_err(|error| context(&error))? != Named::Ours {
                continue;
            }
            cut_torn_line(&mut file).and_then(|()| sync_entry(path)).map_err(|error| context(&error))?;
            let remembered = read_back::last_of_each(&mut file).map_err(|error| context(&error))?;
            let length = file.metadata().map_err(|error| context(&error))?.len();
            return Ok(Self { path: path.to_owned(), file, length, remembered, earlier: HashMap::new() });
        }
        Err(SessionError::Unavailable(format!("sink.file.path {}: something moves it again and again", path.display())))
    }
}

/// A path where a file can be: a regular one, or nothing yet.
pub(super) fn require_regular(path: &Path) -> Result<(), SetupError> {
    match path.metadata() {
        Ok(found) if !found.is_file() => {
            Err(format!("sink.file.path {}: it is no regular file: name one, or use the sink `stdout`", path.display())
                .into())
        }
        // No file is made where a link leads.
        Err(_) if path.is_symlink() => {
            Err(format!("sink.file.path {}: it is a link that leads to no file: name one", path.display()).into())
        }
        _ => Ok(()),
    }
}

/// For appending to a file that is there.
pub(super) fn appending() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).append(true).custom_flags((OFlag::O_NONBLOCK | OFlag::O_NOCTTY).bits());
    options
}

/// The file that is there, as it is; or a new one, for this user alone, and at no other place than the path.
fn open(path: &Path) -> io::Result<File> {
    let file = match appending().open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => appending().create_new(true).mode(0o600).open(path),
        opened => opened,
    }?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::other("it is no regular file any more"));
    }
    if input_file::is_news_that_others_read(path, &metadata) {
        warn!(path = %path.display(), "others can read the sink's file");
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

    /// Whoever starts at the path must find it locked, also while there is nothing to store.
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
                warn!(path = %self.path.display(), "something cut the sink's file: writing the last group again");
                continue;
            }
            let named = self.named()?;
            if named == Named::Removed {
                // Nobody can read what is in it.
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
        Err(SessionError::Unavailable(format!(
            "sink.file.path {}: something removes it again and again",
            self.path.display()
        )))
    }
}

impl LinesFile {
    /// Writes a line for each that is to be published, at the end of its instance's sequence.
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
                    let place = Place { sequence, dead_letter, ..Place::default() };
                    write_line(&mut lines, notification, &place).map_err(|error| self.unavailable(&error))?;
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

    /// Whether it is shorter than what was written.
    fn is_cut(&self) -> Result<bool, SessionError> {
        let metadata = self.file.metadata().map_err(|error| self.unavailable(&error))?;
        Ok(metadata.len() < self.length)
    }

    /// The next group goes to the file that is at the path, or is made there. What was published
    /// before stays known, and the sequences are those of that file.
    fn begin_another(&mut self) -> Result<(), SessionError> {
        info!(path = %self.path.display(), "the sink's file was moved or removed: going on in a new one");
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
            "sink.file.path {path}: the last line of instance {instance} has an impossible sequence: move the file away"
        ))
    }

    /// All of it on the disk, or none of it in the file: what a failed fsync leaves behind reads
    /// like a line and may be gone after a power cut.
    fn append(&mut self, lines: &[u8]) -> io::Result<()> {
        // Not what it was after the last group: somebody may have cut it since.
        let before = self.file.metadata()?.len();
        let written = self.file.write_all(lines).and_then(|()| self.file.sync_data());
        match written {
            Ok(()) => self.length = before + lines.len() as u64,
            Err(_) => self.file.set_len(before)?,
        }
        written
    }
}

/// A crash in the middle of a write leaves a last line without its line feed: it was never
/// reported as stored, so it goes. Then everything that is left is on the disk, not only written.
fn cut_torn_line(file: &mut File) -> io::Result<()> {
    let (end, length) = (end_of_last_line(file)?, file.seek(SeekFrom::End(0))?);
    if end < length {
        warn!(bytes = length - end, "a torn last line was cut off: it was not reported as stored");
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

/// From 1 on. None behind the largest of all, which only somebody else can have written.
fn next_sequence(last: Option<&Remembered>) -> Option<u64> {
    last.map_or(Some(1), |last| last.sequence.checked_add(1))
}
