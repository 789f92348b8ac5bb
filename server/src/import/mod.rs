//! Takes over what etcd has kept: the data directory of a member, or a snapshot file, be it one
//! that another member has sent.
//!
//! A database file becomes the state, the log after what the database has applied becomes the raft
//! log; raft then decides what of it is committed, and apply replays it like any other log. etcd's
//! files are only read.
//!
//! **Invariant:** nothing is written before all of the old log and the head of the database were
//! found sound, and what is written counts as a member only once it is whole and durable (see
//! `cluster::datadir`).

mod member;
mod received;
mod snapshot;

mod database;
mod survey;
mod wal;

mod error;

pub use error::ImportError;
pub use member::EtcdMember;
pub use received::{ComingSnapshot, ReceivedSnapshot};
pub use snapshot::{Restore, SnapshotFile, SnapshotStatus};
pub use wal::WalError;
