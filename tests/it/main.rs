//! Integration tests, a module a subject.

/// The Green API queue as a local server.
#[cfg(feature = "emulator")]
mod emulator;
