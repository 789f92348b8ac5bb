//! The lessor: the lease table behind its lock and its clock, shared by `apply`, the API and
//! expiry.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::row::decode_lease_row;
use super::table::{Due, LeaseTable, Renewal, TimeToLive};
use crate::error::RequestError;
use crate::ids::LeaseId;
use crate::storage::{Family, StorageError, View};

/// Waiters for one lease beyond which those that hung up are swept out.
const WAITERS_BEFORE_SWEEP: usize = 32;

/// Handle to the leases of this member; clones share them.
///
/// Its lock is held for a few map operations at a time and never over an `await` or a read of the
/// disk. The two walks over all leases are `deadlines` (copied out) and a change of leadership.
#[derive(Clone)]
pub struct Lessor {
    shared: Arc<Shared>,
}

struct Shared {
    /// Origin of the table's clock.
    origin: Instant,
    state: Mutex<State>,
}

struct State {
    table: LeaseTable,
    /// Keep-alives that wait for the revoke of an expired lease.
    waiters: BTreeMap<LeaseId, Vec<oneshot::Sender<()>>>,
}

impl Lessor {
    /// No leases yet, and not leading. No lease gets less than `min_ttl` seconds.
    pub fn new(min_ttl: i64) -> Self {
        Self::of(LeaseTable::new(min_ttl))
    }

    fn of(table: LeaseTable) -> Self {
        let state = Mutex::new(State {
            table,
            waiters: BTreeMap::new(),
        });
        let origin = Instant::now();
        Self {
            shared: Arc::new(Shared { origin, state }),
        }
    }

    /// The leases that the rows tell of, not leading yet. No lease gets less than `min_ttl`
    /// seconds.
    ///
    /// # Errors
    ///
    /// When the rows cannot be read, or one of them is no lease.
    pub fn load(view: &View, min_ttl: i64) -> Result<Self, StorageError> {
        let mut table = LeaseTable::new(min_ttl);
        let mut rows = view.scan(Family::Lease, &[], None);
        while let Some((key, value)) = rows.next()? {
            let (id, ttl, remaining) = decode_lease_row(key, value)
                .ok_or_else(|| StorageError::corrupt(Family::Lease, "row is no lease"))?;
            table.restore(id, ttl, remaining);
        }
        Ok(Self::of(table))
    }

    /// Grants a lease and gives its effective time to live in seconds. For `apply` only.
    ///
    /// # Errors
    ///
    /// As `LeaseTable::grant`.
    pub fn grant(&self, id: LeaseId, ttl: i64) -> Result<i64, RequestError> {
        let now = self.now();
        self.shared.state.lock().table.grant(id, ttl, now)
    }

    /// Forgets a lease and wakes who waits for that. False if there was none. For `apply` only.
    pub fn revoke(&self, id: LeaseId) -> bool {
        let mut state = self.shared.state.lock();
        let existed = state.table.revoke(id);
        let woken = state.waiters.remove(&id);
        drop(state);
        for waiter in woken.into_iter().flatten() {
            // A failed send is a client that hung up.
            let _ = waiter.send(());
        }
        existed
    }

    /// Notes a checkpoint; gives the granted time to live, `None` without such a lease. For `apply`
    /// only.
    pub fn checkpoint(&self, id: LeaseId, remaining: i64) -> Option<i64> {
        let now = self.now();
        self.shared
            .state
            .lock()
            .table
            .checkpoint(id, remaining, now)
    }

    /// A checkpoint has come that counts for nothing. For `apply` only.
    pub fn pass_checkpoint_over(&self, id: LeaseId) {
        self.shared.state.lock().table.pass_checkpoint_over(id);
    }

    /// Gives a lease its time to live again.
    pub fn renew(&self, id: LeaseId) -> Renewal {
        let now = self.now();
        self.shared.state.lock().table.renew(id, now)
    }

    /// Resolves once the lease has been revoked, or this member no longer leads. `None` if there is
    /// nothing to wait for by now.
    pub fn revoked(&self, id: LeaseId) -> Option<oneshot::Receiver<()>> {
        let mut state = self.shared.state.lock();
        if !state.table.contains(id) || !state.table.is_primary() {
            return None;
        }
        let (sender, receiver) = oneshot::channel();
        let waiters = state.waiters.entry(id).or_default();
        if waiters.len() >= WAITERS_BEFORE_SWEEP {
            waiters.retain(|waiter| !waiter.is_closed());
        }
        waiters.push(sender);
        Some(receiver)
    }

    /// Is there such a lease? A put that names it asks.
    pub fn contains(&self, id: LeaseId) -> bool {
        self.shared.state.lock().table.contains(id)
    }

    /// Granted and remaining time; `None` without such a lease.
    pub fn time_to_live(&self, id: LeaseId) -> Option<TimeToLive> {
        let now = self.now();
        self.shared.state.lock().table.time_to_live(id, now)
    }

    /// All ids, soonest expiry first; by id on a member that keeps no deadlines.
    pub fn leases(&self) -> Vec<LeaseId> {
        let mut order = self.shared.state.lock().table.deadlines();
        order.sort_unstable();
        order.into_iter().map(|(_, id)| id).collect()
    }

    /// How many leases there are.
    pub fn len(&self) -> usize {
        self.shared.state.lock().table.len()
    }

    /// True when there is no lease.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// This member leads now. `extend` is added to every lease: the election timeout.
    pub fn promote(&self, extend: Duration) {
        let now = self.now();
        self.shared.state.lock().table.promote(extend, now);
    }

    /// This member leads no longer; who waits for a revoke is woken and has to ask the new leader.
    pub fn demote(&self) {
        let mut state = self.shared.state.lock();
        state.table.demote();
        let woken = std::mem::take(&mut state.waiters);
        drop(state);
        // Dropping the senders wakes the receivers.
        drop(woken);
    }

    /// Does this member keep deadlines?
    pub fn is_primary(&self) -> bool {
        self.shared.state.lock().table.is_primary()
    }

    /// Leases to revoke, at most `limit`: for the expiry loop.
    pub fn take_expired(&self, limit: usize) -> Due {
        let now = self.now();
        self.shared.state.lock().table.take_expired(limit, now)
    }

    /// From now on `take_checkpoints` finds some, while this member leads.
    pub fn enable_checkpoints(&self) {
        self.shared.state.lock().table.enable_checkpoints();
    }

    /// Leases whose remaining time is due to be told to all members, at most `limit`, with that
    /// time in seconds.
    pub fn take_checkpoints(&self, limit: usize) -> Vec<(LeaseId, i64)> {
        let now = self.now();
        self.shared.state.lock().table.take_checkpoints(limit, now)
    }

    /// These checkpoints, as [`Self::take_checkpoints`] gave them, will not come into the log.
    pub fn checkpoints_refused(&self, due: Vec<(LeaseId, i64)>) {
        let mut state = self.shared.state.lock();
        for (id, _) in due {
            state.table.pass_checkpoint_over(id);
        }
    }

    fn now(&self) -> Duration {
        self.shared.origin.elapsed()
    }
}

/// The shortest time to live in seconds that a member grants: one and a half election timeouts in
/// whole ticks, rounded up to a second. 2 s at the defaults.
pub fn min_ttl(election_ticks: u32, heartbeat: Duration) -> i64 {
    let shortest = heartbeat * (3 * election_ticks / 2);
    i64::try_from(shortest.as_millis().div_ceil(1000)).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: i64) -> LeaseId {
        LeaseId::new(n)
    }

    #[test]
    fn min_ttl_is_etcds_rule() {
        let heartbeat = Duration::from_millis(100);
        assert_eq!(min_ttl(10, heartbeat), 2);
        assert_eq!(
            min_ttl(5, heartbeat),
            1,
            "seven ticks: the half tick is cut"
        );
        assert_eq!(min_ttl(50, heartbeat), 8);
    }

    #[tokio::test]
    async fn a_wait_for_a_revoke_ends_with_the_revoke_or_with_the_leadership() {
        let lessor = Lessor::new(2);
        lessor.promote(Duration::ZERO);
        lessor.grant(id(1), 60).expect("a fresh id");
        lessor.grant(id(2), 60).expect("a fresh id");
        assert!(lessor.revoked(id(3)).is_none());
        let revoked = lessor.revoked(id(1)).expect("the lease exists");
        let demoted = lessor.revoked(id(2)).expect("the lease exists");
        assert!(lessor.revoke(id(1)));
        assert_eq!(revoked.await, Ok(()));
        lessor.demote();
        assert!(demoted.await.is_err());
        assert!(lessor.revoked(id(2)).is_none());
    }

    #[test]
    fn leases_are_listed_soonest_expiry_first() {
        let lessor = Lessor::new(2);
        lessor.promote(Duration::ZERO);
        for (n, ttl) in [(1, 300), (2, 100), (3, 200)] {
            lessor.grant(id(n), ttl).expect("a fresh id");
        }
        assert_eq!(lessor.leases(), [id(2), id(3), id(1)]);
        lessor.renew(id(2));
        assert_eq!(lessor.leases().len(), lessor.len());
    }

    #[test]
    fn waiters_that_hung_up_do_not_pile_up() {
        let lessor = Lessor::new(2);
        lessor.promote(Duration::ZERO);
        lessor.grant(id(1), 60).expect("a fresh id");
        for _ in 0..100 * WAITERS_BEFORE_SWEEP {
            drop(lessor.revoked(id(1)));
        }
        assert!(lessor.shared.state.lock().waiters[&id(1)].len() <= WAITERS_BEFORE_SWEEP);
    }
}
