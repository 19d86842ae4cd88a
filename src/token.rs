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
    /// If the file cannot be read or cannot be a token; the text names the file.
    pub fn read(&self) -> Result<SecretString, UnreadableSecret> {
        let path = match self {
            Self::Given(token) => return Ok(token.clone()),
            Self::File(path) => path,
        };
        let unreadable = |cause| UnreadableSecret { path: path.clone(), cause };
        let text = input_file::read_secret_text(path).map_err(unreadable)?;
        let token = text.trim();
        match flaw(token) {
            Some(flaw) => Err(unreadable(io::Error::other(flaw))),
            None => Ok(SecretString::from(token)),
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

/// Why this cannot be a token, which Green API would only refuse. Does not repeat it.
pub(crate) fn flaw(token: &str) -> Option<&'static str> {
    let is_in = |quote: char| token.len() > 1 && token.starts_with(quote) && token.ends_with(quote);
    if token.is_empty() {
        Some("it is empty")
    } else if is_in('"') || is_in('\'') {
        Some("it is in quotes: remove them")
    } else if token.bytes().any(|byte| byte.is_ascii_whitespace()) {
        Some("it contains white space: a token is one word")
    } else if !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        Some("it contains characters that are in no token, perhaps invisible ones: copy it again")
    } else {
        None
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

#[cfg(test)]
mod tests {
    use std::fs;

    use secrecy::ExposeSecret;

    use super::*;

    #[test]
    fn what_can_be_no_token_is_named_and_not_shown() {
        let folder = tempfile::tempdir().unwrap();
        let source = TokenSource::File(folder.path().join("token"));
        let read = |bytes: &[u8]| {
            fs::write(folder.path().join("token"), bytes).unwrap();
            source.read().map(|token| token.expose_secret().to_owned()).map_err(|error| error.cause.to_string())
        };
        assert_eq!(read(b" d75b3a66\r\n"), Ok("d75b3a66".into()));
        for (bytes, named) in [
            (&b"\r\n"[..], "it is empty"),
            (b"\xef\xbb\xbfd75b3a66", "byte order mark"),
            (b"d75b3a66\0", "NUL"),
            (b"\"d75b3a66\"\n", "quotes"),
            (b"'d75b3a66'", "quotes"),
            (b"d75b3a66\nd75b3a66", "white space"),
            ("d75b\u{200b}3a66".as_bytes(), "invisible"),
            (b"d75b3a66\xff", "UTF-8"),
        ] {
            let message = read(bytes).unwrap_err();
            assert!(message.contains(named) && !message.contains("d75b"), "{bytes:?}: {message}");
        }
    }
}
