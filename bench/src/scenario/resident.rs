//! Memory of a server that has hardly anything to hold.

use std::time::Duration;

use anyhow::{Context as _, Result};

use super::{Env, MIB, Measures, key_value};

/// Time for a fresh server to finish its start.
const START: Duration = Duration::from_secs(3);

pub(super) async fn run(env: &mut Env) -> Result<Measures> {
    env.settle(START).await?;
    let fresh = env.memory()?.context("the process is unknown")?;
    key_value::put_some(env, 50_000).await?;
    env.settle(Duration::ZERO).await?;
    let after = env.memory()?.context("the process is unknown")?;
    Ok(vec![
        ("fresh_mib", fresh.resident as f64 / MIB),
        ("after_puts_mib", after.resident as f64 / MIB),
        ("after_puts_peak_mib", after.peak as f64 / MIB),
    ])
}
