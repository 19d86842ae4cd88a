//! The rate at which requests may be sent.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// Slightly more than a hundredth of a second.
const INTERVAL: Duration = Duration::from_micros(10_100);

/// Grants at most 100 turns in any second. Timers fire late, so a turn may follow its predecessor closely if that was late.
#[derive(Debug)]
pub(crate) struct RateLimit(Mutex<Instant>);

impl Clone for RateLimit {
    fn clone(&self) -> Self {
        Self::default()
    }
}

impl Default for RateLimit {
    fn default() -> Self {
        Self(Mutex::new(Instant::now()))
    }
}

impl RateLimit {
    /// Waits for the next turn. If the future is dropped, that turn is lost.
    pub async fn turn(&self) {
        let turn = {
            // Requests are sent one after the other, so this lock is never contended.
            let mut due = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let turn = *due;
            *due = turn.max(Instant::now().checked_sub(INTERVAL).unwrap_or(turn)) + INTERVAL;
            turn
        };
        // Even a sleep that is already over takes until the timer's next millisecond.
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
        let limit = RateLimit::default();
        tokio::time::sleep(Duration::from_secs(60)).await;
        let (begun, mut turns) = (Instant::now(), Vec::new());
        while begun.elapsed() < Duration::from_secs(3) {
            limit.turn().await;
            turns.push(begun.elapsed());
        }
        assert!(turns.len() > 290, "{} turns in 3 s", turns.len());
        let most = turns
            .iter()
            .map(|turn| turns.iter().filter(|other| (*turn..*turn + Duration::from_secs(1)).contains(*other)).count());
        assert_eq!(most.max(), Some(100));
    }
}
