//! Reads at a past revision.
//!
//! A key that has not changed since is in `current` as it was. For the others `old` names the
//! change that was the latest then, and `revision` has it. So a page of a list costs the page plus
//! the history of the keys it passes, never the whole range, and a count costs the count of today
//! plus the changes since, of which those of late are in memory.

use std::{cmp::Ordering, ops::ControlFlow};

use bytes::Bytes;

use crate::{
    mvcc::{
        count,
        interval::Interval,
        record::{Fields, Kind, Row},
        source::Visitor,
    },
    storage::{Family, Scan, StorageError, View, schema},
};

/// Visits the keys of `interval` that lived at `revision`, in order.
pub(super) fn visit(
    view: &View,
    interval: &Interval,
    revision: i64,
    visitor: &mut Visitor<'_>,
) -> Result<(), StorageError> {
    walk(view, interval, revision, &mut |lived| match lived {
        Lived::Unchanged(kv) => visitor(kv),
        Lived::Changed(main, sub) => visitor(Row::parse(&record_at(view, main, sub)?)?.kv),
    })
}

/// A key that lived at a past revision.
enum Lived<'a> {
    /// It has not changed since; its encoded `KeyValue`.
    Unchanged(&'a [u8]),
    /// The change that was its latest then.
    Changed(i64, i64),
}

/// Merges the latest keys with the history of those that changed.
fn walk(
    view: &View,
    interval: &Interval,
    revision: i64,
    found: &mut dyn FnMut(Lived<'_>) -> Result<ControlFlow<()>, StorageError>,
) -> Result<(), StorageError> {
    let (lower, upper) = interval.bounds();
    let mut current = view.scan(Family::Current, &lower, upper.as_deref());
    let (old_lower, old_upper) = (
        schema::old_lower(&lower),
        upper.as_deref().map(schema::old_lower),
    );
    let mut old = OldKeys::new(view.scan(Family::Old, &old_lower, old_upper.as_deref()));
    current.advance()?;
    old.advance()?;
    loop {
        let order = match (current.row(), old.ended) {
            (None, true) => return Ok(()),
            (None, false) => Ordering::Greater,
            (Some(_), true) => Ordering::Less,
            (Some((key, _)), false) => key.cmp(&old.key),
        };
        let mut flow = ControlFlow::Continue(());
        let mut unchanged = false;
        if order.is_le() {
            let (_, value) = current
                .row()
                .expect("it has a row unless the old keys come first");
            let (_, row) = Row::parse_current(value)?;
            unchanged = Fields::parse(row.kv)?.mod_revision <= revision;
            if unchanged {
                flow = found(Lived::Unchanged(row.kv))?;
            }
            current.advance()?;
        }
        if order.is_ge()
            && let Some((main, sub)) = old.pass_key(revision, !unchanged)?
        {
            flow = found(Lived::Changed(main, sub))?;
        }
        if flow.is_break() {
            return Ok(());
        }
    }
}

/// The encoded `KeyValue` of one key as it was at `revision`.
pub(super) fn get(view: &View, key: &[u8], revision: i64) -> Result<Option<Bytes>, StorageError> {
    if let Some(value) = view.get(Family::Current, key)? {
        let (_, row) = Row::parse_current(&value)?;
        if Fields::parse(row.kv)?.mod_revision <= revision {
            return Ok(Some(value.slice_ref(row.kv)));
        }
    }
    let upper = schema::old_after(key);
    let mut rows = view.scan(
        Family::Old,
        &schema::old_key(key, revision, i64::MAX),
        Some(&upper),
    );
    let Some((old_key, mark)) = rows.next()? else {
        return Ok(None);
    };
    if !mark.is_empty() {
        return Ok(None);
    }
    let (main, sub) = schema::parse_old_key(old_key, &mut Vec::new())?;
    let value = record_at(view, main, sub)?;
    let kv = Row::parse(&value)?.kv;
    Ok(Some(value.slice_ref(kv)))
}

/// How many keys of `interval` lived at `revision`. At `known`, a later one or the same, there were
/// `more` than now.
pub(super) fn count(
    view: &View,
    interval: &Interval,
    known: i64,
    more: i64,
    revision: i64,
) -> Result<i64, StorageError> {
    let then = count::now(view, interval)? + more;
    if known == revision {
        return Ok(then);
    }
    if known - revision > then.max(UNDO_MIN) {
        // More changes to undo than keys to look at.
        let mut count = 0;
        walk(view, interval, revision, &mut |_| {
            count += 1;
            Ok(ControlFlow::Continue(()))
        })?;
        return Ok(count);
    }
    let mut count = then;
    let mut rows = view.scan(
        Family::Revision,
        &schema::revision_key(revision + 1, 0),
        Some(&schema::revision_key(known + 1, 0)),
    );
    while let Some((_, value)) = rows.next()? {
        let row = Row::parse(value)?;
        let change = match row.kind {
            Kind::Create => -1,
            Kind::Put => continue,
            Kind::Tombstone => 1,
        };
        if interval.contains(Fields::parse(row.kv)?.key) {
            count += change;
        }
    }
    Ok(count)
}

/// The row of `revision` that an index points to.
pub(super) fn record_at(view: &View, main: i64, sub: i64) -> Result<Bytes, StorageError> {
    view.get(Family::Revision, &schema::revision_key(main, sub))?
        .ok_or_else(|| {
            StorageError::corrupt(Family::Old, format!("revision {main}.{sub} does not exist"))
        })
}

/// A walk over `old` that stops at each key once.
struct OldKeys<'a> {
    rows: Scan<'a>,
    /// The user key of the row it stands on.
    key: Vec<u8>,
    address: (i64, i64),
    /// The key whose rows are being passed over.
    passing: Vec<u8>,
    ended: bool,
}

impl<'a> OldKeys<'a> {
    fn new(rows: Scan<'a>) -> Self {
        Self {
            rows,
            key: Vec::new(),
            address: (0, 0),
            passing: Vec::new(),
            ended: false,
        }
    }

    fn advance(&mut self) -> Result<(), StorageError> {
        self.rows.advance()?;
        match self.rows.row() {
            Some((key, _)) => self.address = schema::parse_old_key(key, &mut self.key)?,
            None => self.ended = true,
        }
        Ok(())
    }

    /// Moves on to the next key. If `wanted`, answers with the latest change up to `revision` of
    /// the key it leaves, unless that change deleted it.
    fn pass_key(
        &mut self,
        revision: i64,
        wanted: bool,
    ) -> Result<Option<(i64, i64)>, StorageError> {
        self.passing.clone_from(&self.key);
        let mut found = None;
        if wanted {
            self.step_while(|old| old.address.0 > revision)?;
            if self.on_passed_key() && self.address.0 > revision {
                self.rows
                    .seek(&schema::old_key(&self.passing, revision, i64::MAX));
                self.advance()?;
            }
            let lived = self.rows.row().is_some_and(|(_, mark)| mark.is_empty());
            if self.on_passed_key() && lived {
                found = Some(self.address);
            }
        }
        self.step_while(|_| true)?;
        if self.on_passed_key() {
            self.rows.seek(&schema::old_after(&self.passing));
            self.advance()?;
        }
        Ok(found)
    }

    /// Steps on within the key that is passed, as far as it is cheaper than a seek.
    fn step_while(&mut self, wanted: impl Fn(&Self) -> bool) -> Result<(), StorageError> {
        for _ in 0..STEPS_BEFORE_SEEK {
            if !self.on_passed_key() || !wanted(self) {
                break;
            }
            self.advance()?;
        }
        Ok(())
    }

    fn on_passed_key(&self) -> bool {
        !self.ended && self.key == self.passing
    }
}

/// Below this many revisions a count always undoes changes: that is quicker than any list.
const UNDO_MIN: i64 = 1000;

/// A seek costs about as much as this many steps.
const STEPS_BEFORE_SEEK: usize = 8;
