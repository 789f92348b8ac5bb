//! Which watchers of a stream want to hear of progress now and then, and are due for it.

use std::collections::HashMap;

use crate::ids::WatchId;

/// Watchers with `progress_notify`. At each tick, those that got no events since the last one are
/// told how far they are.
#[derive(Debug, Default)]
pub(super) struct ProgressMarks {
    /// Whether the watcher has been quiet since the last tick; a new one counts as quiet.
    quiet: HashMap<WatchId, bool>,
}

impl ProgressMarks {
    pub(super) fn is_empty(&self) -> bool {
        self.quiet.is_empty()
    }

    pub(super) fn add(&mut self, id: WatchId) {
        self.quiet.insert(id, true);
    }

    pub(super) fn remove(&mut self, id: WatchId) {
        self.quiet.remove(&id);
    }

    /// Notes that a watcher got events.
    pub(super) fn got_events(&mut self, id: WatchId) {
        if let Some(quiet) = self.quiet.get_mut(&id) {
            *quiet = false;
        }
    }

    /// Ends the interval: gives the watchers that were quiet, and begins the next.
    pub(super) fn tick(&mut self) -> Vec<WatchId> {
        let quiet = self
            .quiet
            .iter()
            .filter(|(_, quiet)| **quiet)
            .map(|(id, _)| *id)
            .collect();
        self.quiet.values_mut().for_each(|quiet| *quiet = true);
        quiet
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watcher_that_got_events_is_left_out_once() {
        let (busy, idle) = (WatchId::new(1), WatchId::new(2));
        let mut marks = ProgressMarks::default();
        marks.add(busy);
        marks.add(idle);
        marks.got_events(busy);
        marks.got_events(WatchId::new(3));
        assert_eq!(marks.tick(), [idle]);
        let mut both = marks.tick();
        both.sort_unstable();
        assert_eq!(both, [busy, idle]);
        marks.remove(busy);
        assert_eq!(marks.tick(), [idle]);
    }
}
