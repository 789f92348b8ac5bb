//! What the hub hands to a stream: one value for all watchers of the stream that it concerns.

use std::sync::Arc;

use bytes::Bytes;

use crate::ids::{Revision, WatchId};

/// Names a stream for as long as the process lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId(pub(super) u64);

/// How a watcher wants its events; fixed when it is created.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct WatchOptions {
    /// Each event carries the pair as it was before.
    pub prev_kv: bool,
    /// No events of puts.
    pub no_put: bool,
    /// No events of deletes.
    pub no_delete: bool,
    /// Large responses are cut; for the stream, the hub only groups by it.
    pub fragment: bool,
    /// Progress is told now and then; for the stream, the hub only groups by it.
    pub progress_notify: bool,
}

/// Watchers of one stream that one delivery is for. Never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Recipients {
    /// A single watcher.
    One(WatchId),
    /// Any number, in order of id.
    Many(Arc<Vec<WatchId>>),
}

impl Recipients {
    /// How many watchers.
    #[expect(clippy::len_without_is_empty, reason = "never empty")]
    pub fn len(&self) -> usize {
        match self {
            Self::One(_) => 1,
            Self::Many(ids) => ids.len(),
        }
    }

    /// The watcher at a position below `len`.
    pub fn get(&self, position: usize) -> Option<WatchId> {
        match self {
            Self::One(id) => (position == 0).then_some(*id),
            Self::Many(ids) => ids.get(position).copied(),
        }
    }

    /// All watchers in order.
    pub fn iter(&self) -> impl Iterator<Item = WatchId> + '_ {
        (0..self.len()).filter_map(|position| self.get(position))
    }

    pub(super) fn into_shared(self) -> Arc<Vec<WatchId>> {
        match self {
            Self::One(id) => Arc::new(vec![id]),
            Self::Many(ids) => ids,
        }
    }
}

/// Why a watcher was not created.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WatchRefused {
    /// The start revision is negative.
    NegativeStart,
    /// The range ends at or before its start.
    EmptyRange,
    /// The stream has a watcher with the asked-for id.
    DuplicateId,
}

/// One step of a stream, in the order in which the client shall see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// A watcher exists from now on; the client sees everything after `revision`, or after its
    /// start revision where it gave one.
    Created {
        /// The watcher.
        id: WatchId,
        /// Its options.
        options: WatchOptions,
        /// Current revision.
        revision: Revision,
    },
    /// A watcher was not created.
    Refused {
        /// Why.
        reason: WatchRefused,
        /// Current revision.
        revision: Revision,
    },
    /// The client's cancel took effect; nothing follows for this watcher.
    Canceled {
        /// The watcher.
        id: WatchId,
        /// Current revision.
        revision: Revision,
    },
    /// The watchers needed revisions that have been compacted away, and get nothing any more.
    Compacted {
        /// Whom it concerns.
        watchers: Recipients,
        /// First revision that can still be watched from.
        compact_revision: Revision,
    },
    /// The watchers have seen everything up to the revision.
    Progress {
        /// Whom it concerns.
        watchers: Recipients,
        /// Last revision they have seen.
        revision: Revision,
    },
    /// All watchers of the stream have seen everything up to the revision.
    StreamProgress {
        /// Last revision they have seen.
        revision: Revision,
    },
    /// Events in order of revision; revisions are whole.
    Events {
        /// Whom it concerns.
        watchers: Recipients,
        /// Their options.
        options: WatchOptions,
        /// Revision of the store when this was put together, not below that of any event.
        revision: Revision,
        /// Encoded `mvccpb.Event`s.
        events: Arc<Vec<Bytes>>,
    },
}

impl Delivery {
    /// What it counts against the bound of a mailbox, in bytes: the shared parts once, however
    /// many watchers there are, and something for the value itself.
    pub(super) fn cost(&self) -> usize {
        match self {
            Self::Events { events, .. } => {
                events
                    .iter()
                    .map(|event| event.len() + DELIVERY_COST)
                    .sum::<usize>()
                    + DELIVERY_COST
            }
            _ => DELIVERY_COST,
        }
    }
}

/// About what a queued delivery, or an event's handle in it, takes beside the event's bytes.
const DELIVERY_COST: usize = 64;

/// Why a stream came to its end from our side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamEnd {
    /// The member stops.
    Stopped,
    /// The history could not be read; the member is about to stop because of it.
    HistoryUnreadable,
}
