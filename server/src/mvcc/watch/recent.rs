//! The last revisions in memory, so that a watcher that missed a moment need not read the disk.

use std::collections::VecDeque;

use super::feed::Feed;
use crate::ids::Revision;

/// A bounded run of revisions without gaps, the last of them being the hub's.
pub(super) struct Recent {
    feeds: VecDeque<Feed>,
    /// Invariant: the sum of `Feed::bytes` over `feeds`.
    bytes: usize,
}

impl Recent {
    pub(super) fn new() -> Self {
        Self {
            feeds: VecDeque::new(),
            bytes: 0,
        }
    }

    pub(super) fn clear(&mut self) {
        self.feeds.clear();
        self.bytes = 0;
    }

    /// Adds the next revision and lets the oldest go. One that does not have all that a watcher may
    /// want is for the disk, and so is what was before it.
    pub(super) fn push(&mut self, feed: Feed) {
        if let Some(last) = self.feeds.back() {
            assert_eq!(
                last.revision.next(),
                feed.revision,
                "recent revisions have no gap"
            );
        }
        if feed.lacks_previous {
            self.clear();
            return;
        }
        self.bytes += feed.bytes();
        self.feeds.push_back(feed);
        while self.feeds.len() > RECENT_REVISIONS_MAX || self.bytes > RECENT_BYTES_MAX {
            let Some(oldest) = self.feeds.pop_front() else {
                break;
            };
            self.bytes -= oldest.bytes();
        }
    }

    /// Everything from a revision on, or `None` when it does not reach back that far.
    pub(super) fn since(&self, from: Revision) -> Option<impl Iterator<Item = &Feed>> {
        let first = self.feeds.front()?.revision;
        let skip = usize::try_from(from.get() - first.get()).ok()?;
        (skip < self.feeds.len()).then(|| self.feeds.range(skip..))
    }
}

/// At 20,000 puts a second this is 50 ms: longer than a client that reads is ever late.
const RECENT_REVISIONS_MAX: usize = 1024;

/// What recent events may take altogether.
const RECENT_BYTES_MAX: usize = 2 << 20;
