//! Living keys in order, as of a revision: the one thing that ranges are made from.

use std::ops::ControlFlow;

use bytes::Bytes;

use crate::{
    mvcc::{churn::Churn, count, history, interval::Interval, overlay::Overlay, record::Row},
    storage::{Family, Scan, StorageError, View},
};

/// A living key as `current` has it.
pub(super) struct Living<'a> {
    /// Whether it lives in the view, whatever the round did to it.
    pub(super) in_view: bool,
    /// Sub revision of its last change.
    pub(super) sub: i64,
    /// The encoded `KeyValue`.
    pub(super) kv: &'a [u8],
}

/// Receives living keys in order, until it breaks off.
pub(super) type LivingVisitor<'a> =
    dyn FnMut(Living<'_>) -> Result<ControlFlow<()>, StorageError> + 'a;

/// Receives encoded `KeyValue`s in key order, until it breaks off.
pub type Visitor<'a> = dyn FnMut(&[u8]) -> Result<ControlFlow<()>, StorageError> + 'a;

/// A published view, and on top of it what the round under way has changed (readers have none).
#[derive(Clone, Copy)]
pub(super) struct Source<'a> {
    pub(super) view: &'a View,
    /// The revision of the view.
    pub(super) published: i64,
    pub(super) overlay: Option<&'a Overlay>,
    /// What makes counts of the past quick, where it is at hand.
    pub(super) churn: Option<&'a Churn>,
}

impl Source<'_> {
    /// Visits the keys of `interval` that live at `revision`, in order.
    pub(super) fn visit(
        &self,
        interval: &Interval,
        revision: i64,
        visitor: &mut Visitor<'_>,
    ) -> Result<(), StorageError> {
        if interval.is_empty() {
            return Ok(());
        }
        if revision < self.published {
            return history::visit(self.view, interval, revision, visitor);
        }
        match self.overlay {
            Some(overlay) => {
                let mut kv_only = |living: Living<'_>| visitor(living.kv);
                visit_over(self.view, overlay, interval, revision, &mut kv_only)
            }
            None => {
                let (lower, upper) = interval.bounds();
                let rows = self.view.scan(Family::Current, &lower, upper.as_deref());
                visit_current(rows, visitor)
            }
        }
    }

    /// As [`Source::visit`], for a later part of a long range. Of the past, and with changes of a
    /// round, it is the same.
    pub(super) fn visit_beside_cache(
        &self,
        interval: &Interval,
        revision: i64,
        visitor: &mut Visitor<'_>,
    ) -> Result<(), StorageError> {
        if interval.is_empty() || revision < self.published || self.overlay.is_some() {
            return self.visit(interval, revision, visitor);
        }
        let (lower, upper) = interval.bounds();
        let rows = self
            .view
            .scan_beside_cache(Family::Current, &lower, upper.as_deref());
        visit_current(rows, visitor)
    }

    /// Visits the keys of `interval` that live after all changes so far, in order.
    pub(super) fn visit_latest(
        &self,
        interval: &Interval,
        visitor: &mut LivingVisitor<'_>,
    ) -> Result<(), StorageError> {
        if interval.is_empty() {
            return Ok(());
        }
        let unchanged = Overlay::default();
        let overlay = self.overlay.unwrap_or(&unchanged);
        visit_over(self.view, overlay, interval, i64::MAX, visitor)
    }

    /// The encoded `KeyValue` of one key at `revision`.
    pub(super) fn get(&self, key: &[u8], revision: i64) -> Result<Option<Bytes>, StorageError> {
        if revision < self.published {
            return history::get(self.view, key, revision);
        }
        let changed = self.overlay.and_then(|overlay| overlay.get(key));
        if let Some(version) = changed.and_then(|entry| entry.at(revision)) {
            return Ok(version.written.as_ref().map(|written| written.kv()));
        }
        match self.view.get(Family::Current, key)? {
            Some(value) => {
                let (_, row) = Row::parse_current(&value)?;
                Ok(Some(value.slice_ref(row.kv)))
            }
            None => Ok(None),
        }
    }

    fn past_count(&self, interval: &Interval, revision: i64) -> Result<i64, StorageError> {
        let recent = self.churn.map(|churn| churn.after(revision));
        let since = recent.as_ref().map_or(i64::MAX, |recent| recent.since);
        // As of there the rest is known; what lies before has to be read.
        let known = since.clamp(revision, self.published);
        let later = recent.map_or(0, |recent| recent.undone(interval, known, self.published));
        history::count(self.view, interval, known, later, revision)
    }

    /// How many keys of `interval` live at `revision`.
    pub(super) fn count(&self, interval: &Interval, revision: i64) -> Result<i64, StorageError> {
        if interval.is_empty() {
            return Ok(0);
        }
        if revision < self.published {
            return self.past_count(interval, revision);
        }
        let mut count = count::now(self.view, interval)?;
        let changed = self
            .overlay
            .into_iter()
            .flat_map(|overlay| overlay.range(interval));
        for (_, entry) in changed {
            if let Some(version) = entry.at(revision) {
                count += i64::from(version.written.is_some()) - i64::from(entry.in_view);
            }
        }
        Ok(count)
    }
}

fn visit_current(mut rows: Scan<'_>, visitor: &mut Visitor<'_>) -> Result<(), StorageError> {
    while let Some((_, value)) = rows.next()? {
        let (_, row) = Row::parse_current(value)?;
        if visitor(row.kv)?.is_break() {
            break;
        }
    }
    Ok(())
}

/// Merges the view with the round's changes, of which those up to `revision` hide the view.
fn visit_over(
    view: &View,
    overlay: &Overlay,
    interval: &Interval,
    revision: i64,
    visitor: &mut LivingVisitor<'_>,
) -> Result<(), StorageError> {
    let (lower, upper) = interval.bounds();
    let mut rows = view.scan(Family::Current, &lower, upper.as_deref());
    let mut changed = overlay
        .range(interval)
        .filter_map(|(key, entry)| Some((key, entry.in_view, entry.at(revision)?)))
        .peekable();
    rows.advance()?;
    loop {
        let below = rows.row();
        let from_overlay = match (below, changed.peek()) {
            (None, None) => return Ok(()),
            (None, Some(_)) => true,
            (Some(_), None) => false,
            (Some((key, _)), Some((changed, ..))) => &changed[..] <= key,
        };
        let flow = if from_overlay {
            let (key, in_view, version) = changed.next().expect("it was just peeked at");
            let flow = match &version.written {
                Some(written) => visitor(Living {
                    in_view,
                    sub: version.address.sub,
                    kv: &written.kv(),
                })?,
                None => ControlFlow::Continue(()),
            };
            if below.is_some_and(|(below, _)| below == &key[..]) {
                rows.advance()?;
            }
            flow
        } else {
            let (_, value) = below.expect("the view has a row, or the overlay would be next");
            let (sub, row) = Row::parse_current(value)?;
            let flow = visitor(Living {
                in_view: true,
                sub,
                kv: row.kv,
            })?;
            rows.advance()?;
            flow
        };
        if flow.is_break() {
            return Ok(());
        }
    }
}
