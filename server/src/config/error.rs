//! Why a configuration is refused; the texts are etcd's where etcd refuses the same.

use super::duration::go_duration;

/// What is wrong with the configuration; whoever wrote the flags can fix each of them.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "each variant is explained by its text")]
pub enum ConfigError {
    #[error(
        "--quota-auto-disarm-percent must be at most 95 (set to {0}): the alarm would come back"
    )]
    DisarmPercent(u64),
    #[error("{0:?} is not a valid flag")]
    LeftoverArgument(String),
    #[error("invalid value {value:?} for {variable}: {reason}")]
    Variable {
        variable: String,
        value: String,
        reason: String,
    },
    /// The same flag came by argument and by environment; etcd calls this fatal.
    #[error(
        "conflicting environment variable is shadowed by corresponding command-line flag \
         (either unset environment variable or disable flag))"
    )]
    Shadowed { variable: String },
    #[error("{0}")]
    File(String),
    #[error("unknown logger option {0:?}")]
    Logger(String),
    #[error("--logger=capnslog is removed in v3.5")]
    Capnslog,
    #[error("multi logoutput for {0:?} is not supported yet")]
    SeveralOutputs(String),
    #[error("unknown log format: {0}, supported values json, console")]
    LogFormat(String),
    #[error("unrecognized level: {0:?}")]
    LogLevel(String),
    #[error("expected IP in URL for binding ({0})")]
    BindHost(String),
    #[error("listen tcp: address {0}: invalid port")]
    Port(String),
    #[error(
        "--initial-advertise-peer-urls {urls:?} must be \"host:port\" \
         (unexpected empty host ({bad}))"
    )]
    PeerHost { urls: String, bad: String },
    #[error(
        "--advertise-client-urls {urls:?} must be in the format \"host:port\", \
         \"unix:/path/to/socket\" or \"unixs:/path/to/socket\" (unexpected empty host ({bad}))"
    )]
    ClientHost { urls: String, bad: String },
    #[error("unexpected clusterState {0:?}")]
    ClusterState(String),
    #[error(
        "multiple discovery or bootstrap flags are set. Choose one of \"initial-cluster\", \
         \"discovery-endpoints\" or \"discovery-srv\""
    )]
    ConflictingBootstrap,
    #[error("both --discovery-token and --discovery-endpoints must be set")]
    HalfDiscovery,
    #[error("--discovery-endpoints must not contain empty endpoints")]
    EmptyEndpoint,
    #[error(
        "--discovery-endpoints={endpoint} is no endpoint: {reason}; each must be \"host:port\" or \
         \"http://host:port\""
    )]
    Endpoint { endpoint: String, reason: String },
    #[error(
        "--discovery-request-timeout must be >0 (set to {}), or no request would be answered in \
         time",
        go_duration(*.0)
    )]
    DiscoveryTimeout(i64),
    #[error(
        "--discovery-user and --discovery-password must be set together; without one of them the \
         discovery service would not know who asks"
    )]
    HalfCredentials,
    #[error("discovery URL should not be set when joining existing initial cluster")]
    DiscoveryForExisting,
    #[error("discovery cluster {0} has duplicate url")]
    DuplicateDiscoveredUrl(String),
    #[error("--heartbeat-interval must be >0 (set to {0}ms)")]
    Heartbeat(u64),
    #[error("--election-timeout must be >0 (set to {0}ms)")]
    Election(u64),
    #[error(
        "--election-timeout[{election}ms] should be at least as 5 times as \
         --heartbeat-interval[{heartbeat}ms]"
    )]
    ElectionTooShort { election: u64, heartbeat: u64 },
    #[error("--election-timeout[{0}ms] is too long, and should be set less than 50000ms")]
    ElectionTooLong(u64),
    #[error("--advertise-client-urls is required when --listen-client-urls is set explicitly")]
    UnsetAdvertise,
    #[error("undefined auto-compaction-mode")]
    NoCompactionMode,
    #[error("unknown auto-compaction-mode {0:?}")]
    CompactionMode(String),
    #[error("error parsing CompactionRetention: {0}")]
    Retention(String),
    #[error(
        "enabling feature gate LeaseCheckpointPersist requires enabling feature gate \
         LeaseCheckpoint"
    )]
    CheckpointPersist,
    #[error("--compact-hash-check-time must be >0 (set to {})", go_duration(*.0))]
    CompactHashCheck(i64),
    #[error("unexpected TLS version {0:?} (must be one of: TLS1.2, TLS1.3)")]
    TlsVersion(String),
    #[error("v2 proxy is deprecated, and --discovery-fallback can't be configured as \"proxy\"")]
    Proxy,
    #[error("--{flag} must not be negative (set to {value})")]
    Negative { flag: &'static str, value: String },
    #[error("couldn't find local name {0:?} in the initial cluster configuration")]
    NoLocalName(String),
    #[error("error setting up initial cluster: cannot find local etcd member {0:?} in SRV records")]
    NoLocalRecord(String),
    #[error("--initial-cluster has {has} but missing from --initial-advertise-peer-urls={urls}")]
    NotAdvertised { has: String, urls: String },
    #[error("--initial-advertise-peer-urls has {has} but missing from --initial-cluster={cluster}")]
    NotInCluster { has: String, cluster: String },
    #[error("initial cluster {0} has duplicate url")]
    DuplicateUrl(String),
    #[error("error setting up initial cluster: {0}")]
    InitialCluster(String),
    /// A setting that etcd has and Trilith has not got yet.
    #[error("--{setting} is not supported yet: {missing}; {instead}")]
    NotYet {
        setting: String,
        missing: &'static str,
        instead: &'static str,
    },
}

impl ConfigError {
    /// The exit code that etcd ends with.
    pub fn exit_code(&self) -> u8 {
        match self {
            // etcd panics over a level that it does not know.
            Self::LogLevel(_) => 2,
            _ => 1,
        }
    }
}
