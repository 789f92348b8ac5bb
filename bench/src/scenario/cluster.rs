//! Puts and gets through three members.

use anyhow::{Result, ensure};

use super::{Env, Measures, key_value};
use crate::load::{Load, Operation, Outcome};

const CLIENTS: u64 = 100;
/// A multiple of three, so that every member gets as many.
const CONNECTIONS: u64 = 12;

pub(super) async fn put_over_all(env: &mut Env) -> Result<Measures> {
    over_all(env, Operation::Put, 60_000).await
}

pub(super) async fn get_over_all(env: &mut Env) -> Result<Measures> {
    key_value::fill(env).await?;
    over_all(env, Operation::GetLinearizable, 150_000).await
}

pub(super) async fn put_on_leader(env: &mut Env) -> Result<Measures> {
    let load = plan(env, Operation::Put, 60_000);
    let (outcome, cpu) = key_value::closed_over(env, &[&env.endpoint], &load).await?;
    check_leader(env).await?;
    Ok(key_value::measured(&outcome, cpu))
}

/// One client on the leader, and after that one on a follower.
pub(super) async fn put_one(env: &mut Env) -> Result<Measures> {
    let load = Load {
        clients: 1,
        connections: 1,
        ..plan(env, Operation::Put, 5_000)
    };
    let (leader, leader_cpu) = key_value::closed_over(env, &[&env.endpoint], &load).await?;
    let cluster = env.cluster()?;
    let follower = cluster.endpoints()[cluster.follower().await?];
    let (follower, follower_cpu) = key_value::closed_over(env, &[follower], &load).await?;
    check_leader(env).await?;
    let per_put = |cpu: Option<f64>, puts: &Outcome| cpu.map(|cpu| cpu / puts.operations as f64);
    let leader_cpu = per_put(leader_cpu, &leader);
    let follower_cpu = per_put(follower_cpu, &follower);
    let mut measures = vec![
        ("leader_p50_us", leader.quantile(0.5)),
        ("leader_p99_us", leader.quantile(0.99)),
        ("follower_p50_us", follower.quantile(0.5)),
        ("follower_p99_us", follower.quantile(0.99)),
    ];
    measures.extend(leader_cpu.map(|cpu| ("leader_cpu_us_per_op", cpu)));
    measures.extend(follower_cpu.map(|cpu| ("follower_cpu_us_per_op", cpu)));
    Ok(measures)
}

/// Fails when another member leads by now than the one that the load was on.
pub(super) async fn check_leader(env: &Env) -> Result<()> {
    let cluster = env.cluster()?;
    let leader = cluster.endpoints()[cluster.leader().await?];
    ensure!(
        leader == env.endpoint,
        "the leader changed during the load, from {} to {leader}",
        env.endpoint
    );
    Ok(())
}

async fn over_all(env: &Env, operation: Operation, total: u64) -> Result<Measures> {
    let load = plan(env, operation, total);
    let endpoints = env.cluster()?.endpoints();
    let (outcome, cpu) = key_value::closed_over(env, &endpoints, &load).await?;
    Ok(key_value::measured(&outcome, cpu))
}

fn plan(env: &Env, operation: Operation, total: u64) -> Load {
    Load {
        connections: CONNECTIONS,
        ..key_value::plan(env, operation, CLIENTS, total)
    }
}
