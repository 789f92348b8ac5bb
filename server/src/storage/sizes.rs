//! How large the state is: what clients see, what a crash would replay, what quotas count.

use std::sync::atomic::{AtomicU64, Ordering};

use rocksdb::properties::{
    ESTIMATE_LIVE_DATA_SIZE, LIVE_SST_FILES_SIZE, NUM_DELETES_ACTIVE_MEM_TABLE,
    NUM_DELETES_IMM_MEM_TABLES, NUM_ENTRIES_ACTIVE_MEM_TABLE, NUM_ENTRIES_IMM_MEM_TABLES, PropName,
};
use rocksdb::{CStrLike, LiveFile};

use crate::storage::{Backend, Family};

/// Figures behind `dbSize` and `dbSizeInUse`, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sizes {
    /// Live tables and blob files, and records not flushed yet.
    pub total_bytes: u64,
    /// What live and retained rows take of it (an estimate); never above `total_bytes`.
    pub in_use_bytes: u64,
}

/// What a crash now would have to replay.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Unflushed {
    /// Rows in memory only, over all families.
    pub rows: u64,
    /// Their size, bytes.
    pub bytes: u64,
}

impl Backend {
    /// Size of the state as clients see it.
    pub fn sizes(&self) -> Sizes {
        #[cfg(feature = "simulation")]
        if let Some(memory) = self.memory() {
            return memory.sizes();
        }
        let (files, unflushed) = self.measure();
        let mut in_use = 0;
        let mut rows = Rows::default();
        let tables = self.db().live_files().unwrap_or_default();
        for &family in Family::ALL {
            let blobs = self.blob_bytes(family);
            let blob_garbage = self.figure(family, c"rocksdb.live-blob-file-garbage-size");
            let live = self.figure(family, ESTIMATE_LIVE_DATA_SIZE);
            let of = self.rows(family, &tables);
            in_use += of.kept_of(live + blobs.saturating_sub(blob_garbage));
            rows.all += of.all;
            rows.deletes += of.deletes;
        }
        let total_bytes = files + unflushed;
        Sizes {
            total_bytes,
            in_use_bytes: (in_use + rows.kept_of(unflushed)).min(total_bytes),
        }
    }

    /// `sizes().total_bytes`, without what it takes to tell how much of it is in use.
    pub fn total_bytes(&self) -> u64 {
        #[cfg(feature = "simulation")]
        if let Some(memory) = self.memory() {
            return memory.sizes().total_bytes;
        }
        let (files, unflushed) = self.measure();
        files + unflushed
    }

    /// [`Backend::total_bytes`], cheap enough to ask for each request: files as of the last flush
    /// or measurement, and everything written since.
    pub fn total_bytes_estimate(&self) -> u64 {
        self.shared.files_bytes.load(Ordering::Relaxed)
            + self.shared.written_bytes.load(Ordering::Relaxed)
    }

    /// What has been written and is not on disk yet. The rows are exact; their bytes are told from
    /// the average of late, since RocksDB only knows the blocks that it allocated for them.
    pub fn unflushed(&self) -> Unflushed {
        #[cfg(feature = "simulation")]
        if let Some(memory) = self.memory() {
            return memory.unflushed();
        }
        let rows = self.sum(NUM_ENTRIES_ACTIVE_MEM_TABLE) + self.sum(NUM_ENTRIES_IMM_MEM_TABLES);
        let written_rows = self.shared.written_rows.load(Ordering::Relaxed).max(1);
        let written_bytes = self.shared.written_bytes.load(Ordering::Relaxed);
        let bytes = u128::from(written_bytes) * u128::from(rows) / u128::from(written_rows);
        Unflushed {
            rows,
            bytes: u64::try_from(bytes).unwrap_or(u64::MAX),
        }
    }

    /// Bytes of tables and blobs, which are noted for the estimate, and of what is unflushed.
    pub(super) fn measure(&self) -> (u64, u64) {
        let unflushed = self.forget_flushed();
        let blobs = |&family| self.blob_bytes(family);
        let files = self.sum(LIVE_SST_FILES_SIZE) + Family::ALL.iter().map(blobs).sum::<u64>();
        self.shared.files_bytes.store(files, Ordering::Relaxed);
        (files, unflushed)
    }

    pub(super) fn blob_bytes(&self, family: Family) -> u64 {
        self.figure(family, c"rocksdb.live-blob-file-size")
    }

    /// Takes off what was flushed meanwhile, be it by RocksDB itself, and returns the bytes left.
    /// What is written at the same time stays counted.
    fn forget_flushed(&self) -> u64 {
        let _one_at_a_time = self.shared.measuring.lock();
        let rows = self.shared.written_rows.load(Ordering::Relaxed);
        let bytes = self.shared.written_bytes.load(Ordering::Relaxed);
        let left = self.unflushed();
        let take = |counter: &AtomicU64, seen: u64, left: u64| {
            let _ = counter.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |now| {
                Some(now.saturating_sub(seen.saturating_sub(left)))
            });
        };
        take(&self.shared.written_rows, rows, left.rows);
        take(&self.shared.written_bytes, bytes, left.bytes);
        left.bytes
    }

    /// The records of a family in tables and in memory. RocksDB keeps count of a table once it has
    /// made it or looked into it: after a start, the others are taken to be like those.
    fn rows(&self, family: Family, tables: &[LiveFile]) -> Rows {
        let mut rows = Rows {
            all: self.figure(family, NUM_ENTRIES_ACTIVE_MEM_TABLE)
                + self.figure(family, NUM_ENTRIES_IMM_MEM_TABLES),
            deletes: self.figure(family, NUM_DELETES_ACTIVE_MEM_TABLE)
                + self.figure(family, NUM_DELETES_IMM_MEM_TABLES),
        };
        for table in tables {
            if table.column_family_name == family.name() {
                rows.all += table.num_entries;
                rows.deletes += table.num_deletions;
            }
        }
        rows
    }

    pub(super) fn sum(&self, property: &PropName) -> u64 {
        let of = |&family| self.figure(family, property);
        Family::ALL.iter().map(of).sum()
    }

    fn figure(&self, family: Family, property: impl CStrLike) -> u64 {
        let value = self
            .db()
            .property_int_value_cf(self.handle(family), property);
        value.ok().flatten().unwrap_or(0)
    }
}

/// How many records there are, and how many of them are deletes.
#[derive(Clone, Copy, Debug, Default)]
struct Rows {
    all: u64,
    deletes: u64,
}

impl Rows {
    /// About what will be left of `bytes` once tables are merged: a delete hides one record, and
    /// takes next to nothing itself. RocksDB's own estimates do not look at deletes.
    fn kept_of(self, bytes: u64) -> u64 {
        let puts = self.all.saturating_sub(self.deletes);
        let kept = puts.saturating_sub(self.deletes);
        let share = u128::from(bytes) * u128::from(kept) / u128::from(puts.max(1));
        u64::try_from(share).unwrap_or(bytes)
    }
}
