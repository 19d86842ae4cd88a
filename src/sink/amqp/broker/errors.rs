//! What the client's errors mean.

use lapin::protocol::{AMQPErrorKind, AMQPSoftError};
use lapin::{Error, ErrorKind};

use crate::sink::session::SessionError;

/// The client's error; it names no address.
pub(super) fn unavailable(what: &str, error: &Error) -> SessionError {
    SessionError::Unavailable(format!("{what}: {error}"))
}

/// Whether the broker answered with this code, over which it closes the channel alone.
pub(super) fn is_soft(error: &Error, wanted: AMQPSoftError) -> bool {
    matches!(error.kind(), ErrorKind::ProtocolError(error) if *error.kind() == AMQPErrorKind::Soft(wanted))
}

/// Whether it answers a declaration, and so explains no other failure.
pub(super) fn is_of_a_declaration(error: &Error) -> bool {
    is_soft(error, AMQPSoftError::PRECONDITIONFAILED) && error.to_string().contains(" arg '")
}
