//! When to look at which lease: buckets of lease ids by deadline, filled lazily.
//!
//! A renewal moves a deadline into the future, and the queue need not know: an entry that comes due
//! too early is put back at the deadline which the lease has by then. So a keep-alive costs the
//! queue nothing, and a lease costs it one entry of eight bytes, once per time to live.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::ids::LeaseId;

/// Width of a bucket: the lateness that the queue itself adds to an expiry. Half of the 500 ms in
/// which etcd looks for expired leases.
pub(super) const BUCKET: Duration = Duration::from_millis(250);

const BUCKET_MICROS: u64 = BUCKET.as_micros() as u64;

/// Number of a bucket: every deadline in `(number - 1, number] * BUCKET` goes in there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Bucket(u64);

impl Bucket {
    /// Later than every bucket that can come due.
    pub(super) const LAST: Self = Self(u64::MAX);

    /// The bucket that is due once `deadline` (microseconds) has passed.
    pub(super) fn of(deadline: u64) -> Self {
        Self(deadline.div_ceil(BUCKET_MICROS))
    }

    /// The newest bucket whose deadlines have all passed at `now` (microseconds).
    fn due(now: u64) -> Self {
        Self(now / BUCKET_MICROS)
    }
}

/// Entries by bucket. An entry may be stale; the table knows, by the bucket noted in the lease.
#[derive(Debug, Default)]
pub(super) struct ExpiryQueue {
    buckets: BTreeMap<Bucket, Vec<LeaseId>>,
    /// Invariant: how many entries all buckets hold together.
    entries: usize,
}

impl ExpiryQueue {
    /// Adds an entry; an older entry for the same lease becomes stale by that.
    pub(super) fn push(&mut self, bucket: Bucket, id: LeaseId) {
        self.buckets.entry(bucket).or_default().push(id);
        self.entries += 1;
    }

    /// Takes one entry that is due at `now` (microseconds), with the bucket that it lay in.
    pub(super) fn pop_due(&mut self, now: u64) -> Option<(Bucket, LeaseId)> {
        let mut first = self.buckets.first_entry()?;
        let bucket = *first.key();
        if bucket > Bucket::due(now) {
            return None;
        }
        let ids = first.get_mut();
        let id = ids.pop().expect("a bucket is removed with its last entry");
        if ids.is_empty() {
            first.remove();
        }
        self.entries -= 1;
        Some((bucket, id))
    }

    /// Removes the entries of leases that are not to be kept.
    pub(super) fn retain(&mut self, mut keep: impl FnMut(LeaseId) -> bool) {
        self.buckets.retain(|_, ids| {
            ids.retain(|id| keep(*id));
            !ids.is_empty()
        });
        self.entries = self.buckets.values().map(Vec::len).sum();
    }

    /// How many entries there are, the stale ones included.
    pub(super) fn len(&self) -> usize {
        self.entries
    }

    /// Forgets everything.
    pub(super) fn clear(&mut self) {
        self.buckets.clear();
        self.entries = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_due_in_the_bucket_after_its_deadline_and_never_before() {
        let mut queue = ExpiryQueue::default();
        let deadline = 3 * BUCKET_MICROS + 1;
        queue.push(Bucket::of(deadline), LeaseId::new(7));
        assert_eq!(queue.pop_due(deadline), None);
        assert_eq!(queue.pop_due(4 * BUCKET_MICROS - 1), None);
        let popped = queue.pop_due(4 * BUCKET_MICROS);
        assert_eq!(popped, Some((Bucket(4), LeaseId::new(7))));
        assert_eq!(queue.len(), 0);
    }

    #[test]
    fn a_deadline_on_the_border_is_due_at_the_border() {
        let mut queue = ExpiryQueue::default();
        queue.push(Bucket::of(2 * BUCKET_MICROS), LeaseId::new(1));
        assert!(queue.pop_due(2 * BUCKET_MICROS).is_some());
    }

    #[test]
    fn earlier_buckets_come_first() {
        let mut queue = ExpiryQueue::default();
        for n in [5, 2, 9] {
            queue.push(Bucket(n), LeaseId::new(n as i64));
        }
        let order: Vec<_> = std::iter::from_fn(|| queue.pop_due(u64::MAX)).collect();
        assert_eq!(
            order.iter().map(|(_, id)| id.get()).collect::<Vec<_>>(),
            [2, 5, 9]
        );
    }
}
