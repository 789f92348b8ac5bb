//! Hashes over the state, equal to those that etcd computes over the same operations.
//!
//! etcd's bucket `key` has one record per change: its revision as `main _ sub`, followed by `t` if
//! it deleted the key, and its `KeyValue`. [`Store::hash_kv`] hashes those up to a revision. What
//! a compaction has yet to remove must not count, and members remove it at different times;
//! so etcd counts a record at or before the compact revision only if it is the state of its key
//! at the revision hashed. The rows that superseded such a record name it: they are read first.

use std::collections::{BinaryHeap, VecDeque};

use crc32c::crc32c_append;

use crate::{
    ids::Revision,
    mvcc::{
        buckets::{BucketSink, KEY_BUCKET, META_BUCKET, RecordKey, UNHASHED, walk_buckets},
        compaction,
        error::MvccError,
        interval::Interval,
        record::{Address, Kind, Row},
        source::Source,
        store::{Published, Store},
    },
    storage::{Family, StorageError, View, schema},
};

/// A hash of the revisions of a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KvHash {
    /// CRC-32C.
    pub hash: u32,
    /// The compact revision it was computed with; −1 before the first compaction.
    pub compact_revision: Revision,
    /// The last revision in it.
    pub revision: Revision,
    /// The current revision of the store.
    pub current_revision: Revision,
}

/// Hashes that compactions left behind, oldest first.
#[derive(Debug, Default)]
pub(super) struct HashCache(VecDeque<KvHash>);

impl HashCache {
    /// Keeps a hash, and forgets the one of the lowest revision when there are too many.
    pub(super) fn keep(&mut self, hash: KvHash) {
        self.0.push_back(hash);
        self.0.make_contiguous().sort_by_key(|kept| kept.revision);
        if self.0.len() > KEPT_MAX {
            self.0.pop_front();
        }
    }
}

impl Store {
    /// The hash of all revisions up to `revision`; 0 means the current one. If a compaction left
    /// one for exactly this revision, it is that one, even if it is compacted by now, as in etcd.
    ///
    /// Reads every kept row: not for async threads.
    ///
    /// # Errors
    ///
    /// A revision before the last compaction, or one that does not exist yet.
    pub fn hash_kv(&self, revision: Revision) -> Result<KvHash, MvccError> {
        let read = self.read();
        let (current, compacted) = (read.revision(), read.compact_revision());
        let hashes = self.hashes().lock();
        let kept = hashes
            .0
            .iter()
            .find(|kept| kept.revision == revision)
            .copied();
        drop(hashes);
        if let Some(kept) = kept {
            return Ok(KvHash {
                current_revision: current,
                ..kept
            });
        }
        at(read.source(), current, compacted, revision)
    }

    /// The hashes that compactions left, lowest revision first; at most ten.
    pub fn kept_hashes(&self) -> Vec<KvHash> {
        self.hashes().lock().0.iter().copied().collect()
    }

    /// The hash of the whole state, bucket by bucket as etcd would hold it, and the revision it
    /// is of. Members agree on it only while nothing is in flight.
    ///
    /// Reads every row: not for async threads.
    pub fn hash_all(&self) -> Result<(u32, Revision), MvccError> {
        let read = self.read();
        let mut hasher = BucketHasher {
            hash: 0,
            bucket: "",
        };
        walk_buckets(read.view(), &mut hasher)?;
        Ok((hasher.hash, read.revision()))
    }
}

/// As [`Store::hash_kv`] of a store that nobody runs: there is nothing that compactions left.
///
/// # Errors
///
/// As [`Store::hash_kv`].
pub fn hash_view(view: &View, revision: Revision) -> Result<KvHash, MvccError> {
    let published = Published::load(view.clone())?;
    let (current, compacted) = (published.revision, published.compact_revision);
    let source = Source {
        view,
        published: current.get(),
        overlay: None,
        churn: None,
    };
    at(source, current, compacted, revision)
}

fn at(
    source: Source<'_>,
    current: Revision,
    compacted: Revision,
    revision: Revision,
) -> Result<KvHash, MvccError> {
    if revision.get() > 0 && revision < compacted {
        return Err(MvccError::Compacted {
            requested: revision,
            compacted,
        });
    }
    if revision > current {
        return Err(MvccError::FutureRevision {
            requested: revision,
            current,
        });
    }
    let revision = if revision.get() == 0 {
        current
    } else {
        revision
    };
    let any_lives = any_lives(source, revision)?;
    let hash = hash_rows(source.view, compacted, revision, any_lives)?;
    Ok(KvHash {
        hash,
        compact_revision: compacted,
        revision,
        current_revision: current,
    })
}

/// The hash that etcd keeps of a compaction from `previous` to `target`: of every row there is
/// before the compaction, apart from those that `previous` should have removed.
pub(super) fn of_compaction(
    view: &View,
    previous: Revision,
    target: Revision,
) -> Result<KvHash, MvccError> {
    let source = Source {
        view,
        published: i64::MAX,
        overlay: None,
        churn: None,
    };
    // etcd also keeps the deletions exactly at the target.
    let keeps_any = any_lives(source, target)? || any_deleted_at(view, target)?;
    let hash = hash_rows(view, previous, target, keeps_any)?;
    let current_revision = target;
    Ok(KvHash {
        hash,
        compact_revision: previous,
        revision: target,
        current_revision,
    })
}

fn any_lives(source: Source<'_>, revision: Revision) -> Result<bool, StorageError> {
    let mut any = false;
    if revision.get() > 0 {
        source.visit(&Interval::everything(), revision.get(), &mut |_| {
            any = true;
            Ok(std::ops::ControlFlow::Break(()))
        })?;
    }
    Ok(any)
}

fn any_deleted_at(view: &View, revision: Revision) -> Result<bool, StorageError> {
    let (lower, upper) = rows_of(revision.get(), revision.get());
    let mut rows = view.scan(Family::Revision, &lower, Some(&upper));
    while let Some((_, value)) = rows.next()? {
        if Row::parse(value)?.kind == Kind::Tombstone {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Hashes the rows up to `revision`. If `keeps_any`, those up to `compacted` count only if they
/// are the state of their key at `revision`.
fn hash_rows(
    view: &View,
    compacted: Revision,
    revision: Revision,
    keeps_any: bool,
) -> Result<u32, StorageError> {
    let mut hash = crc32c_append(0, KEY_BUCKET.as_bytes());
    let boundary = compacted.get().clamp(0, revision.get().max(0));
    let finished = compaction::finished(view)?.get().max(0);
    let mut floor = Address { main: 0, sub: -1 };
    loop {
        let gone = if keeps_any && boundary > 0 {
            Superseded::collect(view, finished, revision.get(), boundary, floor)?
        } else {
            Superseded::default()
        };
        let lower = schema::revision_key(floor.main, floor.sub + 1);
        let (_, upper) = rows_of(0, boundary);
        let mut rows = view.scan(Family::Revision, &lower, Some(&upper));
        while let Some((key, value)) = rows.next()? {
            let (main, sub) = schema::parse_revision_key(key)?;
            let address = Address { main, sub };
            if gone.ceiling.is_some_and(|ceiling| address > ceiling) {
                break;
            }
            let row = Row::parse(value)?;
            let is_deletion = row.kind == Kind::Tombstone;
            // Older versions of etcd removed a deletion at the compact revision, newer ones do not:
            // it never counts.
            let is_mark = is_deletion && main == compacted.get();
            let is_gone = keeps_any && (is_deletion || gone.contains(address));
            if !(is_mark || is_gone) {
                hash = hash_record(hash, address, &row);
            }
        }
        match gone.ceiling {
            Some(ceiling) => floor = ceiling,
            None => break,
        }
    }
    let (lower, upper) = rows_of(boundary + 1, revision.get().max(0));
    let mut rows = view.scan(Family::Revision, &lower, Some(&upper));
    while let Some((key, value)) = rows.next()? {
        let (main, sub) = schema::parse_revision_key(key)?;
        hash = hash_record(hash, Address { main, sub }, &Row::parse(value)?);
    }
    Ok(hash)
}

/// Rows up to the compact revision that are no longer the state of their key.
#[derive(Debug, Default)]
struct Superseded {
    /// Sorted.
    addresses: Vec<Address>,
    /// Complete up to this address; without one, complete.
    ceiling: Option<Address>,
}

impl Superseded {
    /// What the rows from `from` to `to` superseded after `floor` and up to main `boundary`, the
    /// lowest first if it is too much to hold.
    fn collect(
        view: &View,
        from: i64,
        to: i64,
        boundary: i64,
        floor: Address,
    ) -> Result<Self, StorageError> {
        let mut lowest = BinaryHeap::new();
        let mut is_complete = true;
        let (lower, upper) = rows_of(from, to);
        let mut rows = view.scan(Family::Revision, &lower, Some(&upper));
        while let Some((_, value)) = rows.next()? {
            let superseded = Row::parse(value)?.superseded;
            let in_reach = |old: &Address| old.main <= boundary && *old > floor;
            if let Some(old) = superseded.filter(in_reach) {
                lowest.push(old);
                if lowest.len() > SUPERSEDED_MAX {
                    lowest.pop();
                    is_complete = false;
                }
            }
        }
        let ceiling = if is_complete {
            None
        } else {
            lowest.peek().copied()
        };
        Ok(Self {
            addresses: lowest.into_sorted_vec(),
            ceiling,
        })
    }

    fn contains(&self, address: Address) -> bool {
        self.addresses.binary_search(&address).is_ok()
    }
}

/// Bucket names, keys and values, one after the other.
struct BucketHasher {
    hash: u32,
    bucket: &'static str,
}

impl BucketSink for BucketHasher {
    type Error = StorageError;

    fn bucket(&mut self, name: &'static str) -> Result<(), StorageError> {
        self.bucket = name;
        self.hash = crc32c_append(self.hash, name.as_bytes());
        Ok(())
    }

    fn pair(&mut self, key: &[u8], value: &[u8]) -> Result<(), StorageError> {
        if self.bucket != META_BUCKET || !UNHASHED.contains(&key) {
            self.hash = crc32c_append(crc32c_append(self.hash, key), value);
        }
        Ok(())
    }
}

fn hash_record(hash: u32, address: Address, row: &Row<'_>) -> u32 {
    let key = RecordKey::new(address, row.kind);
    crc32c_append(crc32c_append(hash, key.bytes()), row.kv)
}

/// Bounds of the rows from main `first` to main `last`, both included.
fn rows_of(first: i64, last: i64) -> ([u8; 16], [u8; 16]) {
    (
        schema::revision_key(first, 0),
        schema::revision_key(last + 1, 0),
    )
}

/// etcd keeps ten.
const KEPT_MAX: usize = 10;

/// 16 MB of addresses; more changes than this since the last compaction are hashed in passes.
const SUPERSEDED_MAX: usize = if cfg!(test) { 50 } else { 1 << 20 };
