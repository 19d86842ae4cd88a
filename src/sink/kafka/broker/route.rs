//! The destination of a notification.

use crate::notification::Notification;
use crate::sink::kafka::options::Options;
use crate::sink::session::{Action, Job};
use crate::sink::{Reason, cloud_event};

/// The destination of a notification. The ledger advances in any case.
#[derive(Clone, Copy, Debug)]
pub(super) enum Route {
    /// None: it is already stored, and only ownership has to be proven.
    Nowhere,
    Topic,
    DeadLetterTopic(Reason),
    /// The folder.
    Folder(Reason),
}

impl Route {
    /// The first destination to try.
    pub(super) fn of(job: &Job) -> Self {
        match (job.action(), job.kept) {
            (Action::Prove, _) => Self::Nowhere,
            (_, Some(reason)) => Self::Folder(reason),
            _ if job.notification().is_malformed() => Self::DeadLetterTopic(Reason::Malformed),
            _ => Self::Topic,
        }
    }

    /// If it is sent as a dead letter: the reason, and the config key of the destination.
    pub(super) fn dead_letter(self) -> Option<(Reason, &'static str)> {
        match self {
            Self::Nowhere | Self::Topic => None,
            Self::DeadLetterTopic(reason) => Some((reason, "dead_letter_topic")),
            Self::Folder(reason) => Some((reason, "dead_letter_dir")),
        }
    }

    /// The topic of its record, if any.
    pub(super) fn topic(self, config: &Options, notification: &Notification) -> Option<String> {
        match self {
            Self::Nowhere | Self::Folder(_) => None,
            Self::Topic => Some(cloud_event::topic(&config.topic, notification)),
            Self::DeadLetterTopic(_) => Some(config.dead_letter_topic.clone()),
        }
    }
}
