//! What a doctor finds: checks, one by one, each passed or failed, and what to do about it.

use serde::Serialize;

use crate::error::{Chain, SetupError};
use crate::notification::InstanceId;

/// One thing that was looked at. Its texts hold no secret.
#[derive(Debug, Serialize)]
pub struct Check {
    /// The instance that it is about; `None`: the sink.
    pub instance: Option<InstanceId>,
    /// What was looked at.
    pub check: &'static str,
    /// Whether it is as it should be.
    pub ok: bool,
    /// What was found, and what to do if it is wrong.
    pub detail: String,
}

impl Check {
    /// Of the sink.
    pub(crate) fn of_sink(check: &'static str, found: Result<String, SetupError>) -> Self {
        Self::new(None, check, found)
    }

    /// Of an instance.
    pub(crate) fn of(instance: InstanceId, check: &'static str, found: Result<String, SetupError>) -> Self {
        Self::new(Some(instance), check, found)
    }

    fn new(instance: Option<InstanceId>, check: &'static str, found: Result<String, SetupError>) -> Self {
        let ok = found.is_ok();
        let detail = found.unwrap_or_else(|wrong| Chain(&wrong).to_string());
        Self { instance, check, ok, detail }
    }
}
