//! Overlapping: the next receive runs while a delete is unanswered, which saves one round trip per notification.
//! [`crate::doubt`] decides whether that is allowed and whether to keep the head that it returns; this module performs it, and
//! stops overlapping where it gains nothing.

use std::pin::{Pin, pin};
use std::time::Duration;

use tokio::time::sleep;
use tracing::info;

use crate::doubt::{Deleted, Doubt};
use crate::green_api::Problem;
use crate::notification::Notification;

/// How long after its delete an overlapped receive is sent, so that the queue gets the delete first.
const HEAD_START: Duration = Duration::from_millis(1);
/// This many more stale heads than useful ones turn overlapping off.
const STALE_LIMIT: u8 = 10;

/// Whether overlapping is useful with this queue.
#[derive(Debug, Default)]
pub(crate) struct Overlap {
    /// Incremented by stale heads and decremented by useful ones; at the limit nothing overlaps until a restart.
    stale: u8,
}

impl Overlap {
    pub(crate) fn is_useful(&self) -> bool {
        self.stale < STALE_LIMIT
    }

    /// Judges the head of an overlapped receive, and returns whether to keep it. A stale head is counted if the delete was
    /// answered, because then the overlap gained nothing. Must be called before [`Doubt::deleted`].
    pub(crate) fn accept(&mut self, doubt: &mut Doubt, head: &Notification, delete_was_answered: bool) -> bool {
        let is_accepted = doubt.accept_overlapped(head.fingerprint());
        if is_accepted {
            self.stale = self.stale.saturating_sub(1);
        } else if delete_was_answered {
            self.stale += 1;
            if !self.is_useful() {
                info!(
                    event = "overlap_disabled",
                    instance = %head.instance(),
                    "the queue answers with stale heads: receiving only after the delete from now on"
                );
            }
        }
        is_accepted
    }
}

/// Sends a delete and, a moment later, the next receive. Once the delete is confirmed the receive continues, possibly for long,
/// because it waits for the next notification. Otherwise it is dropped, unless it has already returned.
pub(crate) async fn delete_and_receive<T>(
    mut delete: Pin<&mut impl Future<Output = Result<Deleted, Problem>>>,
    receive: Pin<&mut impl Future<Output = Option<T>>>,
) -> (Result<Deleted, Problem>, Option<T>) {
    let mut receive = pin!(async {
        sleep(HEAD_START).await;
        receive.await
    });
    tokio::select! {
        biased;
        answer = &mut delete => {
            let is_confirmed = matches!(answer, Ok(Deleted::Confirmed));
            (answer, if is_confirmed { receive.await } else { None })
        }
        next = &mut receive => (delete.await, next),
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use super::*;
    use crate::doubt::Memory;
    use crate::sink::contract_test::notification;

    #[test]
    fn a_queue_that_answers_with_stale_heads_is_no_longer_overlapped() {
        let [last, next] = [b"1", b"2"].map(|body| notification("1".parse().unwrap(), body));
        let pending = || {
            let mut doubt = Doubt::new(Memory::Nothing);
            doubt.stored(last.fingerprint(), None);
            doubt
        };
        let mut overlap = Overlap::default();
        assert!(!overlap.accept(&mut pending(), &last, true) && overlap.accept(&mut pending(), &next, true));
        for _ in 0..STALE_LIMIT {
            assert!(overlap.is_useful());
            assert!(!overlap.accept(&mut pending(), &last, false), "says nothing of the queue");
            assert!(!overlap.accept(&mut pending(), &last, true));
        }
        assert!(!overlap.is_useful());
    }

    #[tokio::test(start_paused = true)]
    async fn a_receive_goes_on_only_beside_a_confirmed_delete() {
        let late = || async {
            sleep(Duration::from_secs(20)).await;
            Some(7)
        };
        let (answer, next) = delete_and_receive(pin!(ready(Ok(Deleted::Confirmed))), pin!(late())).await;
        assert_eq!((answer.unwrap(), next), (Deleted::Confirmed, Some(7)));
        let (answer, next) =
            delete_and_receive(pin!(ready(Ok(Deleted::Unconfirmed))), pin!(pending::<Option<()>>())).await;
        assert_eq!((answer.unwrap(), next), (Deleted::Unconfirmed, None));
        let slow = async {
            sleep(Duration::from_secs(1)).await;
            Ok(Deleted::Unconfirmed)
        };
        let (answer, next) = delete_and_receive(pin!(slow), pin!(ready(Some(7)))).await;
        assert_eq!((answer.unwrap(), next), (Deleted::Unconfirmed, Some(7)), "it was there before the answer");
    }
}
