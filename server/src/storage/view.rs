//! One consistent moment of the state, and ordered scans over it.

use std::{fmt, sync::Arc};

use bytes::Bytes;
use rocksdb::{ReadOptions, Snapshot};
use self_cell::self_cell;

#[cfg(feature = "simulation")]
use super::memory::{Content, MemoryRows};
use super::rows::Rows;
use crate::storage::{Backend, Family, StorageError};

/// The state as it stood when the view was taken; later batches are invisible. Cheap to clone.
/// It keeps the database open and what it can see from being removed, so none lives for hours.
#[derive(Clone)]
pub struct View {
    moment: Moment,
}

#[derive(Clone)]
enum Moment {
    RocksDb(Arc<PinnedBackend>),
    #[cfg(feature = "simulation")]
    Memory(Arc<Content>),
}

struct Pinned<'a> {
    read: ReadOptions,
    /// Declared after `read`, which points at it, so that it is dropped last.
    snapshot: Snapshot<'a>,
}

self_cell! {
    struct PinnedBackend {
        owner: Backend,
        #[not_covariant]
        dependent: Pinned,
    }
}

impl View {
    pub(super) fn new(backend: Backend) -> Self {
        #[cfg(feature = "simulation")]
        if let Some(memory) = backend.memory() {
            return Self {
                moment: Moment::Memory(memory.now()),
            };
        }
        let pinned = PinnedBackend::new(backend, |backend| {
            let snapshot = backend.db().snapshot();
            let mut read = ReadOptions::default();
            read.set_snapshot(&snapshot);
            Pinned { read, snapshot }
        });
        Self {
            moment: Moment::RocksDb(Arc::new(pinned)),
        }
    }

    /// The rows, of a view of a state in memory.
    #[cfg(feature = "simulation")]
    pub(super) fn memory(&self) -> &Content {
        match &self.moment {
            Moment::Memory(content) => content,
            Moment::RocksDb(_) => unreachable!("the simulation asks its own states"),
        }
    }

    /// The value of a row.
    pub fn get(&self, family: Family, key: &[u8]) -> Result<Option<Bytes>, StorageError> {
        match &self.moment {
            Moment::RocksDb(pinned) => {
                pinned.with_dependent(|backend, pinned| backend.get_with(family, key, &pinned.read))
            }
            #[cfg(feature = "simulation")]
            Moment::Memory(content) => Ok(content.get(family, key)),
        }
    }

    /// Rows from `lower`, included, to `upper`, excluded (or to the end of the family), ascending.
    pub fn scan(&self, family: Family, lower: &[u8], upper: Option<&[u8]>) -> Scan<'_> {
        self.start(family, lower, upper, Direction::Forward)
    }

    /// As [`View::scan`], for rows that nobody will read again soon: they do not go into the block
    /// cache, and are read ahead.
    pub fn scan_beside_cache(
        &self,
        family: Family,
        lower: &[u8],
        upper: Option<&[u8]>,
    ) -> Scan<'_> {
        let mut rows = self.rows(family, lower, upper, Direction::Forward, false);
        rows.seek(lower);
        Scan {
            rows,
            direction: Direction::Forward,
            fresh: true,
            cached_bytes: usize::MAX,
            family,
            upper: None,
            view: self,
        }
    }

    /// As [`View::scan`], from the last row down.
    pub fn scan_reverse(&self, family: Family, lower: &[u8], upper: Option<&[u8]>) -> Scan<'_> {
        self.start(family, lower, upper, Direction::Reverse)
    }

    fn start(
        &self,
        family: Family,
        lower: &[u8],
        upper: Option<&[u8]>,
        direction: Direction,
    ) -> Scan<'_> {
        let mut rows = self.rows(family, lower, upper, direction, true);
        match direction {
            Direction::Forward => rows.seek(lower),
            Direction::Reverse => rows.seek_to_last(),
        }
        Scan {
            rows,
            direction,
            fresh: true,
            cached_bytes: 0,
            family,
            upper: upper.map(<[u8]>::to_vec),
            view: self,
        }
    }

    fn rows(
        &self,
        family: Family,
        lower: &[u8],
        upper: Option<&[u8]>,
        direction: Direction,
        fill_cache: bool,
    ) -> Rows<'_> {
        let mut read = ReadOptions::default();
        read.fill_cache(fill_cache);
        if !fill_cache {
            read.set_readahead_size(READAHEAD_BYTES);
        }
        if direction == Direction::Reverse {
            read.set_iterate_lower_bound(lower);
        }
        if let Some(upper) = upper {
            read.set_iterate_upper_bound(upper);
        }
        match &self.moment {
            Moment::RocksDb(pinned) => {
                pinned.with_dependent(|_, pinned| read.set_snapshot(&pinned.snapshot));
                let backend = pinned.borrow_owner();
                let family = backend.handle(family);
                Rows::RocksDb(backend.db().raw_iterator_cf_opt(family, read))
            }
            #[cfg(feature = "simulation")]
            Moment::Memory(content) => {
                let lower = (direction == Direction::Reverse).then_some(lower);
                Rows::Memory(MemoryRows::new(content, family, lower, upper))
            }
        }
    }
}

impl fmt::Debug for View {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("View").finish_non_exhaustive()
    }
}

/// A walk over rows in order. It lends each row until the next step.
pub struct Scan<'a> {
    rows: Rows<'a>,
    direction: Direction,
    /// Whether the iterator stands on a row that was not lent yet.
    fresh: bool,
    /// Bytes of the rows passed while their blocks still went into the cache.
    cached_bytes: usize,
    family: Family,
    upper: Option<Vec<u8>>,
    /// The snapshot below must outlive the iterator.
    view: &'a View,
}

impl Scan<'_> {
    /// The next row as key and value; `None` at the end.
    #[expect(
        clippy::should_implement_trait,
        clippy::type_complexity,
        reason = "the rows are lent, which Iterator cannot"
    )]
    pub fn next(&mut self) -> Result<Option<(&[u8], &[u8])>, StorageError> {
        self.advance()?;
        Ok(self.row())
    }

    /// Steps to the next row, which [`Scan::row`] then lends; false at the end.
    pub fn advance(&mut self) -> Result<bool, StorageError> {
        if self.fresh {
            self.fresh = false;
        } else if self.rows.valid() {
            match self.direction {
                Direction::Forward => {
                    self.spare_cache();
                    self.rows.next();
                }
                Direction::Reverse => self.rows.prev(),
            }
        }
        if !self.rows.valid() {
            self.rows.status()?;
            return Ok(false);
        }
        Ok(true)
    }

    /// Goes on beside the block cache once a scan is long: it would push out everything that
    /// others read, and come to its end before it read any of it again.
    fn spare_cache(&mut self) {
        if self.cached_bytes > CACHED_BYTES_MAX {
            return;
        }
        let Some((key, value)) = self.rows.item() else {
            return;
        };
        self.cached_bytes += key.len() + value.len();
        if self.cached_bytes > CACHED_BYTES_MAX {
            let upper = self.upper.as_deref();
            let mut rows = self
                .view
                .rows(self.family, key, upper, self.direction, false);
            rows.seek(key);
            self.rows = rows;
        }
    }

    /// The row that [`Scan::advance`] stepped to; `None` at the end.
    pub fn row(&self) -> Option<(&[u8], &[u8])> {
        self.rows.item()
    }

    /// Jumps so that the next step finds the first row at or after `key` (of a reverse scan: the
    /// last one at or before it). Bounds stay in force.
    pub fn seek(&mut self, key: &[u8]) {
        match self.direction {
            Direction::Forward => self.rows.seek(key),
            Direction::Reverse => self.rows.seek_for_prev(key),
        }
        self.fresh = true;
    }
}

impl fmt::Debug for Scan<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scan")
            .field("direction", &self.direction)
            .finish_non_exhaustive()
    }
}

/// What a scan beside the cache asks the disk for at once.
const READAHEAD_BYTES: usize = 256 << 10;

/// What one scan may put into the block cache: a page of a list, not a list; a small part of
/// the default cache.
const CACHED_BYTES_MAX: usize = 4 << 20;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Direction {
    Forward,
    Reverse,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::BackendOptions;

    #[test]
    fn a_scan_that_leaves_the_cache_lends_every_row_of_its_moment_once() {
        const ROWS: u32 = 3_000;
        let directory = tempfile::tempdir().expect("a directory");
        let backend = Backend::open(directory.path(), &BackendOptions::default()).expect("opens");
        let mut batch = backend.batch();
        let value = vec![7; 2 * CACHED_BYTES_MAX / ROWS as usize];
        for number in 0..ROWS {
            batch.put(Family::Current, number.to_be_bytes(), &value);
        }
        backend.write(batch).expect("written");
        let view = backend.view();
        let mut later = backend.batch();
        later.delete(Family::Current, (ROWS - 2).to_be_bytes());
        backend.write(later).expect("written");

        let end = (ROWS - 1).to_be_bytes();
        let mut scan = view.scan(Family::Current, &1_u32.to_be_bytes(), Some(&end));
        for number in 1..ROWS - 1 {
            let (key, _) = scan.next().expect("readable").expect("not the end yet");
            assert_eq!(key, number.to_be_bytes());
        }
        assert!(
            scan.next().expect("readable").is_none(),
            "the upper bound stays in force"
        );
        assert!(
            scan.cached_bytes > CACHED_BYTES_MAX,
            "the scan was long enough to switch"
        );
    }
}
