//! The durable log: entries, hard state, base and boot epoch in raft-engine.
//!
//! One write is one batch and at most one fsync. Within the engine's only group lie the entries,
//! and the keys `hard_state` (encoded `raftpb.HardState`), `base` (index and term of the last
//! entry that was compacted away, two big-endian u64), `boot_epoch` (big-endian u64) and `joined`
//! (empty; there if the member came to a cluster that ran already, until a snapshot replaces its
//! log).

use std::fs;
use std::path::Path;
use std::sync::Arc;

use protobuf::Message;
use raft::eraftpb::{Entry, HardState};
use raft_engine::{Command, Config, Engine, LogBatch, MessageExt, ReadableSize, RecoveryMode};

use super::entry::entry_bytes;
use super::log_file::LogFiles;

/// What is written to the log at once.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct LogWrite {
    /// Entries without gaps. They replace all that stand at their first index and behind it.
    pub(crate) entries: Vec<Entry>,
    /// The new hard state.
    pub(crate) hard_state: Option<HardState>,
    /// The new base: entries up to it may go.
    pub(crate) base: Option<Base>,
    /// Whether it must be durable before anything is said about it.
    pub(crate) sync: bool,
}

/// The entry before the first one of a log: all that is kept of what was compacted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Base {
    /// Its index; 0 for a log that has its first entry.
    pub(crate) index: u64,
    /// Its term.
    pub(crate) term: u64,
}

/// What was found in a log when it was opened.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Recovered {
    pub(crate) hard_state: HardState,
    pub(crate) base: Base,
    /// Index of the last entry; the base's when there is none.
    pub(crate) last: u64,
    /// The number of this log's last start; 0 for a new one.
    pub(crate) boot_epoch: u64,
    /// Whether it was begun empty, to be filled by a cluster that ran already.
    pub(crate) joined: bool,
}

/// Reads entries that were written. Used by the raft thread while the log thread writes.
pub(crate) trait LogReader: Send + Sync {
    /// Entries from `low` to before `high`, which are all there; at least one, and no more than
    /// `max_bytes` beyond that one.
    fn entries(&self, low: u64, high: u64, max_bytes: u64) -> Result<Vec<Entry>, LogError>;
}

/// A log that can be written; the simulation has one of its own.
pub(crate) trait Log: LogReader {
    /// Writes all of `write` or nothing. With `sync` it is durable when this returns.
    ///
    /// # Errors
    ///
    /// After an error nothing more may be written: the caller stops the process.
    fn write(&self, write: &LogWrite) -> Result<(), LogError>;
}

impl LogWrite {
    /// Adds what comes after it, as if both had been written in turn.
    pub(crate) fn absorb(&mut self, next: Self) {
        if let Some(first) = next.entries.first() {
            let keep = self
                .entries
                .partition_point(|entry| entry.index < first.index);
            self.entries.truncate(keep);
            if self.entries.is_empty() {
                self.entries = next.entries;
            } else {
                self.entries.extend(next.entries);
            }
        }
        self.hard_state = next.hard_state.or(self.hard_state.take());
        self.base = next.base.or(self.base.take());
        self.sync |= next.sync;
    }

    /// Whether there is nothing to write.
    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty() && self.hard_state.is_none() && self.base.is_none()
    }
}

/// The log on disk.
pub(crate) struct EngineLog {
    engine: Engine<LogFiles>,
    files: Arc<LogFiles>,
    fsync: bool,
}

impl EngineLog {
    /// Opens or creates the log in `directory`, whose parent exists.
    ///
    /// A tail that was torn by a crash is cut off, in memory only until the epoch begins. `fsync`
    /// is false only under `--unsafe-no-fsync`.
    ///
    /// # Errors
    ///
    /// When it cannot be read, or is damaged elsewhere than at its end.
    pub(crate) fn open(directory: &Path, fsync: bool) -> Result<(Self, Recovered), LogError> {
        let config = Config {
            dir: directory.to_str().ok_or(LogError::Path)?.to_string(),
            recovery_mode: RecoveryMode::TolerateTailCorruption,
            target_file_size: ReadableSize(FILE_BYTES),
            purge_threshold: ReadableSize(PURGE_BYTES),
            // Compressing costs more time per put than the bytes it saves.
            batch_compression_threshold: ReadableSize(0),
            enable_log_recycle: true,
            // The engine would fill files while it opens; ours are filled as they grow, then
            // recycled.
            prefill_for_recycle: false,
            ..Config::default()
        };
        let files = Arc::new(LogFiles::new(fsync));
        let engine = Engine::open_with_file_system(config, files.clone())?;
        let log = Self {
            engine,
            files,
            fsync,
        };
        let recovered = log.recovered()?;
        Ok((log, recovered))
    }

    /// Whether all files in `directory` have names that the engine gives.
    pub(crate) fn is_log(directory: &Path) -> bool {
        let is_ours = |path: &Path| {
            let extension = path.extension().and_then(|extension| extension.to_str());
            matches!(extension, Some("raftlog" | "rewrite" | "reserved")) || path.ends_with("LOCK")
        };
        fs::read_dir(directory).is_ok_and(|mut files| {
            files.all(|file| file.is_ok_and(|file| file.path().is_file() && is_ours(&file.path())))
        })
    }

    /// Counts this start, durably, and with it all that was found in the log: after a kill its
    /// tail may have been only in memory of the system, and raft takes it for durable.
    ///
    /// # Errors
    ///
    /// When it cannot be written.
    pub(crate) fn begin_epoch(&self, epoch: u64) -> Result<(), LogError> {
        self.files.carry_out_cuts()?;
        self.remove_orphans()?;
        let mut batch = LogBatch::default();
        batch.put(GROUP, BOOT_EPOCH.to_vec(), epoch.to_be_bytes().to_vec())?;
        self.engine.write(&mut batch, self.fsync)?;
        Ok(())
    }

    /// Begins the log of a member that joins a cluster: empty, and marked so, since an empty log
    /// without the mark has lost its entries.
    ///
    /// # Errors
    ///
    /// When it cannot be written.
    pub(crate) fn begin_joined(&self) -> Result<(), LogError> {
        let mut batch = LogBatch::default();
        batch.put(GROUP, JOINED.to_vec(), Vec::new())?;
        self.engine.write(&mut batch, self.fsync)?;
        Ok(())
    }

    /// Forgets all entries and begins anew behind `base`, durably and at once: after a crash the
    /// log is the old one or the new one. The boot epoch goes on.
    ///
    /// # Errors
    ///
    /// When it cannot be written.
    pub(crate) fn begin_anew(
        &self,
        base: &Base,
        hard_state: &HardState,
        boot_epoch: u64,
    ) -> Result<(), LogError> {
        self.files.carry_out_cuts()?;
        let mut batch = LogBatch::default();
        batch.add_command(GROUP, Command::Clean);
        batch.put(GROUP, HARD_STATE.to_vec(), hard_state.write_to_bytes()?)?;
        batch.put(GROUP, BASE.to_vec(), encode_base(base))?;
        batch.put(
            GROUP,
            BOOT_EPOCH.to_vec(),
            boot_epoch.to_be_bytes().to_vec(),
        )?;
        self.engine.write(&mut batch, self.fsync)?;
        Ok(())
    }

    /// Removes files that the engine has passed over when it opened: recycled ones which a kill
    /// left behind, with a gap between them and the log. It would never come back to them, so they
    /// would pile up with each kill.
    fn remove_orphans(&self) -> Result<(), LogError> {
        for extension in ["raftlog", "rewrite"] {
            let mut files = Vec::new();
            for file in fs::read_dir(self.engine.path())? {
                let path = file?.path();
                let name = path.file_stem().and_then(|name| name.to_str());
                let number = name.and_then(|name| name.parse::<u64>().ok());
                if path.extension().is_some_and(|found| found == extension) {
                    files.extend(number.map(|number| (number, path)));
                }
            }
            files.sort_unstable();
            let gap = files
                .windows(2)
                .rposition(|pair| pair[0].0 + 1 != pair[1].0);
            for (_, path) in files.drain(..gap.map_or(0, |gap| gap + 1)) {
                fs::remove_file(path)?;
            }
        }
        Ok(())
    }

    /// Gives files back that hold nothing but compacted entries, to be recycled.
    ///
    /// May write and sync; called by a thread of its own, while others read and write.
    ///
    /// # Errors
    ///
    /// When the engine cannot rewrite what it has to keep.
    pub(crate) fn purge(&self) -> Result<(), LogError> {
        self.engine.purge_expired_files()?;
        Ok(())
    }

    fn recovered(&self) -> Result<Recovered, LogError> {
        let key = |name: &[u8]| self.engine.get(GROUP, name);
        let hard_state = match key(HARD_STATE) {
            Some(bytes) => decode_hard_state(&bytes)?,
            None => HardState::default(),
        };
        let base = match key(BASE) {
            Some(bytes) => decode_base(&bytes).ok_or(LogError::Key("base"))?,
            None => Base::default(),
        };
        let boot_epoch = match key(BOOT_EPOCH) {
            Some(bytes) => {
                u64::from_be_bytes(bytes.try_into().map_err(|_| LogError::Key("boot_epoch"))?)
            }
            None => 0,
        };
        let first = self.engine.first_index(GROUP).unwrap_or(base.index + 1);
        if first > base.index + 1 {
            return Err(LogError::Gap {
                base: base.index,
                first,
            });
        }
        let last = self.engine.last_index(GROUP).unwrap_or(0).max(base.index);
        Ok(Recovered {
            hard_state,
            base,
            last,
            boot_epoch,
            joined: key(JOINED).is_some(),
        })
    }
}

impl Log for EngineLog {
    fn write(&self, write: &LogWrite) -> Result<(), LogError> {
        if write.is_empty() {
            return Ok(());
        }
        let mut batch = LogBatch::default();
        batch.add_entries::<EntryIndex>(GROUP, &write.entries)?;
        if let Some(hard_state) = &write.hard_state {
            batch.put(GROUP, HARD_STATE.to_vec(), hard_state.write_to_bytes()?)?;
        }
        if let Some(base) = &write.base {
            // In one batch with its term, which cannot be read any more after it.
            batch.add_command(
                GROUP,
                Command::Compact {
                    index: base.index + 1,
                },
            );
            batch.put(GROUP, BASE.to_vec(), encode_base(base))?;
        }
        self.engine.write(&mut batch, write.sync && self.fsync)?;
        Ok(())
    }
}

impl LogReader for EngineLog {
    fn entries(&self, low: u64, high: u64, max_bytes: u64) -> Result<Vec<Entry>, LogError> {
        let mut entries = Vec::new();
        let max = usize::try_from(max_bytes).unwrap_or(usize::MAX);
        self.engine
            .fetch_entries_to::<EntryIndex>(GROUP, low, high, Some(max), &mut entries)?;
        Ok(entries)
    }
}

struct EntryIndex;

impl MessageExt for EntryIndex {
    type Entry = Entry;

    fn index(entry: &Entry) -> u64 {
        entry.index
    }
}

/// No more than `max_bytes` of `entries`, but at least one.
pub(crate) fn limit_bytes(entries: &mut Vec<Entry>, max_bytes: u64) {
    let mut bytes = 0;
    let fits = entries.iter().take_while(|entry| {
        bytes += entry_bytes(entry) as u64;
        bytes <= max_bytes
    });
    let keep = fits.count().max(1);
    entries.truncate(keep);
}

fn decode_hard_state(bytes: &[u8]) -> Result<HardState, LogError> {
    let mut hard_state = HardState::default();
    hard_state.merge_from_bytes(bytes)?;
    Ok(hard_state)
}

fn encode_base(base: &Base) -> Vec<u8> {
    [base.index.to_be_bytes(), base.term.to_be_bytes()].concat()
}

fn decode_base(bytes: &[u8]) -> Option<Base> {
    let (index, term) = bytes.split_first_chunk()?;
    Some(Base {
        index: u64::from_be_bytes(*index),
        term: u64::from_be_bytes(term.try_into().ok()?),
    })
}

/// The engine keeps many groups; a member is in one.
const GROUP: u64 = 1;
const HARD_STATE: &[u8] = b"hard_state";
const BASE: &[u8] = b"base";
const BOOT_EPOCH: &[u8] = b"boot_epoch";
const JOINED: &[u8] = b"joined";

/// Size at which a file is full. Small enough that the first ones are soon there to be recycled.
const FILE_BYTES: u64 = 16 * 1024 * 1024;

/// Size of all files above which those without live entries are given back; half as much again is
/// kept for recycling.
const PURGE_BYTES: u64 = 64 * 1024 * 1024;

/// What went wrong with the log on disk.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The engine refused or found damage.
    #[error("{0}")]
    Engine(#[from] raft_engine::Error),
    /// A torn tail cannot be cut off, or a file not removed.
    #[error("{0}")]
    Io(#[from] std::io::Error),
    /// A stored message is no protobuf.
    #[error("it is damaged: {0}")]
    Decode(#[from] protobuf::ProtobufError),
    /// A stored key has no meaning.
    #[error("it is damaged: key {0} cannot be read")]
    Key(&'static str),
    /// Entries are missing at the beginning.
    #[error("it is damaged: entries {} to {} are missing", base + 1, first - 1)]
    Gap {
        /// What was compacted.
        base: u64,
        /// What is there.
        first: u64,
    },
    /// The path is not text.
    #[error("its path is not UTF-8")]
    Path,
    /// The simulation's disk is gone.
    #[cfg(any(test, feature = "simulation"))]
    #[error("the disk is gone")]
    Gone,
}

#[cfg(test)]
#[path = "log_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "log_content_tests.rs"]
mod content_tests;
