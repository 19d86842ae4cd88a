//! The shards in `/status`.

use std::sync::Arc;

use serde::Serialize;

use super::time;
use crate::metrics::{ShardStatus, State};

#[derive(Serialize)]
pub(super) struct ShardsShown {
    held: usize,
    of: usize,
    each: Vec<ShardShown>,
}

#[derive(Serialize)]
struct ShardShown {
    shard: usize,
    state: &'static str,
    /// RFC 3339.
    since: Option<String>,
    /// The cause of its conditions.
    #[serde(skip_serializing_if = "Option::is_none")]
    why: Option<String>,
}

impl ShardsShown {
    /// `None` if the sink is not shared.
    pub(super) fn of(shards: &[Arc<ShardStatus>]) -> Option<Self> {
        let each = shards.iter().enumerate().map(|(shard, status)| {
            let (state, since) = status.state();
            let why = status.conditions().cause().map(str::to_owned);
            ShardShown { shard, state: state.name(), since: time(since), why }
        });
        let each: Vec<ShardShown> = each.collect();
        let held = each.iter().filter(|shard| shard.state == State::Held.name()).count();
        (each.len() > 1).then_some(Self { held, of: each.len(), each })
    }
}
