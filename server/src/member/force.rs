//! A new cluster out of what one member has, for `--force-new-cluster`.
//!
//! As etcd does it: what is not known to be committed is given up, and the log goes on with entries
//! that remove everybody else, committed from the start.

use std::collections::BTreeSet;

use bytes::Bytes;
use raft::eraftpb::Entry;

use super::boot::Misfit;
use super::conf_change::{ConfChange, ConfChangeKind, ConfState, is_change};
use super::entry::{EntryKind, entry};
use super::log::{LogReader, LogWrite, Recovered};
use crate::ids::MemberId;

/// What has to be written to a checked log, durably, before the member starts on it alone; `None`
/// when it is alone already and nothing has to go. `recovered` becomes what the log has then.
///
/// `conf_state` is who votes at `applied`.
///
/// # Errors
///
/// When the member does not vote, so that nobody would be left.
pub(super) fn alone(
    recovered: &mut Recovered,
    reader: &dyn LogReader,
    id: MemberId,
    conf_state: &ConfState,
    applied: u64,
) -> Result<Option<LogWrite>, Misfit> {
    let commit = recovered.hard_state.commit;
    let others = others(reader, id, conf_state, applied + 1, commit)?;
    if recovered.last > commit {
        tracing::info!(
            "entry-index" = commit + 1,
            "commit-index-from-wal" = commit,
            "number-of-discarded-entries" = recovered.last - commit,
            "discarding uncommitted WAL entries"
        );
    }
    let mut entries: Vec<Entry> = others
        .into_iter()
        .map(|other| entry(EntryKind::ConfChange(removal(other))))
        .collect();
    if entries.is_empty() && recovered.last > commit {
        // The log drops its end only for something that comes in its place.
        entries.push(Entry::default());
    }
    for (index, entry) in (commit + 1..).zip(&mut entries) {
        (entry.index, entry.term) = (index, recovered.hard_state.term);
    }
    let last = entries.last().map_or(commit, |entry| entry.index);
    tracing::info!(
        "local-member-id" = %id,
        "wal-commit-index" = commit,
        "commit-index" = last,
        "forcing restart member"
    );
    if entries.is_empty() {
        return Ok(None);
    }
    (recovered.hard_state.commit, recovered.last) = (last, last);
    Ok(Some(LogWrite {
        entries,
        hard_state: Some(recovered.hard_state.clone()),
        base: None,
        sync: true,
    }))
}

/// Whom the cluster has besides the member once all up to `commit` is applied.
fn others(
    reader: &dyn LogReader,
    id: MemberId,
    conf_state: &ConfState,
    first: u64,
    commit: u64,
) -> Result<BTreeSet<MemberId>, Misfit> {
    let mut voters: BTreeSet<_> = conf_state.voters.iter().copied().collect();
    let mut learners: BTreeSet<_> = conf_state.learners.iter().copied().collect();
    for index in first..=commit {
        for entry in reader.entries(index, index + 1, u64::MAX)? {
            if !is_change(&entry) {
                continue;
            }
            let Ok(change) = ConfChange::decode(&entry.data) else {
                continue;
            };
            match change.kind {
                ConfChangeKind::AddNode => {
                    learners.remove(&change.member);
                    voters.insert(change.member);
                }
                ConfChangeKind::AddLearnerNode => {
                    learners.insert(change.member);
                }
                ConfChangeKind::RemoveNode => {
                    voters.remove(&change.member);
                    learners.remove(&change.member);
                }
                ConfChangeKind::UpdateNode => {}
            }
        }
    }
    if !voters.remove(&id) {
        return Err(Misfit::NoVoterLeft { id });
    }
    voters.append(&mut learners);
    Ok(voters)
}

fn removal(member: MemberId) -> Bytes {
    let change = ConfChange {
        id: 0,
        kind: ConfChangeKind::RemoveNode,
        member,
        context: Bytes::new(),
    };
    change.encode()
}

#[cfg(test)]
mod tests {
    use raft::eraftpb::{EntryType, HardState};

    use super::*;
    use crate::member::log::LogError;

    /// Entries from index 1.
    struct Entries(Vec<Entry>);

    impl LogReader for Entries {
        fn entries(&self, low: u64, high: u64, _max: u64) -> Result<Vec<Entry>, LogError> {
            let at = |index: u64| usize::try_from(index - 1).expect("a short log");
            Ok(self.0[at(low)..at(high)].to_vec())
        }
    }

    fn change(kind: ConfChangeKind, member: u64) -> Entry {
        let change = ConfChange {
            id: 0,
            kind,
            member: MemberId::new(member),
            context: Bytes::new(),
        };
        entry(EntryKind::ConfChange(change.encode()))
    }

    fn ids(ids: &[u64]) -> Vec<MemberId> {
        ids.iter().copied().map(MemberId::new).collect()
    }

    /// Whom the entries remove that are written, and the log after them.
    fn forced(
        log: Vec<Entry>,
        commit: u64,
        id: u64,
        applied: u64,
    ) -> Result<(Option<Vec<u64>>, Recovered), Misfit> {
        let mut hard_state = HardState::default();
        (hard_state.term, hard_state.vote, hard_state.commit) = (4, 2, commit);
        let mut recovered = Recovered {
            hard_state,
            last: log.len() as u64,
            ..Recovered::default()
        };
        let state = ConfState {
            voters: ids(&[1, 2, 3]),
            learners: ids(&[8]),
        };
        let id = MemberId::new(id);
        let write = alone(&mut recovered, &Entries(log), id, &state, applied)?;
        let removed = write.map(|write| {
            assert!(write.sync);
            assert_eq!(write.hard_state.as_ref(), Some(&recovered.hard_state));
            for (index, entry) in (commit + 1..).zip(&write.entries) {
                assert_eq!((entry.index, entry.term), (index, 4));
            }
            assert_eq!(write.entries.len() as u64, recovered.last - commit);
            write.entries.iter().map(removed).collect()
        });
        Ok((removed, recovered))
    }

    /// 0 for an entry that changes nothing.
    fn removed(entry: &Entry) -> u64 {
        if entry.get_entry_type() == EntryType::EntryNormal {
            assert!(entry.data.is_empty());
            return 0;
        }
        let change = ConfChange::decode(&entry.data).expect("our own change");
        assert_eq!(change.kind, ConfChangeKind::RemoveNode);
        change.member.get()
    }

    #[test]
    fn everybody_else_is_removed_after_what_is_committed() {
        let log = vec![
            Entry::default(),
            change(ConfChangeKind::RemoveNode, 3),
            change(ConfChangeKind::AddNode, 8),
            change(ConfChangeKind::AddLearnerNode, 9),
            change(ConfChangeKind::AddNode, 10),
        ];
        let (removed, recovered) = forced(log, 4, 2, 1).expect("a voter");
        assert_eq!(removed, Some(vec![1, 8, 9]));
        assert_eq!((recovered.last, recovered.hard_state.commit), (7, 7));
        assert_eq!(
            (recovered.hard_state.term, recovered.hard_state.vote),
            (4, 2)
        );
    }

    #[test]
    fn a_member_that_is_alone_gives_up_only_what_is_not_committed() {
        let alone: Vec<_> = [1, 3, 8]
            .into_iter()
            .map(|member| change(ConfChangeKind::RemoveNode, member))
            .collect();
        let (removed, recovered) = forced(alone.clone(), 3, 2, 0).expect("a voter");
        assert_eq!((removed, recovered.last), (None, 3));
        let mut more = alone;
        more.extend([Entry::default(), Entry::default()]);
        let (removed, recovered) = forced(more, 3, 2, 0).expect("a voter");
        assert_eq!((removed, recovered.last), (Some(vec![0]), 4));
    }

    #[test]
    fn a_member_without_a_vote_is_refused() {
        for (id, log) in [
            (8, vec![]),
            (7, vec![]),
            (2, vec![change(ConfChangeKind::RemoveNode, 2)]),
        ] {
            let commit = log.len() as u64;
            let refused = forced(log, commit, id, 0);
            assert!(matches!(refused, Err(Misfit::NoVoterLeft { .. })), "{id}");
        }
    }
}
