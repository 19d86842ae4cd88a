//! The folder for notifications that the sink refuses even as dead letters. They are written before they are deleted upstream, so a
//! bad notification is neither lost nor blocks others.
#![cfg_attr(
    not(all(feature = "kafka", feature = "amqp")),
    allow(dead_code, reason = "sinks use different reasons; files and standard output refuse nothing")
)]

use std::fmt;
use std::fs::{self, DirBuilder, File};
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, Once, PoisonError, Weak};
use std::time::{Duration, Instant};

use nix::unistd::{AccessFlags, access};
use tokio::task::spawn_blocking;
use tokio::time::sleep;
use tracing::warn;

use super::Sink;
use super::cloud_event::Position;
use super::json_line::{parse, write_line};
use crate::error::SetupError;
use crate::input_file;
use crate::metrics::Metrics;
use crate::notification::Notification;
use crate::verify::Audit;

/// The largest file that is read back: a body of 64 MiB in base64, with a margin.
pub(super) const LARGEST: u64 = 128 << 20;
/// Unfinished files of a crash are removed when they are older than any write takes.
const UNFINISHED: &str = "unfinished";
const ABANDONED: Duration = Duration::from_secs(3600);

/// Extension of a letter that `redrive` may have published: a crash before it was removed leaves it.
pub(super) const REDRIVING: &str = "redriving";

/// How long the size of the folder is cached: operators may remove files.
const COUNTED: Duration = Duration::from_secs(30);

/// A folder with one file per notification. Clones share the cached size.
#[derive(Clone, Debug)]
pub(crate) struct Folder {
    path: PathBuf,
    limit_mib: u64,
    tidied: Arc<Once>,
    held: Arc<Mutex<Option<Held>>>,
}

/// The size when it was last counted, and what was added since.
#[derive(Debug)]
struct Held {
    bytes: u64,
    counted: Instant,
}

impl Folder {
    pub(super) fn new(path: &Path, limit_mib: u64) -> Self {
        Self { path: path.to_owned(), limit_mib, tidied: Arc::new(Once::new()), held: Arc::default() }
    }

    /// Writes the file atomically and fsyncs it, readable only by this user. Its name is the id of the notification, so a redelivery
    /// overwrites it. Blocks.
    ///
    /// # Errors
    /// If it cannot be written, or if the folder would exceed its limit.
    pub(super) fn write(&self, notification: &Notification, position: &Position) -> io::Result<()> {
        if !self.path.exists() {
            DirBuilder::new().recursive(true).mode(0o700).create(&self.path)?;
            sync_entry(&self.path)?;
        }
        self.tidied.call_once(|| remove_abandoned(&self.path));
        let mut line = Vec::new();
        write_line(&mut line, notification, position)?;
        self.reserve(line.len() as u64)?;
        // A new file with an unpredictable name, so that a link placed by somebody else is never followed.
        let unfinished = tempfile::Builder::new().prefix(".").suffix(&format!(".{UNFINISHED}")).tempfile_in(&self.path);
        let mut file = unfinished?;
        file.write_all(&line)?;
        file.as_file().sync_all()?;
        let path = self.path.join(format!("{}.json", notification.id()));
        file.persist(&path)?;
        sync_entry(&path)
    }

    /// Reserves this many bytes.
    fn reserve(&self, bytes: u64) -> io::Result<()> {
        // Held while the folder is counted, by those who need room.
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if held.as_ref().is_none_or(|held| held.counted.elapsed() >= COUNTED) {
            *held = Some(Held { bytes: letters(&self.path)?.bytes, counted: Instant::now() });
        }
        if let Some(held) = held.as_mut() {
            if held.bytes + bytes > self.limit_mib << 20 {
                let full =
                    format!("it is full: remove files, or raise dead_letter_dir_limit_mib above {}", self.limit_mib);
                return Err(io::Error::new(io::ErrorKind::QuotaExceeded, full));
            }
            held.bytes += bytes;
        }
        Ok(())
    }
}

/// Measures the folder every 30 s, for as long as the sink is used. A file system that hangs holds up nobody else.
pub(super) async fn measure(path: PathBuf, sink: Weak<dyn Sink>, metrics: Metrics) {
    while sink.strong_count() > 0 {
        let path = path.clone();
        // Without a folder there are no letters.
        if let Ok(measured) = spawn_blocking(move || letters(&path)).await {
            metrics.sink().dead_letter_dir_bytes.set(measured.map_or(0, |letters| letters.bytes));
        }
        sleep(COUNTED).await;
    }
}

/// Whether dead letters can be written to the folder. Creates and changes nothing.
pub(super) fn examine(path: &Path, limit_mib: u64) -> Result<String, SetupError> {
    let name = format!("dead_letter_dir {}", path.display());
    match input_file::beside(path, content).map_err(|error| SetupError::new(name.clone(), error))? {
        None => Ok(format!("{name}: it is created when it is needed")),
        Some(Letters { bytes, .. }) if bytes >= limit_mib << 20 => {
            Err(format!("{name}: it is full: remove files, or raise dead_letter_dir_limit_mib above {limit_mib}")
                .into())
        }
        Some(Letters { count, bytes }) => {
            Ok(format!("{name}: {count} dead letter(s), {} of {limit_mib} MiB", bytes.div_ceil(1 << 20)))
        }
    }
}

/// What is in the folder; `None` if it does not exist and can be created.
fn content(path: &Path) -> io::Result<Option<Letters>> {
    let require_writable = |folder: &Path| access(folder, AccessFlags::R_OK | AccessFlags::W_OK | AccessFlags::X_OK);
    match fs::metadata(path) {
        Ok(metadata) if !metadata.is_dir() => Err(io::Error::other("it is no folder")),
        Ok(_) => {
            require_writable(path)?;
            letters(path).map(Some)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let parent = path.ancestors().skip(1).find(|parent| parent.exists());
            require_writable(parent.unwrap_or(Path::new(".")))?;
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

pub(super) fn is_letter(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "json" || extension == REDRIVING)
}

/// The dead letters in a folder.
#[derive(Clone, Copy, Debug, Default)]
struct Letters {
    count: u64,
    bytes: u64,
}

fn letters(folder: &Path) -> io::Result<Letters> {
    let mut letters = Letters::default();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if is_letter(&path) {
            // Removed meanwhile.
            letters.bytes += path.symlink_metadata().map_or(0, |metadata| metadata.len());
            letters.count += 1;
        }
    }
    Ok(letters)
}

impl fmt::Display for Folder {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.path.display().fmt(formatter)
    }
}

/// Removes unfinished files, except young ones, which other bridges may be writing. Failures are ignored: such files do no harm.
fn remove_abandoned(folder: &Path) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for path in entries.flatten().map(|entry| entry.path()) {
        let age = || path.symlink_metadata().ok()?.modified().ok()?.elapsed().ok();
        if path.extension().is_some_and(|extension| extension == UNFINISHED) && age() > Some(ABANDONED) {
            fs::remove_file(&path).ok();
        }
    }
}

/// The dead letters in the folder.
pub(super) fn audit(folder: &Path, audit: &mut Audit) -> io::Result<()> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let path = entry?.path();
        if is_letter(&path) {
            let read = || input_file::limited(input_file::open(&path)?, LARGEST);
            let text = if path.is_file() { read()? } else { Vec::new() };
            if let Some((letter, _)) = parse(&text) {
                audit.in_folder(&letter);
            } else {
                warn!(
                    event = "foreign_dead_letter",
                    path = %path.display(),
                    "not a dead letter of the bridge: it is passed over"
                );
            }
        }
    }
    Ok(())
}

/// A new file is durable only once its directory entry is.
pub(super) fn sync_entry(path: &Path) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::time::SystemTime;

    use bytes::Bytes;

    use super::*;
    use crate::notification::Answer;

    fn notification() -> Notification {
        let answer = Bytes::from_static(br#"{"receiptId":1,"body":{"typeWebhook":"incomingCall"}}"#);
        match Answer::read("1101000001".parse().unwrap(), &answer) {
            Answer::Head(notification) => notification,
            _ => panic!("a notification"),
        }
    }

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_dead_letter_is_for_its_user_alone_and_is_written_through_no_link() {
        let all = tempfile::tempdir().unwrap();
        let (folder, elsewhere) = (all.path().join("dead/letters"), all.path().join("elsewhere"));
        let notification = notification();
        let letter = format!("{}.json", notification.id());
        let write = || Folder::new(&folder, 1).write(&notification, &Position::default());
        let mode = |path: &Path| fs::symlink_metadata(path).unwrap().permissions().mode() & 0o777;
        write().unwrap();
        assert_eq!((mode(&folder), mode(folder.parent().unwrap()), mode(&folder.join(&letter))), (0o700, 0o700, 0o600));
        fs::write(&elsewhere, "precious").unwrap();
        fs::remove_file(folder.join(&letter)).unwrap();
        symlink(&elsewhere, folder.join(&letter)).unwrap();
        symlink(&elsewhere, folder.join(&letter).with_extension("unfinished")).unwrap();
        write().unwrap();
        assert_eq!(fs::read_to_string(&elsewhere).unwrap(), "precious");
        assert_eq!(mode(&folder.join(&letter)), 0o600, "a file, and no link");
        let mut audit_of = Audit::default();
        audit(&folder, &mut audit_of).unwrap();
        assert_eq!(audit_of.report(true).instances[0].dead_lettered, 1);
    }

    #[test]
    fn what_a_crash_left_behind_is_no_dead_letter_and_is_removed_when_it_is_old() {
        let folder = tempfile::tempdir().unwrap();
        let leave = |name: &str, age: Duration| {
            let file = File::create(folder.path().join(name)).unwrap();
            file.set_modified(SystemTime::now() - age).unwrap();
        };
        leave(".young.unfinished", Duration::ZERO);
        leave(".old.unfinished", 2 * ABANDONED);
        leave("old.json", 2 * ABANDONED);
        let letters = Folder::new(folder.path(), 1);
        letters.write(&notification(), &Position::default()).unwrap();
        letters.write(&notification(), &Position::default()).unwrap();
        assert_eq!(names(folder.path()), [".young.unfinished", &format!("{}.json", notification().id()), "old.json"]);
    }

    #[test]
    fn a_pipe_in_the_folder_is_passed_over() {
        let folder = tempfile::tempdir().unwrap();
        Folder::new(folder.path(), 1).write(&notification(), &Position::default()).unwrap();
        nix::unistd::mkfifo(&folder.path().join("pipe.json"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        let mut found = Audit::default();
        audit(folder.path(), &mut found).unwrap();
        assert_eq!(found.report(true).instances[0].dead_lettered, 1);
    }

    #[test]
    fn a_folder_that_is_full_takes_nothing_more_until_somebody_takes_from_it() {
        let folder = tempfile::tempdir().unwrap();
        let letters = Folder::new(folder.path(), 1);
        let fill = |bytes: u64| File::create(folder.path().join("other.json")).unwrap().set_len(bytes).unwrap();
        fs::write(folder.path().join("no-letter"), vec![0; 2 << 20]).unwrap();
        fill((1 << 20) - 10);
        let refused = letters.write(&notification(), &Position::default()).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::QuotaExceeded);
        assert!(refused.to_string().contains("dead_letter_dir_limit_mib"), "{refused}");
        assert_eq!(names(folder.path()), ["no-letter", "other.json"]);
        fill(0);
        assert!(letters.write(&notification(), &Position::default()).is_err(), "counted every 30 s");
        letters.held.lock().unwrap().as_mut().unwrap().counted -= COUNTED;
        letters.write(&notification(), &Position::default()).unwrap();
        // What it wrote itself is known at once.
        let mut written = 1;
        while letters.write(&notification(), &Position::default()).is_ok() {
            written += 1;
        }
        assert!((1000..10_000).contains(&written), "{written} of less than 1 KiB");
    }
}
