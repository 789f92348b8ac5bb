//! Puts at a steady rate, alone and beside other work: whether that work disturbs them.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, Result};

use super::{Env, Measures};
use crate::load::{self, Load, Operation, Outcome};

/// Puts per second: a tenth of what etcd takes on two cores, so that the servers have room for the
/// other work, and enough of them for a p99.
const RATE: f64 = 2_000.0;
/// The same of a cluster, whose three members share the two cores.
const CLUSTER_RATE: f64 = 500.0;
/// Puts that can wait for an answer at once: half a second's worth shows a stall in the latencies.
const WAITING: u64 = 1_000;
const CONNECTIONS: u64 = 10;
const VALUE: usize = 256;
/// Length of a load beside nothing: a disk that is shared with others stalls now and then, and of a
/// shorter one a single stall would be the p99.
const ALONE: Duration = Duration::from_secs(30);
/// Bound of a load beside work that does not end.
const LIMIT: Duration = Duration::from_secs(600);

/// Latencies of puts to `keys` objects while nothing else is asked of the server.
pub(super) async fn alone(env: &Env, keys: u64) -> Result<Outcome> {
    let length = if env.is_short { ALONE / 30 } else { ALONE };
    load::run(&env.endpoint, &plan(env, keys, length, None)).await
}

/// Does `work` while puts go on; gives what came of both.
pub(super) async fn beside<T>(
    env: &Env,
    keys: u64,
    work: impl Future<Output = Result<T>>,
) -> Result<(T, Outcome)> {
    let stop = Arc::new(AtomicBool::new(false));
    let load = plan(env, keys, LIMIT, Some(stop.clone()));
    let puts = load::run(&env.endpoint, &load);
    let work = async {
        let done = work.await;
        stop.store(true, Ordering::Relaxed);
        done
    };
    let (puts, done) = tokio::join!(puts, work);
    Ok((done?, puts.context("the puts beside the work")?))
}

/// How much worse puts were beside the work than alone.
pub(super) fn compared(alone: &Outcome, beside: &Outcome) -> Measures {
    vec![
        ("alone_p99_us", alone.quantile(0.99)),
        ("p99_us", beside.quantile(0.99)),
        (
            "p99_times_alone",
            beside.quantile(0.99) / alone.quantile(0.99),
        ),
        ("worst_ms", beside.quantile(1.0) / 1e3),
    ]
}

fn plan(env: &Env, keys: u64, length: Duration, stop: Option<Arc<AtomicBool>>) -> Load {
    let rate = if env.cluster.is_some() {
        CLUSTER_RATE
    } else {
        RATE
    };
    Load {
        operation: Operation::Put,
        clients: WAITING,
        connections: CONNECTIONS,
        total: (rate * length.as_secs_f64()) as u64,
        time_limit: length + LIMIT,
        rate: Some(rate),
        keys,
        value_size: VALUE,
        seed: env.seed ^ 0x57ea,
        stop,
    }
}
