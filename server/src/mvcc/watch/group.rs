//! Watchers by what they watch: those with the same range and options form one group, so that an
//! event is matched and encoded once for all of them.

use std::{
    collections::{BTreeMap, HashMap},
    hash::{BuildHasher, RandomState},
    sync::Arc,
};

use super::{
    delivery::{Recipients, StreamId, WatchOptions},
    ranges::RangeTree,
};
use crate::{
    ids::WatchId,
    mvcc::{End, Interval},
};

/// What the watchers of a group have in common.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct GroupKey {
    pub(super) interval: Interval,
    pub(super) options: WatchOptions,
}

/// Names a group within its `Groups`, for as long as it has members.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct GroupId(u32);

impl GroupId {
    fn index(self) -> usize {
        self.0 as usize
    }
}

/// A set of watchers, found by the keys they watch.
pub(super) struct Groups {
    slots: Vec<Option<Group>>,
    free: Vec<GroupId>,
    /// First group of those that watch one key of this hash; the others hang on `Group::next`.
    /// The key itself is in the group: with a million of them a second copy would show.
    singles: HashMap<u64, GroupId>,
    hasher: RandomState,
    /// Gives all keys the same hash.
    #[cfg(test)]
    one_hash: bool,
    /// First group of those that watch a range.
    ranges: RangeTree<GroupId>,
}

pub(super) struct Group {
    pub(super) key: Arc<GroupKey>,
    /// Invariant: not empty, since a group goes away with its last member.
    pub(super) members: Members,
    /// Next group with the same interval and other options (or, of those that watch one key, with
    /// another key of the same hash).
    next: Option<GroupId>,
}

/// Members of a group, by stream.
pub(super) enum Members {
    /// By far the commonest with many keys watched once each; costs no allocation.
    One(StreamId, WatchId),
    /// Invariant: the ids of a stream are sorted, without duplicates, and not empty. They are
    /// shared with the deliveries under way, and copied when they change meanwhile.
    Many(BTreeMap<StreamId, Arc<Vec<WatchId>>>),
}

impl Groups {
    /// No watchers.
    pub(super) fn new() -> Self {
        Self {
            slots: Vec::new(),
            free: Vec::new(),
            singles: HashMap::new(),
            hasher: RandomState::new(),
            #[cfg(test)]
            one_hash: false,
            ranges: RangeTree::new(),
        }
    }

    /// How many groups there are.
    pub(super) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Whether there is no watcher at all.
    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The group of this id, which must come from `matching` and still have members.
    pub(super) fn group(&self, id: GroupId) -> &Group {
        self.slots[id.index()]
            .as_ref()
            .expect("a group is asked for only while it has members")
    }

    /// All groups.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Group> {
        self.slots.iter().flatten()
    }

    /// The key as a living group has it, so that its watchers share one.
    pub(super) fn share(&mut self, key: GroupKey) -> Arc<GroupKey> {
        match self.find(&key) {
            Some(id) => Arc::clone(&self.group(id).key),
            None => Arc::new(key),
        }
    }

    /// Adds watchers of one stream to the group of this key.
    pub(super) fn add(&mut self, key: &Arc<GroupKey>, stream: StreamId, ids: Recipients) {
        if let Some(id) = self.find(key) {
            let group = self.slots[id.index()]
                .as_mut()
                .expect("the index names living groups");
            group.members.add(stream, ids);
            return;
        }
        let head = self.head_mut(&key.interval).copied();
        let group = Group {
            key: Arc::clone(key),
            members: Members::new(stream, ids),
            next: head,
        };
        let id = match self.free.pop() {
            Some(id) => {
                self.slots[id.index()] = Some(group);
                id
            }
            None => {
                self.slots.push(Some(group));
                let last = self.slots.len() - 1;
                GroupId(u32::try_from(last).expect("memory ends long before four billion groups"))
            }
        };
        match self.head_mut(&key.interval) {
            Some(head) => *head = id,
            None => self.insert_head(&key.interval, id),
        }
    }

    /// Removes one watcher; answers whether it was there.
    pub(super) fn remove(&mut self, key: &GroupKey, stream: StreamId, watcher: WatchId) -> bool {
        let Some(id) = self.find(key) else {
            return false;
        };
        let group = self.slots[id.index()]
            .as_mut()
            .expect("the index names living groups");
        let removed = group.members.remove(stream, watcher);
        if group.members.is_empty() {
            self.drop_group(id);
        }
        removed
    }

    /// Removes all watchers of one stream from the group of this key, and gives them.
    pub(super) fn take_stream(&mut self, key: &GroupKey, stream: StreamId) -> Option<Recipients> {
        let id = self.find(key)?;
        let group = self.slots[id.index()]
            .as_mut()
            .expect("the index names living groups");
        let taken = group.members.take_stream(stream);
        if group.members.is_empty() {
            self.drop_group(id);
        }
        taken
    }

    /// Calls `hit` for each group that watches `key`; stops when it answers false.
    pub(super) fn matching(&self, key: &[u8], mut hit: impl FnMut(GroupId, &Group) -> bool) {
        let mut chain = |head: GroupId| {
            let mut at = Some(head);
            while let Some(id) = at {
                let group = self.group(id);
                let other_key =
                    group.key.interval.end == End::Single && group.key.interval.key != key;
                if !other_key && !hit(id, group) {
                    return false;
                }
                at = group.next;
            }
            true
        };
        if let Some(head) = self.singles.get(&self.hash(key))
            && !chain(*head)
        {
            return;
        }
        self.ranges.stab(key, &mut chain);
    }

    /// Whether anybody watches `key`.
    pub(super) fn contains(&self, key: &[u8]) -> bool {
        let mut found = false;
        self.matching(key, |_, _| {
            found = true;
            false
        });
        found
    }

    fn find(&mut self, key: &GroupKey) -> Option<GroupId> {
        let mut at = self.head_mut(&key.interval).copied();
        while let Some(id) = at {
            let group = self.group(id);
            if *group.key == *key {
                return Some(id);
            }
            at = group.next;
        }
        None
    }

    fn drop_group(&mut self, id: GroupId) {
        let group = self.slots[id.index()]
            .take()
            .expect("a group is dropped once");
        self.free.push(id);
        let interval = &group.key.interval;
        let head = *self
            .head_mut(interval)
            .expect("a living group is in the index");
        if head != id {
            self.unchain(head, id, group.next);
            return;
        }
        match group.next {
            Some(next) => *self.head_mut(interval).expect("seen above") = next,
            None => self.remove_head(interval),
        }
    }

    /// Takes `id` out of the chain that begins at `head`, where it is not the first.
    fn unchain(&mut self, head: GroupId, id: GroupId, next: Option<GroupId>) {
        let mut at = head;
        loop {
            let group = self.slots[at.index()]
                .as_mut()
                .expect("a chain holds living groups");
            if group.next == Some(id) {
                group.next = next;
                return;
            }
            at = group
                .next
                .expect("a living group is in the chain of its interval");
        }
    }

    fn hash(&self, key: &[u8]) -> u64 {
        #[cfg(test)]
        if self.one_hash {
            return 0;
        }
        self.hasher.hash_one(key)
    }

    fn head_mut(&mut self, interval: &Interval) -> Option<&mut GroupId> {
        match &interval.end {
            End::Single => {
                let hash = self.hash(&interval.key);
                self.singles.get_mut(&hash)
            }
            End::From => self.ranges.get_mut(&interval.key, None),
            End::Before(end) => self.ranges.get_mut(&interval.key, Some(end)),
        }
    }

    fn insert_head(&mut self, interval: &Interval, id: GroupId) {
        match &interval.end {
            End::Single => {
                let hash = self.hash(&interval.key);
                self.singles.insert(hash, id);
            }
            End::From => self.ranges.insert(interval.key.clone(), None, id),
            End::Before(end) => {
                self.ranges
                    .insert(interval.key.clone(), Some(end.clone()), id);
            }
        }
    }

    fn remove_head(&mut self, interval: &Interval) {
        match &interval.end {
            End::Single => {
                let hash = self.hash(&interval.key);
                self.singles.remove(&hash);
            }
            End::From => self.ranges.remove(&interval.key, None),
            End::Before(end) => self.ranges.remove(&interval.key, Some(end)),
        }
    }
}

impl Members {
    fn new(stream: StreamId, ids: Recipients) -> Self {
        match ids {
            Recipients::One(id) => Self::One(stream, id),
            Recipients::Many(ids) => Self::Many(BTreeMap::from([(stream, ids)])),
        }
    }

    /// The members, stream by stream.
    pub(super) fn for_each(&self, mut visit: impl FnMut(StreamId, Recipients)) {
        match self {
            Self::One(stream, id) => visit(*stream, Recipients::One(*id)),
            Self::Many(streams) => {
                for (stream, ids) in streams {
                    visit(*stream, Recipients::Many(Arc::clone(ids)));
                }
            }
        }
    }

    fn is_empty(&self) -> bool {
        matches!(self, Self::Many(streams) if streams.is_empty())
    }

    fn add(&mut self, stream: StreamId, ids: Recipients) {
        if let Self::One(other, id) = self {
            *self = Self::Many(BTreeMap::from([(*other, Arc::new(vec![*id]))]));
        }
        let Self::Many(streams) = self else {
            unreachable!("made to be Many above")
        };
        let Some(present) = streams.get_mut(&stream) else {
            streams.insert(stream, ids.into_shared());
            return;
        };
        let present = Arc::make_mut(present);
        for id in ids.iter() {
            match present.binary_search(&id) {
                Ok(_) => unreachable!("watcher {id} of {stream:?} joined a group twice"),
                Err(at) => present.insert(at, id),
            }
        }
    }

    fn remove(&mut self, stream: StreamId, id: WatchId) -> bool {
        match self {
            Self::One(other, only) if *other == stream && *only == id => {
                *self = Self::Many(BTreeMap::new());
                true
            }
            Self::One(..) => false,
            Self::Many(streams) => {
                let Some(ids) = streams.get_mut(&stream) else {
                    return false;
                };
                let Ok(at) = ids.binary_search(&id) else {
                    return false;
                };
                if ids.len() == 1 {
                    streams.remove(&stream);
                } else {
                    Arc::make_mut(ids).remove(at);
                }
                true
            }
        }
    }

    fn take_stream(&mut self, stream: StreamId) -> Option<Recipients> {
        match self {
            Self::One(other, id) if *other == stream => {
                let id = *id;
                *self = Self::Many(BTreeMap::new());
                Some(Recipients::One(id))
            }
            Self::One(..) => None,
            Self::Many(streams) => streams.remove(&stream).map(Recipients::Many),
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;

    fn key(interval: u8, prev_kv: bool) -> GroupKey {
        let name = Bytes::copy_from_slice(&[b'a' + interval / 3]);
        let end = match interval % 3 {
            0 => End::Single,
            1 => End::From,
            _ => End::Before(Bytes::from_static(b"c")),
        };
        let options = WatchOptions {
            prev_kv,
            ..WatchOptions::default()
        };
        GroupKey {
            interval: Interval { key: name, end },
            options,
        }
    }

    fn step() -> impl Strategy<Value = (u8, u8, bool, u64, i64)> {
        (0u8..6, 0u8..9, any::<bool>(), 0u64..3, 0i64..4)
    }

    proptest! {
        #[test]
        fn groups_answer_like_a_plain_list(
            one_hash in any::<bool>(),
            steps in proptest::collection::vec(step(), 1..100)
        ) {
            let mut groups = Groups::new();
            groups.one_hash = one_hash;
            let mut list: Vec<(GroupKey, StreamId, WatchId)> = Vec::new();
            for (verb, interval, prev_kv, stream, id) in steps {
                let (stream, id) = (StreamId(stream), WatchId::new(id));
                let watcher = (key(interval, prev_kv), stream, id);
                let known = list.iter().position(|other| *other == watcher);
                match (verb, known) {
                    (0..=3, None) => {
                        let key = groups.share(key(interval, prev_kv));
                        groups.add(&key, stream, Recipients::One(id));
                        list.push(watcher);
                    }
                    (4, _) => {
                        prop_assert_eq!(groups.remove(&watcher.0, stream, id), known.is_some());
                        list.retain(|other| *other != watcher);
                    }
                    (5, _) => {
                        let taken = groups.take_stream(&watcher.0, stream);
                        let count = taken.map_or(0, |taken| taken.len());
                        let before = list.len();
                        list.retain(|other| other.0 != watcher.0 || other.1 != stream);
                        prop_assert_eq!(count, before - list.len());
                    }
                    _ => {}
                }
                prop_assert_eq!(groups.is_empty(), list.is_empty());
                check(&groups, &list)?;
            }
        }
    }

    fn check(groups: &Groups, list: &[(GroupKey, StreamId, WatchId)]) -> Result<(), TestCaseError> {
        for name in [b"a", b"b", b"c", b"d"] {
            let mut found = Vec::new();
            groups.matching(name, |_, group| {
                group.members.for_each(|stream, ids| {
                    found.extend(ids.iter().map(|id| (Arc::clone(&group.key), stream, id)));
                });
                true
            });
            let expected = list.iter().filter(|(key, ..)| key.interval.contains(name));
            prop_assert_eq!(found.len(), expected.clone().count());
            for (key, stream, id) in expected {
                let present = found
                    .iter()
                    .any(|(other, on, watcher)| **other == *key && on == stream && watcher == id);
                prop_assert!(present);
            }
            prop_assert_eq!(groups.contains(name), !found.is_empty());
        }
        Ok(())
    }
}
