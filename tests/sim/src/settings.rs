//! What is drawn from the seed before a run begins.

use rand::Rng;
use rand::rngs::SmallRng;
use trilith_server::ids::LeaseId;

/// How a run is set up. Times are in microseconds.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Members that begin the cluster.
    pub voters: usize,
    /// Members that may be added later.
    pub spares: usize,
    /// Clients that each have one request under way.
    pub clients: usize,
    /// Clients that watch.
    pub watchers: usize,
    /// Requests of all clients together.
    pub operations: usize,
    /// Faults at least.
    pub faults: usize,
    /// Keys that clients write.
    pub keys: usize,
    /// `--heartbeat-interval`.
    pub heartbeat: u64,
    /// `--election-timeout` in heartbeats.
    pub election_ticks: usize,
    /// `--pre-vote`.
    pub pre_vote: bool,
    /// Most requests are about leases.
    pub leases: bool,
    /// All takes ten times as long, rests last for many seconds, and leases live for minutes.
    pub is_long: bool,
    /// The gate for lease checkpoints.
    pub checkpoints: bool,
    /// `--snapshot-catchup-entries`.
    pub catch_up_entries: u64,
    /// Whether logs are cut although members may be behind, who then get the state.
    pub snapshots: bool,
    /// `--snapshot-count`.
    pub snapshot_count: u64,
    /// How long a log is not cut after a snapshot was sent.
    pub log_held: u64,
    /// How long a client rests between two requests, at most.
    pub rest: u64,
    /// How long a message takes, at most, but for those that are reordered.
    pub latency: u64,
    /// Of a thousand messages, how many are lost, doubled, and late.
    pub lost: u32,
    /// See `lost`.
    pub doubled: u32,
    /// See `lost`.
    pub late: u32,
    /// How long a sync takes, at most.
    pub sync: u64,
    /// How often a state is flushed, about.
    pub flush_every: u64,
    /// Rows that one batch of a compaction looks at.
    pub compaction_rows: usize,
    /// Works that apply takes in one round, at most.
    pub apply_works: usize,
    /// By how many thousandths the clocks of members run fast or slow, at most.
    pub drift: i64,
}

impl Settings {
    /// Settings of the long form.
    pub fn draw(rng: &mut SmallRng) -> Self {
        let voters = [1, 2, 3, 3, 3, 4, 5][rng.random_range(0..7)];
        let spares = if rng.random_bool(0.4) {
            rng.random_range(1..=2.min(6 - voters))
        } else {
            0
        };
        let is_long = rng.random_bool(0.12);
        let settings = Self {
            voters,
            spares: spares.min(5 - voters.min(5)),
            clients: rng.random_range(3..=10),
            watchers: rng.random_range(1..=6),
            operations: 1000,
            faults: rng.random_range(5..=12),
            keys: [1, 3, 10, 40][rng.random_range(0..4)],
            heartbeat: 100_000,
            election_ticks: rng.random_range(5..=12),
            pre_vote: rng.random_bool(0.8),
            leases: rng.random_bool(0.3),
            is_long,
            checkpoints: rng.random_bool(0.5),
            catch_up_entries: [0, 3, 30][rng.random_range(0..3)],
            snapshots: rng.random_bool(0.85),
            snapshot_count: [1, 20, 100][rng.random_range(0..3)],
            log_held: [0, 1_000_000, 30_000_000][rng.random_range(0..3)],
            rest: [5_000, 50_000, 150_000][rng.random_range(0..3)],
            latency: [500, 3_000, 30_000][rng.random_range(0..3)],
            lost: [0, 5, 50][rng.random_range(0..3)],
            doubled: [0, 5, 50][rng.random_range(0..3)],
            late: [0, 5, 50][rng.random_range(0..3)],
            sync: [200, 5_000, 30_000][rng.random_range(0..3)],
            flush_every: [50_000, 500_000, 5_000_000][rng.random_range(0..3)],
            compaction_rows: [1, 7, 1000][rng.random_range(0..3)],
            apply_works: [1, 4, 100][rng.random_range(0..3)],
            drift: [0, 1, 10][rng.random_range(0..3)],
        };
        settings.stretched()
    }

    /// Runs that last for an hour of their own time have as many steps as others.
    fn stretched(mut self) -> Self {
        if self.is_long {
            self.heartbeat *= LONG;
            self.flush_every *= LONG;
            self.rest = 20_000_000;
            self.checkpoints = true;
        }
        self
    }

    /// How often longer than in other runs faults last, and what waits for them to be over.
    pub(crate) fn stretch(&self) -> u64 {
        if self.is_long { LONG } else { 1 }
    }

    /// The time without a leader after which members stand for election.
    pub fn election_timeout(&self) -> u64 {
        self.heartbeat * self.election_ticks as u64
    }
}

/// See [`Settings::stretch`].
const LONG: u64 = 10;

/// The lease of a number that clients give it.
pub(crate) fn lease(number: i64) -> LeaseId {
    LeaseId::new(number)
}
