//! What every sink has to keep, as a test.

use super::Pending;
use crate::notification::Notification;

/// What the line hands to a lane, for tests and benchmarks of sinks.
#[must_use]
pub fn pending(notification: &Notification) -> Pending {
    Pending::new(notification)
}
