//! Resolves names and caches the addresses for a minute, because thousands of connections need a few names.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use hyper_util::client::legacy::connect::dns::Name;
use tokio::time::timeout;
use tower_service::Service;

const REMEMBERED: Duration = Duration::from_secs(60);
/// How long the system may take while there is a cached answer. Without a reachable resolver it takes longer than a connection
/// may.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(2);

/// Resolves through the system, one query per name at a time. If the system fails, the last answer stays in use.
#[derive(Clone, Default)]
pub(super) struct Addresses(Arc<Mutex<HashMap<String, Known>>>);

/// Locked during a query: all others who need the name wait for the same answer.
type Known = Arc<tokio::sync::Mutex<Option<(Instant, Vec<SocketAddr>)>>>;

impl Addresses {
    fn of(&self, name: &str) -> Known {
        let mut names = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(names.entry(name.to_owned()).or_default())
    }
}

impl Service<Name> for Addresses {
    type Response = std::vec::IntoIter<SocketAddr>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, name: Name) -> Self::Future {
        let known = self.of(name.as_str());
        Box::pin(async move {
            let mut known = known.lock().await;
            let is_fresh = known.as_ref().is_some_and(|(asked, _)| asked.elapsed() < REMEMBERED);
            if !is_fresh {
                // The URL provides the port.
                let asking = tokio::net::lookup_host((name.as_str(), 0));
                let answer = match *known {
                    Some(_) => timeout(RESOLVE_TIMEOUT, asking).await.unwrap_or_else(|late| Err(late.into())),
                    None => asking.await,
                };
                match (answer, &mut *known) {
                    (Ok(found), _) => *known = Some((Instant::now(), found.collect())),
                    (Err(_), Some((asked, _))) => *asked = Instant::now(),
                    (Err(error), None) => return Err(error),
                }
            }
            let found = known.as_ref().map(|(_, found)| found.clone()).unwrap_or_default();
            Ok(found.into_iter())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn found(addresses: &Addresses, name: &str) -> Option<Vec<SocketAddr>> {
        addresses.clone().call(name.parse().unwrap()).await.ok().map(Iterator::collect)
    }

    #[tokio::test]
    async fn an_answer_is_remembered_and_outlives_the_system_s_memory() {
        let addresses = Addresses::default();
        assert!(found(&addresses, "localhost").await.is_some_and(|found| !found.is_empty()));
        assert!(found(&addresses, "host.invalid").await.is_none());
        let last = vec![SocketAddr::from(([192, 0, 2, 1], 0))];
        let long_ago = Instant::now().checked_sub(2 * REMEMBERED).unwrap();
        *addresses.of("host.invalid").lock().await = Some((long_ago, last.clone()));
        assert_eq!(found(&addresses, "host.invalid").await, Some(last));
        let fresh = vec![SocketAddr::from(([192, 0, 2, 2], 0))];
        *addresses.of("localhost").lock().await = Some((Instant::now(), fresh.clone()));
        assert_eq!(found(&addresses, "localhost").await, Some(fresh), "the system was not asked");
    }
}
