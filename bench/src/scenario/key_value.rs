//! Puts, gets, updates and the mix of them.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::{Env, Measures, bulk};
use crate::{
    load::{self, Load, Operation, Outcome},
    payload::Values,
};

/// Objects that the loads spread over.
const KEYS: u64 = 100_000;
/// Bytes of a value.
const VALUE: usize = 256;
/// End of a load that a slow server would not finish.
const TIME_LIMIT: Duration = Duration::from_secs(20);

pub(super) async fn put_many(env: &mut Env) -> Result<Measures> {
    closed(env, Operation::Put, 100, 150_000).await
}

pub(super) async fn put_one(env: &mut Env) -> Result<Measures> {
    closed(env, Operation::Put, 1, 15_000).await
}

pub(super) async fn update(env: &mut Env) -> Result<Measures> {
    closed(env, Operation::Update, 100, 100_000).await
}

pub(super) async fn get_linearizable(env: &mut Env) -> Result<Measures> {
    fill(env).await?;
    closed(env, Operation::GetLinearizable, 100, 250_000).await
}

pub(super) async fn get_serializable(env: &mut Env) -> Result<Measures> {
    fill(env).await?;
    closed(env, Operation::GetSerializable, 100, 250_000).await
}

/// The peak in closed loop, then an open loop at 80 % of what the baseline reached.
pub(super) async fn mixed(env: &mut Env) -> Result<Measures> {
    /// Share of the baseline's peak that the open loop asks for.
    const SHARE: f64 = 0.8;
    /// Operations that can wait for an answer at once, so that a stall shows in the latencies.
    const WAITING: u64 = 1_000;
    /// Length of the open loop in seconds.
    const SECONDS: f64 = 8.0;
    fill(env).await?;
    let closed = plan(env, Operation::Mixed, 100, 150_000);
    let peak = load::run(&env.endpoint, &closed).await?.rate();
    let rate = SHARE * *env.peak.get_or_insert(peak);
    let open = env.adjusted(Load {
        clients: WAITING,
        total: (rate * if env.is_short { SECONDS / 8.0 } else { SECONDS }) as u64,
        rate: Some(rate),
        ..closed
    });
    let meter = env.meter()?;
    let outcome = load::run(&env.endpoint, &open).await?;
    let mut measures = vec![("peak_per_s", peak)];
    measures.extend(measured(&outcome, meter.stop()?));
    Ok(measures)
}

/// `total` puts to any of `keys` objects, however long they take.
pub(super) async fn put_over(env: &Env, keys: u64, total: u64) -> Result<()> {
    over(env, Operation::Put, keys, total).await.map(drop)
}

/// `total` gets and puts to any of `keys` objects, which are all there.
pub(super) async fn mix_over(env: &Env, keys: u64, total: u64) -> Result<Outcome> {
    over(env, Operation::Mixed, keys, env.size(total)).await
}

async fn over(env: &Env, operation: Operation, keys: u64, total: u64) -> Result<Outcome> {
    /// A server that needs longer hangs.
    const HANGS: Duration = Duration::from_secs(600);
    let load = Load {
        keys,
        total,
        time_limit: HANGS,
        ..plan(env, operation, 100, total)
    };
    let outcome = load::run(&env.endpoint, &load).await?;
    ensure!(
        outcome.operations == total,
        "{} of {total} operations in {HANGS:?}",
        outcome.operations
    );
    Ok(outcome)
}

/// `total` puts without a measurement.
pub(super) async fn put_some(env: &Env, total: u64) -> Result<()> {
    load::run(&env.endpoint, &plan(env, Operation::Put, 100, total))
        .await
        .map(drop)
}

/// The load of [`plan`] on the one server.
async fn closed(env: &Env, operation: Operation, clients: u64, total: u64) -> Result<Measures> {
    let load = env.adjusted(plan(env, operation, clients, total));
    let (outcome, cpu) = closed_over(env, &[&env.endpoint], &load).await?;
    Ok(measured(&outcome, cpu))
}

/// Warms up with a tenth of the load where that changes nothing, then measures all of it, with the
/// CPU time of the servers.
pub(super) async fn closed_over(
    env: &Env,
    endpoints: &[&str],
    load: &Load,
) -> Result<(Outcome, Option<f64>)> {
    // An update's clients know the revisions of their objects only from their own answers.
    if load.operation != Operation::Update {
        let warm_up = Load {
            total: load.total.div_ceil(10),
            seed: load.seed + 1,
            ..load.clone()
        };
        load::run_over(endpoints, &warm_up).await?;
    }
    let meter = env.meter()?;
    let outcome = load::run_over(endpoints, load).await?;
    Ok((outcome, meter.stop()?))
}

pub(super) fn plan(env: &Env, operation: Operation, clients: u64, total: u64) -> Load {
    /// Clients that share one connection.
    const PER_CONNECTION: u64 = 10;
    Load {
        operation,
        clients,
        connections: clients.div_ceil(PER_CONNECTION),
        total: env.size(total),
        time_limit: TIME_LIMIT,
        rate: None,
        keys: env.size(KEYS),
        value_size: VALUE,
        seed: env.seed,
        stop: None,
    }
}

/// Puts every object once, so that each get finds one.
pub(super) async fn fill(env: &Env) -> Result<()> {
    let load = env.adjusted(plan(env, Operation::Put, 1, 1));
    let values = Values::new(load.value_size, env.seed);
    let value = |random: &mut _| values.pick(random);
    bulk::put(env, (0..load.keys).collect(), &value)
        .await
        .context("filling")
}

pub(super) fn measured(outcome: &Outcome, cpu: Option<f64>) -> Measures {
    let mut measures = vec![
        ("rate_per_s", outcome.rate()),
        ("p50_us", outcome.quantile(0.5)),
        ("p99_us", outcome.quantile(0.99)),
        ("max_us", outcome.quantile(1.0)),
    ];
    measures.extend(cpu.map(|cpu| ("cpu_us_per_op", cpu / outcome.operations as f64)));
    measures
}
