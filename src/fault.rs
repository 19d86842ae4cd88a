//! Sudden death at a named step of a notification's way, for the tests. Only builds with the
//! feature `fault-hooks` contain it; in all others [`reached`] is nothing.
//!
//! The variable `BRIDGE_FAULT=SIGNAL@STEP#N` makes the process send itself that signal, `SIGKILL`
//! or `SIGSTOP` say, when it reaches that step for the N-th time.

/// A step is reached. Does not return if the process is to die here.
#[cfg(not(feature = "fault-hooks"))]
#[inline]
pub(crate) fn reached(_step: &str) {}

#[cfg(feature = "fault-hooks")]
pub(crate) use hooks::reached;

#[cfg(feature = "fault-hooks")]
mod hooks {
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
            // To this thread, which so cannot go on even for a moment before the process stops.
            raise(plan.signal).unwrap_or_else(|error| panic!("{}: {error}", plan.signal));
        }
    }
}
