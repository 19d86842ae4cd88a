//! Notifications that no sink takes: where they go, and why. They are kept before they are
//! deleted upstream, so a bad one is neither lost nor in the way.
#![cfg_attr(
    not(all(feature = "kafka", feature = "amqp")),
    allow(dead_code, reason = "each sink has reasons of its own; files and standard output refuse nothing")
)]

use std::borrow::Cow;
use std::fmt;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use tracing::warn;

use super::cloud_event::Place;
use super::lines::{sync_entry, write_line};
use crate::notification::Notification;

/// Why a notification became a dead letter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reason {
    /// Larger than the client or the broker takes.
    TooLarge,
    /// Refused for another reason that lies in the record.
    Refused,
    /// No queue takes it.
    Unroutable,
}

impl fmt::Display for Reason {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::TooLarge => "too_large",
            Self::Refused => "refused",
            Self::Unroutable => "unroutable",
        })
    }
}

/// What a dead letter tells about itself.
#[derive(Clone, Debug)]
pub(super) struct DeadLetter<'a> {
    pub reason: Reason,
    /// Where it should have gone.
    pub destination: Cow<'a, str>,
}

/// The place of last resort: a folder with one file per notification.
#[derive(Clone, Debug)]
pub(super) struct Folder(PathBuf);

impl Folder {
    pub(super) fn new(path: &Path) -> Self {
        Self(path.to_owned())
    }

    /// Writes the file, whole or not at all, and fsynced. Its name is the notification's id: a
    /// redelivery writes the same file again.
    pub(super) fn keep(&self, notification: &Notification, place: &Place<'_>) -> io::Result<()> {
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

/// Says once that there is one.
pub(super) fn log(notification: &Notification, letter: &DeadLetter<'_>, kept_in: &dyn fmt::Display) {
    let (instance, receipt, reason) = (notification.instance(), notification.receipt(), letter.reason);
    warn!(%instance, %receipt, id = %notification.id(), %reason, destination = %letter.destination, %kept_in, "dead letter");
}
