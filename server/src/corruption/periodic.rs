//! The leader's comparison of the current data: at most one member is suspected, the first one that
//! shows a difference.

use super::ask::PeerHash;
use crate::ids::MemberId;
use crate::mvcc::KvHash;

/// Who has other data than this member, the leader. `peers` answered for the revision of `first`;
/// `second` was hashed here when all was applied that they had applied when they answered.
pub(super) fn suspect(
    own: MemberId,
    first: &KvHash,
    second: &KvHash,
    peers: &[PeerHash],
) -> Option<MemberId> {
    let mut suspect = None;
    let is_same_history =
        second.revision == first.revision && second.compact_revision == first.compact_revision;
    if is_same_history && second.hash != first.hash {
        tracing::warn!(
            "revision-1" = first.revision.get(),
            "compact-revision-1" = first.compact_revision.get(),
            "hash-1" = first.hash,
            "revision-2" = second.revision.get(),
            "compact-revision-2" = second.compact_revision.get(),
            "hash-2" = second.hash,
            "found hash mismatch"
        );
        suspect = Some(own);
    }
    let mut checked = 0_usize;
    for peer in peers {
        let Ok(answer) = &peer.answer else { continue };
        checked += 1;
        let is_ahead = answer.header.revision > second.current_revision.get();
        if is_ahead {
            tracing::warn!(
                "leader-revision" = second.current_revision.get(),
                "follower-revision" = answer.header.revision,
                "follower-peer-id" = %peer.id,
                "revision from follower must be less than or equal to leader's"
            );
        }
        let is_compacted_further = answer.compact_revision > second.compact_revision.get();
        if is_compacted_further {
            tracing::warn!(
                "leader-compact-revision" = second.compact_revision.get(),
                "follower-compact-revision" = answer.compact_revision,
                "follower-peer-id" = %peer.id,
                "compact revision from follower must be less than or equal to leader's"
            );
        }
        let differs =
            answer.compact_revision == first.compact_revision.get() && answer.hash != first.hash;
        if differs {
            tracing::warn!(
                "leader-compact-revision" = second.compact_revision.get(),
                "leader-hash" = first.hash,
                "follower-compact-revision" = answer.compact_revision,
                "follower-hash" = answer.hash,
                "follower-peer-id" = %peer.id,
                "same compact revision then hashes must match"
            );
        }
        if is_ahead || is_compacted_further || differs {
            suspect = suspect.or(Some(peer.id));
        }
    }
    tracing::info!(
        "number-of-peers-checked" = checked,
        "finished peer corruption check"
    );
    suspect
}

#[cfg(test)]
mod tests {
    use super::super::ask::PeerError;
    use super::super::testing::{own, peer, peer_at, silent};
    use super::*;

    const LEADER: MemberId = MemberId::new(1);

    fn found<const N: usize>(first: KvHash, second: KvHash, peers: [PeerHash; N]) -> u64 {
        suspect(LEADER, &first, &second, &peers).map_or(0, MemberId::get)
    }

    #[test]
    fn equal_hashes_and_members_without_an_answer_are_not_suspected() {
        let same = own(7, 10, 3);
        assert_eq!(found(same, same, [peer(2, 7, 3), peer(3, 7, 3)]), 0);
        let behind = silent(2, PeerError::FutureRevision);
        assert_eq!(found(same, same, [behind, peer(3, 7, 3)]), 0);
        // One that has not compacted yet, and one that has compacted further, as the leader since.
        assert_eq!(
            found(same, own(9, 12, 5), [peer(2, 8, 2), peer(3, 8, 5)]),
            0
        );
    }

    #[test]
    fn a_follower_that_differs_is_suspected_and_only_the_first() {
        let same = own(7, 10, 3);
        assert_eq!(found(same, same, [peer(2, 7, 3), peer(3, 8, 3)]), 3);
        assert_eq!(found(same, same, [peer(2, 9, 3), peer(3, 8, 3)]), 2);
        // The leader has compacted meanwhile; the follower answered for the revision before.
        assert_eq!(
            found(same, own(5, 10, 4), [peer(2, 9, 3), peer(3, 7, 3)]),
            2
        );
    }

    #[test]
    fn a_follower_that_is_ahead_of_the_leader_is_suspected() {
        let same = own(7, 10, 3);
        assert_eq!(found(same, same, [peer_at(2, 7, 3, 11), peer(3, 7, 3)]), 2);
        assert_eq!(found(same, own(8, 11, 3), [peer_at(2, 7, 3, 11)]), 0);
        assert_eq!(found(same, same, [peer(2, 7, 3), peer(3, 1, 4)]), 3);
    }

    #[test]
    fn a_leader_whose_hash_changes_by_itself_suspects_itself_first() {
        let first = own(7, 10, 3);
        assert_eq!(found(first, own(8, 10, 3), []), 1);
        assert_eq!(found(first, own(8, 10, 3), [peer(2, 9, 3)]), 1);
        assert_eq!(found(first, own(8, 11, 3), []), 0);
        assert_eq!(found(first, own(8, 10, 4), []), 0);
    }
}
