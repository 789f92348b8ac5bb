//! The log as raft-rs reads it: the newest entries in memory, older ones from disk.
//!
//! raft-rs takes an entry for stored as soon as its write is under way, and reads it again when it
//! is committed. So every entry stays here at least until it is durable and handed to apply: a
//! fresh proposal is never read back from disk.

use std::collections::VecDeque;
use std::sync::Arc;

use raft::eraftpb::{ConfState, Entry, HardState, Snapshot};
use raft::{GetEntriesContext, RaftState, Storage, StorageError};

use super::entry::entry_bytes;
use super::log::{Base, LogReader, Recovered, limit_bytes};

/// raft-rs's view of the log.
pub(crate) struct CachedLog {
    reader: Arc<dyn LogReader>,
    hard_state: HardState,
    conf_state: ConfState,
    base: Base,
    /// Index of the last entry, also when it is not durable yet.
    last: u64,
    /// Invariant: the entries up to `last` without gaps; all that are not durable are here.
    tail: VecDeque<Entry>,
    tail_bytes: usize,
}

impl CachedLog {
    /// The log as it was found on disk, with the state that the configuration has at the applied
    /// index.
    pub(crate) fn new(
        reader: Arc<dyn LogReader>,
        recovered: &Recovered,
        conf_state: ConfState,
    ) -> Self {
        Self {
            reader,
            hard_state: recovered.hard_state.clone(),
            conf_state,
            base: recovered.base,
            last: recovered.last,
            tail: VecDeque::new(),
            tail_bytes: 0,
        }
    }

    /// Takes entries that are on their way to disk; they replace what stands in their place.
    ///
    /// # Panics
    ///
    /// When they leave a gap.
    pub(crate) fn append(&mut self, entries: &[Entry]) {
        let Some(first) = entries.first() else { return };
        assert!(
            first.index <= self.last + 1 && first.index > self.base.index,
            "entries from {} do not continue a log of {} to {}",
            first.index,
            self.base.index + 1,
            self.last
        );
        while let Some(last) = self.tail.pop_back_if(|last| last.index >= first.index) {
            self.tail_bytes -= entry_bytes(&last);
        }
        for entry in entries {
            self.tail_bytes += entry_bytes(entry);
            self.tail.push_back(entry.clone());
        }
        self.last = entries.last().map_or(self.last, |last| last.index);
    }

    /// Lets go of entries before `index` as long as more than `keep_bytes` are held. Those are
    /// durable.
    pub(crate) fn evict_before(&mut self, index: u64, keep_bytes: usize) {
        while self.tail_bytes > keep_bytes {
            let Some(old) = self.tail.pop_front_if(|old| old.index < index) else {
                return;
            };
            self.tail_bytes -= entry_bytes(&old);
        }
    }

    /// Forgets all up to `index`, and returns the new base.
    ///
    /// # Errors
    ///
    /// When the term of that entry cannot be read.
    pub(crate) fn compact(&mut self, index: u64) -> raft::Result<Base> {
        let base = Base {
            index,
            term: self.term(index)?,
        };
        self.evict_before(index + 1, 0);
        self.base = base;
        Ok(base)
    }

    /// What was compacted away.
    pub(crate) fn base(&self) -> Base {
        self.base
    }

    /// Entries from `low` to before `high`, at least one, and no more than `max_bytes` beyond
    /// that.
    pub(crate) fn read(&self, low: u64, high: u64, max_bytes: u64) -> raft::Result<Vec<Entry>> {
        if low <= self.base.index {
            return Err(StorageError::Compacted.into());
        }
        if high > self.last + 1 {
            return Err(StorageError::Unavailable.into());
        }
        let in_memory = self.tail.front().map_or(self.last + 1, |first| first.index);
        let mut entries = Vec::new();
        if low < in_memory {
            let disk_high = high.min(in_memory);
            entries = self
                .reader
                .entries(low, disk_high, max_bytes)
                .map_err(unreadable)?;
            if (entries.len() as u64) < disk_high - low {
                return Ok(entries);
            }
        }
        if high > in_memory {
            let from = usize::try_from(low.max(in_memory) - in_memory).unwrap_or(usize::MAX);
            let to = usize::try_from(high - in_memory).unwrap_or(usize::MAX);
            entries.extend(self.tail.range(from..to).cloned());
        }
        limit_bytes(&mut entries, max_bytes);
        Ok(entries)
    }
}

impl Storage for CachedLog {
    fn initial_state(&self) -> raft::Result<RaftState> {
        Ok(RaftState::new(
            self.hard_state.clone(),
            self.conf_state.clone(),
        ))
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        _context: GetEntriesContext,
    ) -> raft::Result<Vec<Entry>> {
        self.read(low, high, max_size.into().unwrap_or(u64::MAX))
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        if index == self.base.index {
            return Ok(self.base.term);
        }
        if index < self.base.index {
            return Err(StorageError::Compacted.into());
        }
        if index > self.last {
            return Err(StorageError::Unavailable.into());
        }
        if let Some(first) = self.tail.front().filter(|first| first.index <= index) {
            let at = usize::try_from(index - first.index).unwrap_or(usize::MAX);
            return Ok(self.tail[at].term);
        }
        let read = self
            .reader
            .entries(index, index + 1, u64::MAX)
            .map_err(unreadable)?;
        read.first()
            .map(|entry| entry.term)
            .ok_or_else(|| StorageError::Unavailable.into())
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(self.base.index + 1)
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.last)
    }

    /// Names the state without holding it: whoever sends it puts in its place what is applied by
    /// then, which is never less than what was compacted away.
    fn snapshot(&self, _request_index: u64, _to: u64) -> raft::Result<Snapshot> {
        if self.base.index == 0 {
            // All entries are still there.
            return Err(StorageError::SnapshotTemporarilyUnavailable.into());
        }
        let mut snapshot = Snapshot::default();
        let metadata = snapshot.mut_metadata();
        (metadata.index, metadata.term) = (self.base.index, self.base.term);
        Ok(snapshot)
    }
}

/// raft-rs stops on this one, which is right: a log that cannot be read is as bad as one that
/// cannot be written.
fn unreadable(error: super::log::LogError) -> raft::Error {
    StorageError::Other(Box::new(error)).into()
}

#[cfg(test)]
mod tests {
    use super::super::log::{LogError, LogReader};
    use super::*;

    /// A disk that has some entries, and counts how often it is asked.
    struct Disk(std::sync::atomic::AtomicU64);

    impl LogReader for Disk {
        fn entries(&self, low: u64, high: u64, max_bytes: u64) -> Result<Vec<Entry>, LogError> {
            self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            let mut entries = entries(low..high, 1);
            limit_bytes(&mut entries, max_bytes);
            Ok(entries)
        }
    }

    fn entries(range: std::ops::Range<u64>, term: u64) -> Vec<Entry> {
        let data = || vec![0; 76].into();
        range
            .map(|index| Entry {
                index,
                term,
                data: data(),
                ..Entry::default()
            })
            .collect()
    }

    fn log(last: u64) -> (Arc<Disk>, CachedLog) {
        let disk = Arc::new(Disk(Default::default()));
        let base = Base { index: 2, term: 1 };
        let recovered = Recovered {
            base,
            last,
            ..Recovered::default()
        };
        let log = CachedLog::new(disk.clone(), &recovered, ConfState::default());
        (disk, log)
    }

    fn read(log: &CachedLog, low: u64, high: u64, max: u64) -> Vec<(u64, u64)> {
        let entries = log.read(low, high, max).unwrap();
        entries
            .iter()
            .map(|entry| (entry.index, entry.term))
            .collect()
    }

    #[test]
    fn a_snapshot_is_named_only_when_entries_are_gone() {
        let (disk, mut log) = log(4);
        let base = |log: &CachedLog| {
            let snapshot = log.snapshot(0, 9)?;
            let metadata = snapshot.get_metadata();
            Ok::<_, raft::Error>((metadata.index, metadata.term))
        };
        assert_eq!(base(&log).unwrap(), (2, 1));
        log.append(&entries(5..9, 2));
        log.compact(6).unwrap();
        assert_eq!(base(&log).unwrap(), (6, 2));
        let whole = CachedLog::new(disk, &Recovered::default(), ConfState::default());
        assert!(base(&whole).is_err());
    }

    #[test]
    fn fresh_entries_are_never_read_from_disk() {
        let (disk, mut log) = log(4);
        log.append(&entries(5..9, 2));
        assert_eq!(read(&log, 5, 9, u64::MAX), [(5, 2), (6, 2), (7, 2), (8, 2)]);
        assert_eq!(log.term(8).unwrap(), 2);
        assert_eq!(disk.0.load(std::sync::atomic::Ordering::Relaxed), 0);
        assert_eq!(read(&log, 3, 7, u64::MAX), [(3, 1), (4, 1), (5, 2), (6, 2)]);
        assert_eq!(disk.0.load(std::sync::atomic::Ordering::Relaxed), 1);
    }

    #[test]
    fn later_entries_replace_those_in_their_place() {
        let (_, mut log) = log(4);
        log.append(&entries(5..9, 2));
        log.append(&entries(6..7, 3));
        assert_eq!(log.last_index().unwrap(), 6);
        assert_eq!(read(&log, 5, 7, u64::MAX), [(5, 2), (6, 3)]);
        log.append(&entries(4..5, 4));
        assert_eq!(read(&log, 3, 5, u64::MAX), [(3, 1), (4, 4)]);
    }

    #[test]
    fn memory_is_bounded_and_what_is_not_durable_stays() {
        let (_, mut log) = log(4);
        log.append(&entries(5..105, 2));
        assert_eq!(log.tail_bytes, 100 * 100);
        log.evict_before(55, 0);
        assert_eq!(log.tail_bytes, 50 * 100);
        log.evict_before(105, 1000);
        assert_eq!(log.tail_bytes, 1000);
    }

    #[test]
    fn reads_are_bounded_and_never_empty() {
        let (_, mut log) = log(4);
        log.append(&entries(5..9, 2));
        assert_eq!(read(&log, 3, 9, 0), [(3, 1)]);
        assert_eq!(read(&log, 3, 9, 300), [(3, 1), (4, 1), (5, 2)]);
        assert_eq!(read(&log, 5, 9, 299), [(5, 2), (6, 2)]);
    }

    #[test]
    fn compacted_and_missing_entries_are_told_apart() {
        let (_, mut log) = log(4);
        log.append(&entries(5..9, 2));
        assert_eq!(log.compact(6).unwrap(), Base { index: 6, term: 2 });
        assert_eq!((log.first_index().unwrap(), log.term(6).unwrap()), (7, 2));
        let error = |result: raft::Result<Vec<Entry>>| result.unwrap_err();
        assert_eq!(error(log.read(6, 8, 0)), StorageError::Compacted.into());
        assert_eq!(error(log.read(7, 10, 0)), StorageError::Unavailable.into());
        assert_eq!(log.term(5).unwrap_err(), StorageError::Compacted.into());
        assert_eq!(log.term(9).unwrap_err(), StorageError::Unavailable.into());
    }
}
