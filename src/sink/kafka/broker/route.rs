//! Where a notification is sent.

use crate::notification::Notification;
use crate::sink::kafka::options::Options;
use crate::sink::session::{Action, Job};
use crate::sink::{Reason, cloud_event};

/// Where a notification is sent. The ledger moves along whichever it is.
#[derive(Clone, Copy, Debug)]
pub(super) enum Route {
    /// Nowhere: it is stored, and the ownership is to be proved.
    Nowhere,
    Topic,
    DeadLetterTopic(Reason),
    /// Into the folder.
    Folder(Reason),
}

impl Route {
    /// Of one that nothing was tried with.
    pub(super) fn of(job: &Job) -> Self {
        match (job.action(), job.kept) {
            (Action::Prove, _) => Self::Nowhere,
            (_, Some(reason)) => Self::Folder(reason),
            _ if job.notification().is_malformed() => Self::DeadLetterTopic(Reason::Malformed),
            _ => Self::Topic,
        }
    }

    /// Why it is sent as a dead letter, and which key of the config names where to.
    pub(super) fn dead_letter(self) -> Option<(Reason, &'static str)> {
        match self {
            Self::Nowhere | Self::Topic => None,
            Self::DeadLetterTopic(reason) => Some((reason, "dead_letter_topic")),
            Self::Folder(reason) => Some((reason, "dead_letter_dir")),
        }
    }

    /// The topic of its record, if there is one.
    pub(super) fn topic(self, config: &Options, notification: &Notification) -> Option<String> {
        match self {
            Self::Nowhere | Self::Folder(_) => None,
            Self::Topic => Some(cloud_event::topic(&config.topic, notification)),
            Self::DeadLetterTopic(_) => Some(config.dead_letter_topic.clone()),
        }
    }
}
