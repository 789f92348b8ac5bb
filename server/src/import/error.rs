//! Why data of etcd was not taken over. Nothing of it was changed.

use std::path::PathBuf;

use super::wal::WalError;
use crate::cluster::datadir::DataDirError;
use crate::ids::{Index, MemberId, Term};
use crate::member::{KeptLogError, StartError};
use crate::storage::StorageError;

/// Why data of etcd was not taken over. Nothing of it was changed.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The database file is not sound.
    #[error("etcd's database cannot be taken over: {0}; restore it from a snapshot")]
    Database(#[from] trilith_bbolt::Error),
    /// The database is a sound file with content that no etcd 3.7 writes.
    #[error("etcd's database {} cannot be taken over: {reason}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// What another member has sent is not sound, or not what it said.
    #[error("the snapshot cannot be taken over: {0}")]
    Received(String),
    /// etcd has the database open.
    #[error("{} is in use: etcd is still running on it; stop etcd first", .0.display())]
    Running(PathBuf),
    /// The log is not sound.
    #[error("etcd's log cannot be taken over: {0}; restore the member from a snapshot")]
    Wal(#[from] WalError),
    /// The log does not say whose it is.
    #[error("etcd's log does not say whose it is; restore the member from a snapshot")]
    NoMetadata,
    /// The log names two members.
    #[error("etcd's log is put together from the logs of two members; restore one from a snapshot")]
    TwoMembers,
    /// Log and state have nothing in common.
    #[error(
        "etcd's database has applied entry {applied}, of which its log knows nothing: they do not \
         belong together; restore the member from a snapshot"
    )]
    Apart {
        /// What the database has applied.
        applied: Index,
    },
    /// The applied entry is another one in the log.
    #[error(
        "entry {index} has term {log} in etcd's log and term {state} in its database: they do not \
         belong together; restore the member from a snapshot"
    )]
    Term {
        /// The entry.
        index: Index,
        /// Its term in the log.
        log: Term,
        /// Its term in the database.
        state: Term,
    },
    /// Entries are missing.
    #[error("entries {from} to {to} are missing in etcd's log; restore the member from a snapshot")]
    Gap {
        /// The first one.
        from: Index,
        /// The last one.
        to: Index,
    },
    /// Committed entries are missing at the end.
    #[error(
        "etcd's log says that entry {committed} is committed and ends at {last}: something has cut \
         it; restore the member from a snapshot"
    )]
    Cut {
        /// What is committed.
        committed: Index,
        /// What is there.
        last: Index,
    },
    /// The member was removed from its cluster.
    #[error(
        "member {0} was removed from its cluster and cannot come back; add a new one with \
         etcdctl member add"
    )]
    Removed(MemberId),
    /// The members in the database do not include the one in the log.
    #[error(
        "etcd's log is that of member {0}, which its database does not know: they do not belong \
         together; restore the member from a snapshot"
    )]
    Stranger(MemberId),
    /// `--wal-dir` holds etcd's log.
    #[error(
        "--wal-dir {} holds the log of etcd, and Trilith's own cannot lie in the same place; start \
         without --wal-dir or with an empty one, and with etcd's files in {}", found.display(),
        wanted.display()
    )]
    WalDir {
        /// Where they are.
        found: PathBuf,
        /// Where they are looked for.
        wanted: PathBuf,
    },
    /// The snapshot has no checksum.
    #[error(
        "{} has no checksum at its end, so it was not written by snapshot save or is cut short; \
         --skip-hash-check takes a copy of a database file", .0.display()
    )]
    NoChecksum(PathBuf),
    /// The snapshot's checksum is wrong.
    #[error("{} is damaged: its checksum is wrong; take another snapshot", .0.display())]
    Checksum(PathBuf),
    /// There is something where the member is to be made.
    #[error("data-dir {:?} not empty or could not be read", .0)]
    NotEmpty(PathBuf),
    /// There is something where the log is to be made.
    #[error("wal-dir {:?} exists", .0)]
    WalDirExists(PathBuf),
    /// The system refused.
    #[error("cannot use {}: {error}", path.display())]
    File {
        /// What.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// The data directory cannot be used.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// The new state cannot be written.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The new log cannot be written.
    #[error(transparent)]
    Log(#[from] StartError),
    /// The new log cannot be written, or the old one holds what etcd never writes.
    #[error(transparent)]
    KeptLog(#[from] KeptLogError),
}
