//! Caches a long text for clients that request it at the same time.

use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Mutex;
use tokio::time::Instant;

/// The maximum age of a text that is shared.
const FRESH: Duration = Duration::from_secs(1);

/// The last text, for as long as any client is reading it.
///
/// Clients that do not read keep at most one text per second alive until they time out, however many they are.
#[derive(Debug)]
pub(super) struct Shared(Mutex<(Instant, Weak<String>)>);

impl Default for Shared {
    fn default() -> Self {
        Self(Mutex::new((Instant::now(), Weak::new())))
    }
}

impl Shared {
    /// The text that another client is reading, or a new one. Only one is created at a time.
    ///
    /// # Errors
    /// Those of `make`.
    pub(super) async fn get<E>(&self, make: impl FnOnce() -> Result<String, E>) -> Result<Bytes, E> {
        let mut last = self.0.lock().await;
        let held = last.1.upgrade().filter(|_| last.0.elapsed() < FRESH);
        let text = if let Some(held) = held {
            held
        } else {
            let mut text = make()?;
            text.shrink_to_fit();
            let text = Arc::new(text);
            *last = (Instant::now(), Arc::downgrade(&text));
            text
        };
        Ok(Bytes::from_owner(Held(text)))
    }
}

/// A reader's share.
struct Held(Arc<String>);

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    async fn get(shared: &Shared, text: &str) -> Bytes {
        shared.get(|| Ok::<_, Infallible>(text.to_owned())).await.expect("a text")
    }

    #[tokio::test(start_paused = true)]
    async fn a_text_is_shared_only_while_somebody_reads_it_and_it_is_new() {
        let shared = Shared::default();
        let first = get(&shared, "1").await;
        let second = get(&shared, "2").await;
        assert_eq!((&first[..], first.as_ptr()), (&b"1"[..], second.as_ptr()), "one text in memory");
        drop((first, second));
        let third = get(&shared, "3").await;
        assert_eq!(third, "3", "nobody reads the first any more");
        tokio::time::advance(FRESH).await;
        assert_eq!(get(&shared, "4").await, "4", "the third is old");
        assert_eq!(third, "3");
        shared.get(|| Err("not made")).await.expect_err("none is read");
    }
}
