//! Revokes expired leases, on the leader only and through the log.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use trilith_proto::etcdserverpb::{InternalRaftRequest, LeaseRevokeRequest};

use crate::error::RequestError;
use crate::lease::Lessor;
use crate::propose::Proposer;
use crate::read::Reader;

/// Looks for expired leases until the server stops.
///
/// A revoke is proposed only after this member has confirmed that it still leads: a deposed
/// leader's clock must not end leases that the new one has extended.
pub(super) async fn run(lessor: Lessor, proposer: Proposer, reader: Reader) {
    let in_flight = Arc::new(Semaphore::new(REVOKES_IN_FLIGHT_MAX));
    let mut interval = tokio::time::interval(SCAN_INTERVAL);
    loop {
        interval.tick().await;
        if !lessor.is_primary() {
            continue;
        }
        loop {
            let due = lessor.take_expired(REVOKES_IN_FLIGHT_MAX);
            if due.expired.is_empty() {
                break;
            }
            let confirmed = reader.linearizable().await.is_ok() && lessor.is_primary();
            for lease in due.expired {
                if !confirmed {
                    // The table offers it again after a while.
                    continue;
                }
                let permit = in_flight.clone().acquire_owned().await;
                let permit = permit.expect("the semaphore is never closed");
                let proposer = proposer.clone();
                tokio::spawn(async move {
                    let request = InternalRaftRequest {
                        lease_revoke: Some(LeaseRevokeRequest { id: lease.get() }),
                        ..InternalRaftRequest::default()
                    };
                    match proposer.propose(request).await {
                        Ok(_) | Err(RequestError::LeaseNotFound | RequestError::Stopped) => {}
                        Err(error) => tracing::warn!(%lease, %error, "failed to revoke lease"),
                    }
                    drop(permit);
                });
            }
            if !due.more {
                break;
            }
        }
    }
}

/// How often expired leases are looked for: etcd's interval.
const SCAN_INTERVAL: Duration = Duration::from_millis(500);

/// Revokes that wait for their apply at once: far below the bound on proposals in flight, and
/// enough to revoke tens of thousands of leases a second.
const REVOKES_IN_FLIGHT_MAX: usize = 1000;
