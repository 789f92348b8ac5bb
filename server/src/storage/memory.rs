//! A state in memory in place of RocksDB, for the simulation: it starts in no time, and a crash
//! leaves what the last flush wrote.
//!
//! The maps share their parts with the moments that were taken of them, so that a view is a copy
//! that costs nothing.

use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;
use imbl::OrdMap;
use parking_lot::Mutex;

use super::{Family, Sizes, Unflushed, View, schema::meta};

type Rows = OrdMap<Bytes, Bytes>;

/// What a crash leaves of one member's state; clones are the same disk.
#[derive(Clone, Default)]
pub struct MemoryDisk {
    flushed: Arc<Mutex<Content>>,
}

/// All rows at one moment.
#[derive(Clone)]
pub(super) struct Content {
    families: Vec<Rows>,
    /// Invariant: the sum of the hashes of what counts, see [`Content::counts`].
    digest: u64,
}

/// An open state.
pub(super) struct Memory {
    disk: MemoryDisk,
    state: Mutex<State>,
}

struct State {
    now: Arc<Content>,
    unflushed: Unflushed,
}

/// Changes that happen together.
#[derive(Default)]
pub(super) struct MemoryBatch {
    pub(super) changes: Vec<Change>,
    pub(super) bytes: usize,
}

/// One change of a batch.
pub(super) enum Change {
    Put(Family, Bytes, Bytes),
    Delete(Family, Bytes),
    DeleteRange(Family, Bytes, Bytes),
}

impl MemoryBatch {
    pub(super) fn add(&mut self, change: Change) {
        self.bytes += match &change {
            Change::Put(_, key, value) => key.len() + value.len(),
            Change::Delete(_, key) => key.len(),
            Change::DeleteRange(_, lower, upper) => lower.len() + upper.len(),
        };
        self.changes.push(change);
    }
}

impl MemoryDisk {
    /// For a state made of a snapshot of the state at `origin`: goes on with that one's digest,
    /// which has the history too that is forgotten. Tells whether all rows are the same that must
    /// be the same.
    pub fn continues(&self, origin: &View) -> bool {
        let mut flushed = self.flushed.lock();
        let origin = origin.memory();
        flushed.digest = origin.digest;
        flushed.sum() == origin.sum()
    }
}

impl Default for Content {
    fn default() -> Self {
        let families = Family::ALL.iter().map(|_| Rows::default());
        Self {
            families: families.collect(),
            digest: 0,
        }
    }
}

impl Content {
    pub(super) fn get(&self, family: Family, key: &[u8]) -> Option<Bytes> {
        self.families[family as usize].get(key).cloned()
    }

    fn apply(&mut self, change: &Change) {
        match change {
            Change::Put(family, key, value) => {
                self.forget(*family, key);
                self.digest = self.digest.wrapping_add(hash(*family, key, value));
                self.families[*family as usize].insert(key.clone(), value.clone());
            }
            Change::Delete(family, key) => {
                self.forget(*family, key);
                self.families[*family as usize].remove(key);
            }
            Change::DeleteRange(family, lower, upper) => {
                let rows = &self.families[*family as usize];
                let within = rows.range::<_, [u8]>((
                    Bound::Included(lower.as_ref()),
                    Bound::Excluded(upper.as_ref()),
                ));
                let keys: Vec<_> = within.map(|(key, _)| key.clone()).collect();
                for key in keys {
                    self.apply(&Change::Delete(*family, key));
                }
            }
        }
    }

    /// A sum over the rows that are there.
    fn sum(&self) -> u64 {
        let families = Family::ALL.iter().zip(&self.families);
        let rows = families.flat_map(|(family, rows)| rows.iter().map(|row| (*family, row)));
        rows.map(|(family, (key, value))| hash(family, key, value))
            .fold(0, u64::wrapping_add)
    }

    /// Takes what stood at `key` off the digest. History stays in it, since members forget it at
    /// different times.
    fn forget(&mut self, family: Family, key: &[u8]) {
        if family == Family::Revision {
            return;
        }
        if let Some(old) = self.families[family as usize].get(key) {
            self.digest = self.digest.wrapping_sub(hash(family, key, old));
        }
    }
}

/// What a row adds to the digest; nothing if members may differ in it: how far they have removed
/// what was compacted, how they cut their counts into buckets, and what they applied in one round.
fn hash(family: Family, key: &[u8], value: &[u8]) -> u64 {
    let differs = match family {
        Family::Count | Family::Old => true,
        Family::Meta => key == meta::COMPACT_FINISHED || key == meta::COMPACT_PROGRESS,
        _ => false,
    };
    if differs {
        return 0;
    }
    let mut hasher = DefaultHasher::new();
    (family as usize, key).hash(&mut hasher);
    match family {
        Family::Current | Family::Revision => known(family, value).hash(&mut hasher),
        _ => value.hash(&mut hasher),
    }
    hasher.finish()
}

/// The value of a row of a key without what it superseded, which a state made of a snapshot does
/// not know where a compaction has removed that: what stands before it, and what stands behind it.
fn known(family: Family, value: &[u8]) -> (&[u8], &[u8]) {
    let varint = |from: usize| {
        let rest = value[from..].iter();
        from + rest.take_while(|byte| **byte >= 0x80).count() + 1
    };
    let kind = match family {
        Family::Current => varint(0),
        _ => 0,
    };
    let creates = value[kind] == 1;
    let pair = match creates {
        true => kind + 1,
        false => varint(varint(kind + 1)),
    };
    (&value[..=kind], &value[pair..])
}

impl Memory {
    pub(super) fn open(disk: &MemoryDisk) -> Self {
        let now = Arc::new(disk.flushed.lock().clone());
        Self {
            disk: disk.clone(),
            state: Mutex::new(State {
                now,
                unflushed: Unflushed::default(),
            }),
        }
    }

    pub(super) fn now(&self) -> Arc<Content> {
        self.state.lock().now.clone()
    }

    pub(super) fn persisted(&self, family: Family, key: &[u8]) -> Option<Bytes> {
        self.disk.flushed.lock().get(family, key)
    }

    pub(super) fn write(&self, batch: &MemoryBatch) {
        let mut state = self.state.lock();
        let now = Arc::make_mut(&mut state.now);
        for change in &batch.changes {
            now.apply(change);
        }
        state.unflushed.rows += batch.changes.len() as u64;
        state.unflushed.bytes += batch.bytes as u64;
    }

    pub(super) fn flush(&self) {
        let mut state = self.state.lock();
        *self.disk.flushed.lock() = (*state.now).clone();
        state.unflushed = Unflushed::default();
    }

    pub(super) fn unflushed(&self) -> Unflushed {
        self.state.lock().unflushed
    }

    pub(super) fn sizes(&self) -> Sizes {
        let now = self.now();
        let rows = now.families.iter().flat_map(|rows| rows.iter());
        let bytes: usize = rows.map(|(key, value)| key.len() + value.len()).sum();
        Sizes {
            total_bytes: bytes as u64,
            in_use_bytes: bytes as u64,
        }
    }

    pub(super) fn digest(&self) -> u64 {
        self.state.lock().now.digest
    }
}

impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Memory").finish_non_exhaustive()
    }
}

/// A place in one family, within bounds. Steps like an iterator of RocksDB.
pub(super) struct MemoryRows {
    rows: Rows,
    lower: Bound<Vec<u8>>,
    upper: Bound<Vec<u8>>,
    at: Option<(Bytes, Bytes)>,
}

impl MemoryRows {
    pub(super) fn new(
        content: &Content,
        family: Family,
        lower: Option<&[u8]>,
        upper: Option<&[u8]>,
    ) -> Self {
        Self {
            rows: content.families[family as usize].clone(),
            lower: lower.map_or(Bound::Unbounded, |lower| Bound::Included(lower.to_vec())),
            upper: upper.map_or(Bound::Unbounded, |upper| Bound::Excluded(upper.to_vec())),
            at: None,
        }
    }

    pub(super) fn valid(&self) -> bool {
        self.at.is_some()
    }

    pub(super) fn item(&self) -> Option<(&[u8], &[u8])> {
        let (key, value) = self.at.as_ref()?;
        Some((key, value))
    }

    pub(super) fn seek(&mut self, key: &[u8]) {
        self.at = self.first(Bound::Included(key));
    }

    pub(super) fn seek_for_prev(&mut self, key: &[u8]) {
        self.at = self.last(Bound::Included(key));
    }

    pub(super) fn seek_to_last(&mut self) {
        self.at = self.last(Bound::Unbounded);
    }

    pub(super) fn next(&mut self) {
        if let Some((key, _)) = self.at.take() {
            self.at = self.first(Bound::Excluded(&key));
        }
    }

    pub(super) fn prev(&mut self) {
        if let Some((key, _)) = self.at.take() {
            self.at = self.last(Bound::Excluded(&key));
        }
    }

    fn first(&self, from: Bound<&[u8]>) -> Option<(Bytes, Bytes)> {
        let mut found = self.rows.range::<_, [u8]>((from, Bound::Unbounded));
        let found = found
            .next()
            .map(|(key, value)| (key.clone(), value.clone()));
        found.filter(|(key, _)| self.is_within(key))
    }

    fn last(&self, to: Bound<&[u8]>) -> Option<(Bytes, Bytes)> {
        let to = match (&self.upper, to) {
            (Bound::Excluded(upper), Bound::Unbounded) => Bound::Excluded(upper.as_slice()),
            (Bound::Excluded(upper), Bound::Included(key) | Bound::Excluded(key))
                if key >= upper.as_slice() =>
            {
                Bound::Excluded(upper.as_slice())
            }
            _ => to,
        };
        let mut found = self.rows.range::<_, [u8]>((Bound::Unbounded, to));
        let found = found
            .next_back()
            .map(|(key, value)| (key.clone(), value.clone()));
        found.filter(|(key, _)| self.is_within(key))
    }

    fn is_within(&self, key: &[u8]) -> bool {
        let above = !matches!(&self.lower, Bound::Included(lower) if key < lower.as_slice());
        let below = !matches!(&self.upper, Bound::Excluded(upper) if key >= upper.as_slice());
        above && below
    }
}
