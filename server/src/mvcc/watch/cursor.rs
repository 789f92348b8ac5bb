//! Watchers that are behind: cohorts with a cursor, and the passes that move them forward.
//!
//! A pass takes the cohort with the lowest cursor out of its stream, reads history for it (from the
//! revisions still in memory, else from disk without any lock), delivers what matches, and puts the
//! cohort back at the revision where it stopped. There it meets the next cohort, or becomes synced
//! if that revision is the next one to be published: the comparison and the change of place happen
//! under the same lock as the fan-out, so nothing is missed or seen twice.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    core::{Core, Place, StreamState},
    delivery::{Delivery, Recipients, StreamId},
    fanout::{Gather, Pending},
    feed::Feed,
    group::{GroupId, GroupKey, Groups},
};
use crate::{
    ids::{Revision, WatchId},
    mvcc::RevisionEvents,
    planted::{Bug, is_planted},
};

/// Whether a stream has a catch-up pass under way. One at a time.
pub(super) enum Turn {
    /// None; or the next one waits for room in the mailbox.
    Idle,
    /// Announced in `Core::due`.
    Queued,
    /// A cohort is out with its reader.
    Running {
        /// Watchers of that cohort which were cancelled meanwhile.
        canceled: Vec<(Arc<GroupKey>, WatchId)>,
    },
}

/// A read of history to be done for a cohort.
pub(super) struct Pass {
    pub(super) stream: StreamId,
    pub(super) cohort: Groups,
    /// First revision to read.
    pub(super) from: Revision,
    /// Where to stop at the latest, exclusive; above `from`.
    pub(super) to: Revision,
    /// Revision of the hub when the pass began: the one its responses carry.
    pub(super) revision: Revision,
}

/// What a read of history gave.
pub(super) enum History {
    /// Events of the cohort's keys in `[from, next)`.
    Read {
        /// By revision, each one whole; revisions without such events are left out.
        events: Vec<RevisionEvents>,
        /// Where the read stopped, exclusive; above `from`, at most the pass's `to`.
        next: Revision,
    },
    /// `from` has been compacted away.
    Compacted(Revision),
}

impl Core {
    /// Queues a pass for the stream if it has watchers behind and room for what they will get.
    pub(super) fn schedule(&mut self, stream_id: StreamId) {
        let Some(stream) = self.streams.get_mut(&stream_id) else {
            return;
        };
        if matches!(stream.turn, Turn::Idle)
            && !stream.cohorts.is_empty()
            && stream.mailbox.ask_room()
        {
            stream.turn = Turn::Queued;
            self.due.push(stream_id);
        }
    }

    /// Begins the pass that was queued for the stream; `compacted` is the store's compact revision.
    /// Gives what has to be read from disk, if anything.
    pub(super) fn begin_pass(&mut self, stream_id: StreamId, compacted: Revision) -> Option<Pass> {
        let stream = self.streams.get_mut(&stream_id)?;
        assert!(
            matches!(stream.turn, Turn::Queued),
            "a pass begins when it was queued"
        );
        stream.turn = Turn::Idle;
        let (from, cohort) = stream.cohorts.pop_first()?;
        assert!(
            from <= self.revision,
            "cohort at {from}, the hub at {}",
            self.revision
        );
        if from < compacted {
            stream.compacted(&cohort, stream_id, compacted);
            self.schedule(stream_id);
            return None;
        }
        // Of the compact revision itself, the pairs before it are gone in etcd; only the history
        // knows that.
        let recent = (from > compacted).then(|| self.recent.since(from));
        let Some(recent) = recent.flatten() else {
            stream.turn = Turn::Running {
                canceled: Vec::new(),
            };
            let next_cohort = stream.cohorts.first_key_value().map(|(cursor, _)| *cursor);
            let end = self.revision.next();
            let to = next_cohort.map_or(end, |cursor| cursor.min(end));
            return Some(Pass {
                stream: stream_id,
                cohort,
                from,
                to,
                revision: self.revision,
            });
        };
        let mut gather = Gather::default();
        let mut next = from;
        for feed in recent.take(RECENT_REVISIONS_PER_PASS) {
            gather.add(&cohort, feed);
            next = feed.revision.next();
            if gather.is_full() {
                break;
            }
        }
        stream.deliver_history(&cohort, gather.take(), self.revision);
        self.put_back(stream_id, cohort, next);
        None
    }

    /// Ends a pass with what was read for it.
    pub(super) fn end_pass(&mut self, pass: Pass, history: History) {
        let Pass {
            stream: stream_id,
            mut cohort,
            from,
            to,
            revision,
        } = pass;
        let Some(stream) = self.streams.get_mut(&stream_id) else {
            return;
        };
        let turn = std::mem::replace(&mut stream.turn, Turn::Idle);
        let Turn::Running { canceled } = turn else {
            unreachable!("a pass ends once")
        };
        for (key, id) in canceled {
            let removed = cohort.remove(&key, stream_id, id);
            assert!(
                removed,
                "canceled watcher {id} of {stream_id:?} is in no cohort"
            );
        }
        match history {
            History::Read { events, next } => {
                assert!(
                    from < next && next <= to,
                    "read to {next} of [{from}, {to})"
                );
                let mut gather = Gather::default();
                for events in events {
                    gather.add(&cohort, &Feed::new(events));
                }
                stream.deliver_history(&cohort, gather.take(), revision);
                self.put_back(stream_id, cohort, next);
            }
            History::Compacted(compacted) => {
                stream.compacted(&cohort, stream_id, compacted);
                self.schedule(stream_id);
            }
        }
    }

    /// Puts a cohort where its new cursor belongs.
    fn put_back(&mut self, stream_id: StreamId, cohort: Groups, cursor: Revision) {
        let stream = self
            .streams
            .get_mut(&stream_id)
            .expect("its cohort is at hand");
        let is_early = is_planted(Bug::WatcherSkips) && cursor == self.revision;
        if cursor == self.revision.next() || is_early {
            for group in cohort.iter() {
                group.members.for_each(|_, watchers| {
                    stream.unsynced -= watchers.len();
                    stream.put(&watchers, Place::Synced);
                    self.synced.add(&group.key, stream_id, watchers);
                });
            }
        } else if !cohort.is_empty() {
            stream.meet(cursor, cohort, stream_id);
        }
        self.schedule(stream_id);
    }
}

impl StreamState {
    /// Adds watchers to the cohort at a cursor.
    pub(super) fn behind(
        &mut self,
        cursor: Revision,
        key: &Arc<GroupKey>,
        stream_id: StreamId,
        watchers: Recipients,
    ) {
        self.cohorts
            .entry(cursor)
            .or_insert_with(Groups::new)
            .add(key, stream_id, watchers);
    }

    /// Puts a cohort at a cursor. If there is one already, the smaller joins the larger: many small
    /// ones met one after the other must not cost their sum each time.
    fn meet(&mut self, cursor: Revision, mut cohort: Groups, stream_id: StreamId) {
        if let Some(mut other) = self.cohorts.remove(&cursor) {
            if other.len() > cohort.len() {
                std::mem::swap(&mut cohort, &mut other);
            }
            for group in other.iter() {
                group
                    .members
                    .for_each(|_, watchers| cohort.add(&group.key, stream_id, watchers));
            }
        }
        self.cohorts.insert(cursor, cohort);
    }

    /// Takes a cancelled watcher out of its cohort, wherever that is.
    pub(super) fn leave_cohort(&mut self, key: &Arc<GroupKey>, stream_id: StreamId, id: WatchId) {
        let found = self.cohorts.iter_mut().find_map(|(cursor, cohort)| {
            cohort
                .remove(key, stream_id, id)
                .then_some((*cursor, cohort.is_empty()))
        });
        match found {
            Some((cursor, true)) => {
                self.cohorts.remove(&cursor);
            }
            Some((_, false)) => {}
            None => match &mut self.turn {
                Turn::Running { canceled } => canceled.push((Arc::clone(key), id)),
                _ => unreachable!("watcher {id} of {stream_id:?} is behind in no cohort"),
            },
        }
    }

    fn deliver_history(
        &mut self,
        cohort: &Groups,
        gathered: BTreeMap<GroupId, Pending>,
        revision: Revision,
    ) {
        for (id, Pending { mut events, .. }) in gathered {
            if is_planted(Bug::WatcherRepeats) {
                events.extend(events.last().cloned());
            }
            let group = cohort.group(id);
            let events = Arc::new(events);
            group.members.for_each(|_, watchers| {
                self.mailbox.push(Delivery::Events {
                    watchers,
                    options: group.key.options,
                    revision,
                    events: Arc::clone(&events),
                });
            });
        }
    }

    /// Tells a cohort that its cursor is gone.
    fn compacted(&mut self, cohort: &Groups, stream_id: StreamId, compacted: Revision) {
        for group in cohort.iter() {
            group.members.for_each(|stream, watchers| {
                assert_eq!(stream, stream_id, "a cohort belongs to one stream");
                self.put(&watchers, Place::Compacted);
                self.mailbox.push(Delivery::Compacted {
                    watchers,
                    compact_revision: compacted,
                });
            });
        }
    }
}

/// Bounds how long a pass over recent revisions holds the hub's lock.
const RECENT_REVISIONS_PER_PASS: usize = 64;
