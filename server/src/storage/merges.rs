//! How fast tables are merged: no faster than it takes to keep up. What waits for the disk behind a
//! burst of them is the log, and with it every client.

use parking_lot::Mutex;
use rocksdb::Options;
use rocksdb::properties::{ESTIMATE_PENDING_COMPACTION_BYTES, num_files_at_level};
use trilith_merge_pace::MergePace;

use super::options::FRESH_TABLES;
use super::{Backend, Family};

/// The bound on the merges of one database.
#[derive(Debug)]
pub(super) struct Merges {
    pace: MergePace,
    rate: Mutex<Rate>,
}

/// How fast merges may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rate {
    /// As fast as the disk can, until somebody looks after it.
    Unbounded,
    /// Bytes in a second.
    Bounded(u64),
    /// As fast as the disk can, to the end.
    Hurried,
}

/// How far merges are behind.
#[derive(Clone, Copy, Debug)]
struct Behind {
    /// Tables that were flushed and not merged since, of the family that has most.
    fresh_tables: u64,
    /// What is to be rewritten until each level has the size that it should have.
    bytes: u64,
}

impl Merges {
    /// None, as long as nobody is served beside it.
    pub(super) fn unbounded() -> Self {
        Self {
            pace: MergePace::new(MergePace::RATE_MAX),
            rate: Mutex::new(Rate::Unbounded),
        }
    }

    /// Bounds the merges of whoever is opened with `options`.
    pub(super) fn install(&self, options: &mut Options) {
        self.pace.install(options);
    }
}

impl Backend {
    /// Bounds merges to what they need to keep up, since clients are served beside them. To be
    /// called again and again, as that changes.
    pub fn pace_merges(&self) {
        let fresh = |&family| self.fresh_tables(family);
        let behind = Behind {
            fresh_tables: Family::ALL.iter().map(fresh).max().unwrap_or(0),
            bytes: self.sum(ESTIMATE_PENDING_COMPACTION_BYTES),
        };
        let merges = &self.shared.merges;
        let mut rate = merges.rate.lock();
        let before = match *rate {
            Rate::Unbounded => RATE_MIN,
            Rate::Bounded(before) => before,
            Rate::Hurried => return,
        };
        let next = next(before, behind);
        if *rate != Rate::Bounded(next) {
            merges.pace.set(next);
            *rate = Rate::Bounded(next);
        }
    }

    /// Takes the bound away for good: the state is about to be closed, which waits for them.
    pub fn hurry_merges(&self) {
        let merges = &self.shared.merges;
        let mut rate = merges.rate.lock();
        merges.pace.set(MergePace::RATE_MAX);
        *rate = Rate::Hurried;
    }

    fn fresh_tables(&self, family: Family) -> u64 {
        let text = self
            .db()
            .property_value_cf(self.handle(family), num_files_at_level(0));
        let count = text.ok().flatten().and_then(|text| text.parse().ok());
        count.unwrap_or(0)
    }
}

/// The bound after `rate`, a look later.
fn next(rate: u64, behind: Behind) -> u64 {
    let is_behind = behind.fresh_tables >= FRESH_TABLES_MAX || behind.bytes > BYTES_MAX;
    match is_behind {
        true => (rate * 4).min(MergePace::RATE_MAX),
        false => (rate / 2).max(RATE_MIN),
    }
}

/// Rented disks take bursts of some seconds as if they could do them for ever, and make everyone
/// wait afterwards; half of what the slower ones can do for ever is left to the log.
const RATE_MIN: u64 = 48 << 20;

/// RocksDB begins to merge them at one less: that many are there before it has done so.
const FRESH_TABLES_MAX: u64 = FRESH_TABLES as u64 + 1;

/// RocksDB holds writes up at 64 GiB. A defragmentation looks like some gigabytes for a while.
const BYTES_MAX: u64 = 16 << 30;

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;
    use crate::storage::BackendOptions;

    /// Each of them reaches over all keys.
    fn flush_a_table(backend: &Backend, number: u32) {
        let mut batch = backend.batch();
        for key in 0..100_u32 {
            let value = vec![key as u8; 1_000];
            batch.put(
                Family::Current,
                [key.to_be_bytes(), number.to_be_bytes()].concat(),
                value,
            );
        }
        backend.write(batch).expect("write");
        backend.flush().expect("flush");
    }

    #[test]
    fn what_is_filled_is_merged_when_it_is_served_or_has_too_many_tables() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let patience = Instant::now() + Duration::from_secs(60);
        let wait_for_merge = |backend: &Backend| {
            while backend.fresh_tables(Family::Current) >= 10 {
                assert!(Instant::now() < patience, "nothing is merged");
                std::thread::yield_now();
            }
        };
        let fill = |name: &str, tables| {
            let backend = Backend::open(&dir.path().join(name), &BackendOptions::to_fill());
            let backend = backend.expect("an empty state");
            for number in 0..tables {
                flush_a_table(&backend, number);
            }
            backend
        };
        let few = fill("few", 39);
        assert_eq!(few.fresh_tables(Family::Current), 39);
        drop(few);
        let served = Backend::open(&dir.path().join("few"), &BackendOptions::default());
        wait_for_merge(&served.expect("the state"));

        let many = fill("many", 45);
        wait_for_merge(&many);
        let view = many.view();
        let mut rows = view.scan(Family::Current, &[], None);
        let mut count = 0;
        while rows.next().expect("scan").is_some() {
            count += 1;
        }
        assert_eq!(count, 45 * 100);
    }

    const KEPT_UP: Behind = Behind {
        fresh_tables: FRESH_TABLES_MAX - 1,
        bytes: BYTES_MAX,
    };

    #[test]
    fn the_bound_grows_while_merges_are_behind_and_shrinks_to_the_least_afterwards() {
        let tables = Behind {
            fresh_tables: FRESH_TABLES_MAX,
            ..KEPT_UP
        };
        let bytes = Behind {
            bytes: BYTES_MAX + 1,
            ..KEPT_UP
        };
        assert_eq!(next(RATE_MIN, KEPT_UP), RATE_MIN);
        let mut rate = RATE_MIN;
        for behind in [tables, bytes] {
            let grown = next(rate, behind);
            assert!(grown > rate);
            rate = grown;
        }
        for _ in 0..10 {
            rate = next(rate, KEPT_UP);
        }
        assert_eq!(rate, RATE_MIN);
        assert_eq!(next(MergePace::RATE_MAX, tables), MergePace::RATE_MAX);
    }
}
