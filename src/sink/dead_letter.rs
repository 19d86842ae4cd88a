//! Where notifications go that no sink takes. They are kept before they are deleted upstream, so a
//! bad one is neither lost nor in the way.
#![cfg_attr(
    not(all(feature = "kafka", feature = "amqp")),
    allow(dead_code, reason = "each sink has reasons of its own; files and standard output refuse nothing")
)]

use std::fmt;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use tracing::warn;

use super::cloud_event::Place;
use super::json_line::{parse, write_line};
use crate::notification::Notification;
use crate::verify::Audit;

/// The place of last resort: a folder with one file per notification.
#[derive(Clone, Debug)]
pub(super) struct Folder(PathBuf);

impl Folder {
    pub(super) fn new(path: &Path) -> Self {
        Self(path.to_owned())
    }

    /// Writes the file, whole or not at all, and fsynced. Its name is the notification's id: a
    /// redelivery writes the same file again.
    pub(super) fn keep(&self, notification: &Notification, place: &Place) -> io::Result<()> {
        if !self.0.exists() {
            fs::create_dir_all(&self.0)?;
            sync_entry(&self.0)?;
        }
        let path = self.0.join(format!("{}.json", notification.id()));
        let unfinished = path.with_extension("unfinished");
        let mut line = Vec::new();
        write_line(&mut line, notification, place)?;
        let mut file = File::create(&unfinished)?;
        file.write_all(&line)?;
        file.sync_all()?;
        fs::rename(&unfinished, &path)?;
        sync_entry(&path)
    }
}

impl fmt::Display for Folder {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.display().fmt(formatter)
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
        if path.extension().is_some_and(|extension| extension == "json") {
            if let Some((letter, _)) = parse(&fs::read(&path)?) {
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
