//! From published revisions to the mailboxes of the watchers that are in step with them.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;

use super::{
    core::{Core, Place, StreamState},
    delivery::{Delivery, Recipients, StreamId},
    feed::Feed,
    group::{GroupId, GroupKey, Groups},
};
use crate::{
    ids::{Revision, WatchId},
    mvcc::RevisionEvents,
};

/// Events on their way to groups, put together over several revisions.
#[derive(Default)]
pub(super) struct Gather {
    /// In order of group, so that equal input gives equal output.
    pending: BTreeMap<GroupId, Pending>,
    bytes: usize,
}

pub(super) struct Pending {
    /// Revision of the first event.
    pub(super) first: Revision,
    pub(super) events: Vec<Bytes>,
}

impl Gather {
    /// Adds the events of one revision for the groups that watch their keys.
    pub(super) fn add(&mut self, groups: &Groups, feed: &Feed) {
        for event in &feed.events {
            groups.matching(&event.key, |id, group| {
                if let Some(encoded) = event.encoded(group.key.options) {
                    self.bytes += encoded.len();
                    let fresh = || Pending {
                        first: feed.revision,
                        events: Vec::new(),
                    };
                    self.pending
                        .entry(id)
                        .or_insert_with(fresh)
                        .events
                        .push(encoded);
                }
                true
            });
        }
    }

    /// Whether what has been put together is enough for one response each.
    pub(super) fn is_full(&self) -> bool {
        self.bytes >= GATHER_BYTES
    }

    /// Gives what has been put together.
    pub(super) fn take(&mut self) -> BTreeMap<GroupId, Pending> {
        self.bytes = 0;
        std::mem::take(&mut self.pending)
    }
}

impl Core {
    /// Fans out newly published revisions.
    pub(super) fn notify(&mut self, revisions: Vec<RevisionEvents>) {
        let mut gather = Gather::default();
        for events in revisions {
            let revision = events.revision;
            if revision <= self.revision {
                // The first watcher came between publishing and this call, and saw it published.
                continue;
            }
            assert_eq!(
                self.revision.next(),
                revision,
                "revisions are fanned out without gaps"
            );
            if self
                .waiting
                .first()
                .is_some_and(|(start, ..)| *start <= revision)
            {
                self.deliver(&mut gather);
                self.join_waiting(revision);
            }
            let feed = Feed::new(events);
            if feed.lacks_previous {
                self.deliver(&mut gather);
                self.leave_to_history(&feed);
            }
            gather.add(&self.synced, &feed);
            self.revision = revision;
            self.recent.push(feed);
            if gather.is_full() {
                self.deliver(&mut gather);
            }
        }
        self.deliver(&mut gather);
    }

    /// Makes the watchers synced whose start revision is the next one.
    fn join_waiting(&mut self, revision: Revision) {
        while let Some((start, stream_id, id)) = self.waiting.first().copied()
            && start <= revision
        {
            self.waiting.pop_first();
            let stream = self
                .streams
                .get_mut(&stream_id)
                .expect("closing clears `waiting`");
            let watcher = stream
                .watchers
                .get_mut(&id)
                .expect("cancelling clears `waiting`");
            watcher.place = Place::Synced;
            stream.unsynced -= 1;
            self.synced
                .add(&watcher.key, stream_id, Recipients::One(id));
        }
    }

    /// Hands over what was gathered for synced watchers. Where a mailbox is full, the watchers of
    /// that stream get a cursor at the first event they missed.
    fn deliver(&mut self, gather: &mut Gather) {
        let mut refused: Vec<(Arc<GroupKey>, StreamId, Revision)> = Vec::new();
        for (id, pending) in gather.take() {
            let Pending { first, events } = pending;
            let events = Arc::new(events);
            let group = self.synced.group(id);
            group.members.for_each(|stream_id, watchers| {
                let stream = self
                    .streams
                    .get(&stream_id)
                    .expect("closing clears the groups");
                let delivery = Delivery::Events {
                    watchers,
                    options: group.key.options,
                    revision: self.revision,
                    events: Arc::clone(&events),
                };
                if !stream.mailbox.offer(delivery) {
                    refused.push((Arc::clone(&group.key), stream_id, first));
                }
            });
        }
        self.fall_behind(refused);
    }

    /// Makes the watchers behind that want the previous pairs of a revision which came without
    /// them: history has them.
    fn leave_to_history(&mut self, feed: &Feed) {
        let mut left = BTreeMap::new();
        for event in &feed.events {
            self.synced.matching(&event.key, |id, group| {
                if group.key.options.prev_kv {
                    left.entry(id).or_insert_with(|| {
                        let mut streams = Vec::new();
                        group.members.for_each(|stream_id, _watchers| {
                            streams.push((Arc::clone(&group.key), stream_id, feed.revision));
                        });
                        streams
                    });
                }
                true
            });
        }
        self.fall_behind(left.into_values().flatten());
    }

    /// Gives the synced watchers of a group on a stream a cursor at the first revision they missed.
    fn fall_behind(
        &mut self,
        watchers: impl IntoIterator<Item = (Arc<GroupKey>, StreamId, Revision)>,
    ) {
        for (key, stream_id, first) in watchers {
            let watchers = self
                .synced
                .take_stream(&key, stream_id)
                .expect("seen in the groups just now");
            let stream = self
                .streams
                .get_mut(&stream_id)
                .expect("closing clears the groups");
            stream.unsynced += watchers.len();
            stream.put(&watchers, Place::Behind);
            stream.behind(first, &key, stream_id, watchers);
            self.schedule(stream_id);
        }
    }
}

impl StreamState {
    /// Notes the place of watchers of this stream.
    pub(super) fn put(&mut self, watchers: &Recipients, place: Place) {
        for id in watchers.iter() {
            self.watcher_mut(id).place = place;
        }
    }

    fn watcher_mut(&mut self, id: WatchId) -> &mut super::core::Watcher {
        self.watchers
            .get_mut(&id)
            .expect("groups and cohorts name living watchers")
    }
}

/// Revisions of one round are put together up to this size: fewer responses under load, and none
/// much larger than the largest event.
const GATHER_BYTES: usize = 16 << 10;
