//! What a cluster takes while nobody asks it for anything.

use std::{
    fs,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

use super::{Env, Measures, bulk, key_value};
use crate::{process, syncs};

/// Time over which CPU and network are counted: CPU comes in steps of 10 ms.
const WINDOW: Duration = Duration::from_secs(30);
/// Time over which syncs are counted, which tracing would add CPU to.
const TRACED: Duration = Duration::from_secs(20);

pub(super) async fn run(env: &mut Env) -> Result<Measures> {
    /// Part of the full times that the short form takes.
    const SHORT: u32 = 20;
    let part = if env.is_short { SHORT } else { 1 };
    key_value::put_some(env, 20_000).await?;
    env.settle(bulk::FLUSH_PERIOD).await?;
    let pids = env.cluster()?.pids()?;
    let (cpu, bytes) = (process::cpu_of_all(&pids)?, loopback_bytes()?);
    let begin = Instant::now();
    tokio::time::sleep(WINDOW / part).await;
    let seconds = begin.elapsed().as_secs_f64();
    let cpu = process::cpu_of_all(&pids)? - cpu;
    let bytes = loopback_bytes()? - bytes;
    let traced = TRACED / part;
    let syncs = syncs::count(&pids, traced).await?;
    Ok(vec![
        ("cpu_ms_per_s", cpu.as_secs_f64() * 1e3 / seconds),
        ("network_bytes_per_s", bytes as f64 / seconds),
        ("syncs_per_s", syncs as f64 / traced.as_secs_f64()),
    ])
}

/// Bytes that the loopback interface has sent, with the headers of all layers.
fn loopback_bytes() -> Result<u64> {
    let table = fs::read_to_string("/proc/net/dev")?;
    sent_on(&table, "lo").context("no loopback interface in /proc/net/dev")
}

fn sent_on(table: &str, interface: &str) -> Option<u64> {
    /// Place of the sent bytes among the counters, after eight of what was received.
    const SENT: usize = 8;
    let is_it = |line: &&str| line.split(':').next().map(str::trim) == Some(interface);
    let (_, counters) = table.lines().find(is_it)?.split_once(':')?;
    counters.split_whitespace().nth(SENT)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sent_bytes_are_read_from_the_right_line_and_column() {
        let table = "\
            Inter-|   Receive                    |  Transmit\n \
             face |bytes packets errs drop fifo frame compressed multicast|bytes packets\n\
              eth0: 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26\n    \
                lo:31 32 33 34 35 36 37 38 39 40 41 42 43 44 45 46\n";
        assert_eq!(sent_on(table, "lo"), Some(39));
        assert_eq!(sent_on(table, "eth0"), Some(19));
        assert_eq!(sent_on(table, "eth1"), None);
    }
}
