//! Another member shall lead: because a client says so, or because this one stops.

use std::time::{Duration, Instant};

use crate::cluster::{Member, Membership};
use crate::error::RequestError;
use crate::ids::MemberId;
use crate::member::MemberHandle;
use crate::peer::Peers;
use crate::propose::{Proposer, refused};

/// Hands the leadership of this member over; cheap to clone.
#[derive(Clone)]
pub struct Transfer {
    /// This member.
    pub id: MemberId,
    /// Asks its raft.
    pub member: MemberHandle,
    /// Who could lead.
    pub membership: Membership,
    /// Who can be reached, and since when.
    pub peers: Peers,
    /// Knows who leads, and how long a request may take.
    pub proposer: Proposer,
}

impl Transfer {
    /// Lets `target` lead, and returns when it does.
    ///
    /// # Errors
    ///
    /// When this member does not lead, `target` has no vote, or does not lead in time.
    pub async fn to(&self, target: MemberId) -> Result<(), RequestError> {
        let begun = Instant::now();
        self.begin(target)?;
        if target == self.id {
            return Ok(());
        }
        let moved = self.proposer.led_by(|leader| leader == target);
        let in_time = tokio::time::timeout(self.proposer.timeout(), moved).await;
        in_time.map_err(|_elapsed| RequestError::LeaderTransferTimeout)?;
        self.tell_end(target, begun);
        Ok(())
    }

    /// Asks raft to let `target` lead.
    fn begin(&self, target: MemberId) -> Result<(), RequestError> {
        if self.member.status().leader() != Some(self.id) {
            return Err(RequestError::NotLeader);
        }
        let table = self.membership.table();
        if !table.voters().any(|voter| voter.id() == target) {
            return Err(RequestError::BadLeaderTransferee);
        }
        if target == self.id {
            return Ok(());
        }
        tracing::info!(
            "local-member-id" = %self.id,
            "current-leader-member-id" = %self.id,
            "transferee-member-id" = %target,
            "leadership transfer starting"
        );
        self.member.transfer_leader(target).map_err(refused)
    }

    fn tell_end(&self, leader: MemberId, begun: Instant) {
        tracing::info!(
            "local-member-id" = %self.id,
            "old-leader-member-id" = %self.id,
            "new-leader-member-id" = %leader,
            "took" = ?begun.elapsed(),
            "leadership transfer finished"
        );
    }

    /// Before this member stops: lets the voter lead that has been reachable for longest, if this
    /// one leads, so that nobody has to wait for an election.
    pub async fn before_stop(&self) {
        let leader = self.member.status().leader();
        let table = self.membership.table();
        let skipped = if leader != Some(self.id) {
            "skipped leadership transfer; local server is not leader"
        } else if table.voters().count() <= 1 {
            "skipped leadership transfer for single voting member cluster"
        } else {
            if let Err(error) = self
                .to_longest_reachable(table.voters().map(Member::id))
                .await
            {
                let id = self.id;
                tracing::warn!("local-member-id" = %id, %error, "leadership transfer failed");
            }
            return;
        };
        tracing::info!(
            "local-member-id" = %self.id,
            "current-leader-member-id" = %leader.unwrap_or_default(),
            "{skipped}"
        );
    }

    async fn to_longest_reachable(
        &self,
        voters: impl Iterator<Item = MemberId>,
    ) -> Result<(), RequestError> {
        let reachable = voters.filter_map(|id| Some((self.peers.active_since(id)?, id)));
        let (_, target) = reachable.min().ok_or(RequestError::Unhealthy)?;
        let begun = Instant::now();
        self.begin(target)?;
        tokio::select! {
            // Somebody else may have been faster.
            leader = self.proposer.led_by(|leader| leader != self.id) => {
                self.tell_end(leader, begun);
                Ok(())
            }
            // When a whole cluster stops, nobody is left to wait for.
            () = self.lost(target) => Err(RequestError::Unhealthy),
            () = tokio::time::sleep(self.proposer.timeout()) => {
                Err(RequestError::LeaderTransferTimeout)
            }
        }
    }

    /// Returns once `target` is not reachable any more.
    async fn lost(&self, target: MemberId) {
        while self.peers.active_since(target).is_some() {
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}

/// How often it is looked whether the other member can still be reached.
const LOOK_EVERY: Duration = Duration::from_millis(50);
