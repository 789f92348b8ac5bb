//! What values of the usual kind take on disk.

use anyhow::Result;

use super::{Env, Measures, bulk};
use crate::payload;

const KEYS: u64 = 1_000_000;
const VALUE: usize = 1024;

pub(super) async fn run(env: &mut Env) -> Result<Measures> {
    let keys = env.size(KEYS);
    bulk::put(env, (0..keys).collect(), &|random| {
        payload::json(random, VALUE)
    })
    .await?;
    env.settle(bulk::FLUSH_PERIOD).await?;
    let disk = env.owned()?.disk()?;
    Ok(vec![
        (
            "bytes_per_key",
            (disk.state + disk.log) as f64 / keys as f64,
        ),
        ("state_bytes_per_key", disk.state as f64 / keys as f64),
        ("log_bytes_per_key", disk.log as f64 / keys as f64),
    ])
}
