//! Checkpoints: how much time leases have left, told to all members now and then.
//!
//! Without them a new leader gives every lease its full time anew, so that a lease of a day may
//! live for many days through a series of elections. With them it counts from what was left. etcd
//! has this behind the feature gate `LeaseCheckpoint`; entries of it are applied with or without
//! the gate.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use super::queue::{Bucket, ExpiryQueue};
use super::table::micros;
use crate::ids::LeaseId;
use crate::planted::{Bug, is_planted};

/// How often a lease is checkpointed, and how long one must live at least to be: etcd's five
/// minutes.
pub(super) const CHECKPOINT_INTERVAL: Duration = Duration::from_secs(300);

/// What the log says is left of leases, and on a leader with the gate when to say it next.
#[derive(Debug, Default)]
pub(super) struct Checkpoints {
    /// Seconds left by the last checkpoint; almost no lease has one. Invariant: each is positive.
    last: HashMap<LeaseId, i64>,
    /// Checkpoints of this leadership that are on their way into the log.
    pending: HashSet<LeaseId>,
    /// While checkpoints are made: an entry for each lease that lives long enough, and stale ones.
    due: Option<ExpiryQueue>,
}

impl Checkpoints {
    /// From now on checkpoints are made, while this member leads.
    pub(super) fn enable(&mut self) {
        self.due.get_or_insert_default();
    }

    /// Notes what a checkpoint says; 0 takes the last one back, but not one that is still on its
    /// way and may come behind this.
    pub(super) fn note(&mut self, id: LeaseId, remaining: i64) {
        if remaining > 0 {
            self.pending.remove(&id);
            self.last.insert(id, remaining);
        } else {
            self.last.remove(&id);
        }
    }

    /// A checkpoint goes into the log.
    pub(super) fn told(&mut self, id: LeaseId) {
        if !is_planted(Bug::RenewUnderCheckpoint) {
            self.pending.insert(id);
        }
    }

    /// It does not, or counts for nothing there.
    pub(super) fn untold(&mut self, id: LeaseId) {
        self.pending.remove(&id);
    }

    /// Whether a checkpoint stands, or is on its way: a renewal has to be behind it in the log, or
    /// a later leader would count from what was left before.
    pub(super) fn stands(&self, id: LeaseId) -> bool {
        let is_pending = !self.pending.is_empty() && self.pending.contains(&id);
        is_pending || self.last(id).is_some()
    }

    /// What the last checkpoint left of a lease, in seconds.
    pub(super) fn last(&self, id: LeaseId) -> Option<i64> {
        // Every keep-alive asks, and almost always there is none at all.
        if self.last.is_empty() {
            return None;
        }
        self.last.get(&id).copied()
    }

    /// The lease is gone.
    pub(super) fn forget(&mut self, id: LeaseId) {
        self.last.remove(&id);
        self.pending.remove(&id);
    }

    /// Forgets what the checkpoints of all leases say.
    pub(super) fn forget_all(&mut self) {
        self.last.clear();
    }

    /// The lease has a deadline from now on, at `now` (microseconds).
    pub(super) fn schedule(&mut self, id: LeaseId, ttl: i64, now: u64) {
        if let Some(due) = &mut self.due
            && ttl > CHECKPOINT_INTERVAL.as_secs().cast_signed()
        {
            let next = now.saturating_add(micros(CHECKPOINT_INTERVAL));
            due.push(Bucket::of(next), id);
        }
    }

    /// No lease has a deadline any more.
    pub(super) fn clear_schedule(&mut self) {
        self.pending.clear();
        if let Some(due) = &mut self.due {
            due.clear();
        }
    }

    /// Takes one lease whose checkpoint is due at `now` (microseconds) off the schedule. It may be
    /// gone by now.
    pub(super) fn pop_due(&mut self, now: u64) -> Option<LeaseId> {
        let (_, id) = self.due.as_mut()?.pop_due(now)?;
        Some(id)
    }

    /// Keeps one entry for each lease that `lives`, when more than `max` have piled up: an id that
    /// is granted and revoked again and again leaves an entry each time.
    pub(super) fn drop_stale(&mut self, max: usize, lives: impl Fn(LeaseId) -> bool) {
        if let Some(due) = &mut self.due
            && due.len() > max
        {
            let mut seen = HashSet::new();
            due.retain(|id| lives(id) && seen.insert(id));
        }
    }
}
