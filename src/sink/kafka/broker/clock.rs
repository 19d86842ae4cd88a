//! Clock differences between bridge and broker: the client stamps records with the bridge's clock, and a topic may limit how
//! far timestamps may deviate from the broker's. A record is never rejected for good because of it.

use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};

use super::route::Route;
use super::session::Kafka;
use crate::sink::SinkError;
use crate::sink::session::Job;

/// How long the limits of a topic are cached: thousands of instances may need them.
const REMEMBERED: Duration = Duration::from_secs(60);

impl Kafka<'_> {
    /// The notification waits, and the log says which clocks to compare.
    pub(super) fn wait_for_clock(&mut self, job: Job, route: Route, why: &str) {
        let topic = route.topic(self.config, job.notification()).unwrap_or_default();
        let known = self.clock_limits.get(&topic).filter(|(asked, _)| asked.elapsed() < REMEMBERED);
        let limits = if let Some((_, limits)) = known {
            *limits
        } else {
            let setting = |end| self.topics.setting(&topic, &format!("message.timestamp.{end}.max.ms"));
            let limits = ["before", "after"].map(|end| setting(end).ok()?.parse().ok());
            self.clock_limits.insert(topic.clone(), (Instant::now(), limits));
            limits
        };
        job.fail(SinkError::Refused(format!("topic {topic}: {why}{}", brokers_clock(Timestamp::now(), limits))));
    }
}

/// What a refusal reveals about the broker's clock.
fn brokers_clock(ours: Timestamp, [before, after]: [Option<i64>; 2]) -> String {
    let shifted = |milliseconds: i64| ours.checked_add(SignedDuration::from_millis(milliseconds)).ok();
    let limits = [
        after.and_then(|after| {
            Some(format!("before {:.3} (message.timestamp.after.max.ms={after})", shifted(after.checked_neg()?)?))
        }),
        before.and_then(|before| {
            Some(format!("after {:.3} (message.timestamp.before.max.ms={before})", shifted(before)?))
        }),
    ];
    let limits: Vec<String> = limits.into_iter().flatten().collect();
    if limits.is_empty() { String::new() } else { format!(", which must be {}", limits.join(" or ")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_reveals_the_brokers_clock_as_far_as_the_limits_are_known() {
        let ours: Timestamp = "2026-11-26T15:00:00Z".parse().unwrap();
        assert_eq!(
            brokers_clock(ours, [Some(i64::MAX), Some(3_600_000)]),
            ", which must be before 2026-11-26T14:00:00.000Z (message.timestamp.after.max.ms=3600000)"
        );
        assert_eq!(
            brokers_clock(ours, [Some(20), Some(i64::MIN)]),
            ", which must be after 2026-11-26T15:00:00.020Z (message.timestamp.before.max.ms=20)"
        );
        assert_eq!(brokers_clock(ours, [None, None]), "");
    }
}
