//! The line that tells with which settings a member starts.

use super::duration::go_duration;
use super::{Config, ETCD_VERSION, MemberUrl};

impl Config {
    /// Logs "starting an etcd server", which tools wait for, with etcd's names of the settings.
    ///
    /// `initialized` says whether the data directory had a member already.
    pub fn log_start(&self, initialized: bool) {
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        let time = |time: std::time::Duration| {
            go_duration(i64::try_from(time.as_nanos()).unwrap_or(i64::MAX))
        };
        let urls =
            |urls: &[MemberUrl]| -> Vec<String> { urls.iter().map(ToString::to_string).collect() };
        let discovery = self.discovery.as_ref();
        tracing::info!(
            { "etcd-version" } = ETCD_VERSION,
            { "trilith-version" } = env!("CARGO_PKG_VERSION"),
            { "max-cpu-available" } = cpus,
            { "member-initialized" } = initialized,
            name = self.name,
            { "data-dir" } = %self.data_dir.display(),
            { "wal-dir" } = %self.log_dir().display(),
            { "heartbeat-interval" } = time(self.heartbeat_interval),
            { "election-timeout" } = time(self.election_timeout),
            { "snapshot-count" } = self.snapshot_count,
            { "snapshot-catchup-entries" } = self.snapshot_catchup_entries,
            { "initial-advertise-peer-urls" } = ?urls(&self.initial_advertise_peer_urls),
            { "listen-peer-urls" } = ?urls(&self.listen_peer_urls),
            { "advertise-client-urls" } = ?urls(&self.advertise_client_urls),
            { "listen-client-urls" } = ?urls(&self.listen_client_urls),
            { "initial-cluster" } = self.initial_cluster,
            { "initial-cluster-token" } = self.initial_cluster_token,
            { "discovery-token" } = discovery.map_or("", |service| &service.token),
            { "discovery-endpoints" } = ?discovery.map_or(&[][..], |service| &service.endpoints),
            { "max-txn-ops" } = self.max_txn_ops,
            { "max-request-bytes" } = self.max_request_bytes,
            { "max-concurrent-streams" } = self.max_concurrent_streams,
            { "pre-vote" } = self.pre_vote,
            { "force-new-cluster" } = self.force_new_cluster,
            { "feature-gates" } = self.feature_gates.to_string(),
            { "corrupt-check-time-interval" } = time(self.corrupt_check_time.unwrap_or_default()),
            { "compact-check-time-interval" } = time(self.compact_hash_check_time),
            { "max-learners" } = self.max_learners,
            { "unsafe-no-fsync" } = self.unsafe_no_fsync,
            "starting an etcd server"
        );
    }
}
