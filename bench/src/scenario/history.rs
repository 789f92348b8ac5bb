//! A database with a history: counts and pages of the past, hashes, and a watcher far behind.

use std::{
    cell::Cell,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use trilith_proto::etcdserverpb::{
    HashKvRequest, HashKvResponse, RangeResponse, WatchCreateRequest, WatchRequest, watch_request,
};

use super::{Env, Measures, bulk, key_value, list, steady};
use crate::{
    client::{Connection, Frames, HASH_KV, RANGE, WATCH, frame},
    payload::{self, Values},
    wire,
};

const KEYS: u64 = 1_000_000;
const VALUE: usize = 256;
/// Revisions of one change each, after the load.
const CHANGES: u64 = 500_000;
/// As many of them lie after the past revision that is read.
const BACK: u64 = 100_000;
const PAGE: i64 = 500;
/// Requests of a kind that are timed; their median counts.
const REQUESTS: usize = 11;
/// Hashes go on for so long, so that there are puts enough to compare.
const HASHING: Duration = Duration::from_secs(5);
/// By then a rate is known; etcd, which reads a thousand changes ten times a second beside puts,
/// would need ten minutes.
const CATCH_UP_MAX: Duration = Duration::from_secs(60);

pub(super) async fn run(env: &mut Env) -> Result<Measures> {
    let (keys, changes) = (env.size(KEYS), env.size(CHANGES));
    let values = Values::new(VALUE, env.seed);
    bulk::put(env, (0..keys).collect(), &|random| values.pick(random)).await?;
    let connection = Connection::open(&env.endpoint).await?;
    let loaded = revision(&connection).await?;
    key_value::put_over(env, keys, changes - env.size(BACK)).await?;
    let past = revision(&connection).await?;
    key_value::put_over(env, keys, env.size(BACK)).await?;
    env.settle(bulk::FLUSH_PERIOD).await?;

    let mut measures = Measures::new();
    for (name, limit, at) in [
        ("count_us", None, 0),
        ("page_us", Some(PAGE), 0),
        ("past_count_us", None, past),
        ("past_page_us", Some(PAGE), past),
    ] {
        measures.push((name, ranges(&connection, keys, limit, at).await?));
    }
    let alone = steady::alone(env, keys).await?;
    measures.push(("alone_p99_us", alone.quantile(0.99)));
    let (rate, puts) = steady::beside(env, keys, hashes(env, &connection)).await?;
    measures.push(("hash_rows_per_s", rate));
    measures.push((
        "hash_p99_times_alone",
        puts.quantile(0.99) / alone.quantile(0.99),
    ));
    let work = catch_up(&connection, loaded + 1, changes);
    let (rate, puts) = steady::beside(env, keys, work).await?;
    measures.push(("catch_up_rows_per_s", rate));
    measures.push((
        "catch_up_p99_times_alone",
        puts.quantile(0.99) / alone.quantile(0.99),
    ));
    Ok(measures)
}

async fn revision(connection: &Connection) -> Result<i64> {
    let page: RangeResponse = connection.ask(RANGE, &list::all(1)).await?;
    Ok(page.header.context("no header")?.revision)
}

/// Microseconds for a page of all keys, or their count alone, as of `revision`.
async fn ranges(
    connection: &Connection,
    keys: u64,
    limit: Option<i64>,
    revision: i64,
) -> Result<f64> {
    let mut request = list::all(limit.unwrap_or_default());
    (request.count_only, request.revision) = (limit.is_none(), revision);
    let mut times = Vec::new();
    for _ in 0..REQUESTS {
        let begin = Instant::now();
        let reply: RangeResponse = connection.ask(RANGE, &request).await?;
        times.push(begin.elapsed().as_secs_f64() * 1e6);
        ensure!(
            reply.count == keys as i64,
            "counted {} of {keys} keys",
            reply.count
        );
    }
    times.sort_by(f64::total_cmp);
    Ok(times[REQUESTS / 2])
}

/// Rows hashed per second: every revision that is kept is one.
async fn hashes(env: &Env, connection: &Connection) -> Result<f64> {
    let at_least = if env.is_short { HASHING / 8 } else { HASHING };
    let rows = Cell::new(0.0);
    let begin = Instant::now();
    while begin.elapsed() < at_least {
        let reply: HashKvResponse = connection.ask(HASH_KV, &HashKvRequest::default()).await?;
        // Loaded a hundred keys to a revision, then changed one by one.
        let txns = env.size(KEYS).div_ceil(bulk::PUTS_PER_TXN as u64);
        let singles = reply.hash_revision as u64 - 1 - txns;
        rows.set(rows.get() + (env.size(KEYS) + singles) as f64);
    }
    Ok(rows.get() / begin.elapsed().as_secs_f64())
}

/// Events per second of a watcher that starts `events` revisions back, until it has them all or
/// [`CATCH_UP_MAX`] is over.
async fn catch_up(connection: &Connection, from: i64, events: u64) -> Result<f64> {
    let create = WatchCreateRequest {
        key: payload::PREFIX.into(),
        range_end: payload::PREFIX_END.into(),
        start_revision: from,
        ..WatchCreateRequest::default()
    };
    let create = WatchRequest {
        request_union: Some(watch_request::RequestUnion::CreateRequest(create)),
    };
    let begin = Instant::now();
    let target = connection.target(WATCH)?;
    let mut call = connection.call(&target, frame(&create), false).await?;
    let mut frames = Frames::default();
    let mut seen = 0;
    while seen < events && begin.elapsed() < CATCH_UP_MAX {
        let chunk = call.replies.chunk().await?;
        let chunk = chunk.context("the watch stream has ended")?;
        frames.feed(&chunk, |message| {
            wire::fields(message, |field, _| match field {
                wire::WATCH_CANCELED => bail!("the watch was canceled"),
                wire::WATCH_EVENTS => {
                    seen += 1;
                    Ok(())
                }
                _ => Ok(()),
            })
        })?;
    }
    Ok(seen as f64 / begin.elapsed().as_secs_f64())
}
