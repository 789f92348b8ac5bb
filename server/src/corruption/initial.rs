//! The check of a member that has data, before it serves: does it have what the others have?

use super::Hasher;
use super::ask::{PeerError, PeerHash};
use crate::ids::{MemberId, Revision};
use crate::mvcc::{KvHash, MvccError};

/// Why a member does not start.
#[derive(Debug, thiserror::Error)]
pub enum InitialCheckError {
    /// Others have other data at the same revision.
    #[error("{0} found data inconsistency with peers")]
    Inconsistent(MemberId),
    /// The data cannot be read.
    #[error("{0} failed to fetch hash ({1})")]
    Unreadable(MemberId, MvccError),
}

impl Hasher {
    /// Compares the data at this member's current revision. Who cannot be asked is passed over, and
    /// so is who has compacted to another revision: its hash must differ.
    ///
    /// # Errors
    ///
    /// When a member has other data, whoever of the two is wrong.
    pub async fn check_initially(&self) -> Result<(), InitialCheckError> {
        tracing::info!(
            "local-member-id" = %self.id,
            timeout = ?self.timeout,
            "starting initial corruption check"
        );
        let own = self.hashing.kv(Revision::default()).await;
        let own = own.map_err(|error| InitialCheckError::Unreadable(self.id, error))?;
        let peers = self.peers_at(own.revision).await;
        if count_mismatches(self.id, &own, &peers) > 0 {
            return Err(InitialCheckError::Inconsistent(self.id));
        }
        tracing::info!(
            "local-member-id" = %self.id,
            "initial corruption checking passed; no corruption"
        );
        Ok(())
    }
}

/// How many members have other data. Says in the log what each has answered that does not agree.
fn count_mismatches(id: MemberId, own: &KvHash, peers: &[PeerHash]) -> usize {
    let mut mismatches = 0;
    for peer in peers {
        let answer = match &peer.answer {
            Ok(answer) => answer,
            Err(error) => {
                tell_failure(id, own, peer, error);
                continue;
            }
        };
        let is_same_history = own.compact_revision.get() == answer.compact_revision;
        let difference = match (own.hash == answer.hash, is_same_history) {
            (true, _) => continue,
            (false, true) => {
                mismatches += 1;
                "found different hash values from remote peer"
            }
            (false, false) => "found different compact revision values from remote peer",
        };
        tracing::warn!(
            "local-member-id" = %id,
            "local-member-revision" = own.revision.get(),
            "local-member-compact-revision" = own.compact_revision.get(),
            "local-member-hash" = own.hash,
            // etcd takes it from an answer that does not have it, and logs 0.
            "remote-peer-id" = %peer.id,
            "remote-peer-endpoints" = ?peer.urls,
            "remote-peer-revision" = answer.header.revision,
            "remote-peer-compact-revision" = answer.compact_revision,
            "remote-peer-hash" = answer.hash,
            "{difference}"
        );
    }
    mismatches
}

fn tell_failure(id: MemberId, own: &KvHash, peer: &PeerHash, error: &PeerError) {
    let failure = match error {
        PeerError::FutureRevision => "cannot fetch hash from slow remote peer",
        PeerError::Compacted => "cannot fetch hash from remote peer; local member is behind",
        PeerError::ClusterIdMismatch => "cluster ID mismatch",
        // Each of its URLs has a line already.
        _ => return,
    };
    tracing::warn!(
        "local-member-id" = %id,
        "local-member-revision" = own.revision.get(),
        "local-member-compact-revision" = own.compact_revision.get(),
        "local-member-hash" = own.hash,
        "remote-peer-id" = %peer.id,
        "remote-peer-endpoints" = ?peer.urls,
        %error,
        "{failure}"
    );
}

#[cfg(test)]
mod tests {
    use super::super::testing::{own, peer, silent};
    use super::*;

    fn mismatches<const N: usize>(peers: [PeerHash; N]) -> usize {
        count_mismatches(MemberId::new(1), &own(7, 10, 3), &peers)
    }

    #[test]
    fn only_other_hashes_of_the_same_history_are_mismatches() {
        assert_eq!(mismatches([]), 0);
        assert_eq!(mismatches([peer(2, 7, 3), peer(3, 7, 3)]), 0);
        assert_eq!(mismatches([peer(2, 7, 3), peer(3, 8, 3)]), 1);
        assert_eq!(mismatches([peer(2, 9, 3), peer(3, 8, 3)]), 2);
        assert_eq!(mismatches([peer(2, 8, 4), peer(3, 8, -1)]), 0);
    }

    #[test]
    fn members_without_an_answer_are_passed_over() {
        for error in [
            PeerError::Compacted,
            PeerError::FutureRevision,
            PeerError::ClusterIdMismatch,
            PeerError::Refused("busy".to_owned()),
        ] {
            assert_eq!(mismatches([silent(2, error), peer(3, 8, 3)]), 1);
        }
    }
}
