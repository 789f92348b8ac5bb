//! Whether a peer can be reached, as this member sees it.

use std::time::Instant;

use parking_lot::Mutex;

use crate::ids::MemberId;
use crate::metrics::PeerMetrics;

/// A peer is active from the first connection that works until the first that fails.
pub(super) struct Status {
    peer: MemberId,
    reach: Mutex<Reach>,
    metrics: PeerMetrics,
}

enum Reach {
    Inactive,
    Active(Instant),
    /// Nothing that is still on its way changes what is counted of whoever takes the peer's place.
    Stopped,
}

impl Status {
    pub(super) fn new(peer: MemberId, metrics: PeerMetrics) -> Self {
        // Whatever the member saw in an earlier life.
        metrics.active.set(0);
        Self {
            peer,
            reach: Mutex::new(Reach::Inactive),
            metrics,
        }
    }

    pub(super) fn activate(&self) {
        let mut reach = self.reach.lock();
        if matches!(*reach, Reach::Inactive) {
            *reach = Reach::Active(Instant::now());
            self.metrics.active.set(1);
            tracing::info!("peer-id" = %self.peer, "peer became active");
        }
    }

    /// `action` failed on `source`, in etcd's words.
    pub(super) fn deactivate(&self, action: &str, source: &str, reason: &dyn std::fmt::Display) {
        let error = format!("failed to {action} {} on {source} ({reason})", self.peer);
        let mut reach = self.reach.lock();
        if matches!(*reach, Reach::Active(_)) {
            *reach = Reach::Inactive;
            self.metrics.active.set(0);
            self.metrics.disconnected.inc();
            tracing::warn!(
                "peer-id" = %self.peer,
                error,
                "peer became inactive (message send to peer failed)"
            );
        } else {
            tracing::debug!("peer-id" = %self.peer, error, "peer deactivated again");
        }
    }

    /// The peer is not talked to any more.
    pub(super) fn stop(&self) {
        let mut reach = self.reach.lock();
        *reach = Reach::Stopped;
        self.metrics.active.set(0);
    }

    /// Since when the peer is reachable without a break.
    pub(super) fn since(&self) -> Option<Instant> {
        match *self.reach.lock() {
            Reach::Active(since) => Some(since),
            Reach::Inactive | Reach::Stopped => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Metrics;

    #[test]
    fn a_peer_that_was_stopped_counts_nothing_for_the_one_in_its_place() {
        let metrics = Metrics::new();
        let peer = || {
            let counted = metrics.network.peer(MemberId::new(1), MemberId::new(2));
            (Status::new(MemberId::new(2), counted.clone()), counted)
        };
        let (first, counted) = peer();
        first.activate();
        assert_eq!(counted.active.get(), 1);
        first.stop();
        assert_eq!((counted.active.get(), first.since()), (0, None));
        let (second, counted) = peer();
        second.activate();
        first.activate();
        first.deactivate("write", "pipeline", &"late");
        assert_eq!((counted.active.get(), counted.disconnected.get()), (1, 0));
        second.deactivate("write", "pipeline", &"gone");
        assert_eq!((counted.active.get(), counted.disconnected.get()), (0, 1));
    }
}
