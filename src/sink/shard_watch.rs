//! Watches a shard from outside its thread, because the thread itself may be stuck.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;

use super::requests::Request;
use super::shard::Shard;
use crate::condition::Condition;
use crate::metrics::ShardStatus;

/// How often an idle session is probed.
const PROBE_SECS: u64 = 5;

/// How long an assigned shard may take to open before that is reported.
const OVERDUE_SECS: u32 = 30;

/// Looks at a shard once a second.
pub(super) struct ShardWatch {
    shard: Shard,
    /// With other replicas. Otherwise there is nobody to open it instead, and its thread tells what it waits for.
    is_shared: bool,
    /// That it is stuck.
    reported: bool,
    /// The attempt to open it that is under way, and how often in a row that was seen.
    attempt: Option<u64>,
    seen: u32,
}

impl ShardWatch {
    pub fn new(shard: Shard, is_shared: bool) -> Self {
        Self { shard, is_shared, reported: false, attempt: None, seen: 0 }
    }

    /// Until all lanes are gone. Has an idle session probed, because without notifications nobody would see that the broker
    /// is gone.
    pub async fn watch_over(mut self, status: Arc<ShardStatus>, requests: mpsc::WeakUnboundedSender<Request>) {
        let mut every = tokio::time::interval(Duration::from_secs(1));
        // A process that slept has not waited meanwhile.
        every.set_missed_tick_behavior(MissedTickBehavior::Delay);
        for second in 1_u64.. {
            every.tick().await;
            let Some(requests) = requests.upgrade() else { return };
            if second.is_multiple_of(PROBE_SECS) && status.up.load(Relaxed) && status.busy_since.get() == 0 {
                // Refused only when the thread is gone.
                drop(requests.send(Request::Probe));
            }
            self.look(&status);
        }
    }

    /// Reports when it is stuck, and when it no longer is; and when it should be here and does not open.
    fn look(&mut self, status: &ShardStatus) {
        let mut conditions = status.conditions();
        if status.is_stuck() {
            if !conditions.contains(Condition::SinkUnavailable) {
                conditions.enter(Condition::SinkUnavailable, &"no answer for more than 10 s");
                self.reported = true;
            }
        } else if std::mem::take(&mut self.reported) && status.up.load(Relaxed) {
            conditions.leave(Condition::SinkUnavailable);
        }
        let attempt = status.attempt();
        self.seen = if attempt.is_some() && attempt == self.attempt { self.seen + 1 } else { 0 };
        self.attempt = attempt;
        if self.is_shared && self.seen >= OVERDUE_SECS && !conditions.contains(Condition::WaitingForOwnership) {
            let cause = format!("shard {} has not opened for {OVERDUE_SECS} s", self.shard.index());
            conditions.enter(Condition::WaitingForOwnership, &cause);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How often it has to be looked until the condition is there.
    fn looks(status: &ShardStatus, watch: &mut ShardWatch) -> Option<u32> {
        (0..=2 * OVERDUE_SECS).find(|_| {
            watch.look(status);
            status.conditions().contains(Condition::WaitingForOwnership)
        })
    }

    #[test]
    fn what_should_be_here_and_does_not_open_is_reported_after_30_s() {
        let (status, mut watch) = (ShardStatus::default(), ShardWatch::new(Shard::new(3), true));
        status.asks();
        assert_eq!(looks(&status, &mut watch), Some(OVERDUE_SECS));
        assert!(!status.works());
        status.stand_by();
        assert_eq!(looks(&status, &mut watch), None, "it is another's");
        assert!(status.works());
        status.asks();
        status.opened();
        assert_eq!(looks(&status, &mut watch), None, "it is open");
        // Lost, and to be had again.
        status.failed();
        assert_eq!(looks(&status, &mut watch), Some(OVERDUE_SECS));
    }

    #[test]
    fn who_is_refused_again_and_again_waits_for_nothing() {
        let (status, mut watch) = (ShardStatus::default(), ShardWatch::new(Shard::new(3), true));
        for _ in 0..2 * OVERDUE_SECS {
            status.asks();
            // In the middle of the question.
            watch.look(&status);
            status.stand_by();
        }
        assert!(!status.conditions().contains(Condition::WaitingForOwnership));
    }

    #[test]
    fn a_lone_bridge_reports_what_it_waits_for_by_itself() {
        let (status, mut watch) = (ShardStatus::default(), ShardWatch::new(Shard::new(0), false));
        status.asks();
        assert_eq!(looks(&status, &mut watch), None);
    }
}
