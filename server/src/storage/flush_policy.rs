//! When to bring the state to disk: a decision, without a clock or a disk in it.
//!
//! Rows in memory only cost a restart the replay of their entries. Flushing often costs disk
//! writes twice: once now, and again when the many small tables are merged.

use std::time::{Duration, Instant};

use crate::{ids::Index, storage::Unflushed};

/// Decides, each time it is asked, whether a flush is due.
#[derive(Clone, Debug)]
pub struct FlushPolicy {
    /// Longest replay that a restart shall need.
    replay_max: Duration,
    /// Longest time that a change stays in memory only.
    age_max: Duration,
    /// When something was first seen that is not on disk.
    unflushed_since: Option<Instant>,
}

impl Default for FlushPolicy {
    fn default() -> Self {
        Self {
            replay_max: REPLAY_MAX,
            age_max: AGE_MAX,
            unflushed_since: None,
        }
    }
}

impl FlushPolicy {
    /// Whether to flush now. `applied` and `persisted` are the last applied entry in memory and
    /// on disk.
    pub fn is_due(
        &mut self,
        now: Instant,
        applied: Index,
        persisted: Index,
        unflushed: Unflushed,
    ) -> bool {
        if applied <= persisted && unflushed.rows == 0 {
            self.unflushed_since = None;
            return false;
        }
        let since = *self.unflushed_since.get_or_insert(now);
        let entries = applied.get().saturating_sub(persisted.get());
        now.duration_since(since) >= self.age_max
            || replay(entries, unflushed.bytes) >= self.replay_max
    }

    /// Notes a flush that was done.
    pub fn flushed(&mut self) {
        self.unflushed_since = None;
    }
}

/// How long it takes to apply `entries` again that left `bytes` in memory.
fn replay(entries: u64, bytes: u64) -> Duration {
    Duration::from_nanos(
        entries
            .saturating_mul(REPLAY_ENTRY_NS)
            .saturating_add(bytes.saturating_mul(REPLAY_KILOBYTE_NS) >> 10),
    )
}

/// A start after a crash stays under a second with the log's own opening.
const REPLAY_MAX: Duration = Duration::from_millis(500);

/// A quiet member still lets go of its log.
const AGE_MAX: Duration = Duration::from_secs(30);

/// Reading, decoding and applying one small entry.
const REPLAY_ENTRY_NS: u64 = 8_000;

/// The same for its size, at about 400 MB a second.
const REPLAY_KILOBYTE_NS: u64 = 2_500;

#[cfg(test)]
mod tests {
    use super::*;

    fn due(policy: &mut FlushPolicy, now: Instant, entries: u64, megabytes: u64) -> bool {
        let unflushed = Unflushed {
            rows: entries,
            bytes: megabytes << 20,
        };
        policy.is_due(now, Index::new(100 + entries), Index::new(100), unflushed)
    }

    #[test]
    fn a_flush_is_due_by_entries_by_bytes_or_by_age() {
        let start = Instant::now();
        let mut policy = FlushPolicy::default();
        assert!(!due(&mut policy, start, 0, 0));
        assert!(!due(&mut policy, start, 1000, 1));
        assert!(due(&mut policy, start, 63_000, 1));
        assert!(due(&mut policy, start, 1, 250));
        assert!(!due(&mut policy, start + AGE_MAX / 2, 1, 1));
        assert!(due(&mut policy, start + AGE_MAX, 1, 1));
        policy.flushed();
        assert!(!due(&mut policy, start + AGE_MAX, 1, 1));
    }

    #[test]
    fn nothing_unflushed_starts_the_age_anew() {
        let start = Instant::now();
        let mut policy = FlushPolicy::default();
        assert!(!due(&mut policy, start, 1, 1));
        assert!(!due(&mut policy, start + AGE_MAX / 2, 0, 0));
        assert!(!due(&mut policy, start + AGE_MAX, 1, 1));
    }
}
