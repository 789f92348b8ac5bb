//! A database of a million keys: loading and overwriting it, a page, a full list, and starts.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use trilith_proto::etcdserverpb::RangeResponse;

use super::{Env, MIB, Measures, bulk, key_value, list};
use crate::{
    client::{Connection, RANGE},
    payload::Values,
};

const KEYS: u64 = 1_000_000;
const VALUE: usize = 256;
/// Pages that are timed; their median counts.
const PAGES: usize = 21;
const PAGE: i64 = 500;

pub(super) async fn run(env: &mut Env) -> Result<Measures> {
    let keys = env.size(KEYS);
    let mut measures = Measures::new();
    let load = put(env, (0..keys).collect()).await?;
    measures.extend(load.cpu.map(|cpu| ("load_cpu_us_per_key", cpu)));
    measures.push(("load_keys_per_s", load.rate));
    let overwrite = put(env, bulk::shuffled(keys).take(keys as usize / 2).collect()).await?;
    measures.extend(overwrite.cpu.map(|cpu| ("overwrite_cpu_us_per_key", cpu)));
    measures.push(("overwrite_keys_per_s", overwrite.rate));
    let connection = Connection::open(&env.endpoint).await?;
    measures.push(("page_us", page(&connection, keys).await?));
    measures.extend(full_list(env, &connection, keys).await?);
    drop(connection);
    measures.extend(starts(env).await?);
    Ok(measures)
}

struct Bulk {
    /// Microseconds of CPU per key, with what the server does after the last answer.
    cpu: Option<f64>,
    /// Keys per second until the last answer.
    rate: f64,
}

async fn put(env: &Env, objects: Vec<u64>) -> Result<Bulk> {
    let values = Values::new(VALUE, env.seed);
    let count = objects.len() as f64;
    let meter = env.meter()?;
    let begin = Instant::now();
    bulk::put(env, objects, &|random| values.pick(random)).await?;
    let rate = count / begin.elapsed().as_secs_f64();
    env.settle(bulk::FLUSH_PERIOD).await?;
    Ok(Bulk {
        cpu: meter.stop()?.map(|cpu| cpu / count),
        rate,
    })
}

/// Microseconds for the first page of all keys, with the count of all of them.
async fn page(connection: &Connection, keys: u64) -> Result<f64> {
    let mut times = Vec::new();
    for _ in 0..PAGES {
        let begin = Instant::now();
        let page: RangeResponse = connection.ask(RANGE, &list::all(PAGE)).await?;
        times.push(begin.elapsed().as_secs_f64() * 1e6);
        ensure!(
            page.count == keys as i64,
            "counted {} of {keys} keys",
            page.count
        );
    }
    times.sort_by(f64::total_cmp);
    Ok(times[PAGES / 2])
}

async fn full_list(env: &Env, connection: &Connection, keys: u64) -> Result<Measures> {
    /// For an allocator to give back what the list took.
    const RELEASE: Duration = Duration::from_secs(12);
    let before = env.memory()?.context("the process is unknown")?;
    let size = connection.drain(RANGE, &list::all(0)).await?;
    ensure!(size > keys * VALUE as u64, "a list of only {size} bytes");
    env.settle(RELEASE).await?;
    let after = env.memory()?.context("the process is unknown")?;
    Ok(vec![
        ("resident_before_list_mib", before.resident as f64 / MIB),
        ("resident_after_list_mib", after.resident as f64 / MIB),
        ("peak_mib", after.peak as f64 / MIB),
    ])
}

/// Milliseconds from exec to the first answered linearizable read.
pub(super) async fn starts(env: &mut Env) -> Result<Measures> {
    /// Starts of each kind; their median counts.
    const STARTS: usize = 3;
    /// Puts right before each end.
    const RECENT: u64 = 20_000;
    let mut times = [Vec::new(), Vec::new()];
    for _ in 0..STARTS {
        for (is_crash, times) in [false, true].into_iter().zip(&mut times) {
            // Fresh writes: a crash must have something to recover, a stop something to save.
            key_value::put_some(env, RECENT).await?;
            let server = env.owned()?;
            if is_crash {
                server.kill()?;
            } else {
                server.stop().await?;
            }
            times.push(server.launch().await?.as_secs_f64() * 1e3);
            env.pid = Some(env.owned()?.pid()?);
            // The next start must not find this one's leftovers half done.
            env.settle(Duration::ZERO).await?;
        }
    }
    times
        .iter_mut()
        .for_each(|times| times.sort_by(f64::total_cmp));
    let [clean, crash] = times.map(|times| times[STARTS / 2]);
    Ok(vec![("start_clean_ms", clean), ("start_crash_ms", crash)])
}
