//! How long writes stop when the leader is killed, for a client of the other members.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rand::{SeedableRng as _, rngs::SmallRng};
use tokio::{task::JoinSet, time::MissedTickBehavior};

use super::{Env, Measures, key_value};
use crate::{
    client::{Connection, PUT, Target},
    cluster::{self, Cluster},
    payload::{self, Values},
};

/// Kills whose median counts.
const KILLS: usize = 20;
const SHORT_KILLS: usize = 2;
/// From one put to the next, which is the retry of all before it: the resolution of the gap.
const INTERVAL: Duration = Duration::from_millis(5);
/// A put that waits longer is given up; bounds how many are under way.
const PATIENCE: Duration = Duration::from_secs(1);
/// Answered puts before the kill.
const BEFORE: usize = 50;
/// How long writes must have gone on after the gap.
const AFTER: Duration = Duration::from_millis(300);
/// An election takes seconds; a minute is a cluster that does not recover.
const TIMEOUT: Duration = Duration::from_secs(60);
/// Pause between two looks at a member that catches up.
const PAUSE: Duration = Duration::from_millis(20);
/// Objects that the puts spread over, and bytes of their values.
const KEYS: u64 = 1_000;
const VALUE: usize = 256;

pub(super) async fn run(env: &mut Env) -> Result<Measures> {
    key_value::put_some(env, 10_000).await?;
    let kills = if env.is_short { SHORT_KILLS } else { KILLS };
    let values = Values::new(VALUE, env.seed);
    let mut random = SmallRng::seed_from_u64(env.seed);
    let mut gaps = Vec::new();
    for _ in 0..kills {
        let cluster = env.cluster_mut()?;
        let leader = cluster.leader().await?;
        let writer = Writer::open(cluster, leader).await?;
        let mut put = || {
            payload::put(
                rand::Rng::random_range(&mut random, 0..KEYS),
                values.pick(&mut random),
            )
        };
        let gap = writer
            .gap(&mut put, || cluster.members[leader].kill())
            .await?;
        gaps.push(gap.as_secs_f64() * 1e3);
        bring_back(cluster, leader).await?;
    }
    gaps.sort_by(f64::total_cmp);
    let median = (gaps[(kills - 1) / 2] + gaps[kills / 2]) / 2.0;
    let (least, worst) = (gaps[0], gaps[kills - 1]);
    Ok(vec![
        ("gap_ms", median),
        ("least_gap_ms", least),
        ("worst_gap_ms", worst),
    ])
}

/// Starts the killed member again and waits until it has applied all that the new leader had.
async fn bring_back(cluster: &mut Cluster, killed: usize) -> Result<()> {
    cluster.members[killed].launch().await?;
    let leader = cluster.leader().await?;
    let endpoint = |number: usize| cluster.endpoints()[number];
    let index = cluster::status(endpoint(leader)).await?.raft_index;
    let begin = Instant::now();
    while cluster::status(endpoint(killed)).await?.raft_applied_index < index {
        if begin.elapsed() > TIMEOUT {
            bail!("the killed member does not catch up");
        }
        tokio::time::sleep(PAUSE).await;
    }
    Ok(())
}

/// A client of the members that live on.
struct Writer {
    members: Vec<(Connection, Target)>,
}

/// When an answered put was sent and answered.
struct Answered {
    sent: Instant,
    at: Instant,
}

impl Writer {
    /// Connects to all members but `leader`.
    async fn open(cluster: &Cluster, leader: usize) -> Result<Self> {
        let mut members = Vec::new();
        for (number, endpoint) in cluster.endpoints().into_iter().enumerate() {
            if number != leader {
                let connection = Connection::open(endpoint).await?;
                let target = connection.target(PUT)?;
                members.push((connection, target));
            }
        }
        Ok(Self { members })
    }

    /// Puts at a steady pace through the members in turn, whatever became of the puts before;
    /// kills once they are answered, and gives the longest time without an answer.
    async fn gap(
        &self,
        put: &mut impl FnMut() -> bytes::Bytes,
        kill: impl FnOnce() -> Result<()>,
    ) -> Result<Duration> {
        let mut ticks = tokio::time::interval(INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut members = self.members.iter().cycle();
        let mut puts = JoinSet::new();
        let mut gap = Gap::default();
        let mut kill = Some(kill);
        let begin = Instant::now();
        while begin.elapsed() < TIMEOUT {
            tokio::select! {
                _ = ticks.tick() => {
                    let (connection, target) = members.next().context("no member is left")?;
                    puts.spawn(try_put(connection.clone(), target.clone(), put()));
                }
                Some(done) = puts.join_next() => {
                    if let Some(answered) = done? {
                        gap.note(&answered);
                    }
                }
            }
            if gap.answers >= BEFORE
                && let Some(kill) = kill.take()
            {
                kill()?;
                gap.killed = Some(Instant::now());
            }
            if gap.is_over() {
                return Ok(gap.longest);
            }
        }
        bail!("writes did not go on within {TIMEOUT:?} after the leader was killed");
    }
}

/// The answers so far.
#[derive(Default)]
struct Gap {
    answers: usize,
    last: Option<Instant>,
    longest: Duration,
    killed: Option<Instant>,
    /// The first answer to a put that was sent after the kill: no earlier leader can have given it.
    resumed: Option<Instant>,
}

impl Gap {
    fn note(&mut self, answered: &Answered) {
        self.answers += 1;
        // Tasks that end together may be told of in any order.
        let last = *self.last.get_or_insert(answered.at);
        self.longest = self
            .longest
            .max(answered.at.saturating_duration_since(last));
        self.last = Some(last.max(answered.at));
        if self.killed.is_some_and(|killed| answered.sent > killed) {
            self.resumed.get_or_insert(answered.at);
        }
    }

    fn is_over(&self) -> bool {
        let times = self.last.zip(self.resumed);
        times.is_some_and(|(last, resumed)| last.saturating_duration_since(resumed) > AFTER)
    }
}

/// A put that may fail: there is no leader for a while.
async fn try_put(
    connection: Connection,
    target: Target,
    request: bytes::Bytes,
) -> Option<Answered> {
    let sent = Instant::now();
    let put = tokio::time::timeout(PATIENCE, connection.unary(&target, request)).await;
    put.ok()?.ok().map(|_| Answered {
        sent,
        at: Instant::now(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gap_is_the_longest_time_without_an_answer() {
        let begin = Instant::now();
        let at = |ms| begin + Duration::from_millis(ms);
        let mut gap = Gap::default();
        let note = |gap: &mut Gap, sent, answered| {
            gap.note(&Answered {
                sent: at(sent),
                at: at(answered),
            });
        };
        note(&mut gap, 0, 2);
        note(&mut gap, 5, 7);
        gap.killed = Some(at(10));
        // Sent before the kill, and answered after it: the new leader had it in its log.
        note(&mut gap, 9, 1_200);
        assert!(gap.resumed.is_none(), "nothing new was written yet");
        note(&mut gap, 1_201, 1_210);
        note(&mut gap, 1_190, 1_205);
        assert!(!gap.is_over(), "it may stop again");
        note(&mut gap, 1_510, 1_511);
        assert!(gap.is_over());
        assert_eq!(gap.longest, Duration::from_millis(1_193));
    }
}
