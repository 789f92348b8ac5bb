//! A database of ten million keys: memory under a mixed load, and starts.

use anyhow::{Context as _, Result};

use super::{Env, MIB, Measures, bulk, key_value, million, upkeep};
use crate::payload::Values;

const KEYS: u64 = 10_000_000;
/// Of the small database whose compaction is compared.
const FEW_KEYS: u64 = 100_000;
const VALUE: usize = 256;
/// Operations of the mixed load, over all keys.
const MIXED: u64 = 400_000;

pub(super) async fn run(env: &mut Env) -> Result<Measures> {
    let keys = env.size(KEYS);
    let values = Values::new(VALUE, env.seed);
    let value = |random: &mut _| values.pick(random);
    let few = env.size(FEW_KEYS);
    bulk::put(env, (0..few).collect(), &value).await?;
    let small = upkeep::few_changes(env, few).await?;
    bulk::put(env, (few..keys).collect(), &value).await?;
    env.settle(bulk::FLUSH_PERIOD).await?;
    env.reset_peak()?;
    let mixed = key_value::mix_over(env, keys, MIXED).await?;
    let memory = env.memory()?.context("the process is unknown")?;
    let mut measures = vec![
        ("mixed_rate_per_s", mixed.rate()),
        ("peak_mib", memory.peak as f64 / MIB),
    ];
    let large = upkeep::few_changes(env, keys).await?;
    measures.push(("compact_cpu_us", large));
    measures.push(("compact_times_small", large / small.max(1.0)));
    measures.extend(million::starts(env).await?);
    Ok(measures)
}
