//! How long to wait: after a failure, and between requests.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use tokio::time::{Instant, sleep_until};

const SHORTEST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(60);

/// Growing pauses, from 1 to 60 seconds, spread so that many failing instances do not come back
/// at the same moment. Made anew after every success.
#[derive(Debug)]
pub struct Pauses(ExponentialBackoff);

impl Default for Pauses {
    fn default() -> Self {
        Self::new()
    }
}

impl Pauses {
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

/// A little over 100 of them make a second.
const TURN: Duration = Duration::from_micros(10_100);

/// At most 100 turns in any second. Timers wake late, so one turn may come a little after another,
/// if the one before was late.
#[derive(Debug)]
pub struct Pace(Mutex<Instant>);

impl Clone for Pace {
    fn clone(&self) -> Self {
        Self::default()
    }
}

impl Default for Pace {
    fn default() -> Self {
        Self(Mutex::new(Instant::now()))
    }
}

impl Pace {
    /// Waits for the next turn. May be dropped; the turn is used up then.
    pub async fn turn(&self) {
        let turn = {
            // Its only user is one request after the other: nobody ever waits for this lock.
            let mut due = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let turn = *due;
            *due = turn.max(Instant::now().checked_sub(TURN).unwrap_or(turn)) + TURN;
            turn
        };
        // Even a sleep that is over waits for the timer's next millisecond.
        if turn > Instant::now() {
            sleep_until(turn).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn there_are_100_turns_a_second_and_none_are_saved_up() {
        let pace = Pace::default();
        tokio::time::sleep(Duration::from_secs(60)).await;
        let (begun, mut turns) = (Instant::now(), Vec::new());
        while begun.elapsed() < Duration::from_secs(3) {
            pace.turn().await;
            turns.push(begun.elapsed());
        }
        assert!(turns.len() > 290, "{} turns in 3 s", turns.len());
        let most = turns
            .iter()
            .map(|turn| turns.iter().filter(|other| (*turn..*turn + Duration::from_secs(1)).contains(*other)).count());
        assert_eq!(most.max(), Some(100));
    }

    #[test]
    fn pauses_grow_from_one_second_to_a_minute_and_never_end() {
        let mut pauses = Pauses::new();
        let first: Vec<_> = (0..10).map(|_| pauses.after_failure()).collect();
        assert!(first[0] >= SHORTEST && first[0] < 2 * SHORTEST, "{first:?}");
        assert!(first[2] >= 4 * SHORTEST, "{first:?}");
        assert_eq!(first[9], LONGEST);
        assert!((0..10_000).all(|_| pauses.after_failure() == LONGEST));
    }
}
