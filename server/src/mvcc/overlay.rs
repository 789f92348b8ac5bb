//! What a round has changed so far, above the view it began with.

use std::{
    collections::{BTreeMap, btree_map},
    ops::Bound,
};

use bytes::Bytes;

use crate::mvcc::{
    interval::{End, Interval},
    record::{Address, Written},
};

/// The changed keys of a round in order, each with every state it went through in this round, so
/// that a later entry of the round can read at the revision of an earlier one.
#[derive(Debug, Default)]
pub(super) struct Overlay {
    keys: BTreeMap<Bytes, Entry>,
}

/// One changed key.
#[derive(Debug)]
pub(super) struct Entry {
    /// Whether the key lives in the view below.
    pub(super) in_view: bool,
    first: Version,
    /// Invariant: ascending addresses, all after `first`.
    later: Vec<Version>,
}

/// The state of a key after one change.
#[derive(Clone, Debug)]
pub(super) struct Version {
    pub(super) address: Address,
    /// `None` once deleted.
    pub(super) written: Option<Written>,
}

impl Entry {
    pub(super) fn latest(&self) -> &Version {
        self.later.last().unwrap_or(&self.first)
    }

    /// The state after every change up to main revision `revision`; `None` if the round had not
    /// changed the key by then.
    pub(super) fn at(&self, revision: i64) -> Option<&Version> {
        let mut versions = self.later.iter().rev().chain([&self.first]);
        versions.find(|version| version.address.main <= revision)
    }
}

impl Overlay {
    pub(super) fn get(&self, key: &[u8]) -> Option<&Entry> {
        self.keys.get(key)
    }

    pub(super) fn push(&mut self, key: Bytes, in_view: bool, version: Version) {
        match self.keys.entry(key) {
            btree_map::Entry::Vacant(vacant) => {
                vacant.insert(Entry {
                    in_view,
                    first: version,
                    later: Vec::new(),
                });
            }
            btree_map::Entry::Occupied(mut occupied) => {
                let entry = occupied.get_mut();
                assert!(
                    entry.latest().address < version.address,
                    "change {:?} after {:?}",
                    version.address,
                    entry.latest().address
                );
                entry.later.push(version);
            }
        }
    }

    /// Takes back the last change of `key`.
    pub(super) fn pop(&mut self, key: &[u8]) {
        let entry = self
            .keys
            .get_mut(key)
            .expect("only a change that was pushed is taken back");
        if entry.later.pop().is_none() {
            self.keys.remove(key);
        }
    }

    pub(super) fn range(&self, interval: &Interval) -> btree_map::Range<'_, Bytes, Entry> {
        if interval.is_empty() {
            // An empty range: the map panics on reversed bounds.
            return self
                .keys
                .range::<[u8], _>((Bound::Included(&[][..]), Bound::Excluded(&[][..])));
        }
        let lower = Bound::Included(&interval.key[..]);
        let upper = match &interval.end {
            End::Single => Bound::Included(&interval.key[..]),
            End::From => Bound::Unbounded,
            End::Before(end) => Bound::Excluded(&end[..]),
        };
        self.keys.range::<[u8], _>((lower, upper))
    }

    pub(super) fn iter(&self) -> btree_map::Iter<'_, Bytes, Entry> {
        self.keys.iter()
    }
}
