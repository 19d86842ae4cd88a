//! Integration tests, a module a subject.

/// What an operator types, and the exit codes.
mod command_line;
/// The Green API queue as a local server.
#[cfg(feature = "emulator")]
mod emulator;
/// From the emulator into a file: order, crashes, bad answers, secrets.
#[cfg(feature = "emulator")]
mod line;
/// Processes and patience.
mod support;
