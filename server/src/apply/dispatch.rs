//! From an internal request to the code that applies its kind.

use trilith_proto::etcdserverpb::InternalRaftRequest;

use super::reply::{Applied, Reply};
use super::{Failure, Outcome, State, alarm, auth, cluster, kv, lease, txn};
use crate::ids::Index;
use crate::mvcc::Round;

/// Applies `request` to the round. The outer error stops the member; the inner one is the answer.
pub(super) fn dispatch(
    state: &State,
    round: &mut Round,
    index: Index,
    request: &InternalRaftRequest,
    outcome: &mut Outcome,
) -> Result<Applied, Failure> {
    match apply(state, round, index, request, outcome) {
        Ok(reply) => Ok(Ok(reply)),
        Err(Failure::Refused(error)) => Ok(Err(error)),
        Err(stop) => Err(stop),
    }
}

fn apply(
    state: &State,
    round: &mut Round,
    index: Index,
    request: &InternalRaftRequest,
    outcome: &mut Outcome,
) -> Result<Reply, Failure> {
    auth::check(state, round, request)?;
    if let Some(put) = &request.put {
        return kv::put(state, round, put).map(Reply::Put);
    }
    if let Some(txn) = &request.txn {
        return txn::txn(state, round, txn).map(Reply::Txn);
    }
    if let Some(delete) = &request.delete_range {
        return kv::delete_range(round, delete).map(Reply::DeleteRange);
    }
    if let Some(compaction) = &request.compaction {
        return kv::compact(round, compaction, outcome).map(Reply::Compact);
    }
    if let Some(grant) = &request.lease_grant {
        return lease::grant(state, round, grant).map(Reply::LeaseGrant);
    }
    if let Some(revoke) = &request.lease_revoke {
        return lease::revoke(state, round, revoke).map(Reply::LeaseRevoke);
    }
    if let Some(checkpoint) = &request.lease_checkpoint {
        return lease::checkpoint(state, round, checkpoint).map(Reply::LeaseCheckpoint);
    }
    if let Some(alarm) = &request.alarm {
        return alarm::alarm(state, round, alarm).map(Reply::Alarm);
    }
    if let Some(set) = &request.cluster_version_set {
        return cluster::set_version(state, round, set).map(|()| Reply::Done);
    }
    if let Some(set) = &request.cluster_member_attr_set {
        return cluster::set_attributes(state, round, set).map(|()| Reply::Done);
    }
    if let Some(set) = &request.downgrade_info_set {
        return cluster::set_downgrade(state, round, set).map(|()| Reply::Done);
    }
    if request.downgrade_version_test.is_some() {
        // etcd's own tests put these into logs; they mean nothing.
        return Ok(Reply::Done);
    }
    if request.range.is_some() {
        // Only very old members propose reads; they change nothing, and nobody here waits for one.
        return Ok(Reply::Done);
    }
    auth::apply(state, round, index, request).unwrap_or(Err(Failure::Unknown))
}
