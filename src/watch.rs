//! What changes on the disk while the bridge runs: the files of `instances_dir`, and those that hold
//! tokens.
//!
//! It is looked at, not listened to: a look sees what a rename, a mount or a swapped link has done,
//! whatever the file system tells, and two seconds are soon enough.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::sync::mpsc;
use tracing::{error, info, warn};

use crate::config::{Instance, instance_files};
use crate::fleet::Change;
use crate::green_api::Queue;
use crate::notification::InstanceId;

const LOOK: Duration = Duration::from_secs(2);

/// Makes the queue of an instance, or says what is wrong.
pub type MakeQueue = Box<dyn Fn(&Instance) -> Result<Queue, String> + Send>;

/// The files of a fleet, as they were last seen.
pub struct Watch {
    folder: Option<PathBuf>,
    make_queue: MakeQueue,
    /// By the file of an instance; those of the config itself have no file of their own.
    files: HashMap<PathBuf, Seen>,
    fixed: Vec<(Instance, Option<Stamp>)>,
}

/// What tells that a file is no longer the same, without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    length: u64,
    modified: (i64, i64),
}

impl Stamp {
    /// Of what a link leads to. `None`: there is none, or it cannot be read.
    fn of(path: &Path) -> Option<Self> {
        let metadata = fs::metadata(path).ok()?;
        let modified = (metadata.mtime(), metadata.mtime_nsec());
        Some(Self { inode: metadata.ino(), length: metadata.len(), modified })
    }
}

struct Seen {
    stamp: Option<Stamp>,
    token: Option<Stamp>,
    /// What runs because of it. `None` if it never was right.
    instance: Option<Instance>,
    /// What is given in another file too, and can run because of this one when that is gone.
    waits_for: Option<InstanceId>,
}

fn token_stamp(instance: &Instance) -> Option<Stamp> {
    instance.api_token_file.as_deref().and_then(Stamp::of)
}

impl Watch {
    /// Watches the files of these instances, which run already, and `folder` for others.
    #[must_use]
    pub fn new(instances: Vec<Instance>, folder: Option<PathBuf>, make_queue: MakeQueue) -> Self {
        let mut watch = Self { folder, make_queue, files: HashMap::new(), fixed: Vec::new() };
        for instance in instances {
            let token = token_stamp(&instance);
            match instance.file.clone() {
                None => watch.fixed.push((instance, token)),
                Some(file) => {
                    let stamp = Stamp::of(&file);
                    watch.files.insert(file, Seen { stamp, token, instance: Some(instance), waits_for: None });
                }
            }
        }
        watch
    }

    /// Tells every change, for ever. May be dropped.
    pub async fn run(mut self, changes: mpsc::Sender<Change>) {
        loop {
            tokio::time::sleep(LOOK).await;
            // Files may be slow to answer, and thousands of them.
            let looked = tokio::task::spawn_blocking(move || {
                let found = self.look();
                (self, found)
            });
            let Ok((watch, found)) = looked.await else {
                error!("files of instances are no longer watched: this is a defect, please report it");
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

    fn look(&mut self) -> Vec<Change> {
        let mut changes = Vec::new();
        for (instance, token) in &mut self.fixed {
            let now = token_stamp(instance);
            if now != *token && now.is_some() {
                *token = now;
                changes.extend(run(&self.make_queue, instance, "its token file has changed"));
            }
        }
        let Some(folder) = self.folder.clone() else { return changes };
        let paths = match instance_files(&folder) {
            Ok(paths) => paths,
            Err(error) => {
                // Nothing is stopped because the folder cannot be read for a moment.
                warn!(folder = %folder.display(), %error, "instances_dir cannot be read");
                return changes;
            }
        };
        let gone: Vec<PathBuf> = self.files.keys().filter(|file| paths.binary_search(file).is_err()).cloned().collect();
        for file in gone {
            let removed = self.files.remove(&file).and_then(|seen| seen.instance);
            if let Some(instance) = removed.filter(|instance| !self.is_taken(instance.id.value, &file)) {
                info!(instance = %instance.id.value, file = %file.display(), "its file is gone: stopping");
                changes.push(Change::Stop(instance.id.value));
            }
        }
        for path in &paths {
            changes.extend(self.look_at(path));
        }
        changes
    }

    fn look_at(&mut self, path: &Path) -> Vec<Change> {
        let stamp = Stamp::of(path);
        let seen = self.files.get(path);
        let token = seen.and_then(|seen| seen.instance.as_ref()).and_then(token_stamp);
        let is_free = |id: InstanceId| !self.is_taken(id, path);
        let same_file = seen.is_some_and(|seen| seen.stamp == stamp && !seen.waits_for.is_some_and(is_free));
        if same_file && seen.is_some_and(|seen| token == seen.token || token.is_none()) {
            return Vec::new();
        }
        if same_file {
            let seen = self.files.get_mut(path);
            let instance = seen.and_then(|seen| {
                seen.token = token;
                seen.instance.as_ref()
            });
            return instance
                .and_then(|instance| run(&self.make_queue, instance, "its token file has changed"))
                .into_iter()
                .collect();
        }
        let before = self.files.remove(path).and_then(|seen| seen.instance);
        let (seen, changes) = self.read(path, stamp, before);
        self.files.insert(path.to_owned(), seen);
        changes
    }

    /// Reads a file that is new or has changed. One that is wrong changes nothing: what ran, runs.
    fn read(&self, path: &Path, stamp: Option<Stamp>, before: Option<Instance>) -> (Seen, Vec<Change>) {
        let seen = |instance: Option<Instance>, waits_for| {
            let token = instance.as_ref().and_then(token_stamp);
            Seen { stamp, token, instance, waits_for }
        };
        let wrong = |cause: &str| warn!(cause, "a file of instances_dir is wrong: what ran goes on as it was");
        let variables = std::env::vars_os();
        let variables =
            variables.filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
        let instance = match Instance::from_file(path, variables) {
            Ok(instance) => instance,
            Err(mistakes) => {
                wrong(&mistakes.to_string());
                return (seen(before, None), Vec::new());
            }
        };
        let id = instance.id.value;
        if self.is_taken(id, path) {
            wrong(&format!("{}: instance {id} is given twice", path.display()));
            return (seen(before, Some(id)), Vec::new());
        }
        let queue = match (self.make_queue)(&instance) {
            Ok(queue) => queue,
            Err(cause) => {
                wrong(&cause);
                return (seen(before, None), Vec::new());
            }
        };
        info!(instance = %id, file = %path.display(), "its file is new or has changed: starting");
        let former = before.map(|before| before.id.value).filter(|before| *before != id);
        let changes = former.map(Change::Stop).into_iter().chain([Change::Run(Box::new(queue))]);
        (seen(Some(instance), None), changes.collect())
    }

    /// Whether another file, or the config itself, has this instance.
    fn is_taken(&self, id: InstanceId, path: &Path) -> bool {
        let mut fixed = self.fixed.iter().map(|(instance, _)| instance);
        let mut others =
            self.files.iter().filter(|(file, _)| *file != path).filter_map(|(_, seen)| seen.instance.as_ref());
        fixed.any(|instance| instance.id.value == id) || others.any(|instance| instance.id.value == id)
    }
}

fn run(make_queue: &MakeQueue, instance: &Instance, why: &str) -> Option<Change> {
    let id = instance.id.value;
    match make_queue(instance) {
        Ok(queue) => {
            info!(instance = %id, why, "starting again");
            Some(Change::Run(Box::new(queue)))
        }
        Err(cause) => {
            warn!(instance = %id, cause, "it goes on as it was");
            None
        }
    }
}
