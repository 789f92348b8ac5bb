//! MVCC as one would write it without a disk: every change of every key, in a map.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
};

use crate::mvcc::{Interval, RangeQuery, SortOrder, SortTarget};

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ModelKv {
    pub(super) key: Vec<u8>,
    pub(super) value: Vec<u8>,
    pub(super) create: i64,
    pub(super) modified: i64,
    pub(super) version: i64,
    pub(super) lease: i64,
}

/// Main, sub, and the state after it.
pub(super) type ModelChange = (i64, i64, Option<ModelKv>);

#[derive(Clone, Debug)]
pub(super) struct Model {
    pub(super) revision: i64,
    pub(super) compacted: i64,
    /// Per key every change.
    pub(super) keys: BTreeMap<Vec<u8>, Vec<ModelChange>>,
    sub: i64,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) struct ModelRange {
    pub(super) kvs: Vec<ModelKv>,
    pub(super) count: i64,
    pub(super) more: bool,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum ModelError {
    Compacted,
    Future,
}

impl Model {
    pub(super) fn new() -> Self {
        Self {
            revision: 1,
            compacted: -1,
            keys: BTreeMap::new(),
            sub: 0,
        }
    }

    pub(super) fn begin(&mut self) {
        self.sub = 0;
    }

    pub(super) fn end(&mut self) {
        self.revision += i64::from(self.sub > 0);
        self.sub = 0;
    }

    /// The revision that a read inside the transaction sees.
    pub(super) fn now(&self) -> i64 {
        self.revision + i64::from(self.sub > 0)
    }

    pub(super) fn put(&mut self, key: &[u8], value: &[u8], lease: i64) {
        let before = self.at(key, self.now());
        let main = self.revision + 1;
        let kv = ModelKv {
            key: key.to_vec(),
            value: value.to_vec(),
            create: before.as_ref().map_or(main, |kv| kv.create),
            modified: main,
            version: before.map_or(0, |kv| kv.version) + 1,
            lease,
        };
        self.keys
            .entry(key.to_vec())
            .or_default()
            .push((main, self.sub, Some(kv)));
        self.sub += 1;
    }

    pub(super) fn delete(&mut self, interval: &Interval) -> Vec<ModelKv> {
        let living = self.living(interval, self.now());
        for kv in &living {
            let changes = self.keys.get_mut(&kv.key).expect("a living key");
            changes.push((self.revision + 1, self.sub, None));
            self.sub += 1;
        }
        living
    }

    pub(super) fn at(&self, key: &[u8], revision: i64) -> Option<ModelKv> {
        let changes = self.keys.get(key)?;
        let latest = changes
            .iter()
            .rev()
            .find(|(main, _, _)| *main <= revision)?;
        latest.2.clone()
    }

    pub(super) fn living(&self, interval: &Interval, revision: i64) -> Vec<ModelKv> {
        let keys = self.keys.keys().filter(|key| interval.contains(key));
        keys.filter_map(|key| self.at(key, revision)).collect()
    }

    pub(super) fn lease_keys(&self, lease: i64) -> Vec<Vec<u8>> {
        let living = self.living(&Interval::everything(), self.revision);
        living
            .into_iter()
            .filter(|kv| kv.lease == lease)
            .map(|kv| kv.key)
            .collect()
    }

    /// The rows that a store compacted at `revision`, and not before, must have left.
    pub(super) fn kept(&self) -> BTreeSet<(i64, i64)> {
        let mut kept = BTreeSet::new();
        for changes in self.keys.values() {
            let newest = changes
                .iter()
                .rposition(|(main, _, _)| *main <= self.compacted);
            for (place, (main, sub, kv)) in changes.iter().enumerate() {
                let is_newest = newest == Some(place) && kv.is_some();
                let is_mark = kv.is_none() && *main == self.compacted;
                if *main > self.compacted || is_newest || is_mark {
                    kept.insert((*main, *sub));
                }
            }
        }
        kept
    }

    pub(super) fn range(&self, query: &RangeQuery) -> Result<ModelRange, ModelError> {
        if query.revision > self.now() {
            return Err(ModelError::Future);
        }
        let at = if query.revision <= 0 {
            self.now()
        } else {
            query.revision
        };
        if at < self.compacted {
            return Err(ModelError::Compacted);
        }
        let mut kvs = self.living(&query.interval, at);
        let count = i64::try_from(kvs.len()).expect("small");
        if query.count_only {
            return Ok(ModelRange {
                kvs: Vec::new(),
                count,
                more: false,
            });
        }
        let limit = usize::try_from(query.limit).unwrap_or(0);
        let filtered = [
            query.min_mod,
            query.max_mod,
            query.min_create,
            query.max_create,
        ];
        let is_default = query.order == SortOrder::None
            || (query.target == SortTarget::Key && query.order == SortOrder::Ascend);
        if limit > 0 && is_default && filtered == [0; 4] {
            kvs.truncate(limit + 1);
        }
        kvs.retain(|kv| {
            (query.min_mod == 0 || kv.modified >= query.min_mod)
                && (query.max_mod == 0 || kv.modified <= query.max_mod)
                && (query.min_create == 0 || kv.create >= query.min_create)
                && (query.max_create == 0 || kv.create <= query.max_create)
        });
        match query.target {
            SortTarget::Key => {}
            SortTarget::Version => sort(&mut kvs, query.order, |kv| kv.version),
            SortTarget::Create => sort(&mut kvs, query.order, |kv| kv.create),
            SortTarget::Mod => sort(&mut kvs, query.order, |kv| kv.modified),
            SortTarget::Value => sort(&mut kvs, query.order, |kv| kv.value.clone()),
        }
        if query.target == SortTarget::Key && query.order == SortOrder::Descend {
            kvs.reverse();
        }
        let more = limit > 0 && kvs.len() > limit;
        if more {
            kvs.truncate(limit);
        }
        for kv in kvs.iter_mut().filter(|_| query.keys_only) {
            kv.value.clear();
            if query.target != SortTarget::Value {
                kv.lease = 0;
            }
        }
        Ok(ModelRange { kvs, count, more })
    }
}

fn sort<K: Ord>(kvs: &mut [ModelKv], order: SortOrder, by: impl Fn(&ModelKv) -> K) {
    kvs.sort_by_key(&by);
    if order == SortOrder::Descend {
        kvs.sort_by_key(|kv| Reverse(by(kv)));
    }
}
