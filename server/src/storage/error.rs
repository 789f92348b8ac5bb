//! What can go wrong below the state, and who can repair it.

use std::path::PathBuf;

/// A failure of the state on disk. Every one of them stops the member sooner or later.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StorageError {
    /// The directory holds something that is not a state of ours; nothing was touched.
    #[error("{path} is not a Trilith state: {reason}", path = path.display())]
    Foreign {
        /// The state directory.
        path: PathBuf,
        /// What was found there.
        reason: String,
    },
    /// A newer program wrote the state; nothing was touched.
    #[error("the state in {path} has format {found}, this program reads up to {known}",
        path = path.display())]
    FutureFormat {
        /// The state directory.
        path: PathBuf,
        /// Format found on disk.
        found: u32,
        /// Newest format this program knows.
        known: u32,
    },
    /// The operating system refused an operation on the directory itself.
    #[error("{action} {path}: {reason}", path = path.display())]
    Directory {
        /// What was tried, as a verb.
        action: &'static str,
        /// On which path.
        path: PathBuf,
        /// The system's own words.
        reason: String,
    },
    /// RocksDB refused or failed; the operator has to look at disk and space.
    #[error("{action}: {reason}")]
    Database {
        /// What was tried.
        action: &'static str,
        /// RocksDB's own words.
        reason: String,
    },
    /// An earlier write or flush failed. Nothing more is written until the member restarts,
    /// because what the failed one left behind is unknown.
    #[error("the state is closed for writing after a failure: {0}")]
    Latched(String),
    /// Bytes on disk that we never write. The member must be rebuilt from another one.
    #[error("corrupt {family} row: {reason}")]
    Corrupt {
        /// Family of the row.
        family: &'static str,
        /// What is wrong with it.
        reason: String,
    },
}

impl StorageError {
    pub(super) fn database(action: &'static str, error: &rocksdb::Error) -> Self {
        Self::Database {
            action,
            reason: error.to_string(),
        }
    }

    pub(super) fn directory(
        action: &'static str,
        path: impl Into<PathBuf>,
        error: &std::io::Error,
    ) -> Self {
        Self::Directory {
            action,
            path: path.into(),
            reason: error.to_string(),
        }
    }

    /// A row of `family` that cannot be read.
    pub fn corrupt(family: super::Family, reason: impl Into<String>) -> Self {
        Self::Corrupt {
            family: family.name(),
            reason: reason.into(),
        }
    }
}
