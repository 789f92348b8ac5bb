//! The store of revisions: opening it, and publishing each round to readers.

use std::{
    fmt,
    ops::ControlFlow,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use arc_swap::ArcSwap;
use parking_lot::Mutex;

use crate::{
    ids::{Index, Revision, Term},
    mvcc::{
        churn::Churn,
        compaction::{self, Queue},
        count::{self, Buckets},
        hash::HashCache,
        read_txn::ReadTxn,
        round::Round,
    },
    planted::{Bug, is_planted},
    storage::{Backend, Batch, Family, StorageError, View, schema, schema::meta},
};

/// Handle to the store; clones share it.
#[derive(Clone)]
pub struct Store {
    shared: Arc<Shared>,
}

struct Shared {
    backend: Backend,
    published: ArcSwap<Published>,
    /// Held while `published` is replaced, so that it never goes back. Readers do not take it.
    publishing: Mutex<()>,
    /// Held while the tables are rewritten.
    defragmenting: Mutex<()>,
    /// Count buckets between rounds. A round takes them, and gives them back when it commits.
    buckets: Mutex<Buckets>,
    hashes: Mutex<HashCache>,
    compactions: Mutex<Queue>,
    /// Invariant: true while a round is open; there is never more than one.
    in_round: AtomicBool,
}

/// What readers see: one moment, complete.
#[derive(Clone, Debug)]
pub struct Published {
    /// The current revision.
    pub revision: Revision,
    /// The revision of the last compaction; [`NEVER_COMPACTED`] before the first.
    pub compact_revision: Revision,
    /// The last entry that is part of it.
    pub applied: Index,
    /// The term of that entry.
    pub applied_term: Term,
    /// The state.
    pub view: View,
    /// Keys that came and went of late; more than this moment has, since it goes on.
    pub(super) churn: Arc<Churn>,
}

/// What etcd reports as the compact revision of a store that never was compacted.
pub const NEVER_COMPACTED: Revision = Revision::new(-1);

impl Store {
    /// Opens the store in `backend`; an empty backend becomes a store at revision 1.
    ///
    /// # Errors
    ///
    /// When the state cannot be read, or was never written by us.
    pub fn open(backend: Backend) -> Result<Self, StorageError> {
        if backend.get(Family::Meta, meta::REVISION)?.is_none() {
            let mut batch = backend.batch();
            write_empty(&mut batch);
            backend.write(batch)?;
        }
        let mut published = Published::load(backend.view())?;
        if is_planted(Bug::RevisionFromRows) {
            published.revision = compaction::newest_left(&published.view)?;
        }
        let finished = compaction::finished(&published.view)?;
        let compactions = Queue::resume(published.compact_revision, finished);
        Ok(Self {
            shared: Arc::new(Shared {
                backend,
                published: ArcSwap::from_pointee(published),
                publishing: Mutex::new(()),
                defragmenting: Mutex::new(()),
                buckets: Mutex::default(),
                hashes: Mutex::default(),
                compactions: Mutex::new(compactions),
                in_round: AtomicBool::new(false),
            }),
        })
    }

    /// The database below.
    pub fn backend(&self) -> &Backend {
        &self.shared.backend
    }

    /// A reader of the last published moment. Takes no lock and no new snapshot.
    pub fn read(&self) -> ReadTxn {
        ReadTxn::new(self.shared.published.load_full())
    }

    /// Begins a round: entries that are written and published as one. Only the apply thread does.
    ///
    /// # Panics
    ///
    /// When a round is open already: there is one apply thread.
    pub fn begin_round(&self) -> Round {
        let was_open = self.shared.in_round.swap(true, Ordering::AcqRel);
        assert!(!was_open, "a round begins while another is open");
        let mut buckets = std::mem::take(&mut *self.shared.buckets.lock());
        buckets.trim();
        Round::new(self.clone(), self.shared.published.load_full(), buckets)
    }

    /// The last applied entry and its term, as published.
    pub fn applied(&self) -> (Index, Term) {
        let published = self.shared.published.load();
        (published.applied, published.applied_term)
    }

    /// The last applied entry, and its term, that a crash at this moment would leave. The log
    /// must keep everything after it.
    pub fn persisted_applied(&self) -> Result<(Index, Term), StorageError> {
        if is_planted(Bug::CutUnflushedLog) {
            return Ok(self.applied());
        }
        match self
            .shared
            .backend
            .get_persisted(Family::Meta, meta::APPLIED)?
        {
            Some(value) => parse_applied(&value),
            None => Ok((Index::new(0), Term::new(0))),
        }
    }

    /// Gives the space of removed revisions back to the system, while reads and writes go on.
    /// One at a time; blocks until done, or until `go_on` says no: not for async threads.
    ///
    /// # Errors
    ///
    /// A failure of the state.
    pub fn defragment(&self, go_on: &dyn Fn() -> bool) -> Result<ControlFlow<()>, StorageError> {
        let _one_at_a_time = self.shared.defragmenting.lock();
        self.refresh()?;
        self.shared.backend.defragment(go_on)
    }

    pub(super) fn publish(&self, published: Published, buckets: Buckets) {
        let _publishing = self.shared.publishing.lock();
        let before = self.shared.published.load();
        assert!(
            before.revision <= published.revision
                && before.compact_revision <= published.compact_revision,
            "published {}/{} after {}/{}",
            published.revision,
            published.compact_revision,
            before.revision,
            before.compact_revision
        );
        *self.shared.buckets.lock() = buckets;
        self.shared.published.store(Arc::new(published));
    }

    /// Publishes the state as it is, so that readers let go of what a compaction removed; the
    /// view they have would keep it on disk until the next round.
    pub(in crate::mvcc) fn refresh(&self) -> Result<(), StorageError> {
        let _publishing = self.shared.publishing.lock();
        // A round that is written and waits for the lock may be part of it; it is complete.
        let before = self.shared.published.load();
        let published = Published {
            churn: before.churn.clone(),
            ..Published::load(self.shared.backend.view())?
        };
        self.shared.published.store(Arc::new(published));
        Ok(())
    }

    pub(super) fn hashes(&self) -> &Mutex<HashCache> {
        &self.shared.hashes
    }

    pub(super) fn compactions(&self) -> &Mutex<Queue> {
        &self.shared.compactions
    }

    pub(super) fn end_round(&self) {
        self.shared.in_round.store(false, Ordering::Release);
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store")
            .field("published", &self.shared.published.load())
            .finish()
    }
}

impl Published {
    /// Reads it from the rows of `view`.
    ///
    /// # Errors
    ///
    /// When they cannot be read, or are none of a store's.
    pub fn load(view: View) -> Result<Self, StorageError> {
        let number = |key: &[u8]| -> Result<Option<Revision>, StorageError> {
            let value = view.get(Family::Meta, key)?;
            let number = value
                .map(|value| schema::parse_i64(Family::Meta, &value))
                .transpose()?;
            Ok(number.map(Revision::new))
        };
        let revision = number(meta::REVISION)?
            .ok_or_else(|| StorageError::corrupt(Family::Meta, "no current revision"))?;
        let compact_revision = number(meta::COMPACT_SCHEDULED)?.unwrap_or(NEVER_COMPACTED);
        if revision < Revision::new(1) || compact_revision > revision {
            let reason = format!("revision {revision}, compacted at {compact_revision}");
            return Err(StorageError::corrupt(Family::Meta, reason));
        }
        let (applied, applied_term) = match view.get(Family::Meta, meta::APPLIED)? {
            Some(value) => parse_applied(&value)?,
            None => (Index::new(0), Term::new(0)),
        };
        Ok(Self {
            revision,
            compact_revision,
            applied,
            applied_term,
            view,
            churn: Arc::new(Churn::since(revision.get())),
        })
    }
}

/// The rows of a store that nothing was written to.
pub(super) fn write_empty(batch: &mut Batch) {
    batch.put(Family::Meta, meta::REVISION, 1_i64.to_be_bytes());
    count::write_first(batch);
}

/// The value of [`meta::APPLIED`].
pub fn encode_applied(applied: Index, term: Term) -> [u8; 16] {
    let mut value = [0; 16];
    value[..8].copy_from_slice(&applied.get().to_be_bytes());
    value[8..].copy_from_slice(&term.get().to_be_bytes());
    value
}

pub(super) fn parse_applied(value: &[u8]) -> Result<(Index, Term), StorageError> {
    let value: [u8; 16] = value
        .try_into()
        .map_err(|_| StorageError::corrupt(Family::Meta, "applied is not 16 bytes long"))?;
    let number = u128::from_be_bytes(value);
    Ok((Index::new((number >> 64) as u64), Term::new(number as u64)))
}
