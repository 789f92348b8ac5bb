//! Fills an empty store with the records of an etcd store: its bucket `key`, in order.

use std::collections::HashMap;

use bytes::Bytes;

use crate::{
    ids::Revision,
    mvcc::{
        count,
        record::{Address, Fields, Kind, Row, Written},
        write_txn::TOMBSTONE_MARK,
    },
    planted::{Bug, is_planted},
    storage::{Backend, Batch, Family, SortedRows, StorageError, schema, schema::meta},
};

/// Takes records in ascending order, and derives every other row from them. What it has written
/// is a store only after [`Loader::finish`]; a load that broke off starts again from nothing.
#[derive(Debug)]
pub struct Loader {
    backend: Backend,
    /// They come in the order of their keys.
    revisions: SortedRows,
    /// Everything else.
    batch: Batch,
    /// The latest record of keys in `batch`, which reads do not see yet; `None` once deleted.
    recent: HashMap<Bytes, Option<Address>>,
    last: Option<Address>,
    /// How many keys live, if each record fits those before it.
    living: u64,
}

/// Revisions of the store that was loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoadedRevisions {
    /// The current one.
    pub current: Revision,
    /// That of the last accepted compaction, if there was one.
    pub compact_scheduled: Option<Revision>,
    /// That of the last compaction that was done.
    pub compact_finished: Option<Revision>,
}

impl Loader {
    /// Begins to fill `backend`.
    ///
    /// # Errors
    ///
    /// When it holds a store already.
    pub fn new(backend: Backend) -> Result<Self, StorageError> {
        if backend.get(Family::Meta, meta::REVISION)?.is_some() {
            return Err(StorageError::corrupt(
                Family::Meta,
                "a store is there already",
            ));
        }
        let (revisions, batch) = (backend.sorted_rows(Family::Revision)?, backend.batch());
        Ok(Self {
            backend,
            revisions,
            batch,
            recent: HashMap::new(),
            last: None,
            living: 0,
        })
    }

    /// Adds a record: its address, whether it is a deletion, and its encoded `KeyValue`.
    ///
    /// # Errors
    ///
    /// When the record is out of order or cannot be read.
    pub fn record(
        &mut self,
        address: Address,
        is_deletion: bool,
        encoded: &[u8],
    ) -> Result<(), StorageError> {
        if self.last.is_some_and(|last| last >= address) || address.main < 1 || address.sub < 0 {
            let reason = format!("record {address:?} after {:?}", self.last);
            return Err(StorageError::corrupt(Family::Revision, reason));
        }
        self.last = Some(address);
        let fields = Fields::parse(encoded)?;
        let key = Bytes::copy_from_slice(fields.key);
        // To ask for what is not there, as most records of a large state would, is a good part of
        // the work; `derive` finds out if it was there.
        let is_create = !is_deletion && fields.version == 1;
        let before = match is_create {
            true => None,
            false => self.latest(&key)?,
        };
        let kind = match (is_deletion, is_create) {
            (true, _) => Kind::Tombstone,
            (false, true) => Kind::Create,
            (false, false) => Kind::Put,
        };
        match (is_deletion, before) {
            (false, None) => self.living += 1,
            (true, Some(_)) => self.living -= 1,
            _ => {}
        }
        let written = Written::around(address.sub, kind, before, encoded);
        if let Some(old) = before {
            self.batch
                .put(Family::Old, schema::old_key(&key, old.main, old.sub), []);
        }
        if is_deletion {
            let old_key = schema::old_key(&key, address.main, address.sub);
            self.batch.put(Family::Old, old_key, TOMBSTONE_MARK);
            self.batch.delete(Family::Current, &key);
        } else {
            self.batch.put(Family::Current, &key, written.current());
        }
        let row_key = schema::revision_key(address.main, address.sub);
        self.revisions.put(&row_key, written.into_revision())?;
        self.recent.insert(key, (!is_deletion).then_some(address));
        if self.batch.bytes() >= BATCH_BYTES {
            self.write()?;
        }
        Ok(())
    }

    /// Counts the keys, finds the keys of leases, and notes the revisions. Rows of other families
    /// may be in `rest`; they become visible together with the store.
    ///
    /// # Errors
    ///
    /// When the revisions do not fit the records, or these do not fit each other.
    pub fn finish(mut self, revisions: LoadedRevisions, rest: Batch) -> Result<(), StorageError> {
        let newest = self.last.map_or(1, |last| last.main);
        let scheduled = revisions.compact_scheduled.map_or(0, Revision::get);
        let finished = revisions.compact_finished.map_or(0, Revision::get);
        let current = revisions.current.get();
        if newest > current || scheduled > current || finished > scheduled {
            let reason = format!("{revisions:?} with records up to {newest}");
            return Err(StorageError::corrupt(Family::Meta, reason));
        }
        self.revisions.finish()?;
        self.write()?;
        self.backend.write(rest)?;
        self.derive()?;
        let numbers = [
            (meta::COMPACT_SCHEDULED, revisions.compact_scheduled),
            (meta::COMPACT_FINISHED, revisions.compact_finished),
            (meta::REVISION, Some(revisions.current)),
        ];
        for (key, revision) in numbers {
            if let Some(revision) = revision {
                self.batch
                    .put(Family::Meta, key, revision.get().to_be_bytes());
            }
        }
        self.write()?;
        if is_planted(Bug::InstallMarksEarly) {
            return Ok(());
        }
        self.backend.flush()
    }

    fn derive(&mut self) -> Result<(), StorageError> {
        let view = self.backend.view();
        let mut rows = view.scan(Family::Current, &[], None);
        let mut buckets = count::Pieces::default();
        let mut living = 0;
        while let Some((key, value)) = rows.next()? {
            living += 1;
            buckets.add(key, &mut self.batch);
            let lease = Fields::parse(Row::parse_current(value)?.1.kv)?.lease;
            if lease != 0 {
                self.batch
                    .put(Family::LeaseKey, schema::lease_key(lease, key), []);
            }
            if self.batch.bytes() >= BATCH_BYTES {
                self.write()?;
            }
        }
        buckets.end(&mut self.batch);
        if living != self.living {
            let reason = format!(
                "{living} keys are left of records that leave {}: one has version 1 of a key that \
                 lived already",
                self.living
            );
            return Err(StorageError::corrupt(Family::Current, reason));
        }
        Ok(())
    }

    fn latest(&self, key: &Bytes) -> Result<Option<Address>, StorageError> {
        if let Some(&latest) = self.recent.get(key) {
            return Ok(latest);
        }
        let Some(value) = self.backend.get(Family::Current, key)? else {
            return Ok(None);
        };
        let (sub, row) = Row::parse_current(&value)?;
        let main = Fields::parse(row.kv)?.mod_revision;
        Ok(Some(Address { main, sub }))
    }

    fn write(&mut self) -> Result<(), StorageError> {
        let batch = std::mem::replace(&mut self.batch, self.backend.batch());
        self.recent.clear();
        self.backend.write(batch)
    }
}

/// Large enough to be quick, small enough to be no burden.
const BATCH_BYTES: usize = 1 << 20;
