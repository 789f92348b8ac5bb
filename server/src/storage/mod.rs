//! The durable state of one member: a RocksDB database whose write-ahead log is the raft log.
//!
//! Only this module names RocksDB. [`schema`] says which family holds what and how keys are
//! built; [`Backend`] opens, writes and flushes; [`View`] reads one consistent moment.
//!
//! **Invariant:** RocksDB's own log is off and flushes are atomic over all families, so a crash
//! leaves exactly a prefix of the batches written, and the applied index inside it is true.
//! Only [`SortedRows`] are durable before the batches around them, in a state that is not whole
//! yet.

pub mod schema;

mod backend;
mod batch;
mod defragment;
mod directory;
mod error;
mod flush_policy;
#[cfg(feature = "simulation")]
mod memory;
mod merges;
mod notices;
mod options;
mod rows;
mod sizes;
mod sorted;
mod view;

pub use backend::{Backend, Closed};
pub use batch::Batch;
pub use error::StorageError;
pub use flush_policy::FlushPolicy;
#[cfg(feature = "simulation")]
pub use memory::MemoryDisk;
pub use options::BackendOptions;
pub use schema::Family;
pub use sizes::{Sizes, Unflushed};
pub use sorted::SortedRows;
pub use view::{Scan, View};
