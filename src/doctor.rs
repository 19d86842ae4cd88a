//! The results of `doctor`: checks, each passed or failed, with advice.

use serde::Serialize;

use crate::error::{Chain, SetupError};
use crate::notification::InstanceId;

/// One check. Its texts contain no secret.
#[derive(Debug, Serialize)]
pub struct Check {
    /// The instance concerned; `None`: the sink.
    pub instance: Option<InstanceId>,
    /// What was checked.
    pub check: &'static str,
    /// Whether the check passed.
    pub ok: bool,
    /// The finding, and what to do if the check failed.
    pub detail: String,
}

impl Check {
    /// A check of the sink.
    pub(crate) fn of_sink(check: &'static str, found: Result<String, SetupError>) -> Self {
        Self::new(None, check, found)
    }

    /// A check of an instance.
    pub(crate) fn of(instance: InstanceId, check: &'static str, found: Result<String, SetupError>) -> Self {
        Self::new(Some(instance), check, found)
    }

    fn new(instance: Option<InstanceId>, check: &'static str, found: Result<String, SetupError>) -> Self {
        let ok = found.is_ok();
        let detail = found.unwrap_or_else(|wrong| Chain(&wrong).to_string());
        Self { instance, check, ok, detail }
    }
}
