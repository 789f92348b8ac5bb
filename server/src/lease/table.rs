//! The lease table: pure, takes `now`, decides nothing by itself.
//!
//! Who is leader keeps deadlines ("primary" in etcd's words); on other members a lease is just an
//! id with a time to live. A lease past its deadline is not gone: it stays until its revoke is
//! applied, so that every member deletes its keys at the same revision.

use std::collections::HashMap;
use std::time::Duration;

use super::checkpoint::{CHECKPOINT_INTERVAL, Checkpoints};
use super::queue::{Bucket, ExpiryQueue};
use crate::error::RequestError;
use crate::ids::LeaseId;
use crate::planted::{Bug, is_planted};

/// The longest time to live that etcd grants, in seconds.
pub const MAX_LEASE_TTL: i64 = 9_000_000_000;

/// When an expired lease is offered again if its revoke was not applied: etcd's interval.
const REVOKE_RETRY: Duration = Duration::from_secs(3);

/// Expiries per second that a new leader plans for at most, so that leases which all got their full
/// time anew do not end together. Three quarters of the 20,000 per second that expiry is built for.
const SPREAD_PER_SECOND: usize = 15_000;

/// With fewer stale queue entries than this a rebuild is not worth its walk over the table.
const STALE_ENTRIES_MIN: usize = 4096;

/// Queue entries that one look for expired leases examines at most: it holds the lock of the table,
/// and keep-alives wait for that.
const ENTRIES_PER_CALL: usize = 16 * 1024;

/// Deadline of a lease on a member that does not lead.
const FOREVER: u64 = u64::MAX;

/// Of a lease that is in no bucket.
const NOT_QUEUED: Bucket = Bucket::LAST;

/// One lease; its id is the key in the table, its keys are rows in the store.
#[derive(Clone, Copy, Debug)]
struct Lease {
    /// Granted time to live in seconds.
    ttl: i64,
    /// Microseconds on the table's clock, or `FOREVER`.
    deadline: u64,
    /// Invariant: while primary, exactly one queue entry of this lease lies in this bucket and
    /// counts; entries of it in other buckets are stale.
    queued: Bucket,
}

/// What a keep-alive finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Renewal {
    /// Renewed; the granted time to live in seconds.
    Renewed(i64),
    /// There is no such lease.
    Missing,
    /// Past its deadline and waiting for its revoke: the answer has to wait for it too.
    Expired,
    /// Not renewed: a checkpoint stands for less than the full time, and has to be taken back by an
    /// entry first, since a later leader would count from it.
    Checkpointed,
    /// This member does not lead, so it keeps no deadlines.
    NotPrimary,
}

/// What `LeaseTimeToLive` tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimeToLive {
    /// Granted time to live in seconds.
    pub granted: i64,
    /// What is left, in whole seconds rounded towards zero; `None` where this member does not lead.
    pub remaining: Option<i64>,
}

/// What a look for expired leases found.
#[derive(Debug)]
pub struct Due {
    /// To be revoked, each through the log.
    pub expired: Vec<LeaseId>,
    /// There may be more: look again.
    pub more: bool,
}

/// All leases of the member. `now` is the time since an origin that the caller keeps fixed.
#[derive(Debug)]
pub struct LeaseTable {
    leases: HashMap<LeaseId, Lease>,
    /// Invariant: each lease with a checkpoint exists.
    checkpoints: Checkpoints,
    queue: ExpiryQueue,
    min_ttl: i64,
    primary: bool,
}

impl LeaseTable {
    /// An empty table. No lease gets less than `min_ttl` seconds.
    pub fn new(min_ttl: i64) -> Self {
        Self {
            leases: HashMap::new(),
            checkpoints: Checkpoints::default(),
            queue: ExpiryQueue::default(),
            min_ttl,
            primary: false,
        }
    }

    /// Takes over a lease that was found on disk.
    pub fn restore(&mut self, id: LeaseId, ttl: i64, remaining: i64) {
        debug_assert!(!self.primary, "leases are restored before anybody leads");
        let lease = Lease {
            ttl: ttl.max(self.min_ttl),
            deadline: FOREVER,
            queued: NOT_QUEUED,
        };
        self.leases.insert(id, lease);
        self.checkpoints.note(id, remaining);
    }

    /// Grants a lease and gives the effective time to live.
    ///
    /// # Errors
    ///
    /// `LeaseNotFound` for id 0, `LeaseTtlTooLarge`, `LeaseExist`, in etcd's order of checks.
    pub fn grant(&mut self, id: LeaseId, ttl: i64, now: Duration) -> Result<i64, RequestError> {
        if id == LeaseId::default() {
            return Err(RequestError::LeaseNotFound);
        }
        if ttl > MAX_LEASE_TTL {
            return Err(RequestError::LeaseTtlTooLarge);
        }
        if self.leases.contains_key(&id) {
            return Err(RequestError::LeaseExist);
        }
        let ttl = ttl.max(self.min_ttl);
        self.leases.insert(
            id,
            Lease {
                ttl,
                deadline: FOREVER,
                queued: NOT_QUEUED,
            },
        );
        if self.primary {
            self.set_deadline(id, deadline(now, ttl, Duration::ZERO));
            self.checkpoints.schedule(id, ttl, micros(now));
        }
        Ok(ttl)
    }

    /// Forgets a lease; its keys are the caller's affair. False if there was none.
    pub fn revoke(&mut self, id: LeaseId) -> bool {
        self.checkpoints.forget(id);
        let existed = self.leases.remove(&id).is_some();
        self.drop_stale_entries();
        existed
    }

    /// Gives a lease its time to live again.
    pub fn renew(&mut self, id: LeaseId, now: Duration) -> Renewal {
        if !self.primary {
            return Renewal::NotPrimary;
        }
        let Some(lease) = self.leases.get_mut(&id) else {
            return Renewal::Missing;
        };
        if lease.deadline <= micros(now) && !is_planted(Bug::RenewExpired) {
            return Renewal::Expired;
        }
        let ttl = lease.ttl;
        if self.checkpoints.stands(id) {
            return Renewal::Checkpointed;
        }
        // The queue finds the later deadline by itself; only an earlier one needs a new entry.
        let next = deadline(now, ttl, Duration::ZERO);
        lease.deadline = next;
        if Bucket::of(next) < lease.queued {
            self.set_deadline(id, next);
        }
        Renewal::Renewed(ttl)
    }

    /// Notes what a checkpoint entry says is left of a lease: it counts from the next promotion on.
    /// One that takes the last one back gives the lease its full time at once, since whoever leads,
    /// or led before, does so for a renewal.
    /// Gives the granted time to live, or `None` if there is no such lease, which is no error.
    pub fn checkpoint(&mut self, id: LeaseId, remaining: i64, now: Duration) -> Option<i64> {
        let lease = self.leases.get_mut(&id)?;
        self.checkpoints.note(id, remaining);
        let is_offered = lease.queued > Bucket::of(lease.deadline);
        if remaining <= 0 && self.primary && !is_offered {
            // The queue finds the later deadline by itself.
            lease.deadline = deadline(now, lease.ttl, Duration::ZERO).max(lease.deadline);
        }
        Some(lease.ttl)
    }

    /// Is there such a lease?
    pub fn contains(&self, id: LeaseId) -> bool {
        self.leases.contains_key(&id)
    }

    /// How many leases there are.
    pub fn len(&self) -> usize {
        self.leases.len()
    }

    /// True when there is no lease.
    pub fn is_empty(&self) -> bool {
        self.leases.is_empty()
    }

    /// Does this member keep deadlines?
    pub fn is_primary(&self) -> bool {
        self.primary
    }

    /// Granted and remaining time of a lease. What is left of an expired lease is zero or negative.
    pub fn time_to_live(&self, id: LeaseId, now: Duration) -> Option<TimeToLive> {
        let lease = self.leases.get(&id)?;
        let remaining = self.primary.then(|| {
            let left = lease.deadline as i64 - micros(now) as i64;
            left / 1_000_000
        });
        Some(TimeToLive {
            granted: lease.ttl,
            remaining,
        })
    }

    /// Deadlines (in microseconds on the table's clock) and ids, in no order: the caller sorts
    /// them, outside its lock.
    pub fn deadlines(&self) -> Vec<(u64, LeaseId)> {
        self.leases
            .iter()
            .map(|(id, lease)| (lease.deadline, *id))
            .collect()
    }

    /// Starts to keep deadlines: every lease gets its time anew (what the last checkpoint left of
    /// it, if there is one), and `extend` for what the election may have taken.
    pub fn promote(&mut self, extend: Duration, now: Duration) {
        self.primary = true;
        self.queue.clear();
        self.checkpoints.clear_schedule();
        let mut order: Vec<(u64, LeaseId)> = Vec::with_capacity(self.leases.len());
        for (id, lease) in &self.leases {
            let left = self.checkpoints.last(*id).unwrap_or(lease.ttl);
            order.push((deadline(now, left, extend), *id));
        }
        if is_planted(Bug::CheckpointCountsOnce) {
            self.checkpoints.forget_all();
        }
        // Who is revoked first must not depend on the order of a hash map.
        order.sort_unstable();
        if order.len() > SPREAD_PER_SECOND {
            spread(&mut order);
        }
        for (at, id) in order {
            let lease = self
                .leases
                .get_mut(&id)
                .expect("the ids were read from this map");
            lease.queued = NOT_QUEUED;
            self.checkpoints.schedule(id, lease.ttl, micros(now));
            self.set_deadline(id, at);
        }
    }

    /// Stops to keep deadlines.
    pub fn demote(&mut self) {
        self.primary = false;
        self.queue.clear();
        self.checkpoints.clear_schedule();
        for lease in self.leases.values_mut() {
            lease.deadline = FOREVER;
            lease.queued = NOT_QUEUED;
        }
    }

    /// Leases whose deadline has passed, at most `limit`. Each is offered again after three seconds
    /// while its revoke has not been applied.
    pub fn take_expired(&mut self, limit: usize, now: Duration) -> Due {
        let now = micros(now);
        let retry = Bucket::of(now.saturating_add(micros(REVOKE_RETRY)));
        let mut expired = Vec::new();
        for _ in 0..ENTRIES_PER_CALL {
            if expired.len() == limit {
                return Due {
                    expired,
                    more: true,
                };
            }
            let Some((bucket, id)) = self.queue.pop_due(now) else {
                return Due {
                    expired,
                    more: false,
                };
            };
            let Some(lease) = self.leases.get_mut(&id) else {
                continue;
            };
            if lease.queued != bucket {
                continue;
            }
            if lease.deadline <= now {
                lease.queued = retry;
                expired.push(id);
            } else {
                lease.queued = Bucket::of(lease.deadline);
            }
            self.queue.push(lease.queued, id);
        }
        Due {
            expired,
            more: true,
        }
    }

    /// From now on the table says which checkpoints are due, while this member leads.
    pub fn enable_checkpoints(&mut self) {
        self.checkpoints.enable();
    }

    /// Leases whose remaining time should be told to all members, with that time in seconds.
    pub fn take_checkpoints(&mut self, limit: usize, now: Duration) -> Vec<(LeaseId, i64)> {
        let now = micros(now);
        let mut due = Vec::new();
        for _ in 0..ENTRIES_PER_CALL {
            if due.len() == limit {
                break;
            }
            let Some(id) = self.checkpoints.pop_due(now) else {
                break;
            };
            let Some(lease) = self.leases.get(&id) else {
                continue;
            };
            self.checkpoints.schedule(id, lease.ttl, now);
            let left = lease.deadline.saturating_sub(now).div_ceil(1_000_000);
            let left = left.cast_signed();
            // What was said last is near enough to the end, as is what a renewal has just given.
            let said = self.checkpoints.last(id).unwrap_or(lease.ttl);
            let interval = CHECKPOINT_INTERVAL.as_secs().cast_signed();
            if said > interval && left > 0 && left < lease.ttl {
                self.checkpoints.told(id);
                due.push((id, left));
            }
        }
        due
    }

    /// A checkpoint that was taken will not come into the log, or counts for nothing there.
    pub fn pass_checkpoint_over(&mut self, id: LeaseId) {
        self.checkpoints.untold(id);
    }

    fn set_deadline(&mut self, id: LeaseId, at: u64) {
        let lease = self
            .leases
            .get_mut(&id)
            .expect("callers have just seen the lease");
        lease.deadline = at;
        lease.queued = Bucket::of(at);
        self.queue.push(lease.queued, id);
        self.drop_stale_entries();
    }

    /// Builds the queue anew when most of it is stale, so that leases which are granted for years
    /// and revoked at once cannot fill the memory with entries.
    fn drop_stale_entries(&mut self) {
        let most = STALE_ENTRIES_MIN + 2 * self.leases.len();
        let leases = &self.leases;
        self.checkpoints
            .drop_stale(most, |id| leases.contains_key(&id));
        let stale = self.queue.len().saturating_sub(self.leases.len());
        if stale < STALE_ENTRIES_MIN || stale < self.leases.len() {
            return;
        }
        self.queue.clear();
        for (id, lease) in &self.leases {
            self.queue.push(lease.queued, *id);
        }
    }
}

pub(super) fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(FOREVER)
}

fn deadline(now: Duration, seconds: i64, extend: Duration) -> u64 {
    let left = u64::try_from(seconds)
        .unwrap_or(0)
        .saturating_mul(1_000_000);
    // However far away, a deadline is not FOREVER, and fits a signed difference.
    micros(now)
        .saturating_add(left)
        .saturating_add(micros(extend))
        .min(i64::MAX as u64)
}

/// Moves deadlines (sorted, soonest first) back, so that within each second of them there are no
/// more than `SPREAD_PER_SECOND`: the ones above it follow at that rate.
fn spread(order: &mut [(u64, LeaseId)]) {
    let step = 1_000_000 / SPREAD_PER_SECOND as u64;
    let mut earliest = 0;
    for (at, _) in order {
        *at = (*at).max(earliest);
        earliest = *at + step;
    }
}

#[cfg(test)]
#[path = "table_tests.rs"]
mod tests;
