//! A log on a disk that forgets at a crash what was not synced, for simulations.
//!
//! The log on disk writes batches with a checksum each, and cuts a torn one off when it opens. So
//! what a crash leaves here is a number of whole batches: all that were synced, and some of the
//! first ones that were not.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use parking_lot::Mutex;
use raft::eraftpb::{Entry, HardState};
use rand::Rng;
use rand::rngs::SmallRng;

#[cfg(feature = "simulation")]
use super::install::{self, LogAnew};
use super::log::{Base, Log, LogError, LogReader, LogWrite, Recovered, limit_bytes};
#[cfg(feature = "simulation")]
use crate::ids::{Index, Term};

/// One member's log. Cloned handles share it.
#[derive(Clone, Default)]
pub struct FakeDisk {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Default)]
struct Inner {
    /// What a reader finds.
    seen: Content,
    /// What a crash leaves for sure.
    durable: Content,
    /// Writes since the last sync, in order: a crash leaves some of the first ones.
    unsynced: Vec<LogWrite>,
    /// A disk that says it has synced and has not.
    lies: bool,
    boot_epoch: u64,
    /// Entries written since somebody looked last.
    written: Vec<WrittenEntry>,
}

/// An entry that came into the log, and the term of the one before it.
#[derive(Clone, Copy, Debug)]
pub struct WrittenEntry {
    /// Its index.
    pub index: u64,
    /// Its term.
    pub term: u64,
    /// The term of the entry before; 0 for the first.
    pub term_before: u64,
    /// A hash of what it holds.
    pub hash: u64,
}

#[derive(Clone, Default)]
struct Content {
    hard_state: HardState,
    base: Base,
    entries: Vec<Entry>,
}

impl FakeDisk {
    /// From now on it says that it has synced, and has not.
    pub fn set_lies(&self, lies: bool) {
        self.inner.lock().lies = lies;
    }

    /// The power goes and comes back.
    pub fn crash(&self, rng: &mut SmallRng) {
        let mut inner = self.inner.lock();
        let left = rng.random_range(0..=inner.unsynced.len());
        let unsynced = std::mem::take(&mut inner.unsynced);
        for write in &unsynced[..left] {
            inner.durable.apply(write);
        }
        inner.seen = inner.durable.clone();
        inner.written.clear();
    }

    /// What was written since this was asked last.
    pub fn take_written(&self) -> Vec<WrittenEntry> {
        std::mem::take(&mut self.inner.lock().written)
    }

    /// The term of an entry, if it is there; also that of the last one that was compacted away.
    pub fn term(&self, index: u64) -> Option<u64> {
        self.inner.lock().seen.term(index)
    }

    /// As the log on disk does it: tells what is there, counts the start, and makes all of it
    /// durable.
    pub(super) fn open(&self) -> Recovered {
        let mut inner = self.inner.lock();
        inner.boot_epoch += 1;
        if !inner.lies {
            inner.durable = inner.seen.clone();
            inner.unsynced.clear();
        }
        drop(inner);
        self.recovered()
    }

    /// What is there, without a word of it being durable.
    pub(super) fn recovered(&self) -> Recovered {
        let inner = self.inner.lock();
        let Content {
            hard_state,
            base,
            entries,
        } = &inner.seen;
        Recovered {
            hard_state: hard_state.clone(),
            base: *base,
            last: entries.last().map_or(base.index, |last| last.index),
            boot_epoch: inner.boot_epoch,
            joined: false,
        }
    }
}

#[cfg(feature = "simulation")]
impl FakeDisk {
    /// As the log on disk tells it, on a member at rest.
    ///
    /// # Errors
    ///
    /// When log and state do not fit.
    pub fn anew_behind(
        &self,
        snapshot: (Index, Term),
        applied: (Index, Term),
    ) -> Result<Option<LogAnew>, String> {
        let anew = install::anew_behind(self.recovered(), self, snapshot, applied.into());
        anew.map_err(|misfit| misfit.to_string())
    }

    /// The term that it knows of, and whom the member voted for in it; 0 for nobody.
    pub fn vote(&self) -> (u64, u64) {
        let inner = self.inner.lock();
        let HardState { term, vote, .. } = inner.seen.hard_state;
        (term, vote)
    }

    /// As the log on disk is begun anew: durably and at once.
    pub fn begin_anew(&self, anew: &LogAnew) {
        let mut inner = self.inner.lock();
        let (index, term) = (anew.base.0.get(), anew.base.1.get());
        inner.seen = Content {
            hard_state: anew.for_raft(),
            base: Base { index, term },
            entries: Vec::new(),
        };
        inner.durable = inner.seen.clone();
        inner.unsynced.clear();
        inner.boot_epoch = anew.boot_epoch;
    }
}

impl Content {
    fn term(&self, index: u64) -> Option<u64> {
        if index == self.base.index {
            return Some(self.base.term);
        }
        let at = usize::try_from(index.checked_sub(self.base.index + 1)?).ok()?;
        self.entries.get(at).map(|entry| entry.term)
    }

    fn apply(&mut self, write: &LogWrite) {
        if let Some(first) = write.entries.first() {
            let next = self
                .entries
                .last()
                .map_or(self.base.index, |last| last.index)
                + 1;
            assert!(
                first.index <= next,
                "a write of {} leaves a gap after {next}",
                first.index
            );
            assert!(
                first.index > self.base.index,
                "a compacted entry is written again"
            );
            self.entries.retain(|entry| entry.index < first.index);
            self.entries.extend(write.entries.iter().cloned());
        }
        if let Some(hard_state) = &write.hard_state {
            self.hard_state = hard_state.clone();
        }
        if let Some(base) = write.base {
            self.entries.retain(|entry| entry.index > base.index);
            self.base = base;
        }
    }
}

impl Log for FakeDisk {
    fn write(&self, write: &LogWrite) -> Result<(), LogError> {
        let mut inner = self.inner.lock();
        inner.seen.apply(write);
        for entry in &write.entries {
            let term_before = inner.seen.term(entry.index - 1).unwrap_or(0);
            let mut hasher = DefaultHasher::new();
            (&entry.data[..], entry.entry_type as i32).hash(&mut hasher);
            inner.written.push(WrittenEntry {
                index: entry.index,
                term: entry.term,
                term_before,
                hash: hasher.finish(),
            });
        }
        inner.unsynced.push(write.clone());
        if write.sync && !inner.lies {
            inner.durable = inner.seen.clone();
            inner.unsynced.clear();
        }
        Ok(())
    }
}

impl LogReader for FakeDisk {
    fn entries(&self, low: u64, high: u64, max_bytes: u64) -> Result<Vec<Entry>, LogError> {
        let inner = self.inner.lock();
        let wanted = |entry: &&Entry| (low..high).contains(&entry.index);
        let mut entries: Vec<_> = inner.seen.entries.iter().filter(wanted).cloned().collect();
        if entries.first().is_none_or(|first| first.index != low) {
            return Err(LogError::Gone);
        }
        limit_bytes(&mut entries, max_bytes);
        Ok(entries)
    }
}
