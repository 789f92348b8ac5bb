//! Revisions of keys: reading any kept one, writing the next, compacting the old.
//!
//! Every entry that changes something makes one main revision; its changes are numbered from sub
//! revision 0. An empty store stands at revision 1.
//!
//! A worked trace, rows written per entry (`r` is a revision's row, `c` the current one, `o` the
//! index of past ones; `2.0` means main 2, sub 0):
//!
//! ```text
//! put a=1        2.0   r[2.0] = create a=1           c[a] = a=1
//! put a=2        3.0   r[3.0] = put a=2, was 2.0     c[a] = a=2     o[a,2.0]
//! txn{put b,c}   4.0   r[4.0] = create b             c[b]
//!                4.1   r[4.1] = create c             c[c]
//! delete a       5.0   r[5.0] = tombstone, was 3.0   c[a] gone      o[a,3.0] o[a,5.0 deleted]
//! ```
//!
//! Reading `a` at 4: `c[a]` is gone, so the newest of `o[a,..]` up to 4 counts: 3.0, and `r[3.0]`
//! has the value. Compacting at 4 walks `r[..=4]` and removes what each row superseded: 2.0.
//! Compacting at 5 removes 3.0; the tombstone 5.0 itself stays until a compaction beyond it.
//!
//! **Invariant:** nothing here knows raft, requests or time. One thread writes (see [`Round`]),
//! any number reads (see [`ReadTxn`]), and only the thread of [`compaction`] removes old rows.

pub mod compaction;

mod error;
mod event;
mod interval;
mod record;

mod range;
mod read_txn;
mod round;
mod store;
mod write_txn;

mod load;
mod verify;

mod buckets;
mod churn;
mod count;
mod hash;
mod history;
mod overlay;
mod source;

pub mod watch;

#[cfg(test)]
mod tests;

pub use buckets::{
    BUCKETS, BucketSink, KEY_BUCKET, META_BUCKET, applied, storage_version, walk_buckets,
};
pub use error::MvccError;
pub use event::{Event, EventKind, RevisionEvents};
pub use hash::{KvHash, hash_view};
pub use interval::{End, Interval};
pub use load::{LoadedRevisions, Loader};
pub use range::{RangeQuery, RangeResult, SortOrder, SortTarget};
pub use read_txn::ReadTxn;
pub use record::{Address, Fields, KeyValue, Kind, Row};
pub use round::Round;
pub use source::Visitor;
pub use store::{NEVER_COMPACTED, Published, Store, encode_applied};
pub use verify::{Verified, verify};
pub use write_txn::{Deleted, WriteTxn};
