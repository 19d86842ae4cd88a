//! The log, on standard error because standard output carries only data.

use std::io::{self, IsTerminal};
use std::panic::PanicHookInfo;

use tracing::{Metadata, error};
use tracing_subscriber::filter::{EnvFilter, LevelFilter, filter_fn};
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;

use crate::config::{Log, LogFormat, LogLevel};

/// Starts logging. `RUST_LOG` takes precedence over the level of the config. Later calls have no effect.
pub fn start(log: &Log) {
    let level = match log.level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    };
    let wanted = EnvFilter::builder().with_default_directive(level.into()).from_env_lossy();
    let pretty = match log.format {
        LogFormat::Auto => io::stderr().is_terminal(),
        LogFormat::Pretty => true,
        LogFormat::Json => false,
    };
    let lines = tracing_subscriber::fmt::layer().with_writer(io::stderr).with_target(false);
    let lines = if pretty {
        lines.with_ansi(io::stderr().is_terminal()).boxed()
    } else {
        lines.json().flatten_event(true).boxed()
    };
    let started =
        tracing_subscriber::registry().with(lines.with_filter(wanted).with_filter(filter_fn(is_ours))).try_init();
    // Fails only for a second call in one process; then the first log stays in use.
    if started.is_ok() {
        std::panic::set_hook(Box::new(log_without_text));
    }
}

/// The text of a panic may quote a notification.
fn log_without_text(panic: &PanicHookInfo<'_>) {
    let place = panic.location().map(tracing::field::display);
    error!(event = "panic", place, "a panic: this is a defect, please report it");
}

/// The clients of HTTP and the brokers log URLs, passwords and complete bodies, at any level: their lines are never shown,
/// whatever `RUST_LOG` says.
fn is_ours(line: &Metadata<'_>) -> bool {
    line.target().starts_with(env!("CARGO_CRATE_NAME"))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::panic::{catch_unwind, set_hook, take_hook};
    use std::sync::Arc;

    use super::*;

    #[test]
    fn a_panic_is_logged_without_its_text() {
        let log = tempfile::NamedTempFile::new().unwrap();
        let lines = tracing_subscriber::fmt().json().with_writer(Arc::new(log.reopen().unwrap())).finish();
        let before = take_hook();
        set_hook(Box::new(log_without_text));
        let panicked = tracing::subscriber::with_default(lines, || catch_unwind(|| panic!("a private message")));
        set_hook(before);
        let logged = fs::read_to_string(log.path()).unwrap();
        assert!(
            panicked.is_err() && logged.contains("this is a defect") && logged.contains("telemetry.rs:"),
            "{logged}"
        );
        assert!(!logged.contains("private"), "{logged}");
    }
}
