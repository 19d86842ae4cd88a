//! The source of an instance's token.

use std::io;
use std::path::PathBuf;

use secrecy::SecretString;
use tokio::task::{JoinError, spawn_blocking};

use crate::input_file;

/// The source of an instance's token.
#[derive(Clone, Debug)]
pub enum TokenSource {
    /// Given directly.
    Given(SecretString),
    /// A file that contains it; surrounding white space is ignored.
    File(PathBuf),
}

impl TokenSource {
    /// Reads the token. Blocks for at most 5 seconds.
    ///
    /// # Errors
    /// If the file cannot be read or is empty; the text names the file.
    pub fn read(&self) -> Result<SecretString, UnreadableSecret> {
        let path = match self {
            Self::Given(token) => return Ok(token.clone()),
            Self::File(path) => path,
        };
        let unreadable = |cause| UnreadableSecret { path: path.clone(), cause };
        let text = input_file::read_secret_text(path).map_err(unreadable)?;
        match text.trim() {
            "" => Err(unreadable(io::Error::other("it is empty"))),
            token => Ok(SecretString::from(token)),
        }
    }

    /// Reads the token on another thread. Cancel safe.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub async fn read_aside(&self) -> Result<SecretString, UnreadableSecret> {
        let path = match self {
            Self::Given(token) => return Ok(token.clone()),
            Self::File(path) => path.clone(),
        };
        let source = self.clone();
        let unexpected = |end: JoinError| UnreadableSecret { path, cause: io::Error::other(end) };
        spawn_blocking(move || source.read()).await.map_err(unexpected)?
    }
}

/// A secret cannot be read from its file.
#[derive(Debug, thiserror::Error)]
#[error("{}", path.display())]
pub struct UnreadableSecret {
    path: PathBuf,
    #[source]
    cause: io::Error,
}

impl UnreadableSecret {
    /// Whether the file system did not answer, which may pass.
    #[must_use]
    pub fn is_late(&self) -> bool {
        self.cause.kind() == io::ErrorKind::TimedOut
    }
}
