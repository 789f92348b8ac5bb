//! Removes what compactions made unreachable, in the background and in small batches.
//!
//! A compaction to C keeps, per key, the newest change up to C, and a deletion only if it happened
//! exactly at C. Every row names the change it superseded, so only the rows from the compaction
//! before, its own revision included, to C are looked at: what each of them superseded goes, and
//! so does a deletion before C. The cost is what changed, not what there is.
//!
//! Where it stands is part of each batch. A crash loses no more than the batches not flushed yet,
//! and doing them again removes the same rows.

use std::{collections::VecDeque, num::NonZeroUsize, ops::ControlFlow};

use crate::{
    ids::Revision,
    mvcc::{
        error::MvccError,
        hash::{self, KvHash},
        record::{Fields, Kind, Row},
        store::{NEVER_COMPACTED, Store},
    },
    planted::{Bug, is_planted},
    storage::{Batch, Family, StorageError, View, schema, schema::meta},
};

/// How a compaction runs.
#[derive(Clone, Copy, Debug)]
pub struct CompactionOptions {
    /// How many rows one batch looks at: etcd's `--compaction-batch-limit`.
    pub batch_rows: NonZeroUsize,
    /// Whether to compute etcd's hash of the compaction first and keep it for
    /// [`Store::hash_kv`]. That reads every row up to the target.
    pub hash: bool,
}

/// What a compaction did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CompactionReport {
    /// Rows it looked at.
    pub rows_seen: u64,
    /// Revisions it removed.
    pub revisions_removed: u64,
    /// The hash that was kept of it. There is none when no hash was asked for, or when the
    /// compaction before was not finished when this one was accepted.
    pub hash: Option<KvHash>,
}

/// A compaction that was accepted and is not finished.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pending {
    target: Revision,
    /// The compaction before, if that one was finished when this one was accepted: only then does
    /// etcd keep the hash.
    previous: Option<Revision>,
}

/// Accepted compactions in order. Each is run by itself, since each has a hash of its own.
#[derive(Debug, Default)]
pub(super) struct Queue(VecDeque<Pending>);

impl Queue {
    /// What a restart finds: an unfinished compaction whose hash can no longer be told.
    pub(super) fn resume(scheduled: Revision, finished: Revision) -> Self {
        let unfinished = scheduled > finished;
        Self(
            unfinished
                .then_some(Pending {
                    target: scheduled,
                    previous: None,
                })
                .into_iter()
                .collect(),
        )
    }

    pub(super) fn push(&mut self, target: Revision, previous: Option<Revision>) {
        if self.0.len() == PENDING_MAX {
            // The next one covers it; only its hash is lost.
            self.0.pop_front();
        }
        self.0.push_back(Pending { target, previous });
    }
}

impl Store {
    /// The compaction to run next, if one was accepted and is not finished.
    pub fn next_compaction(&self) -> Option<Revision> {
        self.compactions()
            .lock()
            .0
            .front()
            .map(|pending| pending.target)
    }

    /// The revision up to which compaction is done, on disk or not; −1 before the first.
    pub fn finished_compaction(&self) -> Result<Revision, StorageError> {
        finished(&self.backend().view())
    }

    fn take_compaction(&self, target: Revision) -> Option<Pending> {
        let mut queue = self.compactions().lock();
        let taken = queue
            .0
            .iter()
            .find(|pending| pending.target == target)
            .copied();
        while queue
            .0
            .front()
            .is_some_and(|pending| pending.target <= target)
        {
            queue.0.pop_front();
        }
        taken
    }
}

/// Runs the compaction to `target`, from where an earlier run left it. Between batches it calls
/// `pause` with the revision it has come to; `pause` may wait, and may break off.
///
/// # Errors
///
/// [`MvccError::Stopped`] when `pause` broke off: the rest is left for the next run. Other errors
/// are failures of the state.
///
/// # Panics
///
/// When `target` was not published as compacted: readers could still ask for what is removed.
pub fn run(
    store: &Store,
    target: Revision,
    options: &CompactionOptions,
    pause: &mut dyn FnMut(Revision) -> ControlFlow<()>,
) -> Result<CompactionReport, MvccError> {
    let read = store.read();
    let published = read.compact_revision();
    assert!(
        target <= published,
        "compaction to {target}, but readers begin at {published}"
    );
    let finished = finished(read.view())?;
    let mut report = CompactionReport::default();
    if target <= finished {
        store.take_compaction(target);
        return Ok(report);
    }
    // A run that was broken off has hashed what it has begun to remove.
    let progress = progress(store)?;
    if options.hash && progress.is_none() {
        report.hash = keep_hash(store, read.view(), target)?;
    }
    drop(read);
    // Of the revision where a run was broken off every row is looked at again: its deletions may go
    // now, if its target has moved on since.
    let mut position = (progress.unwrap_or(0).max(finished.get()).max(0), 0);
    loop {
        let view = store.backend().view();
        let (batch, next) = delete_some(
            store,
            &view,
            finished,
            target,
            position,
            options,
            &mut report,
        )?;
        store.backend().write(batch)?;
        let Some(next) = next else { break };
        position = next;
        drop(view);
        if pause(Revision::new(position.0)).is_break() {
            return Err(MvccError::Stopped);
        }
    }
    store.refresh()?;
    store.take_compaction(target);
    Ok(report)
}

fn keep_hash(store: &Store, view: &View, target: Revision) -> Result<Option<KvHash>, MvccError> {
    let queue = store.compactions().lock();
    let pending = queue
        .0
        .iter()
        .find(|pending| pending.target == target)
        .copied();
    drop(queue);
    let Some(previous) = pending.and_then(|pending| pending.previous) else {
        return Ok(None);
    };
    let hash = hash::of_compaction(view, previous, target)?;
    store.hashes().lock().keep(hash);
    Ok(Some(hash))
}

/// The revision where this compaction or an earlier one was broken off, if one was.
fn progress(store: &Store) -> Result<Option<i64>, StorageError> {
    match store.backend().get(Family::Meta, meta::COMPACT_PROGRESS)? {
        Some(value) if value.len() == 24 => Ok(Some(schema::parse_revision_key(&value[8..])?.0)),
        Some(_) => Err(StorageError::corrupt(Family::Meta, "compaction progress")),
        None => Ok(None),
    }
}

/// The deletes of up to `batch_rows` rows, and where to go on unless that was the end.
fn delete_some(
    store: &Store,
    view: &View,
    finished: Revision,
    target: Revision,
    from: (i64, i64),
    options: &CompactionOptions,
    report: &mut CompactionReport,
) -> Result<(Batch, Option<(i64, i64)>), StorageError> {
    let mut batch = store.backend().batch();
    let lower = schema::revision_key(from.0, from.1);
    let upper = schema::revision_key(target.get() + 1, 0);
    let mut rows = view.scan(Family::Revision, &lower, Some(&upper));
    for _ in 0..options.batch_rows.get() {
        let Some((key, value)) = rows.next()? else {
            batch.put(
                Family::Meta,
                meta::COMPACT_FINISHED,
                target.get().to_be_bytes(),
            );
            batch.delete(Family::Meta, meta::COMPACT_PROGRESS);
            return Ok((batch, None));
        };
        let (main, sub) = schema::parse_revision_key(key)?;
        let row = Row::parse(value)?;
        let user_key = Fields::parse(row.kv)?.key;
        report.rows_seen += 1;
        // What the last row of the compaction before superseded is gone already.
        if let Some(old) = row.superseded.filter(|_| main > finished.get()) {
            delete_revision(&mut batch, user_key, old.main, old.sub);
            report.revisions_removed += 1;
        }
        let too_far = is_planted(Bug::CompactTombstone);
        if row.kind == Kind::Tombstone && (main < target.get() || too_far) {
            delete_revision(&mut batch, user_key, main, sub);
            report.revisions_removed += 1;
        }
    }
    let Some((key, _)) = rows.next()? else {
        batch.put(
            Family::Meta,
            meta::COMPACT_FINISHED,
            target.get().to_be_bytes(),
        );
        batch.delete(Family::Meta, meta::COMPACT_PROGRESS);
        return Ok((batch, None));
    };
    let next = schema::parse_revision_key(key)?;
    let mut progress = target.get().to_be_bytes().to_vec();
    progress.extend_from_slice(key);
    batch.put(Family::Meta, meta::COMPACT_PROGRESS, progress);
    Ok((batch, Some(next)))
}

fn delete_revision(batch: &mut Batch, user_key: &[u8], main: i64, sub: i64) {
    batch.delete(Family::Revision, schema::revision_key(main, sub));
    batch.delete(Family::Old, schema::old_key(user_key, main, sub));
}

/// The newest change that would be left if a compaction removed a deletion at its very revision.
pub(super) fn newest_left(view: &View) -> Result<Revision, StorageError> {
    let finished = finished(view)?;
    let mut rows = view.scan_reverse(Family::Revision, &[], None);
    while let Some((key, value)) = rows.next()? {
        let (main, _) = schema::parse_revision_key(key)?;
        if Row::parse(value)?.kind != Kind::Tombstone || main > finished.get() {
            return Ok(Revision::new(main));
        }
    }
    Ok(Revision::new(1))
}

/// The revision up to which compaction is done; −1 before the first.
pub(super) fn finished(view: &View) -> Result<Revision, StorageError> {
    match view.get(Family::Meta, meta::COMPACT_FINISHED)? {
        Some(value) => Ok(Revision::new(schema::parse_i64(Family::Meta, &value)?)),
        None => Ok(NEVER_COMPACTED),
    }
}

/// Compactions that wait: one a second for an hour of a state that cannot keep up.
const PENDING_MAX: usize = 3600;
