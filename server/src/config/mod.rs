//! The configuration of one member: etcd's flags, variables and config file, read and checked.
//!
//! [`load`] turns arguments and environment into a [`Config`] in which every value is valid, or
//! into the reason why there is none, told as etcd tells it.

mod build;
mod check;
mod cluster;
pub(crate) mod duration;
mod env;
mod error;
mod file;
mod flags;
mod gates;
mod help;
#[cfg(test)]
mod junk_tests;
mod note;
mod service;
mod summary;
mod table;
#[cfg(test)]
mod tests;
mod url;
mod value;

use std::path::PathBuf;
use std::time::Duration;

pub use build::AutoCompaction;
pub use cluster::{Bootstrap, ClusterState, SrvRecords, is_cluster, same_urls};
pub use error::ConfigError;
pub use gates::FeatureGates;
pub use note::Note;
pub use url::{MemberUrl, Scheme, join};

use crate::discovery_service::DiscoveryService;
use crate::logging::LogConfig;
use flags::{ParseError, Values};

/// The version of etcd whose behavior this server has, as clients see it.
pub const ETCD_VERSION: &str = "3.7.3";

/// A checked configuration. Fields are named after their flags.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Name of this member, for humans.
    pub name: String,
    /// Directory of everything that outlives the process; never empty.
    pub data_dir: PathBuf,
    /// Directory of the raft log, if it has one of its own; see [`Config::log_dir`].
    pub wal_dir: Option<PathBuf>,
    /// Committed entries after which the state is flushed; at least 1.
    pub snapshot_count: u64,
    /// Applied entries that stay in the log; at least 1.
    pub snapshot_catchup_entries: u64,
    /// Time between two heartbeats, which is one raft tick; 1 to 10,000 ms.
    pub heartbeat_interval: Duration,
    /// Time without a heartbeat before an election; 5 heartbeats to 50 s.
    pub election_timeout: Duration,
    /// Whether the first election comes sooner.
    pub initial_election_tick_advance: bool,
    /// Whether raft asks before an election if it could be won.
    pub pre_vote: bool,

    /// Where to listen for clients: http, each with a [`MemberUrl::bind_address`].
    pub listen_client_urls: Vec<MemberUrl>,
    /// Where to listen for other members: http, each with a [`MemberUrl::bind_address`].
    pub listen_peer_urls: Vec<MemberUrl>,
    /// What clients are told; sorted.
    pub advertise_client_urls: Vec<MemberUrl>,
    /// What other members are told; sorted.
    pub initial_advertise_peer_urls: Vec<MemberUrl>,
    /// Who knows the members of a new cluster instead.
    pub discovery: Option<DiscoveryService>,
    /// Where DNS names the members of a new cluster instead.
    pub discovery_srv: Option<SrvRecords>,
    /// Members of a new cluster as given; [`Config::bootstrap`] reads it when it is needed.
    pub initial_cluster: String,
    /// Whether to found or to join, on the first start.
    pub initial_cluster_state: ClusterState,
    /// Keeps clusters with the same URLs apart.
    pub initial_cluster_token: String,
    /// Whether membership changes that would lose the quorum are refused.
    pub strict_reconfig_check: bool,
    /// Most learners in the cluster.
    pub max_learners: usize,
    /// Read timeout of connections between members; at least 5 s.
    pub raft_read_timeout: Duration,
    /// Write timeout of connections between members; at least 5 s.
    pub raft_write_timeout: Duration,

    /// Bytes that the state may take; 0 means the default, below 0 there is no limit.
    pub quota_backend_bytes: i64,
    /// Below this share of the quota, in percent, this member disarms its own alarm; `None` never.
    pub quota_auto_disarm_percent: Option<u64>,
    /// What compactions leave that the leader makes by itself; None makes none.
    pub auto_compaction: Option<AutoCompaction>,
    /// A start defragments if that frees at least so many bytes; None never does.
    pub bootstrap_defrag_threshold_bytes: Option<u64>,
    /// Most operations in one branch of a transaction.
    pub max_txn_ops: usize,
    /// Largest request, in bytes.
    pub max_request_bytes: usize,
    /// Most open streams on one connection.
    pub max_concurrent_streams: u32,
    /// Shortest time between two pings of a client; zero does not limit.
    pub grpc_keepalive_min_time: Duration,
    /// Time between two pings of the server; None sends none.
    pub grpc_keepalive_interval: Option<Duration>,
    /// Time for the answer to such a ping; None waits for ever.
    pub grpc_keepalive_timeout: Option<Duration>,
    /// Whether listening sockets get SO_REUSEPORT.
    pub socket_reuse_port: bool,
    /// Whether listening sockets get SO_REUSEADDR.
    pub socket_reuse_address: bool,

    /// Time between two comparisons of the members' data; None compares never.
    pub corrupt_check_time: Option<Duration>,
    /// Time between two comparisons of compaction hashes; above zero.
    pub compact_hash_check_time: Duration,
    /// Most revisions that a compaction deletes in one batch; at least 1.
    pub compaction_batch_limit: usize,
    /// Pause between two batches of a compaction.
    pub compaction_sleep_interval: Duration,
    /// Time between two progress messages of a quiet watch; at least 100 ms.
    pub watch_progress_notify_interval: Duration,
    /// Applying an entry that takes longer is logged.
    pub warning_apply_duration: Duration,
    /// A unary request that takes longer is logged.
    pub warning_unary_request_duration: Duration,
    /// Switches for new features.
    pub feature_gates: FeatureGates,
    /// Whether to go on with the data of a cluster, without its other members.
    pub force_new_cluster: bool,
    /// Whether to go on without waiting for the disk; a power cut then loses data.
    pub unsafe_no_fsync: bool,
    /// Where the log goes, from which level on, in which form.
    pub log: LogConfig,
}

impl Config {
    /// Directory of the raft log.
    pub fn log_dir(&self) -> PathBuf {
        match &self.wal_dir {
            Some(dir) => dir.clone(),
            None => self.data_dir.join("member").join("log"),
        }
    }

    /// Raft ticks without a heartbeat before an election; at least 5.
    pub fn election_ticks(&self) -> usize {
        let ticks = self.election_timeout.as_millis() / self.heartbeat_interval.as_millis();
        usize::try_from(ticks).expect("an election timeout has at most 50,000 heartbeats")
    }
}

/// What came of arguments and environment.
#[derive(Debug)]
pub struct Loaded {
    /// What was noticed, to be logged first.
    pub notes: Vec<Note>,
    /// The configuration, or why there is none.
    pub outcome: Result<Box<Config>, Stop>,
}

/// Why the process ends before it has become a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stop {
    /// These texts are to be printed: help, version, or a command line that does not parse.
    Print {
        /// For standard output.
        stdout: String,
        /// For standard error.
        stderr: String,
        /// Exit code.
        code: u8,
    },
    /// The configuration is refused, which is to be logged; the exit code is 1.
    Refused(ConfigError),
}

impl From<ConfigError> for Stop {
    fn from(error: ConfigError) -> Self {
        Self::Refused(error)
    }
}

/// Stands in the log for a secret.
const HIDDEN: &str = "***";

/// A flag's value as it may be logged, without its secrets.
fn shown(flag: &str, value: &str) -> String {
    match (flag, value.split_once(':')) {
        ("discovery-password", _) => HIDDEN.to_owned(),
        ("discovery-user", Some((user, _password))) => format!("{user}:{HIDDEN}"),
        _ => value.to_owned(),
    }
}

/// The arguments as they may be logged, with secrets hidden.
pub fn loggable(args: &[String]) -> Vec<String> {
    let mut safe = Vec::with_capacity(args.len());
    // The flag whose value may stand in the argument after it.
    let mut before = "";
    for arg in args {
        let flag = arg.trim_start_matches('-');
        safe.push(match arg.split_once('=') {
            Some((name, value)) if name.starts_with('-') => {
                let flag = name.trim_start_matches('-');
                format!("{name}={}", shown(flag, value))
            }
            _ => shown(before, arg),
        });
        before = if arg.starts_with('-') { flag } else { "" };
    }
    safe
}

/// Reads the configuration from `args` (without the program's name) and from `env`.
pub fn load(args: &[String], env: &[(String, String)]) -> Loaded {
    let mut notes = Vec::new();
    let outcome = load_with(args, env, &mut notes).map(Box::new);
    Loaded { notes, outcome }
}

fn load_with(
    args: &[String],
    env: &[(String, String)],
    notes: &mut Vec<Note>,
) -> Result<Config, Stop> {
    if let Some(command @ ("gateway" | "grpc-proxy")) = args.first().map(String::as_str) {
        return Err(help::no_such_command(command));
    }
    let mut values = Values::defaults();
    match values.parse(args) {
        Ok([]) => {}
        Ok([left, ..]) => return Err(ConfigError::LeftoverArgument(left.clone()).into()),
        Err(ParseError::Help) => return Err(help::help()),
        Err(ParseError::Bad(text)) => return Err(help::bad_command_line(&text)),
    }
    if values.bool("version") {
        return Err(help::version());
    }
    let path = match values.text("config-file") {
        "" => env::lookup(env, "ETCD_CONFIG_FILE")
            .unwrap_or_default()
            .to_owned(),
        path => path.to_owned(),
    };
    let from_file = !path.is_empty();
    if from_file {
        values = file::read(&path, notes)?;
        notes.push(Note::FileLoaded { path });
    } else {
        env::apply(&mut values, env, notes)?;
    }
    check::check(&values, from_file, notes)?;
    Ok(build::build(&values, notes)?)
}
