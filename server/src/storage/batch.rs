//! Changes that happen together or not at all.

use std::fmt;

use rocksdb::WriteBatch;

use crate::storage::{Backend, Family};

#[cfg(feature = "simulation")]
use super::memory::{Change, MemoryBatch};

/// An atomic set of changes, filled in memory and handed to [`Backend::write`].
/// Within a batch a later change to a key wins.
pub struct Batch {
    backend: Backend,
    pub(super) changes: WriteBatch,
    /// In place of `changes`, where the database is one of the simulation.
    #[cfg(feature = "simulation")]
    pub(super) in_memory: MemoryBatch,
}

impl Batch {
    pub(super) fn new(backend: Backend) -> Self {
        Self {
            backend,
            changes: WriteBatch::default(),
            #[cfg(feature = "simulation")]
            in_memory: MemoryBatch::default(),
        }
    }

    /// Sets a row.
    pub fn put(&mut self, family: Family, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) {
        #[cfg(feature = "simulation")]
        if self.backend.memory().is_some() {
            let (key, value) = (owned(key.as_ref()), owned(value.as_ref()));
            return self.in_memory.add(Change::Put(family, key, value));
        }
        self.changes.put_cf(self.backend.handle(family), key, value);
    }

    /// Removes a row; one that does not exist is no error.
    pub fn delete(&mut self, family: Family, key: impl AsRef<[u8]>) {
        #[cfg(feature = "simulation")]
        if self.backend.memory().is_some() {
            let key = owned(key.as_ref());
            return self.in_memory.add(Change::Delete(family, key));
        }
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
        #[cfg(feature = "simulation")]
        if self.backend.memory().is_some() {
            let change = Change::DeleteRange(family, owned(lower), owned(upper));
            return self.in_memory.add(change);
        }
        self.changes
            .delete_range_cf(self.backend.handle(family), lower, upper);
    }

    /// Whether nothing was put in.
    pub fn is_empty(&self) -> bool {
        #[cfg(feature = "simulation")]
        if !self.in_memory.changes.is_empty() {
            return false;
        }
        self.changes.is_empty()
    }

    /// Size in memory, bytes.
    pub fn bytes(&self) -> usize {
        #[cfg(feature = "simulation")]
        if self.backend.memory().is_some() {
            return self.in_memory.bytes;
        }
        self.changes.size_in_bytes()
    }
}

#[cfg(feature = "simulation")]
fn owned(bytes: &[u8]) -> bytes::Bytes {
    bytes::Bytes::copy_from_slice(bytes)
}

impl fmt::Debug for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Batch")
            .field("rows", &self.changes.len())
            .field("bytes", &self.bytes())
            .finish()
    }
}
