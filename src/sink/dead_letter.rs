//! Where notifications go that no sink takes. They are kept before they are deleted upstream, so a
//! bad one is neither lost nor in the way.
#![cfg_attr(
    not(all(feature = "kafka", feature = "amqp")),
    allow(dead_code, reason = "each sink has reasons of its own; files and standard output refuse nothing")
)]

use std::fmt;
use std::fs::{self, DirBuilder, File};
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, Once, PoisonError};
use std::time::{Duration, Instant};

use tracing::warn;

use super::cloud_event::Place;
use super::json_line::{parse, write_line};
use crate::input_file;
use crate::notification::Notification;
use crate::verify::Audit;

/// The largest file that is read back: a body of 64 MiB in base64, and then some.
const LARGEST: u64 = 128 << 20;
/// What a crash leaves behind, until it is older than anybody takes to write it.
const UNFINISHED: &str = "unfinished";
const ABANDONED: Duration = Duration::from_secs(3600);

/// How long what the folder holds is remembered: others may take from it.
const COUNTED: Duration = Duration::from_secs(30);

/// The place of last resort: a folder with one file per notification. Cloning shares what it remembers.
#[derive(Clone, Debug)]
pub(crate) struct Folder {
    path: PathBuf,
    limit_mib: u64,
    tidied: Arc<Once>,
    held: Arc<Mutex<Option<Held>>>,
}

/// How many bytes of dead letters there were when they were counted, and what was added since.
#[derive(Debug)]
struct Held {
    bytes: u64,
    counted: Instant,
}

impl Folder {
    pub(super) fn new(path: &Path, limit_mib: u64) -> Self {
        Self { path: path.to_owned(), limit_mib, tidied: Arc::new(Once::new()), held: Arc::default() }
    }

    /// Writes the file, whole or not at all, and fsynced; for this user alone. Its name is the notification's id: a
    /// redelivery writes the same file again. Blocks.
    ///
    /// # Errors
    /// When it cannot be written, or the folder would hold more than its limit.
    pub(super) fn keep(&self, notification: &Notification, place: &Place) -> io::Result<()> {
        if !self.path.exists() {
            DirBuilder::new().recursive(true).mode(0o700).create(&self.path)?;
            sync_entry(&self.path)?;
        }
        self.tidied.call_once(|| remove_abandoned(&self.path));
        let mut line = Vec::new();
        write_line(&mut line, notification, place)?;
        self.reserve(line.len() as u64)?;
        // Made new, by a name that nobody can foresee: a link that somebody has put there is never written through.
        let unfinished = tempfile::Builder::new().prefix(".").suffix(&format!(".{UNFINISHED}")).tempfile_in(&self.path);
        let mut file = unfinished?;
        file.write_all(&line)?;
        file.as_file().sync_all()?;
        let path = self.path.join(format!("{}.json", notification.id()));
        file.persist(&path)?;
        sync_entry(&path)
    }

    /// Room for so many bytes more.
    fn reserve(&self, bytes: u64) -> io::Result<()> {
        // For as long as a folder is counted, by those who need it.
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if held.as_ref().is_none_or(|held| held.counted.elapsed() >= COUNTED) {
            *held = Some(Held { bytes: size_of_letters(&self.path)?, counted: Instant::now() });
        }
        if let Some(held) = held.as_mut() {
            if held.bytes + bytes > self.limit_mib << 20 {
                let full =
                    format!("it is full: take from it, or raise dead_letter_dir_limit_mib above {}", self.limit_mib);
                return Err(io::Error::new(io::ErrorKind::QuotaExceeded, full));
            }
            held.bytes += bytes;
        }
        Ok(())
    }
}

fn is_letter(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "json")
}

fn size_of_letters(folder: &Path) -> io::Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if is_letter(&path) {
            // Whoever takes it away meanwhile makes room.
            bytes += path.symlink_metadata().map_or(0, |metadata| metadata.len());
        }
    }
    Ok(bytes)
}

impl fmt::Display for Folder {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.path.display().fmt(formatter)
    }
}

/// Other bridges may be writing into the folder: what is young stays. So does what cannot be removed, for it harms nobody.
fn remove_abandoned(folder: &Path) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for path in entries.flatten().map(|entry| entry.path()) {
        let age = || path.symlink_metadata().ok()?.modified().ok()?.elapsed().ok();
        if path.extension().is_some_and(|extension| extension == UNFINISHED) && age() > Some(ABANDONED) {
            fs::remove_file(&path).ok();
        }
    }
}

/// The dead letters that lie in the folder.
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
                warn!(path = %path.display(), "not a dead letter of the bridge: it is passed over");
            }
        }
    }
    Ok(())
}

/// What was just created is only as durable as its entry in its folder.
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
        let keep = || Folder::new(&folder, 1).keep(&notification, &Place::default());
        let mode = |path: &Path| fs::symlink_metadata(path).unwrap().permissions().mode() & 0o777;
        keep().unwrap();
        assert_eq!((mode(&folder), mode(folder.parent().unwrap()), mode(&folder.join(&letter))), (0o700, 0o700, 0o600));
        fs::write(&elsewhere, "precious").unwrap();
        fs::remove_file(folder.join(&letter)).unwrap();
        symlink(&elsewhere, folder.join(&letter)).unwrap();
        symlink(&elsewhere, folder.join(&letter).with_extension("unfinished")).unwrap();
        keep().unwrap();
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
        letters.keep(&notification(), &Place::default()).unwrap();
        letters.keep(&notification(), &Place::default()).unwrap();
        assert_eq!(names(folder.path()), [".young.unfinished", &format!("{}.json", notification().id()), "old.json"]);
    }

    #[test]
    fn a_pipe_in_the_folder_is_passed_over() {
        let folder = tempfile::tempdir().unwrap();
        Folder::new(folder.path(), 1).keep(&notification(), &Place::default()).unwrap();
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
        let refused = letters.keep(&notification(), &Place::default()).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::QuotaExceeded);
        assert!(refused.to_string().contains("dead_letter_dir_limit_mib"), "{refused}");
        assert_eq!(names(folder.path()), ["no-letter", "other.json"]);
        fill(0);
        assert!(letters.keep(&notification(), &Place::default()).is_err(), "counted every 30 s");
        letters.held.lock().unwrap().as_mut().unwrap().counted -= COUNTED;
        letters.keep(&notification(), &Place::default()).unwrap();
        // What it wrote itself is known at once.
        let mut kept = 1;
        while letters.keep(&notification(), &Place::default()).is_ok() {
            kept += 1;
        }
        assert!((1000..10_000).contains(&kept), "{kept} of less than 1 KiB");
    }
}
