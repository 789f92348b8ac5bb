//! Revokes leases whose time is up: the leader's part, through the log.
//!
//! A look at the lessor is a bounded one, and revokes are proposed many at a time, so that they
//! share log writes; etcd manages 1,000 in a second. A revoke that fails is offered again by the
//! lessor.

use std::time::Duration;

use futures::stream::{self, StreamExt};
use trilith_proto::etcdserverpb::{
    InternalRaftRequest, LeaseCheckpoint, LeaseCheckpointRequest, LeaseRevokeRequest,
};

use crate::auth::AuthStore;
use crate::error::RequestError;
use crate::ids::{LeaseId, Term};
use crate::lease::Lessor;
use crate::member::MemberHandle;
use crate::planted::{Bug, is_planted};
use crate::propose::Proposer;
use crate::read::Reader;

/// How often the lessor is asked: half of etcd's 500 ms, and the width of the lessor's buckets.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// Leases taken from the lessor in one look: the lock is held for about a millisecond.
const LEASES_PER_LOOK: usize = 1024;

/// Revokes proposed and not yet applied. Far below the 5,000 entries behind which a member refuses
/// proposals, so that expiry never crowds clients out.
const REVOKES_IN_FLIGHT: usize = 1024;

/// Leases in one checkpoint entry: etcd's number.
const CHECKPOINTS_PER_ENTRY: usize = 1000;

/// Revokes what expires, for as long as it is polled.
pub struct Expiry {
    /// Knows what has expired.
    pub lessor: Lessor,
    /// Tells in whose name revokes have to stand.
    pub auth: AuthStore,
    /// Takes revokes into the log.
    pub proposer: Proposer,
    /// Confirms the leadership.
    pub reader: Reader,
    /// Tells the term.
    pub member: MemberHandle,
}

impl Expiry {
    /// Runs until it is dropped.
    pub async fn run(self) {
        let mut look = tokio::time::interval(LOOK_EVERY);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            look.tick().await;
            // Before that an earlier leader's word on a lease may still be on its way.
            if self.lessor.is_primary() && self.member.has_caught_up() {
                self.revoke_expired().await;
                self.checkpoint().await;
            }
        }
    }

    /// Revokes everything that has expired by now.
    async fn revoke_expired(&self) {
        let failed = self
            .expired()
            .map(|(term, id)| self.revoke(term, id))
            .buffer_unordered(REVOKES_IN_FLIGHT)
            .filter_map(|revoked| async { revoked.err() })
            .fold((0_usize, None), |(failed, _), error| async move {
                (failed + 1, Some(error))
            })
            .await;
        if let (count, Some(error)) = failed {
            tracing::warn!(count, %error, "failed to revoke leases, they are tried again");
        }
    }

    /// Tells all members what is left of the leases whose checkpoint is due: none, without the
    /// gate.
    async fn checkpoint(&self) {
        loop {
            let term = self.member.status().term();
            let due = self.lessor.take_checkpoints(CHECKPOINTS_PER_ENTRY);
            if due.is_empty() {
                return;
            }
            let checkpoints = due.iter().map(|(id, left)| LeaseCheckpoint {
                id: id.get(),
                remaining_ttl: *left,
            });
            let request = InternalRaftRequest {
                lease_checkpoint: Some(LeaseCheckpointRequest {
                    checkpoints: checkpoints.collect(),
                }),
                ..Default::default()
            };
            // What is left by this member's clock says nothing in a later leadership.
            if let Err(error) = self.proposer.propose_as_leader(term, request).await {
                tracing::warn!(%error, "failed to checkpoint leases, again in 5 minutes");
                let is_refused = matches!(
                    error,
                    RequestError::TooManyRequests | RequestError::NoLeader
                );
                if is_refused {
                    self.lessor.checkpoints_refused(due);
                }
                return;
            }
        }
    }

    /// The leases that have expired, and in which leadership, a bounded look at a time. Ends early
    /// when the leadership is gone.
    fn expired(&self) -> impl stream::Stream<Item = (Term, LeaseId)> + '_ {
        let looks = stream::unfold(true, move |more| async move {
            if !more {
                return None;
            }
            let term = self.member.status().term();
            let due = self.lessor.take_expired(LEASES_PER_LOOK);
            if due.expired.is_empty() {
                return due.more.then(|| (Vec::new(), true));
            }
            self.leads_since(term).await.then(|| {
                let expired = due.expired.into_iter().map(|id| (term, id));
                (expired.collect(), due.more)
            })
        });
        looks.flat_map(stream::iter)
    }

    /// A member that was cut off may still take itself for the leader, while leases live on
    /// elsewhere: it revokes only what it chose in a term in which it is confirmed afterwards.
    async fn leads_since(&self, term: Term) -> bool {
        is_planted(Bug::StaleRevoke)
            || self.reader.linearizable().await.is_ok()
                && self.lessor.is_primary()
                && self.member.status().term() == term
    }

    async fn revoke(&self, term: Term, id: LeaseId) -> Result<(), RequestError> {
        let request = InternalRaftRequest {
            lease_revoke: Some(LeaseRevokeRequest { id: id.get() }),
            // The keys of the lease may be anybody's.
            header: self.auth.table().root_stamp(),
            ..Default::default()
        };
        let revoked = match is_planted(Bug::StaleRevoke) {
            true => self.proposer.propose(request).await,
            false => self.proposer.propose_as_leader(term, request).await,
        };
        match revoked {
            // Somebody else revoked it meanwhile.
            Ok(_) | Err(RequestError::LeaseNotFound) => Ok(()),
            Err(error) => Err(error),
        }
    }
}
