//! Counting keys without walking them.
//!
//! The keys are cut into buckets of neighbors; a row of `count` names a bucket's first key and how
//! many keys live in it. A bucket reaches to the first key of the next one, the first bucket begins
//! with the empty key, and there always is a first bucket. So a count adds up whole buckets and
//! walks at most the two at its edges.
//!
//! A bucket that grew beyond [`BUCKET_KEYS_MAX`] is cut into pieces of half that size, one that
//! shrank below [`BUCKET_KEYS_MIN`] joins the bucket before it if both fit into a piece. Both are
//! decided at the end of a transaction, from nothing but the keys: members that apply the same
//! entries hold the same buckets.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::{Bound, ControlFlow},
};

use bytes::Bytes;

use crate::{
    mvcc::{
        interval::{End, Interval},
        source::Source,
    },
    storage::{Batch, Family, StorageError, View},
};

/// How many keys of `interval` live in `view` now.
pub(super) fn now(view: &View, interval: &Interval) -> Result<i64, StorageError> {
    if interval.end == End::Single {
        return Ok(i64::from(
            view.get(Family::Current, &interval.key)?.is_some(),
        ));
    }
    let (lower, upper) = interval.bounds();
    let (first, _) = bucket_before(view, &lower)?;
    let mut buckets = view.scan(Family::Count, &first, upper.as_deref());
    let mut total = 0;
    // The bucket whose end is not known yet.
    let mut open: Option<(Bytes, i64)> = None;
    while let Some((start, count)) = buckets.next()? {
        if let Some((first, count)) = open.take() {
            total += if first < lower {
                walk(view, &lower, Some(start))?
            } else {
                count
            };
        }
        open = Some((
            Bytes::copy_from_slice(start),
            i64::from(parse_count(count)?),
        ));
    }
    let (first, count) = open.ok_or_else(|| corrupt("no bucket"))?;
    // Of the last bucket only its start is known to lie before `upper`.
    total += if first >= lower && upper.is_none() {
        count
    } else {
        walk(view, first.max(lower).as_ref(), upper.as_deref())?
    };
    Ok(total)
}

/// The buckets as the round under way sees them. Kept from round to round, so that most creates
/// find their bucket in memory.
#[derive(Debug, Default)]
pub(super) struct Buckets {
    /// Some of the buckets, by first key. Invariant: holds every bucket that the round changed.
    known: BTreeMap<Bytes, Bucket>,
    /// First keys of rows to write or to remove.
    dirty: BTreeSet<Bytes>,
}

#[derive(Clone, Debug)]
struct Bucket {
    count: u32,
    /// The first key of the next bucket; `None` for the last one.
    end: Option<Bytes>,
}

impl Buckets {
    /// Forgets what is not needed, so that memory stays bounded whatever the number of keys.
    pub(super) fn trim(&mut self) {
        assert!(
            self.dirty.is_empty(),
            "{} bucket changes were not written",
            self.dirty.len()
        );
        if self.known.len() > KNOWN_MAX {
            self.known.clear();
        }
    }

    /// Counts one transaction: keys that it created (true) and deleted (false), in any order.
    /// `after` must show the keys as the transaction left them.
    pub(super) fn apply<'a>(
        &mut self,
        after: Source<'_>,
        revision: i64,
        changes: impl Iterator<Item = (&'a Bytes, bool)>,
    ) -> Result<(), StorageError> {
        let mut touched = BTreeSet::new();
        for (key, created) in changes {
            let start = self.find(after.view, key)?;
            let bucket = self.known.get_mut(&start).expect("it was just found");
            bucket.count = if created {
                bucket
                    .count
                    .checked_add(1)
                    .ok_or_else(|| corrupt("too many keys"))?
            } else {
                bucket
                    .count
                    .checked_sub(1)
                    .ok_or_else(|| corrupt("fewer keys than deleted"))?
            };
            touched.insert(start);
        }
        for start in touched {
            let Some(bucket) = self.known.get(&start) else {
                continue;
            };
            if bucket.count > BUCKET_KEYS_MAX {
                self.cut(&start, after, revision)?;
            } else if bucket.count < BUCKET_KEYS_MIN && !start.is_empty() {
                self.join(&start, after.view)?;
            }
            self.dirty.insert(start);
        }
        Ok(())
    }

    /// Puts the changed rows into the batch of the round.
    pub(super) fn write(&mut self, batch: &mut Batch) {
        for start in std::mem::take(&mut self.dirty) {
            match self.known.get(&start) {
                Some(bucket) => batch.put(Family::Count, &start, bucket.count.to_be_bytes()),
                None => batch.delete(Family::Count, &start),
            }
        }
    }

    /// The first key of the bucket that `key` belongs to, which is in memory afterwards.
    fn find(&mut self, view: &View, key: &[u8]) -> Result<Bytes, StorageError> {
        if let Some((start, bucket)) = self.known_before(Bound::Included(key))
            && bucket.end.as_ref().is_none_or(|end| key < &end[..])
        {
            return Ok(start.clone());
        }
        self.load(view, key)
    }

    /// Reads the bucket of `key` from the view. What the round changed is in memory and would
    /// have been found there, so the view is right.
    fn load(&mut self, view: &View, key: &[u8]) -> Result<Bytes, StorageError> {
        let (start, count) = bucket_before(view, key)?;
        let mut next = view.scan(Family::Count, &start, None);
        next.advance()?;
        let end = next.next()?.map(|(end, _)| Bytes::copy_from_slice(end));
        self.known.insert(start.clone(), Bucket { count, end });
        Ok(start)
    }

    fn cut(&mut self, start: &Bytes, after: Source<'_>, revision: i64) -> Result<(), StorageError> {
        let bucket = self
            .known
            .get(start)
            .expect("only a bucket in memory is cut")
            .clone();
        let end = bucket.end.clone().map_or(End::From, End::Before);
        let interval = Interval {
            key: start.clone(),
            end,
        };
        let mut keys = 0_u32;
        let mut cuts = Vec::new();
        after.visit(&interval, revision, &mut |kv| {
            if keys > 0 && keys.is_multiple_of(PIECE_KEYS) {
                let fields = crate::mvcc::record::Fields::parse(kv)?;
                cuts.push(Bytes::copy_from_slice(fields.key));
            }
            keys += 1;
            Ok(ControlFlow::Continue(()))
        })?;
        if keys != bucket.count {
            return Err(corrupt("a bucket does not hold as many keys as it says"));
        }
        let mut first = start.clone();
        let mut left = keys;
        for cut in cuts {
            self.known.insert(
                first.clone(),
                Bucket {
                    count: PIECE_KEYS,
                    end: Some(cut.clone()),
                },
            );
            self.dirty.insert(cut.clone());
            left -= PIECE_KEYS;
            first = cut;
        }
        self.known.insert(
            first,
            Bucket {
                count: left,
                end: bucket.end,
            },
        );
        Ok(())
    }

    fn join(&mut self, start: &Bytes, view: &View) -> Result<(), StorageError> {
        let before = match self.known_before(Bound::Excluded(start)) {
            Some((before, bucket)) if bucket.end.as_ref() == Some(start) => before.clone(),
            _ => self.load_before(view, start)?,
        };
        let right = self
            .known
            .get(start)
            .expect("only a bucket in memory is joined")
            .clone();
        let left = self.known.get_mut(&before).expect("it was just found");
        if left.count + right.count > PIECE_KEYS {
            return Ok(());
        }
        left.count += right.count;
        left.end = right.end;
        self.known.remove(start);
        self.dirty.insert(before);
        Ok(())
    }

    /// Reads the bucket that ends where `start` begins.
    fn load_before(&mut self, view: &View, start: &Bytes) -> Result<Bytes, StorageError> {
        let mut rows = view.scan_reverse(Family::Count, &[], Some(start));
        let (before, count) = rows.next()?.ok_or_else(|| corrupt("no first bucket"))?;
        let before = Bytes::copy_from_slice(before);
        let bucket = Bucket {
            count: parse_count(count)?,
            end: Some(start.clone()),
        };
        self.known.insert(before.clone(), bucket);
        Ok(before)
    }

    fn known_before(&self, bound: Bound<&[u8]>) -> Option<(&Bytes, &Bucket)> {
        self.known
            .range::<[u8], _>((Bound::Unbounded, bound))
            .next_back()
    }
}

/// Cuts keys that come in order into buckets.
#[derive(Debug, Default)]
pub(super) struct Pieces {
    /// First key of the bucket that is being filled.
    start: Vec<u8>,
    count: u32,
}

impl Pieces {
    pub(super) fn add(&mut self, key: &[u8], batch: &mut Batch) {
        if self.count == PIECE_KEYS {
            batch.put(Family::Count, &self.start, self.count.to_be_bytes());
            self.start = key.to_vec();
            self.count = 0;
        }
        self.count += 1;
    }

    pub(super) fn end(self, batch: &mut Batch) {
        batch.put(Family::Count, self.start, self.count.to_be_bytes());
    }
}

/// The row of the first bucket of an empty state.
pub(super) fn write_first(batch: &mut Batch) {
    batch.put(Family::Count, [], 0_u32.to_be_bytes());
}

/// The bucket that `key` belongs to.
fn bucket_before(view: &View, key: &[u8]) -> Result<(Bytes, u32), StorageError> {
    let mut rows = view.scan_reverse(Family::Count, &[], None);
    rows.seek(key);
    let (start, count) = rows.next()?.ok_or_else(|| corrupt("no first bucket"))?;
    Ok((Bytes::copy_from_slice(start), parse_count(count)?))
}

fn walk(view: &View, lower: &[u8], upper: Option<&[u8]>) -> Result<i64, StorageError> {
    let mut rows = view.scan(Family::Current, lower, upper);
    let mut count = 0;
    while rows.advance()? {
        count += 1;
    }
    Ok(count)
}

pub(super) fn parse_count(value: &[u8]) -> Result<u32, StorageError> {
    let value = value
        .try_into()
        .map_err(|_| corrupt("a count is not 4 bytes long"))?;
    Ok(u32::from_be_bytes(value))
}

fn corrupt(reason: &str) -> StorageError {
    StorageError::corrupt(Family::Count, reason)
}

/// The two buckets at the edges of a count are walked, at about 0.2 us a key; each bucket inside
/// costs one row, so a million keys cost a few thousand rows.
pub(super) const BUCKET_KEYS_MAX: u32 = 512;

/// Size of the pieces of a bucket that is cut.
const PIECE_KEYS: u32 = BUCKET_KEYS_MAX / 2;

/// Far enough below a piece that a bucket is not joined and cut in turns.
const BUCKET_KEYS_MIN: u32 = BUCKET_KEYS_MAX / 8;

/// About 2 MB of buckets in memory, enough for some four million keys that are being created.
const KNOWN_MAX: usize = 16 << 10;
