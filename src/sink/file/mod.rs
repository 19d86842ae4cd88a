//! The sink `file`: one `CloudEvents` JSON object per line, exactly once. The file is its own memory: the last line of an instance
//! shows what was published last.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use schemars::JsonSchema;
use serde::Deserialize;

use super::Sink;
use super::dead_letter::Folder;
use super::driver::{Driver, Kind};
use super::worker::Worker;
use crate::doctor::Check;
use crate::error::SetupError;
use crate::input_file;
use crate::metrics::Metrics;
use crate::mistake::Found;
use crate::verify::Audit;

#[cfg(test)]
mod contract_tests;
#[cfg(any(test, fuzzing))]
mod fuzzing;
mod read_back;
mod session;

#[cfg(any(test, fuzzing))]
pub(crate) use self::fuzzing::assert_reads_its_own;

/// Its form as a URL.
pub(super) const FORM: &str = "file:PATH";

/// A file of JSON lines.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "File")]
pub struct Options {
    /// Regular file to which one line per notification is appended. Move it to rotate it.
    pub path: PathBuf,
}

impl Default for Options {
    fn default() -> Self {
        Self { path: "notifications.jsonl".into() }
    }
}

impl Options {
    pub(super) fn from_url(path: &str) -> Result<Self, &'static str> {
        if path.is_empty() { Err("") } else { Ok(Self { path: path.into() }) }
    }
}

impl Kind for Options {
    fn name(&self) -> &'static str {
        "file"
    }

    fn guarantee(&self) -> &'static str {
        "exactly once"
    }

    fn check(&self, found: &mut Found<'_>) {
        if self.path.to_string_lossy().contains(char::is_control) {
            found.add(&["path"], "`path` contains a control character, perhaps a carriage return at its end");
        }
    }

    fn driver(&self) -> Result<&dyn Driver, SetupError> {
        Ok(self)
    }
}

impl Driver for Options {
    /// The file is locked by one bridge. `Ok` from a publish means fsynced.
    fn start(&self, _dead_letters: Folder, _shards: u16, metrics: &Metrics) -> Result<Arc<dyn Sink>, SetupError> {
        // The sink waits for a file system that does not respond.
        input_file::beside(&self.path, |path| Ok(session::require_regular(path))).unwrap_or(Ok(()))?;
        let path = self.path.clone();
        let worker = Worker::start(metrics, move |_shard| session::LinesFile::acquire(&path));
        Ok(Arc::new(worker.map_err(|error| SetupError::new("the sink's thread cannot be started", error))?))
    }

    fn examine(&self, _shards: u16) -> Vec<Check> {
        vec![Check::of_sink("file", examine(&self.path))]
    }

    fn audit(&self, _drain: bool, audit: &mut Audit) -> Result<bool, SetupError> {
        let read = read_back::audit(&self.path, audit);
        read.map(|()| true).map_err(|error| SetupError::new(format!("sink.file.path {}", self.path.display()), error))
    }
}

/// Checks that the file, or else its folder, is writable. Neither locks nor creates it.
fn examine(path: &Path) -> Result<String, SetupError> {
    let context = |error: io::Error| SetupError::new(format!("sink.file.path {}", path.display()), error);
    session::require_regular(path)?;
    if path.exists() {
        session::appending().open(path).map_err(context)?;
        return Ok("it can be written; exactly once".into());
    }
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let metadata = folder.metadata().map_err(context)?;
    if metadata.is_dir() && !metadata.permissions().readonly() {
        Ok("it will be created; exactly once".into())
    } else {
        Err(format!("sink.file.path {}: its folder cannot be written", path.display()).into())
    }
}
