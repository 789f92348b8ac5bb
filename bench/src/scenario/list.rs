//! A long list, streamed and in one reply: throughput, and memory that it takes on top.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use trilith_proto::etcdserverpb::{RangeRequest, RangeResponse};

use super::{Env, MIB, Measures, bulk};
use crate::{
    client::{Connection, RANGE, RANGE_STREAM},
    payload,
};

const KEYS: u64 = 100_000;
const VALUE: usize = 1024;
/// Lists of each kind; the median of their times counts.
const LISTS: usize = 5;
/// Keys in one page of the warm-up.
const PAGE: i64 = 500;

/// The stream goes first: what one big reply leaves in a server's heap would hide its need.
pub(super) async fn run(env: &mut Env) -> Result<Measures> {
    let keys = env.size(KEYS);
    bulk::put(env, (0..keys).collect(), &|random| {
        payload::json(random, VALUE)
    })
    .await?;
    let connection = Connection::open(&env.endpoint).await?;
    // Pages first, so that caches are full and the lists show their own memory only.
    read_pages(&connection).await?;
    env.settle(Duration::ZERO).await?;
    let meter = env.meter()?;
    let stream = lists(env, &connection, RANGE_STREAM, keys).await?;
    env.settle(Duration::ZERO).await?;
    let range = lists(env, &connection, RANGE, keys).await?;
    let cpu = meter.stop()?;
    let mut measures = vec![
        ("stream_mib_per_s", stream.rate),
        ("range_mib_per_s", range.rate),
    ];
    measures.extend(stream.extra.map(|bytes| ("stream_extra_mib", bytes / MIB)));
    measures.extend(range.extra.map(|bytes| ("range_extra_mib", bytes / MIB)));
    let moved = (2 * LISTS) as f64 * stream.size / MIB;
    measures.extend(cpu.map(|cpu| ("cpu_us_per_mib", cpu / moved)));
    Ok(measures)
}

struct Lists {
    /// Bytes of one reply.
    size: f64,
    /// MiB per second.
    rate: f64,
    /// Peak over what was resident before, in bytes.
    extra: Option<f64>,
}

async fn lists(env: &Env, connection: &Connection, path: &'static str, keys: u64) -> Result<Lists> {
    env.reset_peak()?;
    let before = env.memory()?;
    let mut times = Vec::new();
    let mut size = 0;
    for _ in 0..LISTS {
        let begin = Instant::now();
        size = connection.drain(path, &all(0)).await?;
        times.push(begin.elapsed().as_secs_f64());
        ensure!(
            size > keys * VALUE as u64 * 9 / 10,
            "a list of only {size} bytes"
        );
    }
    times.sort_by(f64::total_cmp);
    let after = env.memory()?;
    let extra = before
        .zip(after)
        .map(|(before, after)| after.peak.saturating_sub(before.resident) as f64);
    Ok(Lists {
        size: size as f64,
        rate: size as f64 / MIB / times[LISTS / 2],
        extra,
    })
}

async fn read_pages(connection: &Connection) -> Result<()> {
    let mut request = all(PAGE);
    loop {
        let page: RangeResponse = connection.ask(RANGE, &request).await?;
        let Some(last) = page.kvs.last().filter(|_| page.more) else {
            return Ok(());
        };
        request.key = [&last.key[..], b"\0"].concat().into();
    }
}

/// A request for every object of a load, at most `limit` of them (0: all).
pub(super) fn all(limit: i64) -> RangeRequest {
    RangeRequest {
        key: payload::PREFIX.into(),
        range_end: payload::PREFIX_END.into(),
        limit,
        ..RangeRequest::default()
    }
}
