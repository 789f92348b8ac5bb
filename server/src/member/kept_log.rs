//! Begins a member's log with what another program has kept: where it was compacted, the entries
//! after that, and the hard state.

use std::path::Path;

use raft::eraftpb::HardState;
use trilith_proto::raftpb;

use super::driver::StartError;
use super::entry::entry_bytes;
use super::log::{Base, EngineLog, Log, LogError, LogWrite};
use super::wire::{self, WireError};
use crate::ids::{Index, Term};

/// A log that is being begun. It belongs to nobody until [`KeptLog::finish`] has returned; one that
/// was broken off is begun anew in an empty directory.
pub struct KeptLog {
    log: EngineLog,
    waiting: LogWrite,
    bytes: usize,
    directory: std::path::PathBuf,
}

impl KeptLog {
    /// Begins in `directory`, after the entry `base`; index 0 for a log that has all its entries.
    ///
    /// # Errors
    ///
    /// When it cannot be made.
    pub fn begin(directory: &Path, base: (Index, Term), fsync: bool) -> Result<Self, StartError> {
        let (log, _) = EngineLog::open(directory, fsync).map_err(StartError::log(directory))?;
        let (index, term) = (base.0.get(), base.1.get());
        let waiting = LogWrite {
            base: (index > 0).then_some(Base { index, term }),
            ..LogWrite::default()
        };
        Ok(Self {
            log,
            waiting,
            bytes: 0,
            directory: directory.to_path_buf(),
        })
    }

    /// Adds an entry. It replaces all that were added at its index and behind it.
    ///
    /// # Errors
    ///
    /// [`KeptLogError::Entry`] for one that etcd never writes, or a failed write.
    pub fn push(&mut self, entry: raftpb::Entry) -> Result<(), KeptLogError> {
        let entry = wire::entry_from_log(entry)?;
        self.bytes += entry_bytes(&entry);
        self.waiting.absorb(LogWrite {
            entries: vec![entry],
            ..LogWrite::default()
        });
        if self.bytes >= WRITE_BYTES {
            self.write()?;
        }
        Ok(())
    }

    /// Ends with the hard state; durable when this returns, but for the directory itself.
    ///
    /// # Errors
    ///
    /// A failed write.
    pub fn finish(mut self, hard_state: &raftpb::HardState) -> Result<(), KeptLogError> {
        let mut kept = HardState::default();
        (kept.term, kept.vote, kept.commit) = (hard_state.term, hard_state.vote, hard_state.commit);
        self.waiting.hard_state = Some(kept);
        self.waiting.sync = true;
        self.write()
    }

    fn write(&mut self) -> Result<(), KeptLogError> {
        self.bytes = 0;
        let write = std::mem::take(&mut self.waiting);
        let written = self.log.write(&write);
        written.map_err(|error: LogError| StartError::log(&self.directory)(error).into())
    }
}

/// Why a log could not be begun.
#[derive(Debug, thiserror::Error)]
pub enum KeptLogError {
    /// An entry is none of etcd's.
    #[error("an entry of the log cannot be taken over: {0}")]
    Entry(#[from] WireError),
    /// The new log cannot be written.
    #[error(transparent)]
    Log(#[from] StartError),
}

/// Bytes of entries that are written at once.
const WRITE_BYTES: usize = 4 * 1024 * 1024;

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::member::log::LogReader;

    fn entry(index: u64, term: u64, data: &'static [u8]) -> raftpb::Entry {
        raftpb::Entry {
            index,
            term,
            data: Bytes::from_static(data),
            ..raftpb::Entry::default()
        }
    }

    const HARD_STATE: raftpb::HardState = raftpb::HardState {
        term: 4,
        vote: 9,
        commit: 7,
    };

    #[test]
    fn a_log_begins_after_its_base_and_later_entries_replace_earlier_ones() {
        let directory = tempfile::tempdir().expect("a folder");
        let base = (Index::new(6), Term::new(2));
        let mut log = KeptLog::begin(directory.path(), base, true).expect("a new log");
        for (index, term, data) in [(7, 2, &b"a"[..]), (8, 2, b"b"), (9, 2, b"c"), (8, 3, b"B")] {
            log.push(entry(index, term, data)).expect("an entry");
        }
        log.finish(&HARD_STATE).expect("written");

        let (log, found) = EngineLog::open(directory.path(), true).expect("our own log");
        assert_eq!((found.base.index, found.base.term, found.last), (6, 2, 8));
        let state = found.hard_state;
        assert_eq!((state.term, state.vote, state.commit), (4, 9, 7));
        let entries = log.entries(7, 9, u64::MAX).expect("its entries");
        let entries: Vec<_> = entries.iter().map(|e| (e.term, &e.data[..])).collect();
        assert_eq!(entries, [(2, &b"a"[..]), (3, b"B")]);
    }

    #[test]
    fn a_base_alone_makes_a_log() {
        let directory = tempfile::tempdir().expect("a folder");
        let base = (Index::new(3), Term::new(1));
        let log = KeptLog::begin(directory.path(), base, true).expect("a new log");
        log.finish(&HARD_STATE).expect("written");
        let (_, found) = EngineLog::open(directory.path(), true).expect("our own log");
        assert_eq!((found.base.index, found.last), (3, 3));
    }

    #[test]
    fn entries_of_joint_consensus_are_refused() {
        let directory = tempfile::tempdir().expect("a folder");
        let base = (Index::default(), Term::default());
        let mut log = KeptLog::begin(directory.path(), base, true).expect("a new log");
        let joint = raftpb::Entry {
            r#type: 2,
            ..entry(1, 1, b"")
        };
        assert!(matches!(log.push(joint), Err(KeptLogError::Entry(_))));
    }
}
