//! Changes that happen together or not at all.

use std::fmt;

use rocksdb::WriteBatch;

use crate::storage::{Backend, Family};

/// An atomic set of changes, filled in memory and handed to [`Backend::write`].
/// Within a batch a later change to a key wins.
pub struct Batch {
    backend: Backend,
    pub(super) changes: WriteBatch,
}

impl Batch {
    pub(super) fn new(backend: Backend) -> Self {
        Self {
            backend,
            changes: WriteBatch::default(),
        }
    }

    /// Sets a row.
    pub fn put(&mut self, family: Family, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) {
        self.changes.put_cf(self.backend.handle(family), key, value);
    }

    /// Removes a row; one that does not exist is no error.
    pub fn delete(&mut self, family: Family, key: impl AsRef<[u8]>) {
        self.changes.delete_cf(self.backend.handle(family), key);
    }

    /// Removes every row from `lower`, included, to `upper`, excluded.
    pub fn delete_range(
        &mut self,
        family: Family,
        lower: impl AsRef<[u8]>,
        upper: impl AsRef<[u8]>,
    ) {
        let (lower, upper) = (lower.as_ref(), upper.as_ref());
        self.changes
            .delete_range_cf(self.backend.handle(family), lower, upper);
    }

    /// Whether nothing was put in.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    /// Size in memory, bytes.
    pub fn bytes(&self) -> usize {
        self.changes.size_in_bytes()
    }
}

impl fmt::Debug for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Batch")
            .field("rows", &self.changes.len())
            .field("bytes", &self.bytes())
            .finish()
    }
}
