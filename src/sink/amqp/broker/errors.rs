//! Interpretation of the client's errors.

use lapin::protocol::{AMQPErrorKind, AMQPSoftError};
use lapin::{ChannelState, Error, ErrorKind};

use crate::sink::session::SessionError;

/// Wraps the client's error, which contains no address.
pub(super) fn unavailable(what: &str, error: &Error) -> SessionError {
    SessionError::Unavailable(format!("{what}: {error}"))
}

/// Whether the broker answered with this code, for which it closes the channel but not the connection.
pub(super) fn is_soft(error: &Error, wanted: AMQPSoftError) -> bool {
    matches!(error.kind(), ErrorKind::ProtocolError(error) if *error.kind() == AMQPErrorKind::Soft(wanted))
}

/// The broker closed a channel but not the connection.
#[derive(Debug)]
pub(super) struct Closed {
    /// `None` if it had been closed earlier; the reason is lost then.
    pub code: Option<AMQPSoftError>,
    /// The broker's message.
    pub cause: String,
}

impl Closed {
    /// Interprets the error of a publish or a confirm.
    pub(super) fn read(error: &Error) -> Option<Self> {
        let code = match error.kind() {
            ErrorKind::ProtocolError(error) => match error.kind() {
                AMQPErrorKind::Soft(code) => Some(code.clone()),
                AMQPErrorKind::Hard(_) => return None,
            },
            ErrorKind::InvalidChannelState(ChannelState::Closing | ChannelState::Closed, _) => None,
            _ => return None,
        };
        Some(Self { code, cause: error.to_string() })
    }

    /// The largest message that the broker accepts, if this one was too large: the last number in its message,
    /// `message size 2097152 is larger than configured max size 1048576`.
    pub(super) fn largest_body(&self) -> Option<usize> {
        let (_, sizes) = self.cause.split_once("message size ")?;
        let mut numbers =
            sizes.split(|character: char| !character.is_ascii_digit()).filter_map(|text| text.parse().ok());
        let (size, limit): (usize, usize) = (numbers.next()?, numbers.next()?);
        (self.code == Some(AMQPSoftError::PRECONDITIONFAILED) && limit < size).then_some(limit)
    }
}

/// Whether it is the answer to a declaration and therefore explains no other failure.
pub(super) fn is_of_a_declaration(error: &Error) -> bool {
    is_soft(error, AMQPSoftError::RESOURCELOCKED)
        || (is_soft(error, AMQPSoftError::PRECONDITIONFAILED) && error.to_string().contains(" arg '"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_body_is_parsed_from_the_brokers_message() {
        let closed = |code: AMQPSoftError, cause: &str| Closed { code: Some(code), cause: cause.into() }.largest_body();
        let precondition = AMQPSoftError::PRECONDITIONFAILED;
        for (text, limit) in [
            ("PRECONDITION_FAILED - message size 2097152 is larger than configured max size 1048576", Some(1_048_576)),
            ("PRECONDITION_FAILED - message size 600000000 is larger than max size 536870912", Some(536_870_912)),
            ("PRECONDITION_FAILED - message size 5 is larger than configured max size 0", Some(0)),
            ("PRECONDITION_FAILED - message size 7", None),
            ("PRECONDITION_FAILED - invalid expiration 5 6", None),
        ] {
            assert_eq!(closed(precondition.clone(), text), limit, "{text}");
        }
        assert_eq!(closed(AMQPSoftError::ACCESSREFUSED, "message size 5 is larger than max size 1"), None);
    }
}
