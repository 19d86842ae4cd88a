//! Requests a second, per instance and method, as in the vendor's table.

use super::fault::Method;
use super::knobs::Knobs;

/// A token bucket per method.
#[derive(Default)]
pub(super) struct Rates {
    buckets: Vec<Bucket>,
}

struct Bucket {
    method: Method,
    tokens: f64,
    at_ms: u64,
}

/// What the headers of an answer say.
#[derive(Clone, Copy)]
pub(super) struct Allowance {
    pub(super) remaining: Option<u32>,
    pub(super) per_second: u32,
}

impl Rates {
    /// Counts a request. Nothing remains, not even this one, when it is refused.
    pub(super) fn take(&mut self, now_ms: u64, method: Method, knobs: &Knobs) -> Allowance {
        let per_second = per_second(method);
        let burst = f64::from(knobs.rate_burst.unwrap_or(per_second));
        let index = self.buckets.iter().position(|bucket| bucket.method == method).unwrap_or_else(|| {
            self.buckets.push(Bucket { method, tokens: burst, at_ms: now_ms });
            self.buckets.len() - 1
        });
        let bucket = &mut self.buckets[index];
        let elapsed = f64::from(u32::try_from(now_ms.saturating_sub(bucket.at_ms)).unwrap_or(u32::MAX));
        bucket.tokens = (bucket.tokens + elapsed / 1000.0 * f64::from(per_second)).min(burst);
        bucket.at_ms = now_ms;
        if bucket.tokens < 1.0 {
            return Allowance { remaining: None, per_second };
        }
        bucket.tokens -= 1.0;
        // Positive and small: a bucket holds no more than its burst.
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to `burst`, a u32")]
        let remaining = Some(bucket.tokens as u32);
        Allowance { remaining, per_second }
    }
}

fn per_second(method: Method) -> u32 {
    match method {
        Method::ReceiveNotification | Method::DeleteNotification => 100,
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_allowed_then_the_rate_and_methods_do_not_share() {
        let (mut rates, knobs) = (Rates::default(), Knobs { rate_burst: Some(2), ..Knobs::default() });
        let mut take = |now, method| rates.take(now, method, &knobs).remaining;
        let receive = Method::ReceiveNotification;
        assert_eq!([take(0, receive), take(0, receive), take(0, receive)], [Some(1), Some(0), None]);
        assert_eq!(take(0, Method::DeleteNotification), Some(1));
        assert_eq!([take(10, receive), take(10, receive)], [Some(0), None]);
        assert_eq!(take(9_999, receive), Some(1), "no more than the burst is saved up");
    }
}
