//! Snapshots of a large state while writes go on: throughput, what writers notice, memory.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use trilith_proto::etcdserverpb::SnapshotRequest;

use super::{Env, MIB, Measures, bulk};
use crate::{
    client::{Connection, SNAPSHOT},
    load::{self, Load, Operation, Outcome},
    payload,
};

/// With their values not far below etcd's default quota of 2 GiB.
const KEYS: u64 = 1_500_000;
const VALUE: usize = 1024;
/// Far below what any server can do, so that only what the snapshots take shows.
const PUTS_PER_SECOND: f64 = 500.0;
/// Puts of each of the two loads: half a minute, and the length of several snapshots.
const PUTS: u64 = 15_000;

pub(super) async fn run(env: &mut Env) -> Result<Measures> {
    let keys = env.size(KEYS);
    bulk::put(env, (0..keys).collect(), &|random| {
        payload::json(random, VALUE)
    })
    .await?;
    env.settle(bulk::FLUSH_PERIOD).await?;
    let alone = puts(env).await?;
    env.reset_peak()?;
    let before = env.memory()?;
    let connection = Connection::open(&env.endpoint).await?;
    let meter = env.meter()?;
    let mut snapshots = Snapshots::default();
    let beside = {
        let beside = puts(env);
        tokio::pin!(beside);
        loop {
            tokio::select! {
                outcome = &mut beside => break outcome?,
                taken = snapshots.take(&connection) => taken?,
            }
        }
    };
    let cpu = meter.stop()?;
    let after = env.memory()?;
    // The short form's puts may be over before the first one is.
    if snapshots.bytes == 0 {
        snapshots.take(&connection).await?;
    }
    ensure!(
        snapshots.bytes > keys * VALUE as u64,
        "snapshots of only {} bytes",
        snapshots.bytes
    );
    let mib = snapshots.bytes as f64 / MIB;
    let mut measures = vec![
        ("mib_per_s", mib / snapshots.time.as_secs_f64()),
        ("put_p99_us_alone", alone.quantile(0.99)),
        ("put_p99_us", beside.quantile(0.99)),
        ("put_max_us", beside.quantile(1.0)),
        ("p99_ratio", beside.quantile(0.99) / alone.quantile(0.99)),
    ];
    let extra = before
        .zip(after)
        .map(|(before, after)| after.peak.saturating_sub(before.resident) as f64);
    measures.extend(extra.map(|bytes| ("extra_mib", bytes / MIB)));
    // With what the puts take, which is the same for every server's load.
    measures.extend(cpu.map(|cpu| ("cpu_us_per_mib", cpu / mib)));
    Ok(measures)
}

/// Snapshots that were received whole.
#[derive(Default)]
struct Snapshots {
    bytes: u64,
    time: Duration,
}

impl Snapshots {
    async fn take(&mut self, connection: &Connection) -> Result<()> {
        let begin = Instant::now();
        let request = SnapshotRequest::default();
        self.bytes += connection.drain(SNAPSHOT, &request).await?;
        self.time += begin.elapsed();
        Ok(())
    }
}

async fn puts(env: &Env) -> Result<Outcome> {
    const TIME_LIMIT: Duration = Duration::from_secs(120);
    let load = Load {
        operation: Operation::Put,
        clients: 50,
        connections: 5,
        total: env.size(PUTS),
        time_limit: TIME_LIMIT,
        rate: Some(PUTS_PER_SECOND),
        keys: env.size(KEYS),
        value_size: VALUE,
        seed: env.seed,
    };
    load::run(&env.endpoint, &env.adjusted(load)).await
}
