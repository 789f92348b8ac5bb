//! Which comparisons with the other members' data the settings ask for.

use tokio::task::JoinSet;

use super::error::NodeError;
use crate::apply::State;
use crate::config::Config;
use crate::corruption::{Checks, Hasher};
use crate::hashing::Hashing;
use crate::ids::MemberId;
use crate::peer::Peers;
use crate::propose::request_timeout;

/// Hashes the state that was opened.
pub(super) fn hasher(config: &Config, id: MemberId, state: &State, peers: &Peers) -> Hasher {
    Hasher {
        id,
        hashing: Hashing::new(state.store.clone()),
        store: state.store.clone(),
        membership: state.membership.clone(),
        peers: peers.clone(),
        timeout: request_timeout(config.election_timeout),
    }
}

/// Compares what was found on disk, if `InitialCorruptCheck` asks for it: before the log goes on
/// and before anything is served.
pub(super) async fn before_start(
    config: &Config,
    is_new: bool,
    hasher: &Hasher,
) -> Result<(), NodeError> {
    if is_new || !config.feature_gates.initial_corrupt_check {
        return Ok(());
    }
    let checked = hasher.check_initially().await;
    Ok(checked.inspect_err(|error| tracing::error!(%error, "checkInitialHashKV failed"))?)
}

/// Begins the checks that a leader makes while it runs.
pub(super) fn spawn_checks(config: &Config, checks: impl Fn() -> Checks, tasks: &mut JoinSet<()>) {
    if let Some(every) = config.corrupt_check_time {
        tasks.spawn(checks().run_periodic(every));
    }
    if config.feature_gates.compact_hash_check {
        tasks.spawn(checks().run_compaction(config.compact_hash_check_time));
    }
}
