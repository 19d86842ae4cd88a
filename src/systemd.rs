//! Notifies systemd, for a unit with `Type=notify`, that the bridge is ready, alive or stopping.

use std::future::Future;
use std::pin::pin;
use std::time::Duration;

use sd_notify::NotifyState;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tracing::warn;

/// Runs `fleet` to its end. Sends `READY=1` at once, `WATCHDOG=1` twice per watchdog interval, and `STOPPING=1` when `stop` is
/// cancelled; in the same task, so that a fleet that hangs is not reported as alive. Without systemd it only runs `fleet`.
pub(crate) async fn accompany<T>(fleet: impl Future<Output = T>, stop: &CancellationToken) -> T {
    notify(&NotifyState::Ready);
    let watchdog = sd_notify::watchdog_enabled().filter(|allowed| !allowed.is_zero());
    let mut beat = interval(watchdog.unwrap_or(Duration::MAX) / 2);
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut fleet = pin!(fleet);
    let mut stopping = false;
    loop {
        tokio::select! {
            // A fleet without instances ends at the same moment.
            biased;
            () = stop.cancelled(), if !stopping => {
                stopping = true;
                notify(&NotifyState::Stopping);
            }
            outcome = &mut fleet => return outcome,
            _ = beat.tick(), if watchdog.is_some() => notify(&NotifyState::Watchdog),
        }
    }
}

fn notify(state: &NotifyState) {
    if let Err(error) = sd_notify::notify(std::slice::from_ref(state)) {
        warn!(event = "systemd_unreachable", %error, "failed to notify systemd; check NOTIFY_SOCKET");
    }
}
