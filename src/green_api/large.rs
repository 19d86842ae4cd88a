//! Limits the memory of large answers, over all instances. Small ones need no permit.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

/// The largest answer that is read; a notification's body has no documented limit.
pub(super) const LARGEST_ANSWER: usize = 64 << 20;
/// Answers up to this size need no permit, and are parsed on the threads that serve all instances.
pub(super) const SMALL: usize = 256 << 10;
/// The sum of all permits.
const TOGETHER: usize = 256 << 20;
/// How long to wait for a permit.
const PERMIT_TIMEOUT: Duration = Duration::from_secs(10);

/// Permits of one byte each. Clones share them.
#[derive(Clone, Debug)]
pub(super) struct LargeAnswers(Arc<Semaphore>);

impl Default for LargeAnswers {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(TOGETHER)))
    }
}

/// Why an answer cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NotRead {
    /// Larger than the maximum.
    TooLarge,
    /// Other large answers take the memory.
    OverMemoryLimit,
}

/// An answer that is being read.
pub(super) struct Reading<'a> {
    large: &'a LargeAnswers,
    largest: usize,
    announced: usize,
    first: Bytes,
    whole: Option<BytesMut>,
    permit: Option<OwnedSemaphorePermit>,
}

impl<'a> Reading<'a> {
    /// Waits for a permit before reading, if the answer announces that it is large. Not more than `largest` bytes are read.
    pub(super) async fn start(large: &'a LargeAnswers, length: Option<u64>, largest: usize) -> Result<Self, NotRead> {
        let mut reading = Self { large, largest, announced: 0, first: Bytes::new(), whole: None, permit: None };
        match length.map(usize::try_from) {
            Some(Ok(length)) if length > largest => return Err(NotRead::TooLarge),
            Some(Ok(length)) if length <= SMALL => reading.announced = length,
            Some(Ok(length)) => reading.permit = Some(large.permit(length).await?),
            Some(Err(_)) => return Err(NotRead::TooLarge),
            None => {}
        }
        Ok(reading)
    }

    /// Appends the next part. An answer of one part is not copied.
    pub(super) async fn push(&mut self, part: Bytes) -> Result<(), NotRead> {
        let length = self.first.len() + self.whole.as_ref().map_or(0, BytesMut::len) + part.len();
        if length > self.largest {
            return Err(NotRead::TooLarge);
        }
        if length > SMALL && self.permit.is_none() {
            self.permit = Some(self.large.permit(self.largest).await?);
        }
        if length == part.len() {
            self.first = part;
            return Ok(());
        }
        // The whole size is reserved at once, because growing would need as much again. Unwritten memory costs nothing.
        let capacity = self.permit.as_ref().map_or(self.announced, OwnedSemaphorePermit::num_permits);
        let whole = self.whole.get_or_insert_with(BytesMut::new);
        whole.reserve(capacity.saturating_sub(whole.len()));
        whole.extend_from_slice(&std::mem::take(&mut self.first));
        whole.extend_from_slice(&part);
        Ok(())
    }

    /// The complete answer. Its permit is released with the last clone of these bytes.
    pub(super) fn finish(self) -> Bytes {
        let whole = self.whole.map_or(self.first, BytesMut::freeze);
        match self.permit {
            None => whole,
            Some(mut permit) => {
                drop(permit.split(permit.num_permits().saturating_sub(whole.len())));
                Bytes::from_owner(Permitted { whole, _permit: permit })
            }
        }
    }
}

impl LargeAnswers {
    async fn permit(&self, bytes: usize) -> Result<OwnedSemaphorePermit, NotRead> {
        let bytes = u32::try_from(bytes).map_err(|_more_than_all| NotRead::TooLarge)?;
        match timeout(PERMIT_TIMEOUT, Arc::clone(&self.0).acquire_many_owned(bytes)).await {
            Ok(Ok(permit)) => Ok(permit),
            Ok(Err(_)) | Err(_) => Err(NotRead::OverMemoryLimit),
        }
    }
}

struct Permitted {
    whole: Bytes,
    _permit: OwnedSemaphorePermit,
}

impl AsRef<[u8]> for Permitted {
    fn as_ref(&self) -> &[u8] {
        &self.whole
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: usize = 1 << 20;

    async fn read(large: &LargeAnswers, length: Option<usize>, parts: &[usize]) -> Result<Bytes, NotRead> {
        let mut reading = Reading::start(large, length.map(|length| length as u64), LARGEST_ANSWER).await?;
        for part in parts {
            reading.push(Bytes::from(vec![b'x'; *part])).await?;
        }
        Ok(reading.finish())
    }

    #[tokio::test(start_paused = true)]
    async fn large_answers_share_256_mib_and_small_ones_need_none() {
        let large = LargeAnswers::default();
        let mut in_hand = Vec::new();
        for _ in 0..4 {
            in_hand.push(read(&large, Some(64 * MIB), &[32 * MIB, 32 * MIB]).await.unwrap());
        }
        assert_eq!(read(&large, Some(SMALL + 1), &[SMALL + 1]).await, Err(NotRead::OverMemoryLimit));
        assert_eq!(read(&large, None, &[SMALL, 1]).await, Err(NotRead::OverMemoryLimit));
        assert_eq!(read(&large, Some(SMALL), &[SMALL]).await.unwrap().len(), SMALL);
        assert_eq!(read(&large, None, &[SMALL]).await.unwrap().len(), SMALL);
        // Clones of the bytes keep the permit.
        let part = in_hand.pop().unwrap().slice(1..2);
        assert_eq!(read(&large, Some(MIB), &[MIB]).await, Err(NotRead::OverMemoryLimit));
        drop(part);
        assert!(read(&large, Some(MIB), &[MIB]).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn of_an_unknown_length_only_what_it_has_is_kept() {
        let large = LargeAnswers::default();
        let mut in_hand = Vec::new();
        for _ in 0..100 {
            in_hand.push(read(&large, None, &[MIB, MIB / 2]).await.unwrap());
        }
        assert!(in_hand.iter().all(|answer| answer.len() == MIB + MIB / 2));
        assert_eq!(large.0.available_permits(), 256 * MIB - 150 * MIB);
    }

    #[tokio::test]
    async fn more_than_64_mib_is_too_large_however_it_comes() {
        let large = LargeAnswers::default();
        assert_eq!(read(&large, Some(LARGEST_ANSWER + 1), &[]).await, Err(NotRead::TooLarge));
        assert_eq!(read(&large, None, &[LARGEST_ANSWER, 1]).await, Err(NotRead::TooLarge));
        assert_eq!(large.0.available_permits(), TOGETHER);
        assert_eq!(read(&large, Some(3), &[3]).await.unwrap(), "xxx");
    }
}
