//! Reads files: config, instances, secrets, certificates. No other code does.
//!
//! A path may lead to anything, so only regular files are opened, and they are read up to a limit. A file system may hang
//! forever in any call, so all calls are made on a separate thread, and the caller gets a result within 5 seconds.
//!
//! What is remembered here belongs to the process, as the files and the hanging threads do: which files were reported as
//! readable by others, and which have not answered.

use std::collections::HashSet;
use std::fs::{self, File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError, Weak, mpsc};
use std::thread;
use std::time::Duration;

use nix::fcntl::OFlag;
use tracing::{info, warn};

use crate::fault;

const MIB: u64 = 1 << 20;
/// The maximum size of a file other than the config.
const LARGEST: u64 = MIB;
const LARGEST_CONFIG: u64 = 16 * MIB;
/// How long an access to a file may take.
const READ_TIMEOUT: Duration = Duration::from_secs(5);
/// When this many files of a folder hang, the folder itself is considered to hang, and no more threads are spent on it.
const HANGING_IN_A_FOLDER: usize = 8;

/// The content of a file.
pub(crate) fn read(path: &Path) -> io::Result<Vec<u8>> {
    beside(path, |path| limited(open(path)?, LARGEST))
}

/// The text of a file.
pub(crate) fn read_text(path: &Path) -> io::Result<String> {
    read(path).and_then(text)
}

/// The content of a file that is secret. Warns once if others can read it.
pub(crate) fn read_secret(path: &Path) -> io::Result<Vec<u8>> {
    beside(path, |path| {
        let file = open(path)?;
        if is_news_that_others_read(path, &file.metadata()?) {
            warn!(event = "secret_readable_by_others", path = %path.display(), "others can read this secret");
        }
        limited(file, LARGEST)
    })
}

/// Warns once if others can read a file that contains one of these secrets.
pub(crate) fn warn_if_others_read(path: &Path, secrets: &[&str]) {
    let read = |path: &Path| {
        let metadata = fs::metadata(path)?;
        let open_to_others = metadata.is_file() && metadata.mode() & 0o004 != 0;
        let text = if open_to_others { text(limited(open(path)?, LARGEST_CONFIG)?)? } else { String::new() };
        Ok((metadata, text))
    };
    if let Ok((metadata, text)) = beside(path, read)
        && secrets.iter().any(|secret| !secret.is_empty() && text.contains(secret))
        && is_news_that_others_read(path, &metadata)
    {
        warn!(event = "secret_readable_by_others", path = %path.display(), "others can read this secret");
    }
}

/// The text of a file that is secret. Warns once if others can read it.
pub(crate) fn read_secret_text(path: &Path) -> io::Result<String> {
    let secret = read_secret(path).and_then(text)?;
    // Editors do not show what some of them add.
    if secret.starts_with('\u{feff}') {
        return Err(io::Error::other("it begins with a byte order mark: save it without one"));
    }
    if secret.contains('\0') {
        return Err(io::Error::other("it contains a NUL character: write it as plain text"));
    }
    Ok(secret)
}

/// The text of the config, which may come through a pipe.
pub(crate) fn read_config(path: &Path) -> io::Result<String> {
    // Whoever writes into a pipe may be a person at a prompt, so there is no time limit.
    let is_pipe = |path: &Path| Ok(fs::metadata(path)?.file_type().is_fifo());
    let read = if beside(path, is_pipe)? {
        limited(File::open(path)?, LARGEST_CONFIG)
    } else {
        beside(path, |path| limited(open(path)?, LARGEST_CONFIG))
    };
    read.and_then(text)
}

/// Opens a regular file for reading. Blocks for as long as its file system does.
pub(crate) fn open(path: &Path) -> io::Result<File> {
    // Other files are not even opened, because that may have side effects.
    require_regular(&fs::metadata(path)?)?;
    let flags = OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
    let file = File::options().read(true).custom_flags(flags.bits()).open(path)?;
    // Meanwhile the path may lead to another file.
    require_regular(&file.metadata()?)?;
    Ok(file)
}

fn require_regular(metadata: &Metadata) -> io::Result<()> {
    if metadata.is_file() { Ok(()) } else { Err(io::Error::other("it is not a regular file: use one")) }
}

/// Reads everything, up to `largest` bytes.
pub(crate) fn limited(file: impl Read, largest: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.take(largest + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > largest {
        return Err(io::Error::other(format!("it is larger than {} MiB: is it the right file?", largest / MIB)));
    }
    Ok(bytes)
}

fn text(bytes: Vec<u8>) -> io::Result<String> {
    // The error contains the bytes, which may be secret.
    String::from_utf8(bytes).map_err(|_holds_them| io::Error::other("it is no text in UTF-8"))
}

/// Whether others than owner and group can read a file for which this was not reported before.
pub(crate) fn is_news_that_others_read(path: &Path, metadata: &Metadata) -> bool {
    static WARNED: LazyLock<Mutex<HashSet<PathBuf>>> = LazyLock::new(Mutex::default);
    let mut warned = WARNED.lock().unwrap_or_else(PoisonError::into_inner);
    metadata.mode() & 0o004 != 0 && warned.insert(path.to_owned())
}

/// Accesses one path, like [`each`].
pub(crate) fn beside<T: Send + 'static>(path: &Path, ask: fn(&Path) -> io::Result<T>) -> io::Result<T> {
    each(vec![path.to_owned()], ask).pop().unwrap_or_else(|| Err(late()))
}

/// Accesses these paths in order. One that does not answer within 5 seconds is reported and gets the error
/// [`io::ErrorKind::TimedOut`]; the others are accessed nevertheless. It is not accessed again before it has answered.
pub(crate) fn each<T: Send + 'static>(paths: Vec<PathBuf>, ask: fn(&Path) -> io::Result<T>) -> Vec<io::Result<T>> {
    let paths: Arc<[PathBuf]> = paths.into();
    let mut answers = Vec::with_capacity(paths.len());
    while let Some(first) = paths.get(answers.len()) {
        if hangs(first) {
            answers.push(Err(late()));
            continue;
        }
        let (sender, received) = mpsc::channel();
        let (started, on) = (Arc::new(()), (Arc::clone(&paths), answers.len()));
        let lives = Arc::downgrade(&started);
        let thread = thread::Builder::new().name("files".into()).spawn(move || {
            let (_started, (paths, next)) = (started, on);
            for path in &paths[next..] {
                let answer = if hangs(path) { Err(late()) } else { fault::hanging(path, ask) };
                if sender.send(answer).is_err() {
                    // Another thread has taken over because this one took too long.
                    return;
                }
            }
        });
        if let Err(error) = thread {
            answers.push(Err(error));
            continue;
        }
        while answers.len() < paths.len() {
            match received.recv_timeout(READ_TIMEOUT) {
                Ok(answer) => answers.push(answer),
                Err(mpsc::RecvTimeoutError::Timeout) => {
                    let path = &paths[answers.len()];
                    warn!(event = "file_unresponsive", path = %path.display(), "a file does not answer within 5 s");
                    hanging().push((path.clone(), lives));
                    answers.push(Err(late()));
                    break;
                }
                Err(mpsc::RecvTimeoutError::Disconnected) => {
                    answers.push(Err(io::Error::other("reading it ended unexpectedly")));
                    break;
                }
            }
        }
    }
    answers
}

/// The files that have not answered yet, each with a reference that lives as long as the thread waiting for it.
fn hanging() -> MutexGuard<'static, Vec<(PathBuf, Weak<()>)>> {
    static HANGING: Mutex<Vec<(PathBuf, Weak<()>)>> = Mutex::new(Vec::new());
    HANGING.lock().unwrap_or_else(PoisonError::into_inner)
}

fn hangs(path: &Path) -> bool {
    let mut hanging = hanging();
    for (path, _) in hanging.extract_if(.., |(_, lives)| lives.strong_count() == 0) {
        info!(event = "file_responsive_again", path = %path.display(), "a file answers again");
    }
    let in_the_folder = hanging.iter().filter(|(other, _)| other.parent() == path.parent()).count();
    in_the_folder >= HANGING_IN_A_FOLDER || hanging.iter().any(|(other, _)| other == path)
}

fn late() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "it does not answer within 5 s: is what it lies on away?")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_regular_file_of_a_bounded_size_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        nix::unistd::mkfifo(&path("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        std::os::unix::fs::symlink("/dev/zero", path("endless")).unwrap();
        std::os::unix::fs::symlink(path("right"), path("link")).unwrap();
        fs::write(path("right"), "x".repeat(1 << 20)).unwrap();
        fs::write(path("large"), "x".repeat((1 << 20) + 1)).unwrap();
        fs::write(path("bytes"), [0xff]).unwrap();
        let error = |name: &str| read_text(&path(name)).unwrap_err().to_string();
        for name in ["fifo", "endless", "."] {
            assert!(error(name).contains("not a regular file"), "{name}: {}", error(name));
        }
        assert!(error("large").contains("larger than 1 MiB"), "{}", error("large"));
        assert!(error("bytes").contains("UTF-8"), "{}", error("bytes"));
        assert_eq!(read_text(&path("link")).unwrap().len(), 1 << 20);
        assert_eq!(read_config(&path("large")).unwrap().len(), (1 << 20) + 1);
        fs::write(path("large"), "x".repeat((16 << 20) + 1)).unwrap();
        assert!(read_config(&path("large")).unwrap_err().to_string().contains("larger than 16 MiB"));
    }

    #[test]
    fn the_config_alone_may_come_through_a_pipe() {
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("pipe");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let writer = thread::spawn({
            let pipe = pipe.clone();
            move || fs::write(pipe, "sink: {}").unwrap()
        });
        assert_eq!(read_config(&pipe).unwrap(), "sink: {}");
        writer.join().unwrap();
    }

    #[test]
    fn those_behind_one_that_hangs_are_asked_and_it_is_asked_again_when_it_has_answered() {
        fn ask(path: &Path) -> io::Result<()> {
            if path.ends_with("hangs") { File::open(path).map(drop) } else { Ok(()) }
        }
        let folder = tempfile::tempdir().unwrap();
        let paths: Vec<PathBuf> = ["one", "hangs", "two"].map(|name| folder.path().join(name)).into();
        nix::unistd::mkfifo(&paths[1], nix::sys::stat::Mode::S_IRWXU).unwrap();
        let kinds = |answers: Vec<io::Result<()>>| {
            answers.into_iter().map(|answer| answer.err().map(|error| error.kind())).collect::<Vec<_>>()
        };
        let late = [None, Some(io::ErrorKind::TimedOut), None];
        assert_eq!(kinds(each(paths.clone(), ask)), late);
        let begun = std::time::Instant::now();
        assert_eq!(kinds(each(paths.clone(), ask)), late);
        assert!(begun.elapsed() < READ_TIMEOUT, "it was asked again meanwhile");
        // A writer is what its open waits for.
        let _writer = File::options().write(true).open(&paths[1]).unwrap();
        let is_over = || kinds(each(paths.clone(), ask)) == [None; 3];
        while !is_over() {
            assert!(begun.elapsed() < Duration::from_secs(60), "it has answered");
            thread::yield_now();
        }
    }
}
