//! Whether a peer can be reached, as this member sees it.

use std::time::Instant;

use parking_lot::Mutex;

use crate::ids::MemberId;

/// A peer is active from the first connection that works until the first that fails.
pub(super) struct Status {
    peer: MemberId,
    since: Mutex<Option<Instant>>,
}

impl Status {
    pub(super) fn new(peer: MemberId) -> Self {
        Self {
            peer,
            since: Mutex::default(),
        }
    }

    pub(super) fn activate(&self) {
        let mut since = self.since.lock();
        if since.is_none() {
            *since = Some(Instant::now());
            tracing::info!("peer-id" = %self.peer, "peer became active");
        }
    }

    /// `action` failed on `source`, in etcd's words.
    pub(super) fn deactivate(&self, action: &str, source: &str, reason: &dyn std::fmt::Display) {
        let error = format!("failed to {action} {} on {source} ({reason})", self.peer);
        if self.since.lock().take().is_some() {
            tracing::warn!(
                "peer-id" = %self.peer,
                error,
                "peer became inactive (message send to peer failed)"
            );
        } else {
            tracing::debug!("peer-id" = %self.peer, error, "peer deactivated again");
        }
    }

    /// Since when the peer is reachable without a break.
    pub(super) fn since(&self) -> Option<Instant> {
        *self.since.lock()
    }
}
