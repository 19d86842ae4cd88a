//! Integration tests, a module a subject.

/// What an operator types, and the exit codes.
mod command_line;
/// The Green API queue as a local server.
#[cfg(feature = "emulator")]
mod emulator;
/// Into a real Kafka, read by somebody else's client.
#[cfg(all(feature = "kafka", feature = "emulator"))]
mod kafka;
/// From the emulator into a file: order, crashes, bad answers, secrets.
#[cfg(feature = "emulator")]
mod line;
/// Into a real RabbitMQ, read by somebody else's client.
#[cfg(all(feature = "amqp", feature = "emulator"))]
mod rabbitmq;
/// An emulated instance and the bridge under test.
#[cfg(feature = "emulator")]
mod scene;
/// Processes and patience.
mod support;
