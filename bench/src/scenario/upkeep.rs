//! What an operator does to a database beside its clients: defragmentation and compaction.

use anyhow::{Context as _, Result};
use trilith_proto::etcdserverpb::{
    CompactionRequest, CompactionResponse, DefragmentRequest, DefragmentResponse, RangeResponse,
};

use super::{Env, Measures, bulk, key_value, list, steady};
use crate::{
    client::{COMPACT, Connection, DEFRAGMENT, RANGE},
    payload::Values,
};

/// 2 GB, of which a quarter is overwritten before.
const LARGE_KEYS: u64 = 2_000_000;
const LARGE_VALUE: usize = 1_000;

/// A million changes of a tenth as many keys.
const KEYS: u64 = 100_000;
const CHANGES: u64 = 1_000_000;
const VALUE: usize = 256;

/// Changes whose compaction should cost the same in a small and in a large database.
const FEW_CHANGES: u64 = 10_000;

/// Puts while 2 GB with garbage in them are defragmented.
pub(super) async fn defragment(env: &mut Env) -> Result<Measures> {
    let keys = env.size(LARGE_KEYS);
    let values = Values::new(LARGE_VALUE, env.seed);
    let value = |random: &mut _| values.pick(random);
    bulk::put(env, (0..keys).collect(), &value).await?;
    bulk::put(env, (0..keys / 4).collect(), &value).await?;
    let connection = Connection::open(&env.endpoint).await?;
    compact(&connection).await?;
    env.settle(bulk::FLUSH_PERIOD).await?;
    let alone = steady::alone(env, keys).await?;
    let work = async {
        let request = DefragmentRequest::default();
        connection
            .ask::<_, DefragmentResponse>(DEFRAGMENT, &request)
            .await
    };
    let (_, puts) = steady::beside(env, keys, work).await?;
    Ok(steady::compared(&alone, &puts))
}

/// Puts while a million revisions are compacted.
pub(super) async fn compaction(env: &mut Env) -> Result<Measures> {
    let (keys, changes) = (env.size(KEYS), env.size(CHANGES));
    let values = Values::new(VALUE, env.seed);
    let objects = (0..changes).map(|change| change % keys).collect();
    bulk::put(env, objects, &|random| values.pick(random)).await?;
    env.settle(bulk::FLUSH_PERIOD).await?;
    let connection = Connection::open(&env.endpoint).await?;
    let alone = steady::alone(env, keys).await?;
    let (_, puts) = steady::beside(env, keys, compact(&connection)).await?;
    Ok(steady::compared(&alone, &puts))
}

/// Microseconds of CPU that the compaction of a few changes takes, with what runs after it.
pub(super) async fn few_changes(env: &Env, keys: u64) -> Result<f64> {
    let connection = Connection::open(&env.endpoint).await?;
    compact(&connection).await?;
    key_value::put_over(env, keys, env.size(FEW_CHANGES)).await?;
    env.settle(bulk::FLUSH_PERIOD).await?;
    let meter = env.meter()?;
    compact(&connection).await?;
    env.settle(std::time::Duration::ZERO).await?;
    meter.stop()?.context("the process is unknown")
}

/// Compacts at the current revision and waits until the old ones are gone.
async fn compact(connection: &Connection) -> Result<()> {
    let page: RangeResponse = connection.ask(RANGE, &list::all(1)).await?;
    let request = CompactionRequest {
        revision: page.header.context("no header")?.revision,
        physical: true,
    };
    connection
        .ask::<_, CompactionResponse>(COMPACT, &request)
        .await
        .map(drop)
}
