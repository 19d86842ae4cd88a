//! Watches the files of `instances_dir` and the token files while the bridge runs.
//!
//! Files are scanned every two seconds instead of subscribing to events: a scan sees the effect of a rename, a mount or a
//! swapped link on every file system.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::sync::mpsc;
use tracing::{error, info, warn};

use crate::config::{Instance, instance_files};
use crate::error::{self, Chain};
use crate::fleet::Change;
use crate::green_api::Queue;
use crate::input_file;
use crate::notification::InstanceId;

const SCAN_INTERVAL: Duration = Duration::from_secs(2);

/// Creates the queue of an instance.
pub type MakeQueue = Box<dyn FnMut(&Instance) -> Result<Queue, error::Source> + Send>;

/// The files of a fleet as of the last scan.
pub struct Watch {
    folder: Option<PathBuf>,
    make_queue: MakeQueue,
    /// By instance file. The instances of the config itself have no file of their own.
    files: HashMap<PathBuf, Seen>,
    fixed: Vec<(Instance, Token)>,
}

/// Reveals that a file has changed without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    length: u64,
    modified: (i64, i64),
}

impl Stamp {
    /// Follows links.
    fn of(path: &Path) -> io::Result<Self> {
        let metadata = fs::metadata(path)?;
        let modified = (metadata.mtime(), metadata.mtime_nsec());
        Ok(Self { inode: metadata.ino(), length: metadata.len(), modified })
    }
}

/// The stamps of files at one scan, without files that hang: nothing is known about those.
struct Stamps(HashMap<PathBuf, Option<Stamp>>);

impl Stamps {
    fn of(paths: Vec<PathBuf>) -> Self {
        let stamps = input_file::each(paths.clone(), Stamp::of);
        let answered = paths.into_iter().zip(stamps).filter_map(|(path, stamp)| match stamp {
            Err(error) if error.kind() == io::ErrorKind::TimedOut => None,
            // None: it does not exist or cannot be read.
            stamp => Some((path, stamp.ok())),
        });
        Self(answered.collect())
    }

    fn token(&self, instance: &Instance) -> Option<Stamp> {
        self.0.get(instance.api_token_file.as_ref()?).copied().flatten()
    }
}

/// The token file of an instance as it was last read.
#[derive(Default)]
struct Token {
    stamp: Option<Stamp>,
    /// Why it could not be read, as reported.
    trouble: Option<String>,
}

#[derive(Default)]
struct Seen {
    /// As it was read. `None`: it could not be used and will be tried again.
    stamp: Option<Stamp>,
    token: Token,
    /// The instance that runs from it. `None` if it was never valid.
    instance: Option<Instance>,
    /// An instance that is also given in another file, and can run from this one when that is gone.
    waits_for: Option<InstanceId>,
    /// What is wrong with it, as reported.
    trouble: Option<String>,
}

impl Token {
    /// Restarts the instance if the file has changed.
    fn check(&mut self, instance: &Instance, stamps: &Stamps, make_queue: &mut MakeQueue) -> Option<Change> {
        let now = stamps.token(instance);
        if now.is_none() || now == self.stamp {
            return None;
        }
        let id = instance.id;
        match make_queue(instance) {
            Ok(queue) => {
                *self = Self { stamp: now, trouble: None };
                info!(event = "instance_restarted", instance = %id, why = "its token file has changed", "starting again");
                Some(Change::Run(Box::new(queue)))
            }
            Err(error) => {
                let cause = Chain(&*error).to_string();
                if self.trouble.as_ref() != Some(&cause) {
                    warn!(
                        event = "change_not_applied",
                        instance = %id, cause,
                        "cannot apply the change; keeping the running instance"
                    );
                }
                self.trouble = Some(cause);
                None
            }
        }
    }
}

impl Seen {
    /// Keeps the running instance. The file is tried again, because the fix may lie elsewhere: in a permission or in the token
    /// file.
    fn wrong(self, cause: String) -> Self {
        if self.trouble.as_ref() != Some(&cause) {
            warn!(
                event = "invalid_instance_file",
                cause, "a file of instances_dir is invalid; keeping the running instance"
            );
        }
        Self { stamp: None, waits_for: None, trouble: Some(cause), ..self }
    }
}

impl Watch {
    /// Watches the files of these instances, and `folder` for others. Those in `running` already run, those in `late` are
    /// started when their token files can be read. Blocks: each file may take 5 seconds.
    #[must_use]
    pub fn new(running: Vec<Instance>, late: Vec<Instance>, folder: Option<PathBuf>, make_queue: MakeQueue) -> Self {
        let mut watch = Self { folder, make_queue, files: HashMap::new(), fixed: Vec::new() };
        let tokens = running.iter().filter_map(|instance| instance.api_token_file.clone());
        let files = running.iter().chain(&late).filter_map(|instance| instance.file.clone());
        let stamps = Stamps::of(tokens.chain(files).collect());
        let unread = |instance| (instance, Token::default());
        let read = |instance: Instance| {
            let stamp = stamps.token(&instance);
            (instance, Token { stamp, ..Token::default() })
        };
        for (instance, token) in running.into_iter().map(read).chain(late.into_iter().map(unread)) {
            match instance.file.clone() {
                None => watch.fixed.push((instance, token)),
                Some(file) => {
                    let stamp = stamps.0.get(&file).copied().flatten();
                    let seen = Seen { stamp, token, instance: Some(instance), waits_for: None, trouble: None };
                    watch.files.insert(file, seen);
                }
            }
        }
        watch
    }

    /// Sends every change, forever. Cancel safe.
    pub async fn run(mut self, changes: mpsc::Sender<Change>) {
        loop {
            tokio::time::sleep(SCAN_INTERVAL).await;
            // There may be thousands of files, and they may be slow.
            let scanned = tokio::task::spawn_blocking(move || {
                let found = self.scan();
                (self, found)
            });
            let Ok((watch, found)) = scanned.await else {
                error!(
                    event = "watch_ended",
                    "files of instances are no longer watched: this is a defect, please report it"
                );
                return;
            };
            self = watch;
            for change in found {
                if changes.send(change).await.is_err() {
                    return;
                }
            }
        }
    }

    fn scan(&mut self) -> Vec<Change> {
        let listed = self.folder.as_deref().map(|folder| (folder, instance_files(folder)));
        let paths = match listed {
            None => Some(Vec::new()),
            Some((_, Ok(paths))) => Some(paths),
            Some((folder, Err(error))) => {
                // No instance is stopped because the folder is temporarily unreadable.
                warn!(
                    event = "instances_dir_unreadable",
                    folder = %folder.display(), %error,
                    "instances_dir cannot be read"
                );
                None
            }
        };
        let fixed = self.fixed.iter().map(|(instance, _)| instance);
        let instances = fixed.chain(self.files.values().filter_map(|seen| seen.instance.as_ref()));
        let tokens = instances.filter_map(|instance| instance.api_token_file.clone());
        let stamps = Stamps::of(tokens.chain(paths.iter().flatten().cloned()).collect());
        let mut changes = Vec::new();
        for (instance, token) in &mut self.fixed {
            changes.extend(token.check(instance, &stamps, &mut self.make_queue));
        }
        let Some(paths) = paths else { return changes };
        let gone: Vec<PathBuf> = self.files.keys().filter(|file| paths.binary_search(file).is_err()).cloned().collect();
        for file in gone {
            let removed = self.files.remove(&file).and_then(|seen| seen.instance);
            if let Some(instance) = removed.filter(|instance| !self.is_taken(instance.id, &file)) {
                info!(
                    event = "instance_removed",
                    instance = %instance.id, file = %file.display(),
                    "its file is gone: stopping"
                );
                changes.push(Change::Stop(instance.id));
            }
        }
        for path in &paths {
            if let Some(stamp) = stamps.0.get(path) {
                changes.extend(self.check_file(path, *stamp, &stamps));
            }
        }
        changes
    }

    fn check_file(&mut self, path: &Path, stamp: Option<Stamp>, stamps: &Stamps) -> Vec<Change> {
        let is_free = |id: InstanceId| !self.is_taken(id, path);
        let is_known = |seen: &Seen| seen.stamp == stamp && !seen.waits_for.is_some_and(is_free);
        if self.files.get(path).is_some_and(is_known) {
            let Some(Seen { token, instance: Some(instance), .. }) = self.files.get_mut(path) else {
                return Vec::new();
            };
            return token.check(instance, stamps, &mut self.make_queue).into_iter().collect();
        }
        let before = self.files.remove(path);
        let (seen, changes) = self.read(path, stamp, before);
        self.files.insert(path.to_owned(), seen);
        changes
    }

    /// Reads a file that is new or has changed. An invalid one changes nothing: what runs keeps running.
    fn read(&mut self, path: &Path, stamp: Option<Stamp>, before: Option<Seen>) -> (Seen, Vec<Change>) {
        let before = before.unwrap_or_default();
        let variables = std::env::vars_os();
        let variables =
            variables.filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
        let instance = match Instance::from_file(path, variables) {
            Ok(instance) => instance,
            Err(mistakes) => return (before.wrong(mistakes.to_string()), Vec::new()),
        };
        let id = instance.id;
        if self.is_taken(id, path) {
            let seen = before.wrong(format!("{}: instance {id} is given twice", path.display()));
            return (Seen { stamp, waits_for: Some(id), ..seen }, Vec::new());
        }
        // Taken before the file is read, so that no change is missed.
        let token = Stamps::of(instance.api_token_file.clone().into_iter().collect()).token(&instance);
        let queue = match (self.make_queue)(&instance) {
            Ok(queue) => queue,
            Err(error) => return (before.wrong(Chain(&*error).to_string()), Vec::new()),
        };
        info!(
            event = "instance_file_applied",
            instance = %id, file = %path.display(),
            "its file is new or has changed: starting"
        );
        let former = before.instance.map(|before| before.id).filter(|before| *before != id);
        let changes = former.map(Change::Stop).into_iter().chain([Change::Run(Box::new(queue))]);
        let token = Token { stamp: token, trouble: None };
        (Seen { stamp, token, instance: Some(instance), ..Seen::default() }, changes.collect())
    }

    /// Whether another file or the config itself gives this instance.
    fn is_taken(&self, id: InstanceId, path: &Path) -> bool {
        let mut fixed = self.fixed.iter().map(|(instance, _)| instance);
        let mut others =
            self.files.iter().filter(|(file, _)| *file != path).filter_map(|(_, seen)| seen.instance.as_ref());
        fixed.any(|instance| instance.id == id) || others.any(|instance| instance.id == id)
    }
}
