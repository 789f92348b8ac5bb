//! Reading one published moment.

use std::sync::Arc;

use bytes::Bytes;

use crate::{
    ids::{Index, LeaseId, Revision},
    mvcc::{
        error::MvccError,
        interval::Interval,
        range::{self, RangeQuery, RangeResult},
        record::KeyValue,
        source::{Source, Visitor},
        store::Published,
    },
    storage::{Family, StorageError, View, schema},
};

/// A reader. What is published later is invisible to it; cheap to clone.
#[derive(Clone, Debug)]
pub struct ReadTxn {
    published: Arc<Published>,
}

impl ReadTxn {
    pub(super) fn new(published: Arc<Published>) -> Self {
        Self { published }
    }

    /// The current revision.
    pub fn revision(&self) -> Revision {
        self.published.revision
    }

    /// The revision of the last compaction; −1 before the first.
    pub fn compact_revision(&self) -> Revision {
        self.published.compact_revision
    }

    /// The last entry this reader can see the effect of.
    pub fn applied(&self) -> Index {
        self.published.applied
    }

    /// The state below, for cursors, leases and exports.
    pub fn view(&self) -> &View {
        &self.published.view
    }

    /// Answers a range request.
    ///
    /// # Errors
    ///
    /// A revision that was compacted or does not exist yet.
    pub fn range(&self, query: &RangeQuery) -> Result<RangeResult, MvccError> {
        let compacted = self.compact_revision().get();
        range::run(self.source(), query, self.revision().get(), compacted)
    }

    /// Visits the encoded `KeyValue`s of `interval` at `revision` in order of their keys, until the
    /// visitor breaks off. `goes_on` says that much of the same range was visited before: then the
    /// block cache is left to others.
    ///
    /// # Errors
    ///
    /// A revision that was compacted or does not exist yet.
    pub fn visit(
        &self,
        interval: &Interval,
        revision: i64,
        goes_on: bool,
        visitor: &mut Visitor<'_>,
    ) -> Result<(), MvccError> {
        let compacted = self.compact_revision().get();
        let at = range::resolve(revision, self.revision().get(), compacted)?;
        if goes_on {
            self.source().visit_beside_cache(interval, at, visitor)?;
        } else {
            self.source().visit(interval, at, visitor)?;
        }
        Ok(())
    }

    /// One key as it is now.
    pub fn get(&self, key: &[u8]) -> Result<Option<KeyValue>, MvccError> {
        let encoded = self.get_encoded(key)?;
        Ok(encoded.as_ref().map(KeyValue::decode).transpose()?)
    }

    /// One key as it is now, as encoded `mvccpb.KeyValue`.
    pub fn get_encoded(&self, key: &[u8]) -> Result<Option<Bytes>, MvccError> {
        Ok(self.source().get(key, self.revision().get())?)
    }

    /// The keys that hang on a lease, in order.
    pub fn lease_keys(&self, lease: LeaseId) -> Result<Vec<Bytes>, MvccError> {
        Ok(lease_keys(self.view(), lease)?)
    }

    pub(super) fn source(&self) -> Source<'_> {
        Source {
            view: &self.published.view,
            published: self.published.revision.get(),
            overlay: None,
            churn: Some(&self.published.churn),
        }
    }
}

/// The keys that hang on a lease in `view`, in order.
pub(super) fn lease_keys(view: &View, lease: LeaseId) -> Result<Vec<Bytes>, StorageError> {
    let (lower, upper) = schema::lease_key_bounds(lease.get());
    let mut keys = Vec::new();
    let mut rows = view.scan(
        Family::LeaseKey,
        &lower,
        upper.as_ref().map(|upper| &upper[..]),
    );
    while let Some((key, _)) = rows.next()? {
        keys.push(Bytes::copy_from_slice(schema::parse_lease_key(key)?.1));
    }
    Ok(keys)
}
