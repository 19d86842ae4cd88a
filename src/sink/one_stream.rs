//! For sinks with dead letters in the same stream as everything else: files and standard output.

use std::fmt;

use super::session::{Action, Job};
use super::{DeadLetter, Reason};
use crate::notification::Notification;

/// A malformed body is written to the same stream, as a dead letter.
pub(super) fn malformed(notification: &Notification, stream: &dyn fmt::Display) -> Option<DeadLetter> {
    let letter = || DeadLetter {
        reason: Reason::Malformed,
        destination: stream.to_string(),
        kept_in: stream.to_string().into(),
    };
    notification.is_malformed().then(letter)
}

/// Answers a job whose line is durably stored.
pub(super) fn answer(job: Job, sequence: Option<u64>, stream: &dyn fmt::Display) {
    match malformed(job.notification(), stream) {
        Some(letter) if job.action() != Action::Prove => job.dead_lettered(sequence, letter),
        _ => job.stored(sequence),
    }
}
