//! Fault injection for the tests: sudden death at a named step on the path of a notification, and file systems that hang. Only
//! builds with the feature `fault-hooks` contain it; in all others [`reached`] and [`hanging`] do nothing.
//!
//! With `BRIDGE_FAULT=SIGNAL@STEP#N` the process sends itself that signal, such as `SIGKILL` or `SIGSTOP`, when it reaches the step
//! for the N-th time. A pipe `NAME.hangs` beside the file `NAME` makes every access to the file block in a system call until
//! somebody opens the pipe for writing.

/// A step is reached. Does not return if the process is to die here.
#[cfg(not(feature = "fault-hooks"))]
#[inline]
pub(crate) fn reached(_step: &str) {}

/// Asks about a file, on a file system that may hang.
#[cfg(not(feature = "fault-hooks"))]
#[inline]
pub(crate) fn hanging<T>(path: &std::path::Path, ask: fn(&std::path::Path) -> T) -> T {
    ask(path)
}

#[cfg(feature = "fault-hooks")]
pub(crate) use hooks::{hanging, reached};

#[cfg(feature = "fault-hooks")]
mod hooks {
    use std::fs::File;
    use std::os::unix::fs::FileTypeExt;
    use std::path::Path;
    use std::sync::LazyLock;
    use std::sync::atomic::{AtomicU32, Ordering};

    use nix::sys::signal::{Signal, raise};

    struct Plan {
        signal: Signal,
        step: String,
        at: u32,
        times: AtomicU32,
    }

    static PLAN: LazyLock<Option<Plan>> = LazyLock::new(|| {
        let text = std::env::var("BRIDGE_FAULT").ok()?;
        Some(parse(&text).unwrap_or_else(|| panic!("BRIDGE_FAULT={text} is not SIGNAL@STEP#N")))
    });

    fn parse(text: &str) -> Option<Plan> {
        let (signal, rest) = text.split_once('@')?;
        let (step, at) = rest.split_once('#')?;
        let (signal, at) = (signal.parse().ok()?, at.parse().ok()?);
        Some(Plan { signal, step: step.into(), at, times: AtomicU32::new(0) })
    }

    pub(crate) fn reached(step: &str) {
        let Some(plan) = PLAN.as_ref().filter(|plan| plan.step == step) else { return };
        if plan.times.fetch_add(1, Ordering::Relaxed) + 1 == plan.at {
            // To this thread, so that it cannot continue even for a moment before the process stops.
            raise(plan.signal).unwrap_or_else(|error| panic!("{}: {error}", plan.signal));
        }
    }

    pub(crate) fn hanging<T>(path: &Path, ask: fn(&Path) -> T) -> T {
        let mut pipe = path.as_os_str().to_owned();
        pipe.push(".hangs");
        if Path::new(&pipe).metadata().is_ok_and(|metadata| metadata.file_type().is_fifo()) {
            // Returns when somebody opens the pipe or it is gone.
            File::open(pipe).ok();
        }
        ask(path)
    }
}
