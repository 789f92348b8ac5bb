//! From checked values to a [`Config`]: units, defaults that depend on others, lower limits.

use std::net::{IpAddr, UdpSocket};
use std::path::PathBuf;
use std::time::Duration;

use super::Config;
use super::check::RECOMMENDED_REQUEST_BYTES;
use super::cluster::{ClusterState, SrvRecords, written};
use super::duration::{go_duration, parse_go_duration};
use super::error::ConfigError;
use super::flags::Values;
use super::note::Note;
use super::url::MemberUrl;
use crate::discovery_service::DiscoveryService;
use crate::logging::{LogConfig, LogFormat, LogLevel, LogOutput};

const DEFAULT_NAME: &str = "default";
const DEFAULT_PEER_URL: &str = "http://localhost:2380";
const DEFAULT_CLIENT_URL: &str = "http://localhost:2379";
const DEFAULT_INITIAL_CLUSTER: &str = "default=http://localhost:2380";

/// What etcd takes for a setting of 0.
const DEFAULT_SNAPSHOT_COUNT: u64 = 10_000;
const DEFAULT_CATCHUP_ENTRIES: u64 = 5_000;
const DEFAULT_COMPACTION_BATCH: usize = 1_000;
const DEFAULT_COMPACTION_SLEEP: Duration = Duration::from_millis(10);
const DEFAULT_PROGRESS_INTERVAL: Duration = Duration::from_secs(600);
const DEFAULT_UNARY_WARNING: Duration = Duration::from_millis(300);

const NANOS_PER_HOUR: u64 = 3_600_000_000_000;

/// Below these, etcd raises a setting.
const MIN_PROGRESS_INTERVAL: Duration = Duration::from_millis(100);
const MIN_PEER_TIMEOUT: Duration = Duration::from_secs(5);

/// Builds the configuration; `values` have passed [`super::check::check`].
pub(super) fn build(values: &Values, notes: &mut Vec<Note>) -> Result<Config, ConfigError> {
    let name = name(values, notes);
    let data_dir = data_dir(values, notes);
    let peer_urls = advertised(
        values,
        "initial-advertise-peer-urls",
        "listen-peer-urls",
        notes,
    );
    let client_urls = advertised(values, "advertise-client-urls", "listen-client-urls", notes);
    let max_request_bytes = max_request_bytes(values, notes);
    let discovery = super::service::build(values)?;
    let (initial_cluster, initial_cluster_token) =
        initial_cluster(values, discovery.as_ref(), &name, &peer_urls);
    Ok(Config {
        discovery_srv: discovery_srv(values),
        initial_cluster,
        initial_cluster_token,
        discovery,
        name,
        data_dir,
        wal_dir: wal_dir(values),
        snapshot_count: or_default(values.uint("snapshot-count"), DEFAULT_SNAPSHOT_COUNT),
        snapshot_catchup_entries: or_default(
            values.uint("snapshot-catchup-entries"),
            DEFAULT_CATCHUP_ENTRIES,
        ),
        heartbeat_interval: Duration::from_millis(values.uint("heartbeat-interval")),
        election_timeout: Duration::from_millis(values.uint("election-timeout")),
        initial_election_tick_advance: values.bool("initial-election-tick-advance"),
        pre_vote: values.bool("pre-vote"),
        listen_client_urls: values.urls("listen-client-urls").to_vec(),
        listen_peer_urls: values.urls("listen-peer-urls").to_vec(),
        advertise_client_urls: client_urls,
        initial_advertise_peer_urls: peer_urls,
        initial_cluster_state: cluster_state(values),
        strict_reconfig_check: values.bool("strict-reconfig-check"),
        max_learners: size(values.int("max-learners")),
        raft_read_timeout: peer_timeout(values, "raft-read-timeout", notes),
        raft_write_timeout: peer_timeout(values, "raft-write-timeout", notes),
        quota_backend_bytes: values.int("quota-backend-bytes"),
        quota_auto_disarm_percent: Some(values.uint("quota-auto-disarm-percent"))
            .filter(|percent| *percent > 0),
        auto_compaction: auto_compaction(values),
        bootstrap_defrag_threshold_bytes: defrag_threshold(values),
        max_txn_ops: values.uint("max-txn-ops").try_into().unwrap_or(usize::MAX),
        max_request_bytes,
        max_concurrent_streams: values
            .uint("max-concurrent-streams")
            .try_into()
            .expect("the flag's kind holds 32 bits"),
        grpc_keepalive_min_time: at_least_zero(values.duration("grpc-keepalive-min-time")),
        grpc_keepalive_interval: some_time(values.duration("grpc-keepalive-interval")),
        grpc_keepalive_timeout: some_time(values.duration("grpc-keepalive-timeout")),
        socket_reuse_port: values.bool("socket-reuse-port"),
        socket_reuse_address: values.bool("socket-reuse-address"),
        corrupt_check_time: some_time(values.duration("corrupt-check-time")),
        compact_hash_check_time: at_least_zero(values.duration("compact-hash-check-time")),
        compaction_batch_limit: compaction_batch(values),
        compaction_sleep_interval: compaction_sleep(values),
        watch_progress_notify_interval: progress_interval(values, notes),
        warning_apply_duration: at_least_zero(values.duration("warning-apply-duration")),
        warning_unary_request_duration: unary_warning(values),
        feature_gates: values.gates("feature-gates").clone(),
        force_new_cluster: values.bool("force-new-cluster"),
        unsafe_no_fsync: values.bool("unsafe-no-fsync"),
        log: log(values)?,
    })
}

fn defrag_threshold(values: &Values) -> Option<u64> {
    let megabytes = values.uint("bootstrap-defrag-threshold-megabytes");
    Some(megabytes.saturating_mul(1 << 20)).filter(|bytes| *bytes > 0)
}

fn compaction_batch(values: &Values) -> usize {
    let rows = size(values.int("compaction-batch-limit"));
    or_default(rows, DEFAULT_COMPACTION_BATCH)
}

fn compaction_sleep(values: &Values) -> Duration {
    some_time(values.duration("compaction-sleep-interval")).unwrap_or(DEFAULT_COMPACTION_SLEEP)
}

fn unary_warning(values: &Values) -> Duration {
    some_time(values.duration("warning-unary-request-duration")).unwrap_or(DEFAULT_UNARY_WARNING)
}

/// What the leader keeps when it compacts by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AutoCompaction {
    /// Everything that was current during this time.
    Time(Duration),
    /// So many of the last revisions.
    Revisions(i64),
}

/// A bare number counts hours or revisions. A time in the mode `revision` counts its nanoseconds,
/// only because etcd does so.
fn auto_compaction(values: &Values) -> Option<AutoCompaction> {
    let text = values.text("auto-compaction-retention");
    let in_revisions = values.text("auto-compaction-mode") == "revision";
    let count = match text.parse::<u64>() {
        Ok(hours) if !in_revisions => hours.saturating_mul(NANOS_PER_HOUR),
        Ok(revisions) => revisions,
        Err(_) if text.is_empty() => 0,
        Err(_) => parse_go_duration(text)
            .ok()
            .and_then(|nanos| u64::try_from(nanos).ok())
            .expect("the retention was checked to be a time that is not negative"),
    };
    if count == 0 {
        return None;
    }
    Some(if in_revisions {
        AutoCompaction::Revisions(i64::try_from(count).unwrap_or(i64::MAX))
    } else {
        AutoCompaction::Time(Duration::from_nanos(count))
    })
}

/// 0 stands for the default in several of etcd's settings.
fn or_default<T: Default + PartialEq>(value: T, default: T) -> T {
    if value == T::default() {
        default
    } else {
        value
    }
}

pub(super) fn at_least_zero(nanos: i64) -> Duration {
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(0))
}

/// None for zero and below, which switches off what the time is for.
pub(super) fn some_time(nanos: i64) -> Option<Duration> {
    Some(at_least_zero(nanos)).filter(|time| !time.is_zero())
}

fn size(value: i64) -> usize {
    usize::try_from(value).expect("negative values were refused by the checks")
}

fn name(values: &Values, notes: &mut Vec<Note>) -> String {
    let name = values.text("name");
    if name == DEFAULT_NAME {
        notes.push(Note::DefaultName);
    }
    name.to_owned()
}

fn max_request_bytes(values: &Values, notes: &mut Vec<Note>) -> usize {
    let bytes = values.uint("max-request-bytes");
    if bytes > RECOMMENDED_REQUEST_BYTES {
        notes.push(Note::LargeRequests { bytes });
    }
    bytes.try_into().unwrap_or(usize::MAX)
}

/// The raft log's own directory; None when it has none.
fn wal_dir(values: &Values) -> Option<PathBuf> {
    let given = values.text("wal-dir");
    (!given.is_empty()).then(|| PathBuf::from(given))
}

fn data_dir(values: &Values, notes: &mut Vec<Note>) -> PathBuf {
    let given = values.text("data-dir");
    if !given.is_empty() {
        return PathBuf::from(given);
    }
    let dir = format!("{}.etcd", values.text("name"));
    notes.push(Note::DefaultDataDir { dir: dir.clone() });
    PathBuf::from(dir)
}

/// The advertised URLs. A default one beside a listener on 0.0.0.0 gets this machine's address.
fn advertised(
    values: &Values,
    advertise: &str,
    listen: &str,
    notes: &mut Vec<Note>,
) -> Vec<MemberUrl> {
    let urls = values.urls(advertise);
    let default = match advertise {
        "advertise-client-urls" => DEFAULT_CLIENT_URL,
        _ => DEFAULT_PEER_URL,
    };
    let listens_everywhere = values
        .urls(listen)
        .first()
        .filter(|url| url.host() == "0.0.0.0");
    let (Some(listener), [only]) = (listens_everywhere, urls) else {
        return urls.to_vec();
    };
    if only.to_string() != default {
        return urls.to_vec();
    }
    match default_host() {
        Ok(host) => {
            notes.push(Note::DefaultHost {
                host: host.to_string(),
            });
            vec![MemberUrl::http(host, listener.port())]
        }
        Err(error) => {
            notes.push(Note::NoDefaultHost {
                error: error.to_string(),
            });
            urls.to_vec()
        }
    }
}

/// The address from which this machine reaches the outside, as its routes say.
///
/// Connecting a datagram socket chooses the route and sends nothing; the address belongs to the
/// range for documentation (RFC 5737), so that no real host is meant.
fn default_host() -> std::io::Result<IpAddr> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    socket.connect("192.0.2.1:9")?;
    Ok(socket.local_addr()?.ip())
}

fn discovery_srv(values: &Values) -> Option<SrvRecords> {
    let domain = values.text("discovery-srv").to_owned();
    (!domain.is_empty()).then(|| SrvRecords {
        domain,
        service_name: values.text("discovery-srv-name").to_owned(),
    })
}

fn cluster_state(values: &Values) -> ClusterState {
    match values.text("initial-cluster-state") {
        "existing" => ClusterState::Existing,
        _ => ClusterState::New,
    }
}

/// The list and the token. With a name of its own and no list, a member founds a cluster of itself.
fn initial_cluster(
    values: &Values,
    discovery: Option<&DiscoveryService>,
    name: &str,
    peer_urls: &[MemberUrl],
) -> (String, String) {
    if let Some(service) = discovery {
        // For a start the member knows itself alone.
        return (written([(name, peer_urls)]), service.token.clone());
    }
    let token = values.text("initial-cluster-token").to_owned();
    let given = values.text("initial-cluster");
    if name == DEFAULT_NAME || given != DEFAULT_INITIAL_CLUSTER {
        return (given.to_owned(), token);
    }
    let name = if name.is_empty() { DEFAULT_NAME } else { name };
    (written([(name, peer_urls)]), token)
}

fn peer_timeout(values: &Values, flag: &'static str, notes: &mut Vec<Note>) -> Duration {
    let given = at_least_zero(values.duration(flag));
    if given < MIN_PEER_TIMEOUT {
        notes.push(Note::TimeoutRaised { flag });
    }
    given.max(MIN_PEER_TIMEOUT)
}

fn progress_interval(values: &Values, notes: &mut Vec<Note>) -> Duration {
    let nanos = values.duration("watch-progress-notify-interval");
    let Some(given) = some_time(nanos) else {
        return DEFAULT_PROGRESS_INTERVAL;
    };
    if given < MIN_PROGRESS_INTERVAL {
        notes.push(Note::ProgressIntervalRaised {
            given: go_duration(nanos),
        });
    }
    given.max(MIN_PROGRESS_INTERVAL)
}

/// Where the log goes, as far as that can be read without opening files.
pub(super) fn log(values: &Values) -> Result<LogConfig, ConfigError> {
    let level = values.text("log-level");
    let format = values.text("log-format");
    let outputs = values
        .words("log-outputs")
        .iter()
        .map(|output| LogOutput::parse(output));
    Ok(LogConfig {
        level: LogLevel::parse(level).ok_or_else(|| ConfigError::LogLevel(level.to_owned()))?,
        format: LogFormat::parse(format)
            .ok_or_else(|| ConfigError::LogFormat(format.to_owned()))?,
        outputs: outputs.collect(),
    })
}
