//! Grants, revokes and checkpoints of leases.
//!
//! What an entry does depends on the leases that exist and on nothing else; deadlines are kept by the
//! lessor for the leader, and no entry looks at them.

use trilith_proto::etcdserverpb as pb;

use super::kv::header;
use super::{Failure, State};
use crate::cluster::Version;
use crate::error::RequestError;
use crate::ids::LeaseId;
use crate::lease::{encode_lease_row, lease_row_key};
use crate::mvcc::{Interval, Round};
use crate::storage::Family;

/// From this cluster version on all members keep checkpoints on disk; before, none does.
const CHECKPOINTS_KEPT_SINCE: Version = Version { major: 3, minor: 6, patch: 0 };

/// Applies a grant.
pub(super) fn grant(
    state: &State,
    round: &mut Round,
    request: &pb::LeaseGrantRequest,
) -> Result<pb::LeaseGrantResponse, Failure> {
    let id = LeaseId::new(request.id);
    let ttl = state.lessor.grant(id, request.ttl)?;
    round.batch().put(Family::Lease, lease_row_key(id), encode_lease_row(id, ttl, 0));
    Ok(pb::LeaseGrantResponse {
        header: Some(header(round.revision())),
        id: request.id,
        ttl,
        error: String::new(),
    })
}

/// Applies a revoke: the lease goes, and its keys in bytewise order, all in one revision.
///
/// Every member has to delete in the same order, or their sub-revisions would differ.
pub(super) fn revoke(
    state: &State,
    round: &mut Round,
    request: &pb::LeaseRevokeRequest,
) -> Result<pb::LeaseRevokeResponse, Failure> {
    let id = LeaseId::new(request.id);
    if !state.lessor.contains(id) {
        return Err(RequestError::LeaseNotFound.into());
    }
    let mut txn = round.txn();
    for key in txn.lease_keys(id)? {
        txn.delete_range(&Interval::single(key))?;
    }
    let revision = txn.end()?;
    round.batch().delete(Family::Lease, lease_row_key(id));
    state.lessor.revoke(id);
    Ok(pb::LeaseRevokeResponse { header: Some(header(revision)) })
}

/// Applies checkpoints: how much of their time leases have left when the next leader starts counting.
pub(super) fn checkpoint(
    state: &State,
    round: &mut Round,
    request: &pb::LeaseCheckpointRequest,
) -> Result<pb::LeaseCheckpointResponse, Failure> {
    let kept = state.membership.table().version() >= Some(CHECKPOINTS_KEPT_SINCE);
    for checkpoint in &request.checkpoints {
        let (id, remaining) = (LeaseId::new(checkpoint.id), checkpoint.remaining_ttl);
        // A lease that was revoked meanwhile is no error.
        let Some(ttl) = state.lessor.checkpoint(id, remaining) else { continue };
        if kept {
            let row = encode_lease_row(id, ttl, remaining);
            round.batch().put(Family::Lease, lease_row_key(id), row);
        }
    }
    Ok(pb::LeaseCheckpointResponse { header: Some(header(round.revision())) })
}
