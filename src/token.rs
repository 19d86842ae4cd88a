//! Where an instance's token comes from.

use std::path::PathBuf;

use secrecy::SecretString;

/// Where an instance's token comes from.
#[derive(Clone, Debug)]
pub enum TokenSource {
    /// It was given as it is.
    Given(SecretString),
    /// A file holds it; white space around it does not count.
    File(PathBuf),
}

impl TokenSource {
    /// Reads the token.
    ///
    /// # Errors
    /// When the file cannot be read or is empty; the text names the file.
    pub fn read(&self) -> Result<SecretString, UnreadableSecret> {
        let path = match self {
            Self::Given(token) => return Ok(token.clone()),
            Self::File(path) => path,
        };
        let unreadable = |cause: String| UnreadableSecret { path: path.clone(), cause };
        let text = std::fs::read_to_string(path).map_err(|error| unreadable(error.to_string()))?;
        match text.trim() {
            "" => Err(unreadable("it is empty".into())),
            token => Ok(SecretString::from(token)),
        }
    }
}

/// A file that should hold a secret does not.
#[derive(Debug, thiserror::Error)]
#[error("{}: {cause}", path.display())]
pub struct UnreadableSecret {
    path: PathBuf,
    cause: String,
}
