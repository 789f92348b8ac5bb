//! Compares this member's data with the other members', by etcd's hash of the revisions.
//!
//! | check | who, and when | hashes of | what follows from a difference |
//! |---|---|---|---|
//! | [`initial`] | a member, before it serves | its current revision | it does not start |
//! | [`periodic`] | the leader | its current revision | one suspect gets the `CORRUPT` alarm |
//! | [`compaction`] | the leader | compactions that all made | all outside the majority get it |
//!
//! What follows from which hashes is etcd's, and decided without I/O, on what [`ask`] brings.

mod ask;
mod compaction;
mod initial;
mod periodic;
mod wire;

use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior};
use trilith_proto::etcdserverpb as pb;
use trilith_proto::etcdserverpb::AlarmType;
use trilith_proto::etcdserverpb::alarm_request::AlarmAction;

use crate::cluster::Membership;
use crate::error::RequestError;
use crate::hashing::Hashing;
use crate::ids::{MemberId, Revision};
use crate::member::MemberHandle;
use crate::mvcc::{MvccError, Store};
use crate::peer::Peers;
use crate::propose::Proposer;
use crate::read::Reader;

pub use initial::InitialCheckError;
pub use wire::{
    CLUSTER_ID_MISMATCH, COMPACTED, FUTURE_REVISION, HASH_PATH, HashAnswer, HashHeader,
    HashQuestion,
};

/// Hashes here and elsewhere; cheap to clone.
#[derive(Clone)]
pub struct Hasher {
    /// This member.
    pub id: MemberId,
    /// What is hashed here.
    pub hashing: Hashing,
    /// Has what compactions left.
    pub store: Store,
    /// Who is asked.
    pub membership: Membership,
    /// How they are asked.
    pub peers: Peers,
    /// For how long each of them is waited for.
    pub timeout: Duration,
}

/// The checks of a running member, of which only the leader makes any.
pub struct Checks {
    /// Hashes here and elsewhere.
    pub hasher: Hasher,
    /// Tells who leads.
    pub member: MemberHandle,
    /// Catches up between two hashes.
    pub reader: Reader,
    /// Takes alarms into the log.
    pub proposer: Proposer,
}

impl Checks {
    /// Compares the current data again and again, `every` so often. Runs until it is dropped.
    pub async fn run_periodic(self, every: Duration) {
        let id = self.hasher.id;
        tracing::info!(
            "local-member-id" = %id,
            interval = ?every,
            "enabled corruption checking"
        );
        let mut tick = tokio::time::interval_at(Instant::now() + every, every);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            if !self.leads() {
                continue;
            }
            match self.check_current().await {
                Ok(suspect) => self.raise(suspect.as_slice()).await,
                Err(error) => tracing::warn!(error, "failed to check hash KV"),
            }
        }
    }

    /// Compares the hashes of compactions, `every` so often. Runs until it is dropped.
    pub async fn run_compaction(self, every: Duration) {
        let mut checked = Revision::default();
        loop {
            tokio::time::sleep(every).await;
            if self.leads() {
                let suspects = self.hasher.check_compactions(&mut checked).await;
                self.raise(&suspects).await;
            }
        }
    }

    fn leads(&self) -> bool {
        self.member.status().leader == Some(self.hasher.id)
    }

    /// One periodic check; its suspect, if it has one.
    async fn check_current(&self) -> Result<Option<MemberId>, String> {
        let told = |error: MvccError| error.to_string();
        let current = || self.hasher.hashing.kv(Revision::default());
        let first = current().await.map_err(told)?;
        let peers = self.hasher.peers_at(first.revision).await;
        // Whatever the others had applied when they answered is applied here after this.
        let caught_up = self.reader.linearizable().await;
        caught_up.map_err(|error| error.to_string())?;
        let second = current().await.map_err(told)?;
        Ok(periodic::suspect(self.hasher.id, &first, &second, &peers))
    }

    /// Raises the `CORRUPT` alarm of each suspect. What fails is tried again by the next check.
    async fn raise(&self, suspects: &[MemberId]) {
        for suspect in suspects {
            if let Err(error) = self.propose_alarm(*suspect).await {
                tracing::warn!(
                    "suspect-member-id" = %suspect,
                    %error,
                    "failed to raise the CORRUPT alarm"
                );
            }
        }
    }

    async fn propose_alarm(&self, suspect: MemberId) -> Result<(), RequestError> {
        let request = pb::InternalRaftRequest {
            alarm: Some(pb::AlarmRequest {
                action: AlarmAction::Activate as i32,
                member_id: suspect.get(),
                alarm: AlarmType::Corrupt as i32,
            }),
            ..Default::default()
        };
        self.proposer.propose(request).await.map(drop)
    }
}

/// What the tests of the checks have in common.
#[cfg(test)]
mod testing {
    use super::ask::{PeerError, PeerHash};
    use super::*;
    use crate::mvcc::KvHash;

    /// A hash of this member.
    pub(super) fn own(hash: u32, revision: i64, compact_revision: i64) -> KvHash {
        KvHash {
            hash,
            compact_revision: Revision::new(compact_revision),
            revision: Revision::new(revision),
            current_revision: Revision::new(revision),
        }
    }

    /// What another member answers that has a current revision of 10.
    pub(super) fn peer(id: u64, hash: u32, compact_revision: i64) -> PeerHash {
        peer_at(id, hash, compact_revision, 10)
    }

    /// What another member answers.
    pub(super) fn peer_at(id: u64, hash: u32, compact_revision: i64, current: i64) -> PeerHash {
        let answer = HashAnswer {
            header: HashHeader { revision: current },
            hash,
            compact_revision,
            hash_revision: 10,
        };
        PeerHash {
            id: MemberId::new(id),
            urls: Vec::new(),
            answer: Ok(answer),
        }
    }

    /// Another member that gives no hash.
    pub(super) fn silent(id: u64, why: PeerError) -> PeerHash {
        PeerHash {
            id: MemberId::new(id),
            urls: Vec::new(),
            answer: Err(why),
        }
    }

    /// Ids of members.
    pub(super) fn ids<const N: usize>(ids: [u64; N]) -> Vec<MemberId> {
        ids.map(MemberId::new).to_vec()
    }
}
