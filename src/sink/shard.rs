//! The division of instances into shards.

use murmur2::murmur2;

use crate::notification::InstanceId;

/// The seed used by Kafka's clients.
const SEED: u32 = 0x9747_b28c;

/// One of the parts into which a sink divides its instances. Each shard has its own owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Shard(u16);

impl Shard {
    pub(super) fn new(index: u16) -> Self {
        Self(index)
    }

    /// The shard of an instance, one of `count`: the partition that Kafka's producers choose for its id as the key.
    pub(super) fn of(instance: InstanceId, count: u16) -> Self {
        Self(u16::try_from(partition_of(&instance.to_string(), count.into())).unwrap_or(0))
    }

    /// The element of `each` that belongs to the shard of an instance.
    pub(crate) fn of_instance<T>(instance: InstanceId, each: &[T]) -> Option<&T> {
        let count = u16::try_from(each.len()).unwrap_or(u16::MAX);
        each.get(usize::from(Self::of(instance, count).index()))
    }

    /// Its number, starting with 0.
    #[must_use]
    pub fn index(self) -> u16 {
        self.0
    }
}

/// The partition of a key among `count`, as Java's producers and `murmur2_random` choose it.
pub(super) fn partition_of(key: &str, count: i32) -> i32 {
    let hash = i32::try_from(murmur2(key.as_bytes(), SEED) & 0x7fff_ffff).unwrap_or(0);
    hash % count.max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_meet_those_of_java_producers() {
        // From the tests of Apache Kafka (UtilsTest.testMurmur2), made positive as its partitioner does it.
        for (key, hash) in [("21", -973_932_308), ("foobar", -790_332_482), ("a-little-bit-long-string", -985_981_536)]
        {
            assert_eq!(partition_of(key, i32::MAX), (hash & 0x7fff_ffff) % i32::MAX, "{key}");
        }
    }

    #[test]
    fn instances_are_shared_out_over_all_shards_alike() {
        let mut counts = [0; 12];
        for id in 1_101_000_000_u64..1_101_012_000 {
            counts[usize::from(Shard::of(id.to_string().parse().unwrap(), 12).index())] += 1;
        }
        assert!(counts.iter().all(|count| (900..1100).contains(count)), "{counts:?}");
    }
}
