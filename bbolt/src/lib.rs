//! Reads and writes [bbolt] files: one file of pages that holds a tree of keys and values for each
//! bucket. It knows nothing of what is stored in them.
//!
//! [`File`] reads: every page is checked before anything in it is believed, and a file that is cut,
//! damaged or made to do harm gives an [`Error`] that names the file, the page and what is wrong.
//! Memory is bounded by a few pages, whatever the file claims.
//!
//! ```no_run
//! # fn main() -> Result<(), trilith_bbolt::Error> {
//! let file = trilith_bbolt::File::open("member/snap/db")?;
//! if let Some(bucket) = file.bucket(b"key")? {
//!     for pair in bucket.pairs() {
//!         let (key, value) = pair?;
//!         assert!(key.len() < value.len());
//!     }
//! }
//! # Ok(())
//! # }
//! ```
//!
//! [`Measure`] and [`Writer`] write a file in order, from its first byte to its last, of sorted
//! input of any size: it need not be a file on disk, and nothing is held but a few pages.
//! [`InOrder`] reads such a file while it comes.
//!
//! A file that another process writes to while it is read gives errors, never wrong data from
//! pages of two moments: bbolt's own lock is not taken, so whoever opens a file sees to that.
//!
//! [bbolt]: https://pkg.go.dev/go.etcd.io/bbolt

mod bucket;
mod check;
mod error;
mod file;
mod in_order;
mod meta;
mod node;
mod page;
mod tree;
mod writer;

pub use bucket::{Bucket, Entries, Entry, Pairs};
pub use check::Summary;
pub use error::{Error, Problem};
pub use file::{Buckets, File};
pub use in_order::{Arrived, InOrder, Leaf};
pub use writer::{Measure, Plan, Sink, WriteError, Writer};

#[cfg(test)]
mod tests;
