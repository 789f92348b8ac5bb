//! What follows from who leads: where deadlines of leases are kept, which reads fail, which
//! requests go on waiting.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::apply::Applied;
use crate::error::RequestError;
use crate::ids::{Index, MemberId, RequestId};
use crate::lease::Lessor;
use crate::member::MemberStatus;
use crate::planted::{Bug, is_planted};
use crate::propose::Led;
use crate::read::Reader;
use crate::wait::Wait;

/// Passes on what the raft thread says of leaders.
pub struct Leadership {
    /// This member.
    pub id: MemberId,
    /// Set once the member that it asks has started.
    pub reader: Arc<OnceLock<Reader>>,
    /// Requests whose proposals may be dropped.
    pub wait: Arc<Wait<Applied>>,
    /// Keeps deadlines while this member leads.
    pub lessor: Lessor,
    /// What a new leader adds to every lease: the election timeout.
    pub lease_extension: Duration,
    /// Who leads; proposals wait for somebody.
    pub leader: watch::Sender<Led>,
}

impl Leadership {
    /// The leader, the term or this member's role has changed. Tells whether it was the leader.
    pub fn changed(&self, status: &MemberStatus) -> bool {
        let mut changed = false;
        self.leader.send_modify(|led| {
            changed = led.by != status.leader;
            if changed && status.leader.is_some() {
                led.elected = Some(Instant::now().into_std());
            }
            led.by = status.leader;
        });
        let leads = status.leader == Some(self.id);
        if leads && !self.lessor.is_primary() {
            let extension = match is_planted(Bug::NoLeaseExtension) {
                true => Duration::ZERO,
                false => self.lease_extension,
            };
            self.lessor.promote(extension);
        } else if !leads && self.lessor.is_primary() {
            self.lessor.demote();
        }
        if changed && let Some(reader) = self.reader.get() {
            reader.leader_changed();
        }
        changed
    }

    /// The leader has confirmed a round of reads.
    pub fn confirmed(&self, context: u64, index: Index) {
        if let Some(reader) = self.reader.get() {
            reader.confirmed(context, index);
        }
    }

    /// These proposals were not taken, since nobody leads.
    pub fn dropped(&self, ids: &[RequestId]) {
        for id in ids {
            self.wait.trigger(*id, Err(RequestError::NoLeader));
        }
    }
}
