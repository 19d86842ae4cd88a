//! Where a notification is sent.

use super::session::Kafka;
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
}

impl Kafka<'_> {
    /// The topic of its record, if there is one.
    pub(super) fn topic_on(&self, route: Route, job: &Job) -> Option<String> {
        match route {
            Route::Nowhere | Route::Folder(_) => None,
            Route::Topic => Some(cloud_event::topic(&self.config.topic.value, job.notification())),
            Route::DeadLetterTopic(_) => Some(self.config.dead_letter_topic.value.clone()),
        }
    }

    /// Takes out what the client sends to no topic: trying would cost the others an aborted transaction, for each topic
    /// that it could go to.
    pub(super) fn keep_too_large(&mut self, jobs: &mut Vec<Job>) {
        let is_too_large = |job: &mut Job| {
            let is_new = matches!(Route::of(job), Route::Topic | Route::DeadLetterTopic(_));
            is_new && job.notification().body().len() > self.largest
        };
        let too_large: Vec<Job> = jobs.extract_if(.., is_too_large).collect();
        for job in too_large {
            let reason = if job.notification().is_malformed() { Reason::Malformed } else { Reason::TooLarge };
            let place = self.place(&job, Route::Folder(reason));
            job.keep_in(self.folder, place);
        }
    }
}
