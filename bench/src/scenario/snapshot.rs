//! A snapshot of a database of 2 GB while puts go on.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use trilith_proto::etcdserverpb::SnapshotRequest;

use super::{Env, MIB, Measures, bulk, steady};
use crate::{
    client::{Connection, SNAPSHOT},
    payload::Values,
};

const KEYS: u64 = 2_000_000;
const VALUE: usize = 1_000;

pub(super) async fn run(env: &mut Env) -> Result<Measures> {
    let keys = env.size(KEYS);
    let values = Values::new(VALUE, env.seed);
    bulk::put(env, (0..keys).collect(), &|random| values.pick(random)).await?;
    env.settle(bulk::FLUSH_PERIOD).await?;
    let connection = Connection::open(&env.endpoint).await?;
    let alone = steady::alone(env, keys).await?;
    env.settle(Duration::ZERO).await?;
    env.reset_peak()?;
    let before = env.memory()?.context("the process is unknown")?;
    let save = async {
        let begin = Instant::now();
        let size = connection
            .drain(SNAPSHOT, &SnapshotRequest::default())
            .await?;
        ensure!(
            size > keys * VALUE as u64,
            "a snapshot of only {size} bytes"
        );
        Ok(size as f64 / MIB / begin.elapsed().as_secs_f64())
    };
    let (rate, puts) = steady::beside(env, keys, save).await?;
    let after = env.memory()?.context("the process is unknown")?;
    let extra = after.peak.saturating_sub(before.resident) as f64 / MIB;
    let mut measures = vec![("mib_per_s", rate), ("extra_mib", extra)];
    measures.extend(steady::compared(&alone, &puts));
    Ok(measures)
}
