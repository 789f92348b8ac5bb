//! Loading many objects in txns of many puts.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use anyhow::Result;
use bytes::Bytes;
use futures::future::try_join_all;
use rand::{SeedableRng as _, rngs::SmallRng};

use super::Env;
use crate::{client::TXN, load::connect, payload};

/// Puts in one txn; etcd's default limit is 128.
pub(super) const PUTS_PER_TXN: usize = 100;
/// Txns under way at once, on as many connections as it takes to keep a server busy.
const CLIENTS: usize = 16;
const CONNECTIONS: u64 = 4;
/// Longest periodic flush that a server may put off the work of a bulk load to.
pub(super) const FLUSH_PERIOD: Duration = Duration::from_secs(35);

/// Puts each of `objects` with what `value` makes for it.
pub(super) async fn put(
    env: &Env,
    objects: Vec<u64>,
    value: &(impl Fn(&mut SmallRng) -> Bytes + Sync),
) -> Result<()> {
    let connections = connect(&env.endpoint, CONNECTIONS).await?;
    let next = Arc::new(AtomicUsize::new(0));
    let chunks: Vec<&[u64]> = objects.chunks(PUTS_PER_TXN).collect();
    let client = async |number: usize| -> Result<()> {
        let connection = &connections[number % connections.len()];
        let txn = connection.target(TXN)?;
        let mut random = SmallRng::seed_from_u64(env.seed ^ (number as u64) << 32);
        while let Some(chunk) = chunks.get(next.fetch_add(1, Ordering::Relaxed)) {
            let entry = |&number: &u64| (payload::key(number), value(&mut random));
            connection
                .unary(&txn, payload::batch(chunk.iter().map(entry)))
                .await?;
        }
        Ok(())
    };
    try_join_all((0..CLIENTS).map(client)).await.map(drop)
}

/// The numbers below `count` in an order without locality.
pub(super) fn shuffled(count: u64) -> impl Iterator<Item = u64> {
    /// A prime that divides no size in use, so that the steps visit every number once.
    const STRIDE: u64 = 611_953;
    (0..count).map(move |number| number * STRIDE % count)
}
