//! Grants, revokes and checkpoints of leases.
//!
//! What an entry does depends on the leases that exist and on nothing else; deadlines are kept by
//! the lessor for the leader, and no entry looks at them.

use trilith_proto::etcdserverpb as pb;

use super::kv::header;
use super::{Failure, State};
use crate::cluster::Version;
use crate::error::RequestError;
use crate::ids::LeaseId;
use crate::lease::{encode_lease_row, lease_row_key};
use crate::mvcc::{Interval, Round};
use crate::planted::{Bug, is_planted};
use crate::storage::Family;

/// From this cluster version on all members keep checkpoints on disk; before, none does, and what
/// they say counts for nothing. (In etcd it then counts on those that have not restarted since. A
/// leader that has would renew a lease, and not take back what the next one knows and counts from.)
const CHECKPOINTS_KEPT_SINCE: Version = Version {
    major: 3,
    minor: 6,
    patch: 0,
};

/// Applies a grant.
pub(super) fn grant(
    state: &State,
    round: &mut Round,
    request: &pb::LeaseGrantRequest,
) -> Result<pb::LeaseGrantResponse, Failure> {
    let id = LeaseId::new(request.id);
    let ttl = state.lessor.grant(id, request.ttl)?;
    round.batch().put(
        Family::Lease,
        lease_row_key(id),
        encode_lease_row(id, ttl, 0),
    );
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
        txn.delete_range(&Interval::single(key), false)?;
    }
    let revision = txn.end()?;
    round.batch().delete(Family::Lease, lease_row_key(id));
    state.lessor.revoke(id);
    Ok(pb::LeaseRevokeResponse {
        header: Some(header(revision)),
    })
}

/// Applies checkpoints: how much of their time leases have left when the next leader starts
/// counting.
pub(super) fn checkpoint(
    state: &State,
    round: &mut Round,
    request: &pb::LeaseCheckpointRequest,
) -> Result<pb::LeaseCheckpointResponse, Failure> {
    let kept = state.membership.table().version() >= Some(CHECKPOINTS_KEPT_SINCE);
    for checkpoint in &request.checkpoints {
        let (id, remaining) = (LeaseId::new(checkpoint.id), checkpoint.remaining_ttl);
        if !kept && remaining > 0 {
            state.lessor.pass_checkpoint_over(id);
            continue;
        }
        // A lease that was revoked meanwhile is no error.
        let Some(ttl) = state.lessor.checkpoint(id, remaining) else {
            continue;
        };
        if !is_planted(Bug::CheckpointNotKept) {
            let row = encode_lease_row(id, ttl, remaining);
            round.batch().put(Family::Lease, lease_row_key(id), row);
        }
    }
    Ok(pb::LeaseCheckpointResponse {
        header: Some(header(round.revision())),
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::Bytes;

    use super::*;
    use crate::apply::testing::Fixture;
    use crate::lease::decode_lease_row;

    fn granted(fixture: &Fixture, round: &mut Round, id: i64, ttl: i64) -> pb::LeaseGrantResponse {
        let request = pb::LeaseGrantRequest { id, ttl };
        grant(&fixture.state, round, &request).expect("a fresh id")
    }

    fn put(round: &mut Round, key: &'static str, lease: i64) {
        let mut txn = round.txn();
        txn.put(Bytes::from(key), b"v", LeaseId::new(lease))
            .expect("a put");
        txn.end().expect("the end of a put");
    }

    /// What a leader gives lease 7 that begins now: a little more, so that it is there in whole.
    fn left(fixture: &Fixture) -> Option<i64> {
        let lessor = &fixture.state.lessor;
        lessor.promote(Duration::from_millis(900));
        let left = lessor.time_to_live(LeaseId::new(7)).expect("it exists");
        lessor.demote();
        left.remaining
    }

    fn row(fixture: &Fixture, id: i64) -> Option<(LeaseId, i64, i64)> {
        let key = lease_row_key(LeaseId::new(id));
        let row = fixture
            .state
            .store
            .backend()
            .get(Family::Lease, &key)
            .expect("a read");
        row.and_then(|row| decode_lease_row(&key, &row))
    }

    #[test]
    fn a_grant_leaves_a_row_and_answers_the_effective_time_at_the_unchanged_revision() {
        let fixture = Fixture::new();
        fixture.round(|round| {
            let response = granted(&fixture, round, 7, 1);
            assert_eq!((response.id, response.ttl), (7, 2));
            assert_eq!(response.header.expect("a header").revision, 1);
        });
        assert_eq!(row(&fixture, 7), Some((LeaseId::new(7), 2, 0)));
        fixture.round(|round| {
            let again = grant(
                &fixture.state,
                round,
                &pb::LeaseGrantRequest { id: 7, ttl: 9 },
            );
            assert!(matches!(
                again,
                Err(Failure::Refused(RequestError::LeaseExist))
            ));
        });
    }

    #[test]
    fn a_revoke_deletes_the_keys_of_its_lease_in_order_and_in_one_revision() {
        let fixture = Fixture::new();
        fixture.round(|round| {
            for id in [-1, 7, i64::MAX] {
                granted(&fixture, round, id, 60);
            }
            put(round, "b", 7);
            put(round, "a", 7);
            put(round, "c", -1);
            put(round, "d", i64::MAX);
            put(round, "e", 7);
            put(round, "e", 0);
        });
        let events = fixture.round(|round| {
            put(round, "ab", 7);
            let request = pb::LeaseRevokeRequest { id: 7 };
            let response = revoke(&fixture.state, round, &request).expect("the lease exists");
            assert_eq!(response.header.expect("a header").revision, 9);
        });
        let deleted: Vec<_> = events[1]
            .events
            .iter()
            .map(|event| event.key.clone())
            .collect();
        assert_eq!(deleted, ["a", "ab", "b"]);
        assert_eq!(row(&fixture, 7), None);
        assert!(!fixture.state.lessor.contains(LeaseId::new(7)));
        for (id, key) in [(-1, "c"), (i64::MAX, "d")] {
            let events = fixture.round(|round| {
                revoke(&fixture.state, round, &pb::LeaseRevokeRequest { id }).expect("it exists");
            });
            assert_eq!(events[0].events.len(), 1);
            assert_eq!(events[0].events[0].key, key);
        }
    }

    #[test]
    fn a_revoke_without_keys_or_of_a_missing_lease_makes_no_revision() {
        let fixture = Fixture::new();
        let events = fixture.round(|round| {
            granted(&fixture, round, 7, 60);
            let request = pb::LeaseRevokeRequest { id: 7 };
            let response = revoke(&fixture.state, round, &request).expect("the lease exists");
            assert_eq!(response.header.expect("a header").revision, 1);
            let missing = revoke(&fixture.state, round, &request);
            assert!(matches!(
                missing,
                Err(Failure::Refused(RequestError::LeaseNotFound))
            ));
        });
        assert!(events.is_empty());
    }

    #[test]
    fn a_checkpoint_counts_and_is_kept_on_disk_from_cluster_version_3_6_on() {
        let fixture = Fixture::new();
        let checkpoints = vec![
            pb::LeaseCheckpoint {
                id: 7,
                remaining_ttl: 20,
            },
            pb::LeaseCheckpoint {
                id: 8,
                remaining_ttl: 20,
            },
        ];
        let request = pb::LeaseCheckpointRequest { checkpoints };
        fixture.round(|round| {
            granted(&fixture, round, 7, 60);
            checkpoint(&fixture.state, round, &request).expect("missing leases are passed over");
        });
        assert_eq!(row(&fixture, 7), Some((LeaseId::new(7), 60, 0)));
        assert_eq!(left(&fixture), Some(60));
        fixture.round(|round| {
            fixture
                .state
                .membership
                .set_version(CHECKPOINTS_KEPT_SINCE, round.batch());
            checkpoint(&fixture.state, round, &request).expect("missing leases are passed over");
        });
        assert_eq!(row(&fixture, 7), Some((LeaseId::new(7), 60, 20)));
        assert_eq!(left(&fixture), Some(20));
    }
}
