//! Reads of history from disk for watchers that are behind.

use bytes::Bytes;

use super::{
    cursor::{History, Pass},
    group::Groups,
};
use crate::{
    ids::Revision,
    mvcc::{
        Event, EventKind, MvccError, ReadTxn, RevisionEvents,
        record::{Fields, Kind, Row},
    },
    storage::{Family, Scan, StorageError, View, schema},
};

/// Reads events of the pass's cohort from its cursor on, as far as the bounds of one read allow.
///
/// # Errors
///
/// When the state cannot be read.
pub(super) fn read(txn: &ReadTxn, pass: &Pass) -> Result<History, MvccError> {
    let compacted = txn.compact_revision();
    if pass.from < compacted {
        return Ok(History::Compacted(compacted));
    }
    let view = txn.view();
    let lower = schema::revision_key(pass.from.get(), 0);
    let upper = schema::revision_key(pass.to.get(), 0);
    let rows = view.scan(Family::Revision, &lower, Some(&upper));
    let mut reader = Reader {
        view,
        compacted,
        cohort: &pass.cohort,
        previous: pass.cohort.iter().any(|group| group.key.options.prev_kv),
        events: Vec::new(),
        bytes: 0,
    };
    let next = reader.run(rows)?.unwrap_or(pass.to);
    Ok(History::Read {
        events: reader.events,
        next,
    })
}

struct Reader<'a> {
    view: &'a View,
    compacted: Revision,
    cohort: &'a Groups,
    /// Whether anybody wants previous pairs.
    previous: bool,
    events: Vec<RevisionEvents>,
    /// Bytes of the pairs in `events`.
    bytes: usize,
}

impl Reader<'_> {
    /// Goes through the rows; gives the revision before which it stopped, if not at the end.
    fn run(&mut self, mut rows: Scan<'_>) -> Result<Option<Revision>, StorageError> {
        let mut at = Revision::default();
        let mut rows_read = 0;
        while let Some((key, value)) = rows.next()? {
            let (main, _) = schema::parse_revision_key(key)?;
            let revision = Revision::new(main);
            if revision != at {
                if rows_read >= READ_ROWS_MAX
                    || self.bytes >= READ_BYTES
                    || self.events.len() >= READ_REVISIONS_MAX
                {
                    return Ok(Some(revision));
                }
                at = revision;
            }
            rows_read += 1;
            let row = Row::parse(value)?;
            let fields = Fields::parse(row.kv)?;
            if self.cohort.contains(fields.key) {
                let event = self.event(revision, &row, &fields)?;
                self.add(revision, event);
            }
        }
        Ok(None)
    }

    fn event(
        &self,
        revision: Revision,
        row: &Row<'_>,
        fields: &Fields<'_>,
    ) -> Result<Event, StorageError> {
        let (kind, kv) = match row.kind {
            Kind::Create | Kind::Put => (EventKind::Put, Bytes::copy_from_slice(row.kv)),
            Kind::Tombstone => {
                let mod_revision = revision.get();
                let deleted = Fields {
                    key: fields.key,
                    mod_revision,
                    ..Fields::default()
                };
                (EventKind::Delete, deleted.encode())
            }
        };
        let key = Bytes::copy_from_slice(fields.key);
        let previous = if self.previous {
            self.previous(revision, row)?
        } else {
            None
        };
        Ok(Event {
            kind,
            key,
            kv,
            previous,
        })
    }

    /// The pair as it was at the revision before; absent when that is compacted. For a key that
    /// was changed before in the same revision, `Feed` takes what that event has.
    fn previous(&self, revision: Revision, row: &Row<'_>) -> Result<Option<Bytes>, StorageError> {
        let Some(superseded) = row.superseded else {
            return Ok(None);
        };
        if superseded.main == revision.get() || revision <= self.compacted {
            return Ok(None);
        }
        let key = schema::revision_key(superseded.main, superseded.sub);
        let value = self.view.get(Family::Revision, &key)?.ok_or_else(|| {
            let reason = format!("revision {revision} supersedes one that does not exist");
            StorageError::corrupt(Family::Revision, reason)
        })?;
        Ok(Some(value.slice_ref(Row::parse(&value)?.kv)))
    }

    fn add(&mut self, revision: Revision, event: Event) {
        self.bytes += event.kv.len() + event.previous.as_ref().map_or(0, Bytes::len);
        match self.events.last_mut() {
            Some(last) if last.revision == revision => last.events.push(event),
            _ => self.events.push(RevisionEvents {
                revision,
                events: vec![event],
                lacks_previous: false,
            }),
        }
    }
}

/// Revisions with events in one read, as in etcd.
const READ_REVISIONS_MAX: usize = 1000;

/// A read stops at the next revision when its events are this large: it is what a client that does
/// not read may make us hold.
const READ_BYTES: usize = 32 << 10;

/// Rows that one read looks at: a few milliseconds, after which other streams have their turn.
const READ_ROWS_MAX: usize = 8192;
