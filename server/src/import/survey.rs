//! What a log of etcd says as a whole, and which of its entries still count.

use prost::Message;
use trilith_proto::{etcdserverpb, raftpb};

use super::error::ImportError;
use super::wal::{Record, Wal};
use crate::cluster::Identity;
use crate::ids::{ClusterId, Index, MemberId, Term};

/// A log that was read from end to end once.
#[derive(Debug)]
pub(super) struct Survey {
    wal: Wal,
    /// The state that goes with it has applied this entry.
    applied: Index,
    /// Whose it is.
    pub(super) identity: Identity,
    /// Term, vote and commit index at its end.
    pub(super) hard_state: raftpb::HardState,
    /// Entries up to this record, counted from 0, were replaced or are applied.
    void: u64,
}

/// Reads all of `wal`, which goes with a state that has applied `applied`.
///
/// # Errors
///
/// When it is damaged, or does not go with that state.
pub(super) fn survey(wal: Wal, applied: (Index, Term)) -> Result<Survey, ImportError> {
    let mut found = Found {
        last: applied.0.get(),
        ..Found::default()
    };
    let mut records = wal.records();
    let mut number = 0;
    while let Some(record) = records.next()? {
        found.record(record, number, applied)?;
        number += 1;
    }
    if let Some((path, offset)) = records.torn().cloned() {
        tracing::warn!(
            path = %path.display(),
            offset,
            "etcd's log ends with a frame that a crash cut short; it was never synced and does not \
             count"
        );
    }
    let identity = found.identity.ok_or(ImportError::NoMetadata)?;
    match found.applied_term {
        None if applied.0.get() > 0 => return Err(ImportError::Apart { applied: applied.0 }),
        Some(log) if log != applied.1.get() => {
            return Err(ImportError::Term {
                index: applied.0,
                log: Term::new(log),
                state: applied.1,
            });
        }
        _ => {}
    }
    let committed = found.hard_state.commit;
    if committed > found.last {
        return Err(ImportError::Cut {
            committed: Index::new(committed),
            last: Index::new(found.last),
        });
    }
    Ok(Survey {
        wal,
        applied: applied.0,
        identity,
        hard_state: found.hard_state,
        void: found.void,
    })
}

/// The index of the newest state that the log knows to be saved and committed; 0 without any.
pub(super) fn newest_snapshot(wal: &Wal) -> Result<u64, ImportError> {
    let mut records = wal.records();
    let (mut saved, mut committed) = (Vec::new(), 0);
    while let Some(record) = records.next()? {
        match record {
            Record::Snapshot(at) => saved.push(at.index),
            Record::HardState(state) => committed = state.commit,
            Record::Metadata(_) | Record::Entry(_) => {}
        }
    }
    let counts = |index: &u64| *index <= committed;
    Ok(saved.into_iter().filter(counts).max().unwrap_or(0))
}

impl Survey {
    /// Hands each entry after the applied one that still counts to `each`, in the order in which
    /// they were written: a later one may replace earlier ones.
    pub(super) fn entries(
        &self,
        mut each: impl FnMut(raftpb::Entry) -> Result<(), ImportError>,
    ) -> Result<(), ImportError> {
        let mut records = self.wal.records();
        let mut number = 0;
        while let Some(record) = records.next()? {
            if let Record::Entry(entry) = record
                && number >= self.void
                && entry.index > self.applied.get()
            {
                each(entry)?;
            }
            number += 1;
        }
        Ok(())
    }
}

#[derive(Default)]
struct Found {
    identity: Option<Identity>,
    hard_state: raftpb::HardState,
    /// The last entry so far; the applied one before the first after it.
    last: u64,
    void: u64,
    /// Term of the applied entry, as the last entry there or the mark of a saved state has it.
    applied_term: Option<u64>,
}

impl Found {
    fn record(
        &mut self,
        record: Record,
        number: u64,
        applied: (Index, Term),
    ) -> Result<(), ImportError> {
        match record {
            Record::Metadata(bytes) => {
                let metadata =
                    etcdserverpb::Metadata::decode(bytes).map_err(|_| ImportError::NoMetadata)?;
                let identity = Identity {
                    member_id: MemberId::new(metadata.node_id),
                    cluster_id: ClusterId::new(metadata.cluster_id),
                };
                if self.identity.is_some_and(|before| before != identity) {
                    return Err(ImportError::TwoMembers);
                }
                self.identity = Some(identity);
            }
            Record::HardState(state) => self.hard_state = state,
            Record::Snapshot(at) if at.index == applied.0.get() => {
                self.applied_term = Some(at.term);
            }
            Record::Snapshot(_) => {}
            Record::Entry(entry) => self.entry(&entry, number, applied)?,
        }
        Ok(())
    }

    fn entry(
        &mut self,
        entry: &raftpb::Entry,
        number: u64,
        applied: (Index, Term),
    ) -> Result<(), ImportError> {
        if entry.index <= applied.0.get() {
            // What came before it and stands behind it was never committed.
            (self.last, self.void) = (applied.0.get(), number + 1);
            if entry.index == applied.0.get() {
                self.applied_term = Some(entry.term);
            }
            return Ok(());
        }
        if entry.index > self.last + 1 {
            return Err(ImportError::Gap {
                from: Index::new(self.last + 1),
                to: Index::new(entry.index - 1),
            });
        }
        self.last = entry.index;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::wal::tests::{Writer, entry};
    use super::*;

    fn log(directory: &Path, commit: u64, entries: &[(u64, u64)]) -> Wal {
        let mut writer = Writer::new(directory);
        writer.record(
            1,
            &etcdserverpb::Metadata {
                node_id: 5,
                cluster_id: 6,
            },
        );
        for (index, term) in entries {
            let mut entry = entry(*index, b"x");
            entry.term = *term;
            writer.record(2, &entry);
        }
        let (term, vote) = (9, 5);
        writer.record(3, &raftpb::HardState { term, vote, commit });
        writer.save(0);
        Wal::open(directory).expect("a segment")
    }

    /// The entries that count, as index and term; how a raft log would replace them.
    fn counted(
        commit: u64,
        applied: (u64, u64),
        entries: &[(u64, u64)],
    ) -> Option<Vec<(u64, u64)>> {
        let directory = tempfile::tempdir().expect("a folder");
        let wal = log(directory.path(), commit, entries);
        let applied = (Index::new(applied.0), Term::new(applied.1));
        let survey = survey(wal, applied).ok()?;
        assert_eq!(survey.identity.member_id, MemberId::new(5));
        let mut kept = Vec::new();
        let collect = |entry: raftpb::Entry| {
            kept.retain(|(index, _)| *index < entry.index);
            kept.push((entry.index, entry.term));
            Ok(())
        };
        survey.entries(collect).expect("readable");
        Some(kept)
    }

    #[test]
    fn what_is_behind_the_applied_entry_counts() {
        let all = [(1, 1), (2, 1), (3, 2)];
        assert_eq!(counted(3, (0, 0), &all), Some(all.to_vec()));
        assert_eq!(counted(3, (2, 1), &all), Some(vec![(3, 2)]));
        assert_eq!(counted(3, (3, 2), &all), Some(vec![]));
    }

    #[test]
    fn replaced_entries_do_not_count_wherever_the_applied_one_stands() {
        let replaced = [(1, 1), (2, 1), (3, 1), (4, 1), (2, 2), (3, 2)];
        assert_eq!(
            counted(3, (0, 0), &replaced),
            Some(vec![(1, 1), (2, 2), (3, 2)])
        );
        assert_eq!(counted(3, (2, 2), &replaced), Some(vec![(3, 2)]));
        assert_eq!(counted(3, (3, 2), &replaced), Some(vec![]));
    }

    #[test]
    fn a_log_that_does_not_belong_to_the_state_is_refused() {
        let all = [(1, 1), (2, 1), (3, 2)];
        assert_eq!(counted(3, (2, 2), &all), None, "another term");
        assert_eq!(counted(3, (7, 2), &all), None, "a state ahead of the log");
        assert_eq!(counted(4, (0, 0), &all), None, "committed beyond the end");
        assert_eq!(counted(5, (2, 1), &[(2, 1), (5, 1)]), None, "a gap");
    }
}
