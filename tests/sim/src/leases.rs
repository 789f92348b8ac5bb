//! What clients know of leases: none may end before its time, whoever leads.

use std::collections::BTreeMap;

use trilith_proto::etcdserverpb as pb;

/// The leases that clients were told of.
pub(crate) struct Leases {
    leases: BTreeMap<i64, Lease>,
    /// Thousandths by which a member's clock may run fast.
    drift: i64,
    /// In seconds: what every lease gets at least.
    ttl_min: i64,
    /// How many ended by their time.
    pub(crate) expired: u64,
}

struct Lease {
    /// In seconds.
    ttl: i64,
    /// When its last renewal began that a client was told of.
    since: Option<u64>,
    /// A client wants it to end.
    is_unwanted: bool,
}

impl Leases {
    pub(crate) fn new(drift: i64, ttl_min: i64) -> Self {
        Self {
            leases: BTreeMap::new(),
            drift,
            ttl_min,
            expired: 0,
        }
    }

    /// A client asks for it.
    pub(crate) fn asked(&mut self, request: &pb::InternalRaftRequest) {
        if let Some(grant) = &request.lease_grant {
            let lease = Lease {
                ttl: grant.ttl.max(self.ttl_min),
                since: None,
                is_unwanted: false,
            };
            self.leases.entry(grant.id).or_insert(lease);
        }
        if let Some(revoke) = &request.lease_revoke
            && let Some(lease) = self.leases.get_mut(&revoke.id)
        {
            lease.is_unwanted = true;
        }
    }

    /// A client was told that its request of `invoked` has taken effect.
    pub(crate) fn told(&mut self, request: &pb::InternalRaftRequest, invoked: u64) {
        if let Some(grant) = &request.lease_grant {
            self.renewed(grant.id, invoked);
        }
    }

    /// A client was told that the lease has its full time from `invoked` on.
    pub(crate) fn renewed(&mut self, id: i64, invoked: u64) {
        if let Some(lease) = self.leases.get_mut(&id) {
            lease.since = lease.since.max(Some(invoked));
        }
    }

    /// A member has revoked it because of its time.
    ///
    /// # Errors
    ///
    /// When it is too early.
    pub(crate) fn ended(&mut self, id: i64, now: u64) -> Result<(), String> {
        self.expired += 1;
        let Some(lease) = self.leases.get(&id).filter(|lease| !lease.is_unwanted) else {
            return Ok(());
        };
        let Some(since) = lease.since else {
            return Ok(());
        };
        let ttl = u64::try_from(lease.ttl).expect("clients ask for some time") * 1_000_000;
        let fast = u64::try_from(1000 + self.drift).expect("a drift is small");
        let least = ttl * 1000 / fast;
        if now < since + least {
            return Err(format!(
                "lease {id} of {} s ends {} us after its renewal at {since}",
                lease.ttl,
                now - since
            ));
        }
        Ok(())
    }

    /// All there were, in order.
    pub(crate) fn ids(&self) -> Vec<i64> {
        self.leases.keys().copied().collect()
    }
}
