//! A round: several entries of the log, written as one batch and published at once.

use std::{collections::BTreeMap, fmt, sync::Arc};

use bytes::Bytes;

use crate::{
    ids::{Index, Revision, Term},
    mvcc::{
        churn::Turnover,
        count::Buckets,
        error::MvccError,
        event::RevisionEvents,
        overlay::Overlay,
        source::Source,
        store::{Published, Store, encode_applied},
        write_txn::WriteTxn,
    },
    planted::{Bug, is_planted},
    storage::{Batch, Family, StorageError, View, schema::meta},
};

/// Entries under way. Later ones see what earlier ones changed, readers see nothing before
/// [`Round::commit`]; a round that is dropped leaves no trace.
pub struct Round {
    store: Store,
    pub(super) base: Arc<Published>,
    pub(super) batch: Batch,
    pub(super) overlay: Overlay,
    pub(super) buckets: Buckets,
    pub(super) turnover: Turnover,
    /// Keys that leases of this round gained (true) or lost (false).
    pub(super) lease_keys: BTreeMap<(i64, Bytes), bool>,
    pub(super) revision: i64,
    pub(super) events: Vec<RevisionEvents>,
    pub(super) previous_budget: Budget,
    compact_revision: i64,
    /// Compactions of this round, each with the one before if that one was finished.
    compactions: Vec<(Revision, Option<Revision>)>,
}

impl Round {
    pub(super) fn new(store: Store, base: Arc<Published>, buckets: Buckets) -> Self {
        let batch = store.backend().batch();
        Self {
            revision: base.revision.get(),
            compact_revision: base.compact_revision.get(),
            store,
            base,
            batch,
            overlay: Overlay::default(),
            buckets,
            turnover: Turnover::default(),
            lease_keys: BTreeMap::new(),
            events: Vec::new(),
            previous_budget: Budget(PREVIOUS_BYTES_MAX),
            compactions: Vec::new(),
        }
    }

    /// The batch of this round, for rows of leases, members, alarms and the like.
    pub fn batch(&mut self) -> &mut Batch {
        &mut self.batch
    }

    /// The state this round began with.
    pub fn view(&self) -> &View {
        &self.base.view
    }

    /// The revision after the entries so far.
    pub fn revision(&self) -> Revision {
        Revision::new(self.revision)
    }

    /// The revision of the last compaction, one of this round included.
    pub fn compact_revision(&self) -> Revision {
        Revision::new(self.compact_revision)
    }

    /// Size of the batch so far, bytes: a bound for how many entries share a round.
    pub fn bytes(&self) -> usize {
        self.batch.bytes()
    }

    /// Begins one entry.
    pub fn txn(&mut self) -> WriteTxn<'_> {
        WriteTxn::new(self)
    }

    /// Accepts a compaction: from the next publication on nobody reads before `revision`.
    /// The rows go later; see [`crate::mvcc::compaction`].
    ///
    /// # Errors
    ///
    /// A revision at or before the last compaction, or one that does not exist yet.
    pub fn set_compact(&mut self, revision: Revision) -> Result<(), MvccError> {
        if revision.get() <= self.compact_revision {
            let compacted = self.compact_revision();
            return Err(MvccError::Compacted {
                requested: revision,
                compacted,
            });
        }
        if revision.get() > self.revision {
            let current = self.revision();
            return Err(MvccError::FutureRevision {
                requested: revision,
                current,
            });
        }
        let previous = self.compact_revision();
        let finished = self.store.finished_compaction()?;
        self.compactions
            .push((revision, (finished == previous).then_some(previous)));
        self.compact_revision = revision.get();
        self.batch.put(
            Family::Meta,
            meta::COMPACT_SCHEDULED,
            revision.get().to_be_bytes(),
        );
        Ok(())
    }

    /// Writes everything as one batch with the index and term of its last entry in it, publishes
    /// it, and returns what changed.
    ///
    /// # Errors
    ///
    /// When the write failed: nothing of the round happened, and nothing more can be written.
    ///
    /// # Panics
    ///
    /// When `applied` goes back: an entry would have been applied twice.
    pub fn commit(
        mut self,
        applied: Index,
        term: Term,
    ) -> Result<Vec<RevisionEvents>, StorageError> {
        assert!(
            self.base.applied <= applied,
            "entry {applied} is applied after entry {}",
            self.base.applied
        );
        for (key, entry) in self.overlay.iter() {
            match &entry.latest().written {
                Some(written) => self.batch.put(Family::Current, key, written.current()),
                None if entry.in_view => self.batch.delete(Family::Current, key),
                None => {}
            }
        }
        self.buckets.write(&mut self.batch);
        if self.revision != self.base.revision.get() {
            self.batch
                .put(Family::Meta, meta::REVISION, self.revision.to_be_bytes());
        }
        let written = match is_planted(Bug::AppliedIndexAhead) {
            true => applied.next(),
            false => applied,
        };
        self.batch
            .put(Family::Meta, meta::APPLIED, encode_applied(written, term));
        let backend = self.store.backend();
        let batch = std::mem::replace(&mut self.batch, backend.batch());
        // A compaction may publish what is written before this round does.
        self.base.churn.add(&self.turnover);
        backend.write(batch)?;
        let published = Published {
            revision: self.revision(),
            compact_revision: self.compact_revision(),
            applied,
            applied_term: term,
            view: backend.view(),
            churn: self.base.churn.clone(),
        };
        self.store
            .publish(published, std::mem::take(&mut self.buckets));
        for (target, previous) in self.compactions.drain(..) {
            self.store.compactions().lock().push(target, previous);
        }
        Ok(std::mem::take(&mut self.events))
    }

    pub(super) fn source(&self) -> Source<'_> {
        Source {
            view: &self.base.view,
            published: self.base.revision.get(),
            overlay: Some(&self.overlay),
            churn: Some(&self.base.churn),
        }
    }
}

/// Bytes that a round may still keep of the values that it replaces, for watchers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Budget(usize);

impl Budget {
    /// Whether `bytes` more can be kept. After the first that cannot, nothing can.
    pub(super) fn take(&mut self, bytes: usize) -> bool {
        let left = self.0.checked_sub(bytes);
        self.0 = left.unwrap_or(0);
        left.is_some()
    }
}

impl Drop for Round {
    fn drop(&mut self) {
        self.store.end_round();
    }
}

impl fmt::Debug for Round {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Round")
            .field("revision", &self.revision)
            .field("batch", &self.batch)
            .finish_non_exhaustive()
    }
}

/// What a round keeps of the values that it replaces. Puts of usual sizes stay far below it; one
/// delete can replace more than memory holds, again at every start until it is flushed.
pub(super) const PREVIOUS_BYTES_MAX: usize = 16 << 20;
