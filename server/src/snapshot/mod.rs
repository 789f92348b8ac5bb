//! The whole state in one file that etcd understands: a snapshot for backups, and for members that
//! have fallen behind.

mod export;
mod message;

pub use export::{Export, ExportError};
pub use message::describe;
