//! The hub's state and rules: values in, values out. No thread, clock, lock or disk.
//!
//! A watcher is in one of four places:
//!
//! * *synced*: it has been given everything up to the hub's revision. All synced watchers share
//!   that one cursor, so they have none of their own.
//! * *waiting*: its start is beyond the next revision; it becomes synced when that is published.
//! * *behind*: it has a cursor, the next revision it needs. Watchers of a stream with the same
//!   cursor form a cohort (`cursor.rs`), which reads history until it reaches the hub's revision.
//! * *compacted*: its cursor was compacted away. It gets nothing more, yet keeps its id until the
//!   client cancels it, as in etcd.
//!
//! Everything a client is to see goes through the mailbox of its stream, in order; so created comes
//! before events, and progress never overtakes them.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use super::{
    cursor::Turn,
    delivery::{Delivery, Recipients, StreamEnd, StreamId, WatchOptions, WatchRefused},
    group::{GroupKey, Groups},
    mailbox::Mailbox,
    recent::Recent,
};
use crate::{
    ids::{Revision, WatchId},
    mvcc::{End, Interval},
    planted::{Bug, is_planted},
};

/// What a client asks for when it creates a watcher.
#[derive(Clone, Debug)]
pub struct WatchRequest {
    /// The id the client wants; `None` to have one chosen.
    pub id: Option<WatchId>,
    /// Keys to watch. The hub keeps it: its bytes should not be slices of larger buffers.
    pub interval: Interval,
    /// First revision to deliver; 0 for the one after the current.
    pub start: i64,
    /// How it wants its events.
    pub options: WatchOptions,
}

/// All watchers of this member.
pub(super) struct Core {
    /// Last revision that was fanned out. Invariant: what is published later comes in through
    /// `notify`, revision by revision, while there are watchers.
    pub(super) revision: Revision,
    /// Invariant: holds exactly the watchers in `Place::Synced`.
    pub(super) synced: Groups,
    /// Invariant: holds exactly the watchers in `Place::Waiting`, by start, which is above
    /// `revision`.
    pub(super) waiting: BTreeSet<(Revision, StreamId, WatchId)>,
    pub(super) streams: HashMap<StreamId, StreamState>,
    /// The last revisions up to `revision`, for cursors that are only a little behind.
    pub(super) recent: Recent,
    /// Streams to run a catch-up pass for; whoever calls takes them.
    pub(super) due: Vec<StreamId>,
    /// Invariant: how many watchers all streams have.
    watchers: usize,
    next_stream: u64,
    end: Option<StreamEnd>,
}

pub(super) struct StreamState {
    pub(super) mailbox: Arc<Mailbox>,
    pub(super) watchers: HashMap<WatchId, Watcher>,
    /// Invariant: how many of `watchers` are not synced.
    pub(super) unsynced: usize,
    /// Invariant: no watcher has a higher start.
    start_max: Revision,
    /// Next id to try when the client leaves the choice to us.
    next_id: WatchId,
    /// Watchers that are behind, by cursor, except those of a running pass.
    pub(super) cohorts: BTreeMap<Revision, Groups>,
    pub(super) turn: Turn,
}

pub(super) struct Watcher {
    pub(super) key: Arc<GroupKey>,
    /// Start revision; 0 if the client gave none.
    start: Revision,
    pub(super) place: Place,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Synced,
    Waiting,
    Behind,
    Compacted,
}

impl Core {
    pub(super) fn new() -> Self {
        Self {
            revision: Revision::default(),
            synced: Groups::new(),
            waiting: BTreeSet::new(),
            streams: HashMap::new(),
            recent: Recent::new(),
            due: Vec::new(),
            watchers: 0,
            next_stream: 0,
            end: None,
        }
    }

    /// How many watchers there are.
    pub(super) fn watchers(&self) -> usize {
        self.watchers
    }

    /// Takes up the store's revision. Only while there are no watchers: revisions in between are
    /// not fanned out.
    pub(super) fn restart_at(&mut self, revision: Revision) {
        assert_eq!(
            self.watchers, 0,
            "the hub restarts at {revision} with watchers"
        );
        assert!(
            self.revision <= revision,
            "from {} back to {revision}",
            self.revision
        );
        self.revision = revision;
        self.recent.clear();
    }

    /// Opens a stream without watchers.
    pub(super) fn open(&mut self) -> (StreamId, Arc<Mailbox>) {
        let id = StreamId(self.next_stream);
        self.next_stream += 1;
        let mailbox = Arc::new(Mailbox::new());
        if let Some(end) = self.end {
            mailbox.end(end);
        }
        let stream = StreamState {
            mailbox: Arc::clone(&mailbox),
            watchers: HashMap::new(),
            unsynced: 0,
            start_max: Revision::default(),
            next_id: WatchId::new(0),
            cohorts: BTreeMap::new(),
            turn: Turn::Idle,
        };
        self.streams.insert(id, stream);
        (id, mailbox)
    }

    /// Ends all streams, also those opened later.
    pub(super) fn end(&mut self, end: StreamEnd) {
        let end = *self.end.get_or_insert(end);
        for stream in self.streams.values() {
            stream.mailbox.end(end);
        }
    }

    /// Ends one stream and forgets its watchers.
    pub(super) fn fail(&mut self, stream_id: StreamId, end: StreamEnd) {
        if let Some(stream) = self.streams.get(&stream_id) {
            stream.mailbox.end(end);
        }
        self.close(stream_id);
    }

    /// Creates a watcher and queues the answer.
    pub(super) fn create(&mut self, stream_id: StreamId, request: WatchRequest) {
        let revision = self.revision;
        let Some(stream) = self.streams.get_mut(&stream_id) else {
            return;
        };
        let id = match stream.admit(&request) {
            Ok(id) => id,
            Err(reason) => {
                stream.mailbox.push(Delivery::Refused { reason, revision });
                return;
            }
        };
        let WatchRequest {
            interval,
            start,
            options,
            ..
        } = request;
        let key = self.synced.share(GroupKey { interval, options });
        stream.mailbox.push(Delivery::Created {
            id,
            options,
            revision,
        });
        let start = Revision::new(start);
        let place = match start {
            _ if start.get() == 0 || start == revision.next() => Place::Synced,
            _ if start > revision && is_planted(Bug::FutureWatcherEarly) => Place::Synced,
            _ if start > revision => Place::Waiting,
            _ => Place::Behind,
        };
        match place {
            Place::Synced => self.synced.add(&key, stream_id, Recipients::One(id)),
            Place::Waiting => {
                self.waiting.insert((start, stream_id, id));
            }
            _ => stream.behind(start, &key, stream_id, Recipients::One(id)),
        }
        stream.unsynced += usize::from(place != Place::Synced);
        stream.start_max = stream.start_max.max(start);
        stream.watchers.insert(id, Watcher { key, start, place });
        self.watchers += 1;
        self.schedule(stream_id);
    }

    /// Cancels a watcher on the client's wish and queues the answer; an unknown id has none.
    pub(super) fn cancel(&mut self, stream_id: StreamId, id: WatchId) {
        let revision = self.revision;
        let Some(stream) = self.streams.get_mut(&stream_id) else {
            return;
        };
        let Some(Watcher { key, start, place }) = stream.watchers.remove(&id) else {
            return;
        };
        stream.unsynced -= usize::from(place != Place::Synced);
        self.watchers -= 1;
        match place {
            Place::Synced => {
                let removed = self.synced.remove(&key, stream_id, id);
                assert!(
                    removed,
                    "synced watcher {id} of {stream_id:?} is in no group"
                );
            }
            Place::Waiting => {
                self.waiting.remove(&(start, stream_id, id));
            }
            Place::Behind => stream.leave_cohort(&key, stream_id, id),
            Place::Compacted => {}
        }
        stream.mailbox.push(Delivery::Canceled { id, revision });
    }

    /// Forgets a stream and its watchers.
    pub(super) fn close(&mut self, stream_id: StreamId) {
        let Some(stream) = self.streams.remove(&stream_id) else {
            return;
        };
        self.watchers -= stream.watchers.len();
        for (id, watcher) in stream.watchers {
            match watcher.place {
                // The first of a group takes the others along.
                Place::Synced => drop(self.synced.take_stream(&watcher.key, stream_id)),
                Place::Waiting => {
                    self.waiting.remove(&(watcher.start, stream_id, id));
                }
                Place::Behind | Place::Compacted => {}
            }
        }
    }

    /// Answers a progress request: only if all watchers of the stream are synced and have come to
    /// their start, else not at all.
    pub(super) fn stream_progress(&mut self, stream_id: StreamId) {
        let revision = self.revision;
        let Some(stream) = self.streams.get(&stream_id) else {
            return;
        };
        let waits = stream.unsynced > 0 && !is_planted(Bug::ProgressOvertakes);
        if waits || stream.watchers.is_empty() {
            return;
        }
        let started = |watcher: &Watcher| watcher.start <= revision;
        if stream.start_max <= revision || stream.watchers.values().all(started) {
            stream.mailbox.push(Delivery::StreamProgress { revision });
        }
    }

    /// Tells those of the watchers that are synced and have come to their start how far they are;
    /// skipped while the client does not keep up, since it is about to hear of more than this.
    pub(super) fn progress(&mut self, stream_id: StreamId, ids: impl Iterator<Item = WatchId>) {
        let Some(stream) = self.streams.get(&stream_id) else {
            return;
        };
        let synced = |id: &WatchId| {
            stream.watchers.get(id).is_some_and(|watcher| {
                watcher.place == Place::Synced && watcher.start <= self.revision
            })
        };
        let mut ids: Vec<WatchId> = ids.filter(synced).collect();
        if ids.is_empty() {
            return;
        }
        ids.sort_unstable();
        let watchers = Recipients::Many(Arc::new(ids));
        let _ = stream.mailbox.offer(Delivery::Progress {
            watchers,
            revision: self.revision,
        });
    }
}

impl StreamState {
    /// Checks a request in etcd's order and settles the watcher's id.
    fn admit(&mut self, request: &WatchRequest) -> Result<WatchId, WatchRefused> {
        if request.start < 0 {
            return Err(WatchRefused::NegativeStart);
        }
        if let End::Before(end) = &request.interval.end
            && request.interval.key >= *end
        {
            return Err(WatchRefused::EmptyRange);
        }
        match request.id {
            Some(id) if self.watchers.contains_key(&id) => Err(WatchRefused::DuplicateId),
            Some(id) => Ok(id),
            None => {
                while self.watchers.contains_key(&self.next_id) {
                    self.next_id = self.next_id.next();
                }
                let id = self.next_id;
                self.next_id = id.next();
                Ok(id)
            }
        }
    }
}
