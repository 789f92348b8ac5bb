//! One entry of the log: all its changes share a main revision.

use std::ops::ControlFlow;

use bytes::Bytes;

use crate::{
    ids::{LeaseId, Revision},
    mvcc::{
        error::MvccError,
        event::{Event, EventKind, RevisionEvents},
        interval::{End, Interval},
        overlay::Version,
        range::{self, RangeQuery, RangeResult},
        read_txn,
        record::{Address, Fields, KeyValue, Kind, Row, Written},
        round::Round,
        source::Source,
    },
    storage::{Batch, Family, StorageError, schema},
};

/// A transaction. It sees the entries before it and its own changes. Dropped without
/// [`WriteTxn::end`] it takes its changes back.
#[derive(Debug)]
pub struct WriteTxn<'a> {
    round: &'a mut Round,
    /// The main revision that the changes get.
    main: i64,
    changes: Vec<Change>,
}

#[derive(Debug)]
struct Change {
    key: Bytes,
    kind: Kind,
    written: Written,
    lease: i64,
    previous: Option<Previous>,
}

/// A living key before a change.
#[derive(Debug)]
struct Previous {
    address: Address,
    create_revision: i64,
    version: i64,
    lease: i64,
    /// Its encoded `KeyValue`; `None` when the round held enough of them.
    kv: Option<Bytes>,
}

/// What a delete did.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Deleted {
    /// How many keys there were.
    pub keys: usize,
    /// The encoded `KeyValue` of each as it was before, in key order, if that was asked for.
    pub previous: Vec<Bytes>,
}

impl<'a> WriteTxn<'a> {
    pub(super) fn new(round: &'a mut Round) -> Self {
        let main = round.revision + 1;
        Self {
            round,
            main,
            changes: Vec::new(),
        }
    }

    /// Sets a key, and answers with its encoded `KeyValue` of before. Whether the lease exists
    /// is for the caller to check.
    pub fn put(
        &mut self,
        key: Bytes,
        value: &[u8],
        lease: LeaseId,
    ) -> Result<Option<Bytes>, MvccError> {
        let (in_view, mut previous) = self.previous(&key)?;
        let fields = Fields {
            key: &key,
            create_revision: previous.as_ref().map_or(self.main, |kv| kv.create_revision),
            mod_revision: self.main,
            version: previous.as_ref().map_or(0, |kv| kv.version) + 1,
            value,
            lease: lease.get(),
        };
        let address = self.next_address();
        let kind = if previous.is_some() {
            Kind::Put
        } else {
            Kind::Create
        };
        let superseded = previous.as_ref().map(|kv| kv.address);
        let written = Written::new(address.sub, kind, superseded, &fields);
        let answer = previous.as_ref().and_then(|kv| kv.kv.clone());
        if let Some(previous) = &mut previous {
            self.keep_within_budget(previous);
        }
        let version = Version {
            address,
            written: Some(written.clone()),
        };
        self.round.overlay.push(key.clone(), in_view, version);
        self.changes.push(Change {
            key,
            kind,
            written,
            lease: lease.get(),
            previous,
        });
        Ok(answer)
    }

    /// Deletes the keys of `interval`. What they were before is answered only if `wants_previous`:
    /// a delete may be larger than memory, and its rows are not.
    pub fn delete_range(
        &mut self,
        interval: &Interval,
        wants_previous: bool,
    ) -> Result<Deleted, MvccError> {
        if interval.end == End::Single {
            let (in_view, Some(mut previous)) = self.previous(&interval.key)? else {
                return Ok(Deleted::default());
            };
            let kv = previous.kv.clone().filter(|_| wants_previous);
            self.keep_within_budget(&mut previous);
            self.delete(interval.key.clone(), in_view, previous);
            let previous = Vec::from_iter(kv);
            return Ok(Deleted { keys: 1, previous });
        }
        let mut answer = Vec::new();
        let mut found = Vec::new();
        let mut budget = self.round.previous_budget;
        self.source().visit_latest(interval, &mut |living| {
            let fields = Fields::parse(living.kv)?;
            let mut previous = Previous::new(living.sub, &fields);
            let keeps = budget.take(living.kv.len());
            if keeps || wants_previous {
                let kv = Bytes::copy_from_slice(living.kv);
                previous.kv = keeps.then(|| kv.clone());
                answer.extend(wants_previous.then_some(kv));
            }
            let key = Bytes::copy_from_slice(fields.key);
            found.push((key, living.in_view, previous));
            Ok(ControlFlow::Continue(()))
        })?;
        self.round.previous_budget = budget;
        let keys = found.len();
        for (key, in_view, previous) in found {
            self.delete(key, in_view, previous);
        }
        Ok(Deleted {
            keys,
            previous: answer,
        })
    }

    /// Lets go of a previous value that the round has no room for. Watchers that want it read it
    /// from history.
    fn keep_within_budget(&mut self, previous: &mut Previous) {
        let budget = &mut self.round.previous_budget;
        previous.kv = previous.kv.take().filter(|kv| budget.take(kv.len()));
    }

    fn delete(&mut self, key: Bytes, in_view: bool, previous: Previous) {
        let address = self.next_address();
        let fields = Fields {
            key: &key,
            ..Fields::default()
        };
        let superseded = Some(previous.address);
        let written = Written::new(address.sub, Kind::Tombstone, superseded, &fields);
        let version = Version {
            address,
            written: None,
        };
        self.round.overlay.push(key.clone(), in_view, version);
        self.changes.push(Change {
            key,
            kind: Kind::Tombstone,
            written,
            lease: 0,
            previous: Some(previous),
        });
    }

    /// Answers a range request; the transaction's own changes are part of the current revision.
    pub fn range(&self, query: &RangeQuery) -> Result<RangeResult, MvccError> {
        let compacted = self.round.compact_revision().get();
        range::run(self.source(), query, self.revision().get(), compacted)
    }

    /// One key as it is now.
    pub fn get(&self, key: &[u8]) -> Result<Option<KeyValue>, MvccError> {
        let encoded = self.source().get(key, self.revision().get())?;
        Ok(encoded.as_ref().map(KeyValue::decode).transpose()?)
    }

    /// The keys that hung on a lease when the transaction began, in order.
    pub fn lease_keys(&self, lease: LeaseId) -> Result<Vec<Bytes>, MvccError> {
        let base = read_txn::lease_keys(self.round.view(), lease)?;
        let mut keys = std::collections::BTreeSet::from_iter(base);
        let first = (lease.get(), Bytes::new());
        let changed = self.round.lease_keys.range(first..);
        for ((_, key), &held) in changed.take_while(|((id, _), _)| *id == lease.get()) {
            if held {
                keys.insert(key.clone());
            } else {
                keys.remove(key);
            }
        }
        Ok(keys.into_iter().collect())
    }

    /// The revision with this transaction's changes, if it has any.
    pub fn revision(&self) -> Revision {
        Revision::new(if self.changed() {
            self.main
        } else {
            self.main - 1
        })
    }

    /// The revision of the last compaction; −1 before the first.
    pub fn compact_revision(&self) -> Revision {
        self.round.compact_revision()
    }

    /// Whether it changed anything.
    pub fn changed(&self) -> bool {
        !self.changes.is_empty()
    }

    /// Makes the changes part of the round, and answers with the revision after them.
    pub fn end(mut self) -> Result<Revision, MvccError> {
        let revision = self.revision();
        if !self.changed() {
            return Ok(revision);
        }
        let living = self.changes.iter().filter_map(|change| match change.kind {
            Kind::Create => Some((&change.key, true)),
            Kind::Put => None,
            Kind::Tombstone => Some((&change.key, false)),
        });
        let round = &mut *self.round;
        let after = Source {
            view: &round.base.view,
            published: round.base.revision.get(),
            overlay: Some(&round.overlay),
            churn: None,
        };
        round.buckets.apply(after, self.main, living.clone())?;
        for (key, is_created) in living {
            round.turnover.push(self.main, key, is_created);
        }
        let changes = std::mem::take(&mut self.changes);
        let is_left_out =
            |change: &Change| matches!(&change.previous, Some(previous) if previous.kv.is_none());
        let lacks_previous = changes.iter().any(is_left_out);
        let mut events = Vec::with_capacity(changes.len());
        for (sub, change) in (0..).zip(changes) {
            let address = Address {
                main: self.main,
                sub,
            };
            write_rows(&mut round.batch, address, &change);
            write_lease_rows(round, &change);
            events.push(event(change, self.main));
        }
        round.revision = self.main;
        round.events.push(RevisionEvents {
            revision,
            events,
            lacks_previous,
        });
        Ok(revision)
    }

    fn source(&self) -> Source<'_> {
        self.round.source()
    }

    fn next_address(&self) -> Address {
        let sub = i64::try_from(self.changes.len()).expect("memory holds fewer changes");
        Address {
            main: self.main,
            sub,
        }
    }

    /// Whether `key` lives in the view of the round, and what it is now.
    fn previous(&self, key: &[u8]) -> Result<(bool, Option<Previous>), StorageError> {
        if let Some(entry) = self.round.overlay.get(key) {
            let latest = entry.latest();
            let previous = latest
                .written
                .as_ref()
                .map(|written| Previous::with_kv(latest.address.sub, written.kv()))
                .transpose()?;
            return Ok((entry.in_view, previous));
        }
        let Some(value) = self.round.view().get(Family::Current, key)? else {
            return Ok((false, None));
        };
        let (sub, row) = Row::parse_current(&value)?;
        let previous = Previous::with_kv(sub, value.slice_ref(row.kv))?;
        Ok((true, Some(previous)))
    }
}

impl Drop for WriteTxn<'_> {
    fn drop(&mut self) {
        for change in self.changes.drain(..).rev() {
            self.round.overlay.pop(&change.key);
        }
    }
}

impl Previous {
    fn new(sub: i64, fields: &Fields<'_>) -> Self {
        Self {
            address: Address {
                main: fields.mod_revision,
                sub,
            },
            create_revision: fields.create_revision,
            version: fields.version,
            lease: fields.lease,
            kv: None,
        }
    }

    fn with_kv(sub: i64, kv: Bytes) -> Result<Self, StorageError> {
        let previous = Self::new(sub, &Fields::parse(&kv)?);
        Ok(Self {
            kv: Some(kv),
            ..previous
        })
    }
}

/// The rows of one change, without `current`, which the round writes once per key at its end.
fn write_rows(batch: &mut Batch, address: Address, change: &Change) {
    let revision_key = schema::revision_key(address.main, address.sub);
    batch.put(Family::Revision, revision_key, change.written.revision());
    if let Some(previous) = &change.previous {
        let old = schema::old_key(&change.key, previous.address.main, previous.address.sub);
        batch.put(Family::Old, old, []);
    }
    if change.kind == Kind::Tombstone {
        let old = schema::old_key(&change.key, address.main, address.sub);
        batch.put(Family::Old, old, TOMBSTONE_MARK);
    }
}

/// Moves the key of one change from the lease it hung on to the one it hangs on now.
fn write_lease_rows(round: &mut Round, change: &Change) {
    let before = change
        .previous
        .as_ref()
        .map_or(0, |previous| previous.lease);
    let (after, key) = (change.lease, &change.key);
    if before == after {
        return;
    }
    if before != 0 {
        let row = schema::lease_key(before, key);
        round.batch.delete(Family::LeaseKey, row);
        round.lease_keys.insert((before, key.clone()), false);
    }
    if after != 0 {
        let row = schema::lease_key(after, key);
        round.batch.put(Family::LeaseKey, row, []);
        round.lease_keys.insert((after, key.clone()), true);
    }
}

fn event(change: Change, main: i64) -> Event {
    let previous = change.previous.and_then(|previous| previous.kv);
    match change.kind {
        Kind::Create | Kind::Put => Event {
            kind: EventKind::Put,
            kv: change.written.kv(),
            key: change.key,
            previous,
        },
        Kind::Tombstone => {
            let fields = Fields {
                key: &change.key,
                mod_revision: main,
                ..Fields::default()
            };
            let kv = fields.encode();
            Event {
                kind: EventKind::Delete,
                kv,
                key: change.key,
                previous,
            }
        }
    }
}

/// Value in `old` of a change that deleted the key.
pub(super) const TOMBSTONE_MARK: [u8; 1] = [1];
