//! Whole clusters in one process, moved by a seed.
//!
//! Each run draws its settings from the seed, starts one to five members with the server's own
//! parts, lets clients work and faults happen, and checks what it sees after every step and in the
//! end. Nothing in it reads a clock or has a thread, so that a seed always gives the same run.

mod answer;
mod checkpoints;
mod client;
mod clients;
mod clock;
mod ending;
mod faults;
mod history;
mod leases;
mod model;
mod network;
mod node;
mod raft_checks;
mod reconfigure;
mod settings;
mod snapshots;
mod tidy;
mod watch;
mod wiring;
mod world;

use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;
use rand::SeedableRng;
use rand::rngs::SmallRng;

use trilith_server::planted;

pub use settings::Settings;
pub use trilith_server::planted::Bug;

/// What a run came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// The seed.
    pub seed: u64,
    /// Requests that were answered for sure, and others.
    pub answered: u64,
    /// Requests whose outcome no client knows.
    pub failed: u64,
    /// Faults.
    pub faults: u64,
    /// Terms that had a leader.
    pub elections: u64,
    /// Leases that ended by their time.
    pub expired: u64,
    /// Checkpoints of leases from which a new leader has counted.
    pub checkpoints: u64,
    /// Events that watchers were given.
    pub events: u64,
    /// How often they resumed.
    pub resumed: u64,
    /// Machines that joined the cluster after it began, and that left it.
    pub joined: u64,
    /// See `joined`.
    pub left: u64,
    /// Snapshots that were sent, states that took the place of others, and installs that crashed in
    /// the middle.
    pub sent: u64,
    /// See `sent`.
    pub installed: u64,
    /// See `sent`.
    pub cut_off: u64,
    /// Entries in the log.
    pub entries: u64,
    /// How long it took, in microseconds of its own time.
    pub lasted: u64,
    /// A sum over all that has happened.
    pub trace: u64,
}

/// Runs a seed.
///
/// # Errors
///
/// What did not hold, and when.
pub fn run(seed: u64) -> Result<Report, String> {
    let settings = Settings::draw(&mut SmallRng::seed_from_u64(seed));
    run_with(seed, settings)
}

/// Runs a seed with a bug in the server.
///
/// # Errors
///
/// As [`run`], if it finds the bug.
pub fn run_planted(seed: u64, bug: Bug) -> Result<Report, String> {
    let settings = Settings::draw(&mut SmallRng::seed_from_u64(seed));
    planted::simulate(Some(bug));
    let result = run_here(seed, settings);
    planted::simulate(None);
    result
}

/// Looks for a bug that was planted, on all processors; gives what did not hold.
pub fn find(bug: Bug, seeds: Range<u64>) -> Option<String> {
    let (next, found) = (AtomicU64::new(seeds.start), Mutex::new(None));
    let work = || {
        while found.lock().is_none() {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds.end {
                break;
            }
            if let Err(error) = run_planted(seed, bug) {
                found.lock().get_or_insert(error);
            }
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(work);
        }
    });
    found.into_inner()
}

/// Runs many seeds on all processors, and tells of each that is done.
///
/// # Errors
///
/// The failure of the lowest seed that failed; no seed is begun after one has failed.
pub fn run_many(seeds: Range<u64>, done: impl Fn(&Report) + Sync) -> Result<Vec<Report>, String> {
    let (next, failed) = (AtomicU64::new(seeds.start), AtomicBool::new(false));
    let work = || {
        let mut results = Vec::new();
        while !failed.load(Ordering::Relaxed) {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds.end {
                break;
            }
            let result = run(seed);
            match &result {
                Ok(report) => done(report),
                Err(_) => failed.store(true, Ordering::Relaxed),
            }
            results.push((seed, result));
        }
        results
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let mut results = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        let results = workers.into_iter().flat_map(|worker| {
            let result = worker.join();
            result.expect("a run catches its panics")
        });
        results.collect::<Vec<_>>()
    });
    results.sort_by_key(|(seed, _)| *seed);
    results.into_iter().map(|(_, result)| result).collect()
}

/// What many runs came to, in a line.
pub fn summary(reports: &[Report]) -> String {
    let (seeds, total) = (reports.len(), |of: fn(&Report) -> u64| {
        reports.iter().map(of).sum::<u64>()
    });
    let with = reports.iter().filter(|report| report.installed > 0).count();
    format!(
        "{seeds} seeds passed: {} requests answered, {} faults, {} leases expired, {} \
         checkpoints taken up; {} snapshots installed, in {with} seeds ({} %), {} installs cut off",
        total(|report| report.answered),
        total(|report| report.faults),
        total(|report| report.expired),
        total(|report| report.checkpoints),
        total(|report| report.installed),
        100 * with / seeds.max(1),
        total(|report| report.cut_off),
    )
}

/// Runs a seed with given settings.
///
/// # Errors
///
/// As [`run`].
pub fn run_with(seed: u64, settings: Settings) -> Result<Report, String> {
    planted::simulate(None);
    run_here(seed, settings)
}

fn run_here(seed: u64, settings: Settings) -> Result<Report, String> {
    let mut world = world::World::new(seed, settings);
    // The server's own assertions panic.
    let result = catch_unwind(AssertUnwindSafe(|| world.run()));
    let result = result.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        Err(format!("panic: {}", text.unwrap_or_default()))
    });
    result.map_err(|error| {
        let (now, made) = (world.now, world.made);
        format!("seed {seed}, at {now} us, after {made} requests: {error}")
    })?;
    Ok(Report {
        seed,
        answered: world.history.answered,
        failed: world.history.failed,
        faults: world.faults,
        elections: world.checks.elections() as u64,
        expired: world.leases.expired,
        checkpoints: world.checkpoints.counted,
        events: world.watchers.iter().map(|watcher| watcher.events).sum(),
        resumed: world.watchers.iter().map(|watcher| watcher.resumed).sum(),
        joined: world.joined(),
        left: world.nodes.iter().filter(|node| node.is_removed).count() as u64,
        sent: world.snapshots.sent,
        installed: world.snapshots.installed,
        cut_off: world.snapshots.cut_off,
        entries: world.model.index(),
        lasted: world.now,
        trace: world.trace,
    })
}
