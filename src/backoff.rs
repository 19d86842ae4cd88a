//! Pauses after failures.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};

const SHORTEST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(60);

/// Exponential backoff from 1 to 60 seconds, with jitter so that many failing instances do not retry at the same moment.
/// Replaced by a new one after each success.
#[derive(Debug)]
pub(crate) struct Backoff(ExponentialBackoff);

impl Default for Backoff {
    fn default() -> Self {
        Self::new()
    }
}

impl Backoff {
    /// Starts with the shortest pause.
    #[must_use]
    pub fn new() -> Self {
        let builder = ExponentialBuilder::default().with_min_delay(SHORTEST).with_max_delay(LONGEST);
        Self(builder.without_max_times().with_jitter().build())
    }

    /// The pause after one more failure.
    pub fn after_failure(&mut self) -> Duration {
        self.0.next().unwrap_or(LONGEST).clamp(SHORTEST, LONGEST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_from_one_second_to_a_minute_and_never_end() {
        let mut backoff = Backoff::new();
        let first: Vec<_> = (0..10).map(|_| backoff.after_failure()).collect();
        assert!(first[0] >= SHORTEST && first[0] < 2 * SHORTEST, "{first:?}");
        assert!(first[2] >= 4 * SHORTEST, "{first:?}");
        assert_eq!(first[9], LONGEST);
        assert!((0..10_000).all(|_| backoff.after_failure() == LONGEST));
    }
}
