//! The loads that servers are compared by: what each does, and what it measures.

mod bulk;
mod catch_up;
mod cluster;
mod disk;
mod failover;
mod history;
mod huge;
mod idle;
mod key_value;
mod lease;
mod list;
mod million;
mod resident;
mod snapshot;
mod steady;
mod stock;
mod upkeep;
mod watch;

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use futures::future::BoxFuture;

use crate::{
    cluster::Cluster,
    load::Load,
    perf::Profile,
    process::{self, Memory, Server},
};

/// Name of a measure and its value, in the unit that the name ends with.
pub(crate) type Measures = Vec<(&'static str, f64)>;

/// One load and what it measures.
pub(crate) struct Scenario {
    pub(crate) name: &'static str,
    pub(crate) about: &'static str,
    pub(crate) needs: Needs,
    /// Flags of the server beside its addresses and directory.
    pub(crate) flags: &'static [&'static str],
    pub(crate) run: for<'a> fn(&'a mut Env) -> BoxFuture<'a, Result<Measures>>,
}

/// What a scenario runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Needs {
    /// A server, wherever it is.
    Endpoint,
    /// A server that it can stop and start, and whose directory it can see.
    Process,
    /// Three members that it can stop and start.
    Cluster,
}

/// All scenarios, in the order in which they run.
pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "put-1000",
        about: "put, 1,000 clients on 100 connections, etcd's own benchmark tool",
        needs: Needs::Endpoint,
        flags: DEFAULTS,
        run: |env| Box::pin(stock::put(env)),
    },
    Scenario {
        name: "put-100",
        about: "put, 100 clients on 10 connections",
        needs: Needs::Endpoint,
        flags: DEFAULTS,
        run: |env| Box::pin(key_value::put_many(env)),
    },
    Scenario {
        name: "put-1",
        about: "put, 1 client",
        needs: Needs::Endpoint,
        flags: DEFAULTS,
        run: |env| Box::pin(key_value::put_one(env)),
    },
    Scenario {
        name: "txn-100",
        about: "compare mod revision, put, else get; 100 clients",
        needs: Needs::Endpoint,
        flags: DEFAULTS,
        run: |env| Box::pin(key_value::update(env)),
    },
    Scenario {
        name: "get-lin-100",
        about: "linearizable get, 100 clients",
        needs: Needs::Endpoint,
        flags: DEFAULTS,
        run: |env| Box::pin(key_value::get_linearizable(env)),
    },
    Scenario {
        name: "get-ser-100",
        about: "serializable get, 100 clients",
        needs: Needs::Endpoint,
        flags: DEFAULTS,
        run: |env| Box::pin(key_value::get_serializable(env)),
    },
    Scenario {
        name: "mixed",
        about: "80 % get, 20 % put, open loop at 80 % of the baseline's peak",
        needs: Needs::Endpoint,
        flags: DEFAULTS,
        run: |env| Box::pin(key_value::mixed(env)),
    },
    Scenario {
        name: "list",
        about: "list of 100,000 keys of 1 KiB, by RangeStream and in one Range",
        needs: Needs::Endpoint,
        flags: DEFAULTS,
        run: |env| Box::pin(list::run(env)),
    },
    Scenario {
        name: "watch",
        about: "10,000 watchers of one prefix on 10 connections, 20 puts/s",
        needs: Needs::Endpoint,
        flags: DEFAULTS,
        run: |env| Box::pin(watch::run(env)),
    },
    Scenario {
        name: "lease",
        about: "50,000 leases kept alive",
        needs: Needs::Endpoint,
        flags: DEFAULTS,
        run: |env| Box::pin(lease::run(env)),
    },
    Scenario {
        name: "resident",
        about: "resident memory, fresh and after 50,000 puts",
        needs: Needs::Process,
        flags: DEFAULTS,
        run: |env| Box::pin(resident::run(env)),
    },
    Scenario {
        name: "million",
        about: "bulk load of 1,000,000 keys, overwrite of half, page, full list, starts",
        needs: Needs::Process,
        flags: DEFAULTS,
        run: |env| Box::pin(million::run(env)),
    },
    Scenario {
        name: "disk",
        about: "bytes on disk for 1,000,000 JSON values of 1 KiB",
        needs: Needs::Process,
        flags: DEFAULTS,
        run: |env| Box::pin(disk::run(env)),
    },
    Scenario {
        name: "history",
        about: "1,000,000 keys changed 500,000 times: past counts and pages, HashKV, catch-up",
        needs: Needs::Endpoint,
        flags: LARGE,
        run: |env| Box::pin(history::run(env)),
    },
    Scenario {
        name: "snapshot",
        about: "snapshot of 2 GB beside 2,000 puts/s",
        needs: Needs::Endpoint,
        flags: LARGE,
        run: |env| Box::pin(snapshot::run(env)),
    },
    Scenario {
        name: "defragment",
        about: "defragmentation of 2 GB beside 2,000 puts/s",
        needs: Needs::Endpoint,
        flags: LARGE,
        run: |env| Box::pin(upkeep::defragment(env)),
    },
    Scenario {
        name: "compaction",
        about: "compaction of 1,000,000 revisions beside 2,000 puts/s",
        needs: Needs::Endpoint,
        flags: LARGE,
        run: |env| Box::pin(upkeep::compaction(env)),
    },
    Scenario {
        name: "huge",
        about: "10,000,000 keys: memory under a mixed load, a small compaction, starts",
        needs: Needs::Process,
        flags: LARGE,
        run: |env| Box::pin(huge::run(env)),
    },
    Scenario {
        name: "cluster-put",
        about: "three members: put, 100 clients over all of them",
        needs: Needs::Cluster,
        flags: DEFAULTS,
        run: |env| Box::pin(cluster::put_over_all(env)),
    },
    Scenario {
        name: "cluster-put-leader",
        about: "three members: put, 100 clients on the leader",
        needs: Needs::Cluster,
        flags: DEFAULTS,
        run: |env| Box::pin(cluster::put_on_leader(env)),
    },
    Scenario {
        name: "cluster-put-1",
        about: "three members: put, 1 client on the leader, then 1 on a follower",
        needs: Needs::Cluster,
        flags: DEFAULTS,
        run: |env| Box::pin(cluster::put_one(env)),
    },
    Scenario {
        name: "cluster-get",
        about: "three members: linearizable get, 100 clients over all of them",
        needs: Needs::Cluster,
        flags: DEFAULTS,
        run: |env| Box::pin(cluster::get_over_all(env)),
    },
    Scenario {
        name: "cluster-failover",
        about: "three members: how long writes stop after kill -9 of the leader, 20 times",
        needs: Needs::Cluster,
        flags: DEFAULTS,
        run: |env| Box::pin(failover::run(env)),
    },
    Scenario {
        name: "cluster-idle",
        about: "three members without clients: CPU, syncs of files, bytes on the network",
        needs: Needs::Cluster,
        flags: DEFAULTS,
        run: |env| Box::pin(idle::run(env)),
    },
    Scenario {
        name: "cluster-catch-up",
        about: "three members: a wiped one joins again and gets 2 GB beside 500 puts/s",
        needs: Needs::Cluster,
        flags: LARGE,
        run: |env| Box::pin(catch_up::run(env)),
    },
];

const NO_CLUSTER: &str = "this scenario has to start three members itself: use `run`";

const DEFAULTS: &[&str] = &[];

/// The default quota is 2 GiB, and etcd counts what a copy-on-write leaves free.
const LARGE: &[&str] = &["--quota-backend-bytes=34359738368"];

/// Where a scenario runs and how large.
pub(crate) struct Env {
    /// `host:port` under load; of a cluster, the leader at its start.
    pub(crate) endpoint: String,
    /// The server, when the run has started it itself.
    pub(crate) server: Option<Server>,
    /// The members, for scenarios that need a cluster.
    pub(crate) cluster: Option<Cluster>,
    /// Process to read CPU time and memory from, when there is no cluster.
    pub(crate) pid: Option<u32>,
    pub(crate) is_short: bool,
    /// The baseline's closed-loop rate of the mixed load in this round.
    pub(crate) peak: Option<f64>,
    /// etcd's own benchmark tool.
    pub(crate) stock_tool: Option<PathBuf>,
    /// What the command line changes in a key-value load.
    pub(crate) adjust: Adjust,
    /// File for a profile of the server during the measured part.
    pub(crate) profile: Option<PathBuf>,
    pub(crate) seed: u64,
}

/// Settings of a key-value load that replace the scenario's own.
#[derive(Clone, Debug, Default)]
pub(crate) struct Adjust {
    pub(crate) clients: Option<u64>,
    pub(crate) connections: Option<u64>,
    pub(crate) total: Option<u64>,
    pub(crate) keys: Option<u64>,
    pub(crate) value_size: Option<usize>,
    pub(crate) rate: Option<f64>,
}

/// CPU time between two moments.
pub(crate) struct Meter {
    pids: Vec<u32>,
    before: Duration,
    profile: Option<Profile>,
}

impl Env {
    /// `full`, or a fiftieth of it in the short form.
    pub(crate) fn size(&self, full: u64) -> u64 {
        /// The suite's smoke run takes a minute or two at this.
        const SHORT: u64 = 50;
        if self.is_short {
            full.div_ceil(SHORT)
        } else {
            full
        }
    }

    /// Starts to count the CPU time of all servers, and their profile when one is wanted.
    pub(crate) fn meter(&self) -> Result<Meter> {
        let pids = self.pids()?;
        let before = process::cpu_of_all(&pids)?;
        let profile = match &self.profile {
            Some(file) if !pids.is_empty() => Some(Profile::start(&pids, file)?),
            _ => None,
        };
        Ok(Meter {
            pids,
            before,
            profile,
        })
    }

    /// The processes of all servers, as far as they are known.
    fn pids(&self) -> Result<Vec<u32>> {
        match &self.cluster {
            Some(cluster) => cluster.pids(),
            None => Ok(self.pid.into_iter().collect()),
        }
    }

    /// The members, for scenarios that say they need a cluster.
    pub(crate) fn cluster(&self) -> Result<&Cluster> {
        self.cluster.as_ref().context(NO_CLUSTER)
    }

    pub(crate) fn cluster_mut(&mut self) -> Result<&mut Cluster> {
        self.cluster.as_mut().context(NO_CLUSTER)
    }

    /// Memory of the server; `None` when its process is unknown.
    pub(crate) fn memory(&self) -> Result<Option<Memory>> {
        self.pid.map(process::memory).transpose()
    }

    pub(crate) fn reset_peak(&self) -> Result<()> {
        self.pid.map(process::reset_peak).transpose().map(drop)
    }

    /// The server, for scenarios that say they own it.
    pub(crate) fn owned(&mut self) -> Result<&mut Server> {
        self.server
            .as_mut()
            .context("this scenario has to start the server itself: use `run`")
    }

    /// Waits until the servers have been idle for a moment, and at least `least`: for work that a
    /// server puts off until after the last answer. What the system has yet to write of it is on
    /// the disk then, and in nobody's way. Bounded; returns early in the short form.
    pub(crate) async fn settle(&self, least: Duration) -> Result<()> {
        /// Share of one core below which a server counts as idle, heartbeats included.
        const IDLE: f64 = 0.04;
        const WINDOW: Duration = Duration::from_secs(2);
        const LIMIT: Duration = Duration::from_secs(120);
        let pids = self.pids()?;
        if pids.is_empty() {
            return Ok(());
        }
        if self.is_short {
            tokio::time::sleep(WINDOW / 4).await;
            return Ok(());
        }
        let begin = Instant::now();
        while begin.elapsed() < LIMIT {
            let before = process::cpu_of_all(&pids)?;
            tokio::time::sleep(WINDOW).await;
            let used = process::cpu_of_all(&pids)? - before;
            let is_idle = used.as_secs_f64() < IDLE * (WINDOW * pids.len() as u32).as_secs_f64();
            if is_idle && begin.elapsed() >= least {
                break;
            }
        }
        let synced = tokio::task::spawn_blocking(rustix::fs::sync).await;
        synced.context("writing back")?;
        Ok(())
    }

    /// `load` with the command line's changes.
    pub(crate) fn adjusted(&self, mut load: Load) -> Load {
        let adjust = &self.adjust;
        load.clients = adjust.clients.unwrap_or(load.clients);
        load.connections = adjust.connections.unwrap_or(load.connections);
        load.total = adjust.total.unwrap_or(load.total);
        load.keys = adjust.keys.unwrap_or(load.keys);
        load.value_size = adjust.value_size.unwrap_or(load.value_size);
        load.rate = adjust.rate.or(load.rate);
        load
    }
}

impl Meter {
    /// CPU time since the start, in microseconds; `None` when the process is unknown.
    pub(crate) fn stop(self) -> Result<Option<f64>> {
        let used = process::cpu_of_all(&self.pids)? - self.before;
        if let Some(profile) = self.profile {
            profile.finish()?;
        }
        Ok((!self.pids.is_empty()).then_some(used.as_secs_f64() * 1e6))
    }
}

/// The scenario called `name`.
pub(crate) fn find(name: &str) -> Result<&'static Scenario> {
    let found = SCENARIOS.iter().find(|scenario| scenario.name == name);
    found.with_context(|| format!("no scenario is called {name}"))
}

/// File of the profile of `scenario` on `target` below `directory`.
pub(crate) fn profile_file(directory: &Path, scenario: &str, target: &str) -> PathBuf {
    directory.join(format!("{scenario}-{target}.data"))
}

const MIB: f64 = (1 << 20) as f64;
