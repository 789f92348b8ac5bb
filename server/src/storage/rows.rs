//! The place of a scan in a family: an iterator of RocksDB, or of the simulation's memory.

use rocksdb::{DB, DBRawIteratorWithThreadMode};

#[cfg(feature = "simulation")]
use super::memory::MemoryRows;
use crate::storage::StorageError;

/// Stands on a row, or at the end.
pub(super) enum Rows<'a> {
    RocksDb(DBRawIteratorWithThreadMode<'a, DB>),
    #[cfg(feature = "simulation")]
    Memory(MemoryRows),
}

/// Calls the same method of whichever it is.
macro_rules! each {
    ($rows:expr, $name:ident($($argument:expr)?)) => {
        match $rows {
            Rows::RocksDb(rows) => rows.$name($($argument)?),
            #[cfg(feature = "simulation")]
            Rows::Memory(rows) => rows.$name($($argument)?),
        }
    };
}

impl Rows<'_> {
    pub(super) fn valid(&self) -> bool {
        each!(self, valid())
    }

    /// The row it stands on.
    pub(super) fn item(&self) -> Option<(&[u8], &[u8])> {
        each!(self, item())
    }

    /// Why it stands on none, unless that is the end.
    pub(super) fn status(&self) -> Result<(), StorageError> {
        match self {
            Rows::RocksDb(rows) => rows
                .status()
                .map_err(|error| StorageError::database("scan", &error)),
            #[cfg(feature = "simulation")]
            Rows::Memory(_) => Ok(()),
        }
    }

    pub(super) fn next(&mut self) {
        each!(self, next());
    }

    pub(super) fn prev(&mut self) {
        each!(self, prev());
    }

    pub(super) fn seek(&mut self, key: &[u8]) {
        each!(self, seek(key));
    }

    pub(super) fn seek_for_prev(&mut self, key: &[u8]) {
        each!(self, seek_for_prev(key));
    }

    pub(super) fn seek_to_last(&mut self) {
        each!(self, seek_to_last());
    }
}
