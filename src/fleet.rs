//! All instances of a process, from start to stop.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::bridge::Bridge;
use crate::green_api::Queue;
use crate::sink::{Sink, SinkError};

/// How long a publish or a delete under way may take after the stop was asked for.
const GRACE: Duration = Duration::from_secs(4);

/// Runs a bridge for each queue until `stop`, then lets what is under way come to its end, for at
/// most 4 seconds. What is cut off after that is as safe as in a crash.
///
/// # Errors
/// The first [`SinkError::Fenced`] or [`SinkError::Closed`], or that no bridge is left; all have
/// stopped by then.
pub async fn run(queues: Vec<Queue>, sink: Arc<dyn Sink>, stop: CancellationToken) -> Result<(), SinkError> {
    if queues.is_empty() {
        warn!("there is no instance to run: waiting to be stopped");
        stop.cancelled().await;
        return Ok(());
    }
    let mut bridges = JoinSet::new();
    for queue in queues {
        let (sink, stop) = (Arc::clone(&sink), stop.clone());
        info!(instance = %queue.instance(), "starting");
        bridges.spawn(async move { Bridge::new(queue, &*sink, &stop).run().await });
    }
    let mut end = Ok(());
    let ended = async {
        while let Some(bridge) = bridges.join_next().await {
            match bridge {
                Ok(Ok(())) => {}
                Ok(Err(error)) => {
                    stop.cancel();
                    if end.is_ok() {
                        end = Err(error);
                    }
                }
                // One instance must not take the others with it.
                Err(panic) => error!(%panic, "a bridge ended unexpectedly: this is a defect, please report it"),
            }
        }
        if end.is_ok() && !stop.is_cancelled() {
            end = Err(SinkError::Closed("every bridge ended unexpectedly".into()));
        }
    };
    let late = async {
        stop.cancelled().await;
        tokio::time::sleep(GRACE).await;
    };
    tokio::select! {
        () = ended => {}
        () = late => warn!("not everything came to its end in 4 s: what is cut off is safe, and in doubt at the next start"),
    }
    bridges.abort_all();
    end
}
