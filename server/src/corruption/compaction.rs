//! The leader's comparison of what members kept of their compactions.
//!
//! All members compact at the same place of the log, so each has a hash of the same rows then,
//! which does not change any more: nothing has to stand still to be compared. The newest compaction
//! that all have made tells of all before it.

use std::collections::BTreeMap;

use super::Hasher;
use super::ask::PeerHash;
use crate::ids::{MemberId, Revision};
use crate::mvcc::KvHash;

/// What the hashes of one compaction tell.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    /// All members have the same.
    Same,
    /// Those that answered have the same; an older one may tell more.
    Incomplete,
    /// These are wrong. Member 0 stands for: some of them, and nobody knows which.
    Corrupt(Vec<MemberId>),
}

impl Hasher {
    /// Compares the newest compaction after `checked` that all members have made; the members that
    /// have other data. `checked` is where all were the same last.
    pub(super) async fn check_compactions(&self, checked: &mut Revision) -> Vec<MemberId> {
        tracing::info!(
            "local-member-id" = %self.id,
            timeout = ?self.timeout,
            "starting compact hash check"
        );
        let mut kept = self.store.kept_hashes();
        kept.retain(|hash| hash.revision > *checked);
        let (mut number, mut suspects) = (0_usize, Vec::new());
        for hash in kept.iter().rev() {
            number += 1;
            let peers = self.peers_at(hash.revision).await;
            if peers.is_empty() {
                continue;
            }
            match judge(self.id, hash, &peers) {
                Verdict::Same => *checked = hash.revision,
                Verdict::Incomplete => continue,
                Verdict::Corrupt(members) => suspects = members,
            }
            break;
        }
        tracing::info!(
            "number-of-hashes-checked" = number,
            "finished compaction hash check"
        );
        suspects
    }
}

/// Groups the members by hash: the majority of all is right, and without one nobody knows.
fn judge(own: MemberId, hash: &KvHash, peers: &[PeerHash]) -> Verdict {
    let mut groups = BTreeMap::from([(hash.hash, vec![own])]);
    let mut checked = 0;
    for peer in peers {
        let reason = match &peer.answer {
            Ok(answer) if answer.compact_revision == hash.compact_revision.get() => {
                checked += 1;
                groups.entry(answer.hash).or_default().push(peer.id);
                continue;
            }
            Ok(answer) => format!(
                "the peer's CompactRevision {} doesn't match leader's CompactRevision {}",
                answer.compact_revision, hash.compact_revision
            ),
            Err(_told) => "no response".to_owned(),
        };
        tracing::warn!(
            "number-of-peers" = peers.len(),
            "leader-id" = %own,
            "peer-id" = %peer.id,
            reason,
            "Skipped peer's hash"
        );
    }
    if groups.len() == 1 {
        return same(hash, checked, peers.len());
    }
    let all = peers.len() + 1;
    let quorum = all / 2 + 1;
    let majority = groups.iter().find(|(_, members)| members.len() >= quorum);
    let majority = majority.map(|(hash, _)| *hash);
    let suspects = match majority {
        Some(right) => {
            groups.remove(&right);
            groups.values().flatten().copied().collect()
        }
        None => {
            tell_undecided(own, hash);
            vec![MemberId::new(0)]
        }
    };
    for (other, members) in &groups {
        tell_mismatch(own, hash, *other, members, majority.is_some());
    }
    Verdict::Corrupt(suspects)
}

fn same(hash: &KvHash, checked: usize, peers: usize) -> Verdict {
    let (revision, compact_revision) = (hash.revision.get(), hash.compact_revision.get());
    if checked == peers {
        tracing::info!(
            "number-of-peers-checked" = checked,
            revision,
            "compactRevision" = compact_revision,
            "successfully checked hash on whole cluster"
        );
        return Verdict::Same;
    }
    tracing::warn!(
        "number-of-peers-checked" = checked,
        "number-of-peers" = peers,
        revision,
        "compactRevision" = compact_revision,
        "skipped revision in compaction hash check; was not able to check all peers"
    );
    Verdict::Incomplete
}

fn tell_undecided(own: MemberId, hash: &KvHash) {
    tracing::error!(
        "leader-id" = %own,
        "leader-revision" = hash.revision.get(),
        "leader-compact-revision" = hash.compact_revision.get(),
        "leader-hash" = hash.hash,
        "Detected compaction hash mismatch but cannot identify the corrupted members, so \
         intentionally set the memberID as 0"
    );
}

fn tell_mismatch(own: MemberId, hash: &KvHash, other: u32, members: &[MemberId], quorum: bool) {
    let ids: Vec<_> = members.iter().map(ToString::to_string).collect();
    tracing::error!(
        "leader-id" = %own,
        "leader-revision" = hash.revision.get(),
        "leader-compact-revision" = hash.compact_revision.get(),
        "leader-hash" = hash.hash,
        "peer-hash" = other,
        "peer-ids" = ids.join(","),
        "quorum-exist" = quorum,
        "Detected compaction hash mismatch"
    );
}

#[cfg(test)]
mod tests {
    use super::super::ask::PeerError;
    use super::super::testing::{ids, own, peer, silent};
    use super::*;

    /// What the leader, member 1 with hash 7, makes of the answers.
    fn verdict<const N: usize>(peers: [PeerHash; N]) -> Verdict {
        judge(MemberId::new(1), &own(7, 10, 3), &peers)
    }

    fn gone(id: u64) -> PeerHash {
        silent(id, PeerError::Refused("gone".to_owned()))
    }

    #[test]
    fn all_the_same_is_only_known_when_all_have_answered_for_the_same_history() {
        assert_eq!(verdict([peer(2, 7, 3), peer(3, 7, 3)]), Verdict::Same);
        assert_eq!(verdict([peer(2, 7, 3), gone(3)]), Verdict::Incomplete);
        assert_eq!(verdict([gone(2), gone(3)]), Verdict::Incomplete);
        // The same hash would mean nothing: it is of other rows.
        assert_eq!(verdict([peer(2, 7, 3), peer(3, 7, 4)]), Verdict::Incomplete);
        assert_eq!(verdict([peer(2, 7, 3), peer(3, 8, 4)]), Verdict::Incomplete);
    }

    #[test]
    fn whoever_is_outside_the_majority_is_wrong_be_it_the_leader() {
        let corrupt = |members| Verdict::Corrupt(members);
        let one = verdict([peer(2, 7, 3), peer(3, 8, 3)]);
        assert_eq!(one, corrupt(ids([3])));
        let leader = verdict([peer(2, 8, 3), peer(3, 8, 3)]);
        assert_eq!(leader, corrupt(ids([1])));
        let many = verdict([peer(2, 9, 3), peer(3, 8, 3), peer(4, 7, 3), peer(5, 7, 3)]);
        assert_eq!(many, corrupt(ids([3, 2])));
    }

    #[test]
    fn without_a_majority_of_all_members_nobody_is_named() {
        let nobody = Verdict::Corrupt(ids([0]));
        assert_eq!(verdict([peer(2, 8, 3)]), nobody);
        assert_eq!(verdict([peer(2, 8, 3), peer(3, 9, 3)]), nobody);
        assert_eq!(verdict([peer(2, 8, 3), gone(3)]), nobody);
        let halves = verdict([peer(2, 7, 3), peer(3, 8, 3), peer(4, 8, 3)]);
        assert_eq!(halves, nobody);
    }

    #[test]
    fn a_majority_needs_nobody_who_has_not_answered() {
        let verdict = verdict([peer(2, 7, 3), peer(3, 8, 3), peer(4, 7, 3), gone(5)]);
        assert_eq!(verdict, Verdict::Corrupt(ids([3])));
    }
}
