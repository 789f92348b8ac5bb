//! Watchers by what they watch: those with the same range and options form one group, so that an
//! event is matched and encoded once for all of them.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use bytes::Bytes;

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
pub(super) struct GroupId(usize);

/// A set of watchers, found by the keys they watch.
pub(super) struct Groups {
    slots: Vec<Option<Group>>,
    free: Vec<GroupId>,
    /// First group of those that watch one key; the others hang on `Group::next`.
    singles: HashMap<Bytes, GroupId>,
    /// The same for ranges.
    ranges: RangeTree<GroupId>,
}

pub(super) struct Group {
    pub(super) key: Arc<GroupKey>,
    /// Invariant: not empty, since a group goes away with its last member.
    pub(super) members: Members,
    /// Next group with the same interval and other options.
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
        self.slots[id.0]
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
            let group = self.slots[id.0]
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
                self.slots[id.0] = Some(group);
                id
            }
            None => {
                self.slots.push(Some(group));
                GroupId(self.slots.len() - 1)
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
        let group = self.slots[id.0]
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
        let group = self.slots[id.0]
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
                if !hit(id, group) {
                    return false;
                }
                at = group.next;
            }
            true
        };
        if let Some(head) = self.singles.get(key)
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
            if group.key.options == key.options {
                return Some(id);
            }
            at = group.next;
        }
        None
    }

    fn drop_group(&mut self, id: GroupId) {
        let group = self.slots[id.0].take().expect("a group is dropped once");
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
            let group = self.slots[at.0]
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

    fn head_mut(&mut self, interval: &Interval) -> Option<&mut GroupId> {
        match &interval.end {
            End::Single => self.singles.get_mut(&interval.key),
            End::From => self.ranges.get_mut(&interval.key, None),
            End::Before(end) => self.ranges.get_mut(&interval.key, Some(end)),
        }
    }

    fn insert_head(&mut self, interval: &Interval, id: GroupId) {
        let key = interval.key.clone();
        match &interval.end {
            End::Single => {
                self.singles.insert(key, id);
            }
            End::From => self.ranges.insert(key, None, id),
            End::Before(end) => self.ranges.insert(key, Some(end.clone()), id),
        }
    }

    fn remove_head(&mut self, interval: &Interval) {
        match &interval.end {
            End::Single => {
                self.singles.remove(&interval.key);
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
