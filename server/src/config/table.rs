//! Every flag of etcd 3.7, in one table: name, default, kind, what Trilith does with it, help.

use super::value::Kind::{
    self, Bool, Choice, Choices, Duration, Gates, Ignored, Int, List, Text, Uint, Uint32, Urls,
    Words,
};

/// What Trilith does with a flag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Support {
    /// It works as in etcd.
    Ready,
    /// Accepted without a word, as etcd does with names of its past.
    Legacy,
    /// Accepted with a warning: it tunes a part of etcd that is not in Trilith.
    NoEffect,
    /// Refused unless it has its default value.
    Later(&'static Missing),
}
use Support::{Later, Legacy, NoEffect, Ready};

/// A feature that is not there yet, in the words of the refusal.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Missing {
    /// What is missing.
    pub(super) what: &'static str,
    /// What the user can do.
    pub(super) instead: &'static str,
}

const fn missing(what: &'static str, instead: &'static str) -> Missing {
    Missing { what, instead }
}

/// Also the reason why https URLs are refused.
pub(super) const TLS: Missing = missing(
    "Trilith has no TLS yet",
    "leave it out, and use http:// URLs in a network you trust or behind a TLS proxy",
);
/// The reason why unix URLs of the discovery service are refused.
pub(super) const SERVICE_SOCKETS: Missing = missing(
    "Trilith does not reach the discovery service through unix sockets",
    "use host:port",
);
/// Also the reason why unix URLs are refused.
pub(super) const SOCKETS: Missing = missing(
    "Trilith does not listen on unix sockets yet",
    "use http:// with an IP address or localhost",
);
const HTTP: Missing = missing(
    "Trilith serves no plain HTTP yet, only gRPC",
    "leave it out, and use gRPC on --listen-client-urls",
);
const METRICS: Missing = missing(
    "Trilith serves its metrics, which are the basic ones, to clients only",
    "leave it out, and scrape /metrics of --listen-client-urls",
);
const PROFILING: Missing = missing(
    "Trilith has no profiling over HTTP",
    "leave it out, and profile with perf",
);
const AUTH: Missing = missing(
    "Trilith has no authentication yet",
    "leave it out, and let only those reach the client URLs who may write",
);
const TRACING: Missing = missing(
    "Trilith sends no traces",
    "leave it out, and use --log-level=debug",
);
const ROTATION: Missing = missing(
    "Trilith does not rotate its log files",
    "leave it out, and let logrotate (copytruncate) or the service manager do it",
);
const DOWNGRADE: Missing = missing(
    "Trilith does not watch over downgrade jobs yet",
    "leave it out",
);

/// What `--v2-deprecation` may be set to, without any effect.
const V2_STAGES: &[&str] = &[
    "write-only",
    "write-only-skip-check",
    "write-only-drop-data",
    "gone",
];

/// One flag of the command line.
#[derive(Clone, Copy, Debug)]
pub(super) struct Flag {
    /// Heading in the help text.
    pub(super) section: &'static str,
    /// Without dashes.
    pub(super) name: &'static str,
    /// As it would be typed.
    pub(super) default: &'static str,
    pub(super) kind: Kind,
    pub(super) support: Support,
    pub(super) help: &'static str,
}

macro_rules! flags {
    ($($section:literal {
        $($name:literal $default:literal $kind:expr, $support:expr, $help:literal;)*
    })*) => {
        /// All flags, by section.
        pub(super) const FLAGS: &[Flag] = &[$($(Flag {
            section: $section,
            name: $name,
            default: $default,
            kind: $kind,
            support: $support,
            help: $help,
        },)*)*];
    };
}

flags! {
"Member" {
    "name" "default" Text, Ready, "Name of this member, for humans.";
    "data-dir" "" Text, Ready,
        "Directory of everything that must outlive the process (default: ${name}.etcd).";
    "wal-dir" "" Text, Ready, "Directory of the raft log, to have it on a disk of its own.";
    "snapshot-count" "10000" Uint, Ready,
        "Committed entries after which the state is flushed and the log cut.";
    "snapshot-catchup-entries" "5000" Uint, Ready,
        "Applied entries that stay in the log for members that are behind.";
    "heartbeat-interval" "100" Uint, Ready, "Milliseconds between two heartbeats of the leader.";
    "election-timeout" "1000" Uint, Ready,
        "Milliseconds without a heartbeat before an election; at least 5 heartbeats.";
    "initial-election-tick-advance" "true" Bool, Ready,
        "Shorten the first election after the start.";
    "listen-peer-urls" "http://localhost:2380" Urls, Ready, "URLs to listen on for other members.";
    "listen-client-urls" "http://localhost:2379" Urls, Ready, "URLs to listen on for clients.";
    "listen-client-http-urls" "" Urls, Later(&HTTP),
        "URLs to listen on for clients that speak plain HTTP only.";
    "max-snapshots" "5" Uint, NoEffect, "Snapshot files to keep (deprecated by etcd).";
    "max-wals" "5" Uint, NoEffect, "Log files to keep.";
    "memory-mlock" "false" Bool, NoEffect, "Keep the pages of etcd's database in memory.";
    "quota-backend-bytes" "0" Int, Ready,
        "Bytes that the state may take; 0 means 2 GiB, below 0 no limit.";
    "quota-auto-disarm-percent" "0" Uint, Ready,
        "Disarm the NOSPACE alarm when the state takes less than this share of its quota; 0 never.";
    "backend-bbolt-freelist-type" "map" Text, NoEffect,
        "Free list of etcd's database: array or map.";
    "backend-batch-interval" "0s" Duration, NoEffect,
        "Longest time before etcd's database commits.";
    "backend-batch-limit" "0" Int, NoEffect, "Most operations before etcd's database commits.";
    "max-txn-ops" "128" Uint, Ready, "Most operations in one branch of a transaction.";
    "max-request-bytes" "1572864" Uint, Ready, "Largest request, in bytes.";
    "max-concurrent-streams" "4294967295" Uint32, Ready, "Most open streams on one connection.";
    "grpc-keepalive-min-time" "5s" Duration, Ready,
        "Shortest time between two pings of a client.";
    "grpc-keepalive-interval" "2h" Duration, Ready,
        "Time between two pings of the server (0: none).";
    "grpc-keepalive-timeout" "20s" Duration, Ready, "Time for the answer to such a ping (0: none).";
    "socket-reuse-port" "false" Bool, Ready, "Set SO_REUSEPORT on the listening sockets.";
    "socket-reuse-address" "false" Bool, Ready, "Set SO_REUSEADDR on the listening sockets.";
    "enable-grpc-gateway" "true" Bool, Ready,
        "Serve the JSON gateway (accepted; there is none yet).";
    "raft-read-timeout" "5s" Duration, Ready,
        "Read timeout of connections between members; at least 5s.";
    "raft-write-timeout" "5s" Duration, Ready,
        "Write timeout of connections between members; at least 5s.";
    "feature-gates" "" Gates, Ready, "Switches for new features, as Gate=true,Other=false:";
}
"Clustering" {
    "initial-advertise-peer-urls" "http://localhost:2380" Urls, Ready,
        "URLs that the other members use to reach this one.";
    "initial-cluster" "default=http://localhost:2380" Text, Ready,
        "All members of a new cluster, as name=url,name=url.";
    "initial-cluster-state" "new" Choice(&["new", "existing"]), Ready,
        "Whether to found a cluster ('new') or join one ('existing'); looked at on the first \
         start only.";
    "initial-cluster-token" "etcd-cluster" Text, Ready, "Keeps clusters with the same URLs apart.";
    "advertise-client-urls" "http://localhost:2379" Urls, Ready,
        "URLs that clients use to reach this member.";
    "discovery-token" "" Text, Ready, "Names the new cluster to the discovery service.";
    "discovery-endpoints" "" Words, Ready, "Endpoints of the discovery service.";
    "discovery-dial-timeout" "2s" Duration, Ready,
        "Time in which the discovery service must know --discovery-user (0: for ever).";
    "discovery-request-timeout" "5s" Duration, Ready,
        "Time for a request to the discovery service.";
    "discovery-keepalive-time" "2s" Duration, Ready,
        "Time between two pings to the discovery service.";
    "discovery-keepalive-timeout" "6s" Duration, Ready,
        "Time for the answer to such a ping.";
    "discovery-insecure-transport" "true" Bool, Later(&TLS),
        "Reach the discovery service without TLS.";
    "discovery-insecure-skip-tls-verify" "false" Bool, Later(&TLS),
        "Trust any certificate of the discovery service.";
    "discovery-cert" "" Text, Later(&TLS), "Client certificate for the discovery service.";
    "discovery-key" "" Text, Later(&TLS), "Key of that certificate.";
    "discovery-cacert" "" Text, Later(&TLS),
        "CA that signs the discovery service's certificate.";
    "discovery-user" "" Text, Ready,
        "User at the discovery service, as name or name:password.";
    "discovery-password" "" Text, Ready, "Password of that user.";
    "discovery-fallback" "exit" Choice(&["exit", "proxy"]), Legacy,
        "What to do when discovery fails; only 'exit' is left.";
    "discovery-srv" "" Text, Ready, "Domain whose SRV records name the members.";
    "discovery-srv-name" "" Text, Ready, "Suffix of the SRV service name.";
    "strict-reconfig-check" "true" Bool, Ready,
        "Refuse membership changes that would lose the quorum.";
    "pre-vote" "true" Bool, Ready, "Ask before an election whether it could be won.";
    "auto-compaction-retention" "0" Text, Ready,
        "History to keep, as a time or as a number of revisions; 0 keeps all.";
    "auto-compaction-mode" "periodic" Text, Ready,
        "How to read --auto-compaction-retention: periodic (a bare number means hours) or \
         revision.";
    "v2-deprecation" "" Choices(V2_STAGES), Legacy,
        "No longer looked at, as in etcd.";
}
"Security" {
    "cert-file" "" Text, Later(&TLS), "Certificate for clients.";
    "key-file" "" Text, Later(&TLS), "Key of that certificate.";
    "client-cert-auth" "false" Bool, Later(&TLS), "Ask clients for a certificate.";
    "client-cert-file" "" Text, Later(&TLS),
        "Certificate of this server when it is itself a client.";
    "client-key-file" "" Text, Later(&TLS), "Key of that certificate.";
    "client-crl-file" "" Text, Later(&TLS), "List of revoked client certificates.";
    "client-cert-allowed-hostname" "" List, Later(&TLS),
        "Host names that a client certificate may have.";
    "trusted-ca-file" "" Text, Later(&TLS), "CA that signs client certificates.";
    "auto-tls" "false" Bool, Later(&TLS), "Make a certificate for clients.";
    "peer-cert-file" "" Text, Later(&TLS), "Certificate for other members.";
    "peer-key-file" "" Text, Later(&TLS), "Key of that certificate.";
    "peer-client-cert-auth" "false" Bool, Later(&TLS), "Ask other members for a certificate.";
    "peer-client-cert-file" "" Text, Later(&TLS),
        "Certificate shown to other members when dialing them.";
    "peer-client-key-file" "" Text, Later(&TLS), "Key of that certificate.";
    "peer-trusted-ca-file" "" Text, Later(&TLS), "CA that signs the members' certificates.";
    "peer-cert-allowed-cn" "" List, Later(&TLS),
        "Common names that a member's certificate may have.";
    "peer-cert-allowed-hostname" "" List, Later(&TLS),
        "Host names that a member's certificate may have.";
    "peer-auto-tls" "false" Bool, Later(&TLS), "Make a certificate for other members.";
    "peer-crl-file" "" Text, Later(&TLS), "List of revoked certificates of members.";
    "peer-skip-client-san-verification" "false" Bool, Later(&TLS),
        "Do not compare a member's address with its certificate.";
    "self-signed-cert-validity" "1" Uint, Later(&TLS), "Years that a made certificate is valid.";
    "cipher-suites" "" List, Later(&TLS), "TLS cipher suites to offer, by Go's names.";
    "cors" "*" Words, Later(&HTTP), "Origins that browsers may come from (* or empty: all).";
    "host-whitelist" "*" Words, Later(&HTTP),
        "Host names that plain HTTP requests may name (* or empty: all).";
    "tls-min-version" "TLS1.2" Text, Later(&TLS), "Oldest TLS version to speak: TLS1.2 or TLS1.3.";
    "tls-max-version" "" Text, Later(&TLS), "Newest TLS version to speak: TLS1.2 or TLS1.3.";
}
"Auth" {
    "auth-token" "simple" Text, Later(&AUTH),
        "Kind of auth token: simple, or jwt with its options.";
    "bcrypt-cost" "10" Uint, Later(&AUTH), "Cost of hashing a password.";
    "auth-token-ttl" "300" Uint, Later(&AUTH), "Seconds that a simple token lives.";
}
"Profiling and Monitoring" {
    "enable-pprof" "false" Bool, Later(&PROFILING), "Serve profiles over HTTP.";
    "metrics" "basic" Text, Later(&METRICS), "Detail of the metrics: basic or extensive.";
    "listen-metrics-urls" "" Urls, Later(&METRICS), "More URLs to serve /metrics and /health on.";
}
"Logging" {
    "logger" "zap" Text, Ready, "Shape of the log; only 'zap' is left.";
    "log-outputs" "default" Words, Ready,
        "Where the log goes: default, stderr, stdout, or paths of files.";
    "log-level" "info" Text, Ready, "Least level to log: debug, info, warn, error, panic or fatal.";
    "log-format" "json" Text, Ready, "Form of a line: json or console.";
    "enable-log-rotation" "false" Bool, Later(&ROTATION), "Rotate the log file.";
    "log-rotation-config-json"
        "{\"maxsize\": 100, \"maxage\": 0, \"maxbackups\": 0, \"localtime\": false, \
         \"compress\": false}"
        Text, Later(&ROTATION),
        "How to rotate the log file.";
    "warning-unary-request-duration" "300ms" Duration, Ready,
        "Log a warning for requests that take longer.";
}
"Distributed tracing" {
    "enable-distributed-tracing" "false" Bool, Later(&TRACING),
        "Send traces to an OpenTelemetry collector.";
    "distributed-tracing-address" "localhost:4317" Text, Later(&TRACING),
        "Address of the collector.";
    "distributed-tracing-service-name" "etcd" Text, Later(&TRACING), "Service name in traces.";
    "distributed-tracing-instance-id" "" Text, Later(&TRACING), "Instance id in traces.";
    "distributed-tracing-sampling-rate" "0" Int, Later(&TRACING), "Traces to keep of a million.";
}
"Features" {
    "corrupt-check-time" "0s" Duration, Ready,
        "Time between two comparisons of the members' data (0: none).";
    "compact-hash-check-time" "1m" Duration, Ready,
        "Time between two comparisons of the members' compaction hashes.";
    "compaction-batch-limit" "0" Int, Ready,
        "Most revisions that a compaction deletes at once (0: 1000).";
    "compaction-sleep-interval" "0s" Duration, Ready,
        "Pause between two batches of a compaction (0: 10ms).";
    "watch-progress-notify-interval" "0s" Duration, Ready,
        "Time between two progress messages of a quiet watch (0: 10m).";
    "warning-apply-duration" "100ms" Duration, Ready,
        "Log a warning when applying an entry takes longer.";
    "bootstrap-defrag-threshold-megabytes" "0" Uint, Ready,
        "Defragment at start if that frees so much (0: never).";
    "max-learners" "1" Int, Ready, "Most learners in the cluster.";
    "downgrade-check-time" "5s" Duration, Later(&DOWNGRADE),
        "Time between two looks at a downgrade job.";
}
"Unsafe feature" {
    "force-new-cluster" "false" Bool, Ready,
        "Found a new cluster of this member alone from its data.";
    "unsafe-no-fsync" "false" Bool, Ready, "Do not wait for the disk; a power cut loses data.";
}
"Other" {
    "config-file" "" Text, Ready,
        "YAML or JSON file; with it all other flags and variables are ignored.";
    "version" "false" Bool, Ready, "Print the version and exit.";
}
"" {
    "cluster-active-size" "" Ignored, Legacy, "";
    "cluster-remove-delay" "" Ignored, Legacy, "";
    "cluster-sync-interval" "" Ignored, Legacy, "";
    "config" "" Ignored, Legacy, "";
    "force" "" Ignored, Legacy, "";
    "max-result-buffer" "" Ignored, Legacy, "";
    "max-retry-attempts" "" Ignored, Legacy, "";
    "peer-heartbeat-interval" "" Ignored, Legacy, "";
    "peer-election-timeout" "" Ignored, Legacy, "";
    "retry-interval" "" Ignored, Legacy, "";
    "snapshot" "" Ignored, Legacy, "";
    "v" "" Ignored, Legacy, "";
    "vv" "" Ignored, Legacy, "";
    "test.coverprofile" "" Ignored, Legacy, "";
    "test.outputdir" "" Ignored, Legacy, "";
}
}

/// Position of a flag in the table.
pub(super) fn position(name: &str) -> Option<usize> {
    FLAGS.iter().position(|flag| flag.name == name)
}
