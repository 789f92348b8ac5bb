//! What a range request asks for, and etcd's rules for answering it: fetch, filter, sort, cut.

use std::{cmp::Reverse, ops::ControlFlow};

use bytes::{BufMut, Bytes, BytesMut};

use crate::{
    ids::Revision,
    mvcc::{
        error::MvccError,
        interval::{End, Interval},
        record::Fields,
        source::Source,
    },
    storage::StorageError,
};

/// Direction of a sort.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SortOrder {
    /// As stored, by key; for any other target the same as ascending.
    #[default]
    None,
    /// Smallest first.
    Ascend,
    /// Largest first.
    Descend,
}

/// What a sort compares.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SortTarget {
    /// The key.
    #[default]
    Key,
    /// The version.
    Version,
    /// The revision of creation.
    Create,
    /// The revision of the last change.
    Mod,
    /// The value.
    Value,
}

/// A range request. Bounds on revisions count only when they are not 0.
#[derive(Clone, Debug)]
pub struct RangeQuery {
    /// Which keys.
    pub interval: Interval,
    /// As of which revision; 0 and below mean the current one.
    pub revision: i64,
    /// How many keys at most; 0 and below mean all.
    pub limit: i64,
    /// In which direction.
    pub order: SortOrder,
    /// By what.
    pub target: SortTarget,
    /// Leave the values away.
    pub keys_only: bool,
    /// Answer only how many there are.
    pub count_only: bool,
    /// Do not count beyond what is returned: `count` is then only what was looked at.
    pub skip_count: bool,
    /// Smallest revision of the last change.
    pub min_mod: i64,
    /// Largest revision of the last change.
    pub max_mod: i64,
    /// Smallest revision of creation.
    pub min_create: i64,
    /// Largest revision of creation.
    pub max_create: i64,
}

impl RangeQuery {
    /// Everything in `interval` now.
    pub fn new(interval: Interval) -> Self {
        Self {
            interval,
            revision: 0,
            limit: 0,
            order: SortOrder::None,
            target: SortTarget::Key,
            keys_only: false,
            count_only: false,
            skip_count: false,
            min_mod: 0,
            max_mod: 0,
            min_create: 0,
            max_create: 0,
        }
    }

    fn has_filters(&self) -> bool {
        (self.min_mod | self.max_mod | self.min_create | self.max_create) != 0
    }

    fn passes(&self, fields: &Fields<'_>) -> bool {
        !(self.max_mod != 0 && fields.mod_revision > self.max_mod
            || self.min_mod != 0 && fields.mod_revision < self.min_mod
            || self.max_create != 0 && fields.create_revision > self.max_create
            || self.min_create != 0 && fields.create_revision < self.min_create)
    }

    /// Whether it looks at no more than `keys` keys and their count, rather than at its interval:
    /// a filter or a sort has to see all of that.
    pub fn looks_at_most(&self, keys: i64) -> bool {
        (1..=keys).contains(&self.limit) && self.is_in_key_order()
    }

    /// Whether its answer is its interval in order of keys, as far as the limit goes: it needs no
    /// row to know whether another one belongs to it.
    pub fn is_in_key_order(&self) -> bool {
        !self.has_filters() && self.is_sorted_as_stored()
    }

    fn is_sorted_as_stored(&self) -> bool {
        self.target == SortTarget::Key && self.order != SortOrder::Descend
    }

    /// How many keys to fetch at most. etcd fetches one beyond the limit when the order is
    /// "default", and an order of NONE is default whatever the target: such a sort then only
    /// sees the first keys.
    fn fetch_max(&self) -> usize {
        let is_default = self.order == SortOrder::None || self.is_sorted_as_stored();
        if self.limit <= 0 || self.limit == i64::MAX || !is_default {
            return usize::MAX;
        }
        // Filters come before the cut; with an order to keep, it is enough to find as many as
        // will be returned, and one more.
        if self.has_filters() && !self.is_sorted_as_stored() {
            return usize::MAX;
        }
        usize::try_from(self.limit).map_or(usize::MAX, |limit| limit + 1)
    }
}

/// The answer to a [`RangeQuery`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RangeResult {
    /// Encoded `mvccpb.KeyValue`s.
    pub kvs: Vec<Bytes>,
    /// Keys in the interval at that revision, whatever limit and filters.
    pub count: i64,
    /// Whether the limit cut keys off.
    pub more: bool,
    /// The current revision of the read, not the one asked for.
    pub revision: Revision,
}

/// Answers `query` from `source`, whose newest revision is `current`.
pub(super) fn run(
    source: Source<'_>,
    query: &RangeQuery,
    current: i64,
    compacted: i64,
) -> Result<RangeResult, MvccError> {
    let at = resolve(query.revision, current, compacted)?;
    let revision = Revision::new(current);
    if query.count_only {
        let count = source.count(&query.interval, at)?;
        return Ok(RangeResult {
            kvs: Vec::new(),
            count,
            more: false,
            revision,
        });
    }
    let fetch_max = query.fetch_max();
    let mut fetched = Fetched::new(query);
    let mut seen = 0_i64;
    let mut broke_off = false;
    if query.interval.end == End::Single {
        if let Some(kv) = source.get(&query.interval.key, at)? {
            seen = 1;
            fetched.take(Found::Owned(kv))?;
        }
    } else {
        source.visit(&query.interval, at, &mut |kv| {
            seen += 1;
            fetched.take(Found::Lent(kv))?;
            broke_off = fetched.kvs.len() >= fetch_max;
            Ok(if broke_off {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            })
        })?;
    }
    let count = if broke_off && !query.skip_count {
        source.count(&query.interval, at)?
    } else {
        seen
    };
    let mut kvs = fetched.sorted();
    let limit = usize::try_from(query.limit).unwrap_or(0);
    let more = limit > 0 && kvs.len() > limit;
    if more {
        kvs.truncate(limit);
    }
    Ok(RangeResult {
        kvs,
        count,
        more,
        revision,
    })
}

/// The revision to read at, if it can be read.
pub(super) fn resolve(requested: i64, current: i64, compacted: i64) -> Result<i64, MvccError> {
    if requested > current {
        return Err(MvccError::FutureRevision {
            requested: Revision::new(requested),
            current: Revision::new(current),
        });
    }
    let at = if requested <= 0 { current } else { requested };
    if at < compacted {
        return Err(MvccError::Compacted {
            requested: Revision::new(at),
            compacted: Revision::new(compacted),
        });
    }
    Ok(at)
}

enum Found<'a> {
    Lent(&'a [u8]),
    Owned(Bytes),
}

/// What passed the filters, in key order, with what a sort will compare.
struct Fetched<'a> {
    query: &'a RangeQuery,
    kvs: Vec<Bytes>,
    numbers: Vec<i64>,
    values: Vec<Bytes>,
    chunk: BytesMut,
    chunk_bytes: usize,
}

impl<'a> Fetched<'a> {
    fn new(query: &'a RangeQuery) -> Self {
        Self {
            query,
            kvs: Vec::new(),
            numbers: Vec::new(),
            values: Vec::new(),
            chunk: BytesMut::new(),
            chunk_bytes: CHUNK_BYTES_MIN,
        }
    }

    fn take(&mut self, found: Found<'_>) -> Result<(), StorageError> {
        let encoded = match &found {
            Found::Lent(encoded) => encoded,
            Found::Owned(encoded) => &encoded[..],
        };
        let query = self.query;
        let needs_fields =
            query.has_filters() || query.keys_only || query.target != SortTarget::Key;
        if !needs_fields {
            let kv = self.own(found);
            self.kvs.push(kv);
            return Ok(());
        }
        let fields = Fields::parse(encoded)?;
        if !query.passes(&fields) {
            return Ok(());
        }
        match query.target {
            SortTarget::Key => {}
            SortTarget::Version => self.numbers.push(fields.version),
            SortTarget::Create => self.numbers.push(fields.create_revision),
            SortTarget::Mod => self.numbers.push(fields.mod_revision),
            SortTarget::Value => self.values.push(Bytes::copy_from_slice(fields.value)),
        }
        let kv = if query.keys_only {
            // etcd answers from its index, which knows no leases, unless it must sort by value.
            let lease = if query.target == SortTarget::Value {
                fields.lease
            } else {
                0
            };
            Fields {
                value: &[],
                lease,
                ..fields
            }
            .encode()
        } else {
            self.own(found)
        };
        self.kvs.push(kv);
        Ok(())
    }

    /// Copies lent bytes into a chunk that many answers share: one allocation for hundreds.
    fn own(&mut self, found: Found<'_>) -> Bytes {
        let lent = match found {
            Found::Lent(lent) => lent,
            Found::Owned(owned) => return owned,
        };
        if self.chunk.capacity() < lent.len() {
            self.chunk = BytesMut::with_capacity(lent.len().max(self.chunk_bytes));
            self.chunk_bytes = (self.chunk_bytes * 2).min(CHUNK_BYTES_MAX);
        }
        self.chunk.put_slice(lent);
        self.chunk.split().freeze()
    }

    fn sorted(self) -> Vec<Bytes> {
        let descend = self.query.order == SortOrder::Descend;
        match self.query.target {
            SortTarget::Key if descend => {
                let mut kvs = self.kvs;
                kvs.reverse();
                kvs
            }
            SortTarget::Key => self.kvs,
            SortTarget::Value => sort_by(self.values, self.kvs, descend),
            SortTarget::Version | SortTarget::Create | SortTarget::Mod => {
                sort_by(self.numbers, self.kvs, descend)
            }
        }
    }
}

/// Sorts `kvs` by their `keys`. etcd's sort leaves equal ones in any order; ours keeps key order.
fn sort_by<K: Ord>(keys: Vec<K>, kvs: Vec<Bytes>, descend: bool) -> Vec<Bytes> {
    let mut pairs: Vec<(K, Bytes)> = keys.into_iter().zip(kvs).collect();
    if descend {
        pairs.sort_by(|left, right| Reverse(&left.0).cmp(&Reverse(&right.0)));
    } else {
        pairs.sort_by(|left, right| left.0.cmp(&right.0));
    }
    pairs.into_iter().map(|(_, kv)| kv).collect()
}

/// The first chunk of an answer: most answers are small.
const CHUNK_BYTES_MIN: usize = 2 << 10;

/// Later chunks double up to this; a kept slice of an answer holds at most one of them alive.
const CHUNK_BYTES_MAX: usize = 256 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_limit_alone_bounds_what_a_query_looks_at() {
        let limited = RangeQuery {
            limit: 5,
            ..RangeQuery::new(Interval::everything())
        };
        assert!(limited.looks_at_most(5) && !limited.looks_at_most(4));
        let others = [
            RangeQuery {
                limit: 0,
                ..limited.clone()
            },
            RangeQuery {
                min_mod: 7,
                ..limited.clone()
            },
            RangeQuery {
                order: SortOrder::Descend,
                ..limited.clone()
            },
            RangeQuery {
                target: SortTarget::Mod,
                order: SortOrder::Ascend,
                ..limited
            },
        ];
        assert!(others.iter().all(|query| !query.looks_at_most(5)));
    }
}
