//! The loads that servers are compared by: what each does, and what it measures.

mod bulk;
mod disk;
mod history;
mod huge;
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
    /// Needs to stop and start the server, or to see its directory.
    pub(crate) owns_server: bool,
    /// Flags of the server beside its addresses and directory.
    pub(crate) flags: &'static [&'static str],
    pub(crate) run: for<'a> fn(&'a mut Env) -> BoxFuture<'a, Result<Measures>>,
}

/// All scenarios, in the order in which they run.
pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "put-1000",
        about: "put, 1,000 clients on 100 connections, etcd's own benchmark tool",
        owns_server: false,
        flags: DEFAULTS,
        run: |env| Box::pin(stock::put(env)),
    },
    Scenario {
        name: "put-100",
        about: "put, 100 clients on 10 connections",
        owns_server: false,
        flags: DEFAULTS,
        run: |env| Box::pin(key_value::put_many(env)),
    },
    Scenario {
        name: "put-1",
        about: "put, 1 client",
        owns_server: false,
        flags: DEFAULTS,
        run: |env| Box::pin(key_value::put_one(env)),
    },
    Scenario {
        name: "txn-100",
        about: "compare mod revision, put, else get; 100 clients",
        owns_server: false,
        flags: DEFAULTS,
        run: |env| Box::pin(key_value::update(env)),
    },
    Scenario {
        name: "get-lin-100",
        about: "linearizable get, 100 clients",
        owns_server: false,
        flags: DEFAULTS,
        run: |env| Box::pin(key_value::get_linearizable(env)),
    },
    Scenario {
        name: "get-ser-100",
        about: "serializable get, 100 clients",
        owns_server: false,
        flags: DEFAULTS,
        run: |env| Box::pin(key_value::get_serializable(env)),
    },
    Scenario {
        name: "mixed",
        about: "80 % get, 20 % put, open loop at 80 % of the baseline's peak",
        owns_server: false,
        flags: DEFAULTS,
        run: |env| Box::pin(key_value::mixed(env)),
    },
    Scenario {
        name: "list",
        about: "list of 100,000 keys of 1 KiB, by RangeStream and in one Range",
        owns_server: false,
        flags: DEFAULTS,
        run: |env| Box::pin(list::run(env)),
    },
    Scenario {
        name: "watch",
        about: "10,000 watchers of one prefix on 10 connections, 20 puts/s",
        owns_server: false,
        flags: DEFAULTS,
        run: |env| Box::pin(watch::run(env)),
    },
    Scenario {
        name: "lease",
        about: "50,000 leases kept alive",
        owns_server: false,
        flags: DEFAULTS,
        run: |env| Box::pin(lease::run(env)),
    },
    Scenario {
        name: "resident",
        about: "resident memory, fresh and after 50,000 puts",
        owns_server: true,
        flags: DEFAULTS,
        run: |env| Box::pin(resident::run(env)),
    },
    Scenario {
        name: "million",
        about: "bulk load of 1,000,000 keys, overwrite of half, page, full list, starts",
        owns_server: true,
        flags: DEFAULTS,
        run: |env| Box::pin(million::run(env)),
    },
    Scenario {
        name: "disk",
        about: "bytes on disk for 1,000,000 JSON values of 1 KiB",
        owns_server: true,
        flags: DEFAULTS,
        run: |env| Box::pin(disk::run(env)),
    },
    Scenario {
        name: "history",
        about: "1,000,000 keys changed 500,000 times: past counts and pages, HashKV, catch-up",
        owns_server: false,
        flags: LARGE,
        run: |env| Box::pin(history::run(env)),
    },
    Scenario {
        name: "snapshot",
        about: "snapshot of 2 GB beside 2,000 puts/s",
        owns_server: false,
        flags: LARGE,
        run: |env| Box::pin(snapshot::run(env)),
    },
    Scenario {
        name: "defragment",
        about: "defragmentation of 2 GB beside 2,000 puts/s",
        owns_server: false,
        flags: LARGE,
        run: |env| Box::pin(upkeep::defragment(env)),
    },
    Scenario {
        name: "compaction",
        about: "compaction of 1,000,000 revisions beside 2,000 puts/s",
        owns_server: false,
        flags: LARGE,
        run: |env| Box::pin(upkeep::compaction(env)),
    },
    Scenario {
        name: "huge",
        about: "10,000,000 keys: memory under a mixed load, a small compaction, starts",
        owns_server: true,
        flags: LARGE,
        run: |env| Box::pin(huge::run(env)),
    },
];

const DEFAULTS: &[&str] = &[];

/// The default quota is 2 GiB, and etcd counts what a copy-on-write leaves free.
const LARGE: &[&str] = &["--quota-backend-bytes=34359738368"];

/// Where a scenario runs and how large.
pub(crate) struct Env {
    /// `host:port` under load.
    pub(crate) endpoint: String,
    /// The server, when the run has started it itself.
    pub(crate) server: Option<Server>,
    /// Process to read CPU time and memory from.
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
    pid: Option<u32>,
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

    /// Starts to count the server's CPU time, and its profile when one is wanted.
    pub(crate) fn meter(&self) -> Result<Meter> {
        let before = self.pid.map(process::cpu).transpose()?.unwrap_or_default();
        let profile = match (self.pid, &self.profile) {
            (Some(pid), Some(file)) => Some(Profile::start(pid, file)?),
            _ => None,
        };
        Ok(Meter {
            pid: self.pid,
            before,
            profile,
        })
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

    /// Waits until the server has been idle for a moment, and at least `least`: for work that a
    /// server puts off until after the last answer. What the system has yet to write of it is on
    /// the disk then, and in nobody's way. Bounded; returns early in the short form.
    pub(crate) async fn settle(&self, least: Duration) -> Result<()> {
        /// Share of one core below which a server counts as idle.
        const IDLE: f64 = 0.04;
        const WINDOW: Duration = Duration::from_secs(2);
        const LIMIT: Duration = Duration::from_secs(120);
        let Some(pid) = self.pid else { return Ok(()) };
        if self.is_short {
            tokio::time::sleep(WINDOW / 4).await;
            return Ok(());
        }
        let begin = Instant::now();
        while begin.elapsed() < LIMIT {
            let before = process::cpu(pid)?;
            tokio::time::sleep(WINDOW).await;
            let used = process::cpu(pid)? - before;
            let is_idle = used.as_secs_f64() < IDLE * WINDOW.as_secs_f64();
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
        let used = match self.pid {
            Some(pid) => Some((process::cpu(pid)? - self.before).as_secs_f64() * 1e6),
            None => None,
        };
        if let Some(profile) = self.profile {
            profile.finish()?;
        }
        Ok(used)
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
