//! The checks that etcd makes on its settings, in etcd's order; then what Trilith cannot do yet.

use std::net::IpAddr;

use super::duration::parse_go_duration;
use super::error::ConfigError;
use super::flags::Values;
use super::note::Note;
use super::table::{self, Support};
use super::url::{MemberUrl, Scheme, join};

/// etcd warns above this size of a request.
pub(super) const RECOMMENDED_REQUEST_BYTES: u64 = 10 * 1024 * 1024;

/// Longest election timeout, in milliseconds, as in etcd.
const MAX_ELECTION_MS: u64 = 50_000;

/// An alarm that is disarmed any closer to the quota would come back at once.
const DISARM_PERCENT_MAX: u64 = 95;

/// Checks everything that needs no other knowledge than the settings themselves.
///
/// `from_file` tells whether they came from the config file, which etcd checks less.
pub(super) fn check(
    values: &Values,
    from_file: bool,
    notes: &mut Vec<Note>,
) -> Result<(), ConfigError> {
    if !from_file && values.text("discovery-fallback") == "proxy" {
        return Err(ConfigError::Proxy);
    }
    logger(values)?;
    urls(values)?;
    bootstrap_flags(values)?;
    timing(values)?;
    // Only arguments and variables tell what was set explicitly; a file keeps the default.
    if !from_file && values.is_set("listen-client-urls") && !values.is_set("advertise-client-urls")
    {
        return Err(ConfigError::UnsetAdvertise);
    }
    compaction_mode(values)?;
    let gates = values.gates("feature-gates");
    match (gates.lease_checkpoint, gates.lease_checkpoint_persist) {
        (true, false) => notes.push(Note::CheckpointNotPersisted),
        (false, true) => return Err(ConfigError::CheckpointPersist),
        _ => {}
    }
    let hash_check = values.duration("compact-hash-check-time");
    if hash_check <= 0 {
        return Err(ConfigError::CompactHashCheck(hash_check));
    }
    let percent = values.uint("quota-auto-disarm-percent");
    if percent > DISARM_PERCENT_MAX {
        return Err(ConfigError::DisarmPercent(percent));
    }
    for flag in ["tls-min-version", "tls-max-version"] {
        let version = values.text(flag);
        if !["", "TLS1.2", "TLS1.3"].contains(&version) {
            return Err(ConfigError::TlsVersion(version.to_owned()));
        }
    }
    negatives(values)?;
    support(values, notes)
}

fn logger(values: &Values) -> Result<(), ConfigError> {
    match values.text("logger") {
        "zap" => {}
        "capnslog" => return Err(ConfigError::Capnslog),
        other => return Err(ConfigError::Logger(other.to_owned())),
    }
    let outputs = values.words("log-outputs");
    if outputs.len() > 1 && outputs.iter().any(|output| output == "default") {
        return Err(ConfigError::SeveralOutputs("default".to_owned()));
    }
    if outputs.iter().any(|output| output == "systemd/journal") {
        return Err(ConfigError::NotYet {
            setting: "log-outputs=systemd/journal".to_owned(),
            missing: "Trilith does not speak the journal's protocol",
            instead: "use stderr, which systemd writes to the journal",
        });
    }
    super::build::log(values).map(|_| ())
}

fn urls(values: &Values) -> Result<(), ConfigError> {
    for flag in ["listen-peer-urls", "listen-client-urls"] {
        for url in values.urls(flag) {
            bindable(url)?;
        }
    }
    for flag in ["listen-client-http-urls", "listen-metrics-urls"] {
        for url in values.urls(flag) {
            bindable(url)?;
        }
    }
    let hostless = |flag| {
        let urls = values.urls(flag);
        let network = |url: &&MemberUrl| matches!(url.scheme(), Scheme::Http | Scheme::Https);
        let bad = urls
            .iter()
            .filter(network)
            .find(|url| url.host().is_empty())?;
        Some((join(urls), bad.to_string()))
    };
    if let Some((urls, bad)) = hostless("initial-advertise-peer-urls") {
        return Err(ConfigError::PeerHost { urls, bad });
    }
    match hostless("advertise-client-urls") {
        Some((urls, bad)) => Err(ConfigError::ClientHost { urls, bad }),
        None => Ok(()),
    }
}

/// etcd binds to addresses and localhost only, so that no name service decides who can connect.
fn bindable(url: &MemberUrl) -> Result<(), ConfigError> {
    if matches!(url.scheme(), Scheme::Unix | Scheme::Unixs) {
        return Ok(());
    }
    if url.host() != "localhost" && url.host().parse::<IpAddr>().is_err() {
        return Err(ConfigError::BindHost(url.to_string()));
    }
    match url.bind_address() {
        Some(_) => Ok(()),
        None => Err(ConfigError::Port(url.port().to_owned())),
    }
}

fn bootstrap_flags(values: &Values) -> Result<(), ConfigError> {
    let state = values.text("initial-cluster-state");
    if !["new", "existing"].contains(&state) {
        return Err(ConfigError::ClusterState(state.to_owned()));
    }
    let ways = [
        values.is_set("initial-cluster") && !values.text("initial-cluster").is_empty(),
        !values.text("discovery-srv").is_empty(),
        !values.words("discovery-endpoints").is_empty(),
    ];
    if ways.into_iter().filter(|way| *way).count() > 1 {
        return Err(ConfigError::ConflictingBootstrap);
    }
    super::service::check(values)
}

fn timing(values: &Values) -> Result<(), ConfigError> {
    let heartbeat = values.uint("heartbeat-interval");
    let election = values.uint("election-timeout");
    if heartbeat == 0 {
        return Err(ConfigError::Heartbeat(heartbeat));
    }
    if election == 0 {
        return Err(ConfigError::Election(election));
    }
    if heartbeat.saturating_mul(5) > election {
        return Err(ConfigError::ElectionTooShort {
            election,
            heartbeat,
        });
    }
    if election > MAX_ELECTION_MS {
        return Err(ConfigError::ElectionTooLong(election));
    }
    Ok(())
}

fn compaction_mode(values: &Values) -> Result<(), ConfigError> {
    match values.text("auto-compaction-mode") {
        "periodic" | "revision" => {}
        "" => return Err(ConfigError::NoCompactionMode),
        other => return Err(ConfigError::CompactionMode(other.to_owned())),
    }
    // etcd finds this out only when it starts; the text is the same.
    let retention = values.text("auto-compaction-retention");
    if retention.is_empty() || retention.parse::<u64>().is_ok() {
        return Ok(());
    }
    let nanos = parse_go_duration(retention).map_err(ConfigError::Retention)?;
    if nanos < 0 {
        // etcd takes a negative time and then compacts in a tight loop.
        let flag = "auto-compaction-retention";
        return Err(ConfigError::Negative {
            flag,
            value: retention.to_owned(),
        });
    }
    Ok(())
}

/// Numbers with a sign that make no sense below zero; etcd starts with some of them and goes wrong.
fn negatives(values: &Values) -> Result<(), ConfigError> {
    for flag in ["compaction-batch-limit", "max-learners"] {
        let value = values.int(flag);
        if value < 0 {
            return Err(ConfigError::Negative {
                flag,
                value: value.to_string(),
            });
        }
    }
    for flag in ["compaction-sleep-interval", "corrupt-check-time"] {
        let value = values.duration(flag);
        if value < 0 {
            let value = super::duration::go_duration(value);
            return Err(ConfigError::Negative { flag, value });
        }
    }
    Ok(())
}

/// Refuses what Trilith cannot do yet, by name: nothing is silently ignored.
fn support(values: &Values, notes: &mut Vec<Note>) -> Result<(), ConfigError> {
    for (flag, changed) in values.given() {
        match flag.support {
            Support::Later(missing) if changed => return Err(not_yet(flag.name, missing)),
            Support::NoEffect if changed => notes.push(Note::NoEffect { flag: flag.name }),
            Support::Legacy if flag.name == "v2-deprecation" => {
                notes.push(Note::Deprecated { flag: flag.name });
            }
            _ => {}
        }
    }
    for flag in [
        "listen-client-urls",
        "listen-peer-urls",
        "initial-advertise-peer-urls",
    ] {
        for url in values.urls(flag) {
            if let Some(missing) = unsupported(url) {
                return Err(not_yet(&format!("{flag}={url}"), missing));
            }
        }
    }
    Ok(())
}

/// What is missing to speak to the other end of a URL, if something is.
pub(super) fn unsupported(url: &MemberUrl) -> Option<&'static table::Missing> {
    match url.scheme() {
        Scheme::Http => None,
        Scheme::Https => Some(&table::TLS),
        Scheme::Unix | Scheme::Unixs => Some(&table::SOCKETS),
    }
}

/// The refusal of a setting whose feature is missing.
pub(super) fn not_yet(setting: &str, missing: &table::Missing) -> ConfigError {
    ConfigError::NotYet {
        setting: setting.to_owned(),
        missing: missing.what,
        instead: missing.instead,
    }
}
