//! Errors for operators, with their causes.

use std::error::Error;
use std::fmt;

/// The source of another error.
pub(crate) type Source = Box<dyn Error + Send + Sync>;

/// Something cannot be used as configured. The text names what to change, and contains no secret.
#[derive(Debug, thiserror::Error)]
#[error("{text}")]
pub struct SetupError {
    text: String,
    source: Option<Source>,
}

impl SetupError {
    /// `text` names what cannot be used, `source` is the cause.
    pub(crate) fn new(text: impl Into<String>, source: impl Into<Source>) -> Self {
        Self { text: text.into(), source: Some(source.into()) }
    }
}

impl<T: Into<String>> From<T> for SetupError {
    fn from(text: T) -> Self {
        Self { text: text.into(), source: None }
    }
}

/// Displays an error and its causes on one line.
#[derive(Debug)]
pub(crate) struct Chain<'a>(pub &'a (dyn Error + 'static));

impl fmt::Display for Chain<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}", self.0)?;
        let mut source = self.0.source();
        while let Some(error) = source {
            write!(formatter, ": {error}")?;
            source = error.source();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[test]
    fn each_level_says_its_own_and_the_chain_says_all() {
        let error = SetupError::new("sink.file.path a", SetupError::new("opening", io::Error::other("no disk")));
        assert_eq!(error.to_string(), "sink.file.path a");
        assert_eq!(Chain(&error).to_string(), "sink.file.path a: opening: no disk");
        assert_eq!(Chain(&SetupError::from("alone")).to_string(), "alone");
    }
}
