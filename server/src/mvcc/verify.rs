//! Reads a whole state and holds its families against each other.
//!
//! Each row of `revision` is either the latest of its key, and then a row of `current` says the
//! same, or it is past, and then a row of `old` finds it; `count` and `lease_key` follow from
//! `current`. Reading everything also checks every block's checksum.

use bytes::Bytes;

use crate::{
    mvcc::{
        count,
        record::{Fields, Kind, Row},
        write_txn::TOMBSTONE_MARK,
    },
    progress::Progress,
    storage::{Family, StorageError, View, schema},
};

/// How many rows there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Verified {
    /// Living keys.
    pub keys: u64,
    /// Revisions that are kept, deletions included.
    pub revisions: u64,
    /// Keys on leases.
    pub lease_keys: u64,
}

/// Reads everything in `view`.
///
/// # Errors
///
/// The first row that cannot be read or contradicts another.
pub fn verify(view: &View, progress: &mut Progress) -> Result<Verified, StorageError> {
    let mut verified = Verified::default();
    current(view, progress, &mut verified)?;
    let past = past(view, progress)?;
    let mut rows = view.scan(Family::Revision, &[], None);
    while let Some((key, value)) = rows.next()? {
        let (main, sub) = schema::parse_revision_key(key)?;
        let fields = Fields::parse(Row::parse(value)?.kv)?;
        if fields.mod_revision != main && Row::parse(value)?.kind != Kind::Tombstone {
            let reason = format!("row {main}.{sub} holds revision {}", fields.mod_revision);
            return Err(StorageError::corrupt(Family::Revision, reason));
        }
        verified.revisions += 1;
        progress.add(key.len() + value.len());
    }
    let expected = verified.keys + past;
    if verified.revisions != expected {
        let reason = format!(
            "{} rows, but {} keys have {past} past revisions",
            verified.revisions, verified.keys
        );
        return Err(StorageError::corrupt(Family::Revision, reason));
    }
    others(view, progress)?;
    Ok(verified)
}

/// The latest of each key, with the counts and lease keys that follow from them.
fn current(
    view: &View,
    progress: &mut Progress,
    verified: &mut Verified,
) -> Result<(), StorageError> {
    let mut counts = Counts::begin(view)?;
    let mut rows = view.scan(Family::Current, &[], None);
    while let Some((key, value)) = rows.next()? {
        let (sub, row) = Row::parse_current(value)?;
        let fields = Fields::parse(row.kv)?;
        let named = || String::from_utf8_lossy(key).into_owned();
        if fields.key != key {
            return Err(StorageError::corrupt(
                Family::Current,
                format!("{:?}", named()),
            ));
        }
        let revision = schema::revision_key(fields.mod_revision, sub);
        let same = match view.get(Family::Revision, &revision)? {
            Some(value) => Row::parse(&value)? == row,
            None => false,
        };
        if !same {
            let reason = format!("{:?} differs from its revision, or that is gone", named());
            return Err(StorageError::corrupt(Family::Current, reason));
        }
        if fields.lease != 0 {
            verified.lease_keys += 1;
            let on_lease = schema::lease_key(fields.lease, key);
            if view.get(Family::LeaseKey, &on_lease)?.is_none() {
                let reason = format!("{:?} is missing on lease {:x}", named(), fields.lease);
                return Err(StorageError::corrupt(Family::LeaseKey, reason));
            }
        }
        counts.key(key)?;
        verified.keys += 1;
        progress.add(key.len() + value.len());
    }
    counts.end()?;
    let mut lease_keys = 0;
    let mut rows = view.scan(Family::LeaseKey, &[], None);
    while rows.next()?.is_some() {
        lease_keys += 1;
    }
    if lease_keys != verified.lease_keys {
        let reason = format!(
            "{lease_keys} rows for {} keys on leases",
            verified.lease_keys
        );
        return Err(StorageError::corrupt(Family::LeaseKey, reason));
    }
    Ok(())
}

/// How many past revisions there are; each has to be there.
fn past(view: &View, progress: &mut Progress) -> Result<u64, StorageError> {
    let mut past = 0;
    let mut user_key = Vec::new();
    let mut rows = view.scan(Family::Old, &[], None);
    while let Some((key, mark)) = rows.next()? {
        let (main, sub) = schema::parse_old_key(key, &mut user_key)?;
        let revision = view.get(Family::Revision, &schema::revision_key(main, sub))?;
        let found = match &revision {
            Some(value) => {
                let row = Row::parse(value)?;
                let is_deletion = mark == TOMBSTONE_MARK;
                Fields::parse(row.kv)?.key == user_key
                    && (row.kind == Kind::Tombstone) == is_deletion
            }
            None => false,
        };
        if !found {
            let reason = format!("revision {main}.{sub} is not the one that is looked for");
            return Err(StorageError::corrupt(Family::Old, reason));
        }
        past += 1;
        progress.add(key.len());
    }
    Ok(past)
}

/// Reads what is checked by whoever loads it, for its checksums.
fn others(view: &View, progress: &mut Progress) -> Result<(), StorageError> {
    let seen = [
        Family::Revision,
        Family::Current,
        Family::Old,
        Family::Count,
        Family::LeaseKey,
    ];
    for &family in Family::ALL.iter().filter(|family| !seen.contains(family)) {
        let mut rows = view.scan(family, &[], None);
        while let Some((key, value)) = rows.next()? {
            progress.add(key.len() + value.len());
        }
    }
    Ok(())
}

/// The buckets of `count`, walked beside the keys.
struct Counts {
    /// First key and count of each bucket, last one first.
    buckets: Vec<(Bytes, u32)>,
    /// The bucket that keys fall into now: its first key, what it says, what was found.
    open: Option<(Bytes, u32, u32)>,
}

impl Counts {
    fn begin(view: &View) -> Result<Self, StorageError> {
        let mut buckets = Vec::new();
        let mut rows = view.scan(Family::Count, &[], None);
        while let Some((first, count)) = rows.next()? {
            buckets.push((Bytes::copy_from_slice(first), count::parse_count(count)?));
        }
        buckets.reverse();
        let open = buckets.pop().map(|(first, says)| (first, says, 0));
        Ok(Self { buckets, open })
    }

    fn key(&mut self, key: &[u8]) -> Result<(), StorageError> {
        while self
            .buckets
            .last()
            .is_some_and(|(first, _)| first[..] <= *key)
        {
            self.close()?;
        }
        match &mut self.open {
            Some((_, _, found)) => *found += 1,
            None => return Err(StorageError::corrupt(Family::Count, "no bucket")),
        }
        Ok(())
    }

    /// Ends the open bucket and opens the next one.
    fn close(&mut self) -> Result<(), StorageError> {
        if let Some((first, says, found)) = self.open.take()
            && says != found
        {
            let first = String::from_utf8_lossy(&first).into_owned();
            let reason = format!("the bucket from {first:?} says {says} keys and holds {found}");
            return Err(StorageError::corrupt(Family::Count, reason));
        }
        self.open = self.buckets.pop().map(|(first, says)| (first, says, 0));
        Ok(())
    }

    fn end(mut self) -> Result<(), StorageError> {
        while self.open.is_some() {
            self.close()?;
        }
        Ok(())
    }
}
