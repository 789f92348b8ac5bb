//! Many leases that are kept alive.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use bytes::Bytes;
use futures::future::try_join_all;
use h2::SendStream;
use tokio::task::JoinSet;
use trilith_proto::etcdserverpb::{LeaseGrantRequest, LeaseGrantResponse, LeaseKeepAliveRequest};

use super::{Env, MIB, Measures};
use crate::{
    client::{Connection, Frames, LEASE_GRANT, LEASE_KEEP_ALIVE, Replies, frame},
    load::connect,
    wire,
};

const LEASES: u64 = 50_000;
const CONNECTIONS: u64 = 10;
/// Grants under way at once on one connection.
const GRANTS: u64 = 10;
/// Seconds; long enough that none expires while the others are still being granted.
const TTL: i64 = 60;
/// Keep-alives come in bursts this far apart, on every stream.
const TICK: Duration = Duration::from_millis(10);
/// Each lease is renewed once in so many ticks, and this often in all.
const TICKS_PER_ROUND: u64 = 500;
const ROUNDS: u64 = 2;
/// A server that answers later than this has failed.
const CATCH_UP: Duration = Duration::from_secs(30);

pub(super) async fn run(env: &mut Env) -> Result<Measures> {
    let connections = connect(&env.endpoint, CONNECTIONS).await?;
    env.settle(Duration::ZERO).await?;
    let before = env.memory()?;
    let share = env.size(LEASES) / CONNECTIONS;
    let begin = Instant::now();
    let granted = try_join_all(connections.iter().map(|one| grant(one, share))).await?;
    let grants = (share * CONNECTIONS) as f64 / begin.elapsed().as_secs_f64();
    env.settle(Duration::ZERO).await?;
    let after = env.memory()?;

    let rounds = if env.is_short { 1 } else { ROUNDS };
    let expected = share * rounds;
    let answered = Arc::new(AtomicU64::new(0));
    let mut streams = JoinSet::new();
    let meter = env.meter()?;
    for (connection, leases) in connections.iter().zip(granted) {
        let (first, rest) = leases.split_first().context("no leases")?;
        let target = connection.target(LEASE_KEEP_ALIVE)?;
        let call = connection.call(&target, first.clone(), false).await?;
        let (sender, rest) = (call.requests, [rest, &leases[..1]].concat());
        let ticks = if env.is_short {
            TICKS_PER_ROUND / 5
        } else {
            TICKS_PER_ROUND
        };
        streams.spawn(send(sender, rest, expected - 1, ticks));
        streams.spawn(read(call.replies, answered.clone(), expected));
    }
    let length = TICK * (TICKS_PER_ROUND * rounds) as u32;
    let all = async {
        while let Some(stream) = streams.join_next().await {
            stream??;
        }
        anyhow::Ok(())
    };
    match tokio::time::timeout(length + CATCH_UP, all).await {
        Ok(result) => result?,
        Err(_) => bail!(
            "only {} keep-alives were answered",
            answered.load(Ordering::Relaxed)
        ),
    }
    let cpu = meter.stop()?;
    let mut measures = vec![("grants_per_s", grants)];
    let total = (expected * CONNECTIONS) as f64;
    measures.extend(cpu.map(|cpu| ("cpu_us_per_keep_alive", cpu / total)));
    if let Some((before, after)) = before.zip(after) {
        let taken = after.resident.saturating_sub(before.resident) as f64;
        measures.push(("leases_mib", taken / MIB));
    }
    Ok(measures)
}

/// Grants `count` leases; gives a framed keep-alive request for each.
async fn grant(connection: &Connection, count: u64) -> Result<Vec<Bytes>> {
    let client = async |number: u64| -> Result<Vec<Bytes>> {
        let mut leases = Vec::new();
        for _ in (number..count).step_by(GRANTS as usize) {
            let request = LeaseGrantRequest {
                ttl: TTL,
                ..LeaseGrantRequest::default()
            };
            let lease: LeaseGrantResponse = connection.ask(LEASE_GRANT, &request).await?;
            leases.push(frame(&LeaseKeepAliveRequest { id: lease.id }));
        }
        Ok(leases)
    };
    Ok(try_join_all((0..GRANTS).map(client)).await?.concat())
}

/// Sends `count` keep-alives around the ring of `leases`, spread over the ticks.
async fn send(
    mut stream: SendStream<Bytes>,
    leases: Vec<Bytes>,
    count: u64,
    ticks_per_round: u64,
) -> Result<()> {
    let mut tick = tokio::time::interval(TICK);
    let per_tick = (leases.len() as u64).div_ceil(ticks_per_round);
    let mut ring = leases.iter().cycle().take(count as usize).peekable();
    while ring.peek().is_some() {
        tick.tick().await;
        for lease in ring.by_ref().take(per_tick as usize) {
            stream.send_data(lease.clone(), false)?;
        }
    }
    stream.send_data(Bytes::new(), true)?;
    Ok(())
}

/// Reads until `expected` keep-alives are answered, each for a lease that lives.
async fn read(mut replies: Replies, answered: Arc<AtomicU64>, expected: u64) -> Result<()> {
    let mut frames = Frames::default();
    let mut seen = 0;
    while seen < expected {
        let chunk = replies
            .chunk()
            .await?
            .context("the keep-alive stream has ended")?;
        let already = seen;
        frames.feed(&chunk, |reply| {
            let mut ttl = 0;
            wire::fields(reply, |field, value| {
                if let (wire::KEEP_ALIVE_TTL, wire::Value::Number(value)) = (field, value) {
                    ttl = value;
                }
                Ok(())
            })?;
            ensure!(ttl > 0, "a lease has expired under its keep-alives");
            seen += 1;
            Ok(())
        })?;
        answered.fetch_add(seen - already, Ordering::Relaxed);
    }
    Ok(())
}
