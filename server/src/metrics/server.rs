//! What a member is and does in its cluster: etcd's subsystem `server`.

use prometheus::{IntCounter, IntCounterVec, IntGauge, IntGaugeVec};

use super::families::Families;
use crate::ids::MemberId;

/// The families of the member itself.
#[derive(Clone, Debug)]
pub struct Server {
    /// How often there was another leader than before.
    pub leader_changes: IntCounter,
    /// Heartbeats that this member, as the leader, sent late.
    pub heartbeat_failures: IntCounter,
    /// Learners that got a vote.
    pub promotions: IntCounter,
    failed_promotions: IntCounterVec,
    has_leader: IntGauge,
    is_leader: IntGauge,
    is_learner: IntGauge,
    id: IntGaugeVec,
}

/// What a member is at a moment.
#[derive(Clone, Copy, Debug)]
pub struct Standing {
    /// Who it is.
    pub id: MemberId,
    /// Who leads it, if anybody does.
    pub leader: Option<MemberId>,
    /// Whether it has no vote.
    pub is_learner: bool,
}

impl Server {
    pub(super) fn new(families: &Families<'_>) -> Self {
        Self {
            leader_changes: families.counter(
                "etcd_server_leader_changes_seen_total",
                "The number of leader changes seen.",
            ),
            heartbeat_failures: families.counter(
                "etcd_server_heartbeat_send_failures_total",
                "The total number of leader heartbeat send failures (likely overloaded from slow \
                 disk).",
            ),
            promotions: families.counter(
                "etcd_server_learner_promote_successes",
                "The total number of successful learner promotions while this member is leader.",
            ),
            failed_promotions: families.counters(
                "etcd_server_learner_promote_failures",
                "The total number of failed learner promotions (likely learner not ready) while \
                 this member is leader.",
                &["Reason"],
            ),
            has_leader: families.gauge(
                "etcd_server_has_leader",
                "Whether or not a leader exists. 1 is existence, 0 is not.",
            ),
            is_leader: families.gauge(
                "etcd_server_is_leader",
                "Whether or not this member is a leader. 1 if is, 0 otherwise.",
            ),
            is_learner: families.gauge(
                "etcd_server_is_learner",
                "Whether or not this member is a learner. 1 if is, 0 otherwise.",
            ),
            id: families.gauges(
                "etcd_server_id",
                "Server or member ID in hexadecimal format. 1 for 'server_id' label with current \
                 ID.",
                &["server_id"],
            ),
        }
    }

    /// A learner did not get a vote, for one of the reasons that clients are told.
    pub fn promotion_failed(&self, reason: &str) {
        self.failed_promotions.with_label_values(&[reason]).inc();
    }

    /// Says what the member is now.
    pub fn stand(&self, standing: Standing) {
        let Standing { id, leader, .. } = standing;
        self.has_leader.set(leader.is_some().into());
        self.is_leader.set((leader == Some(id)).into());
        self.is_learner.set(standing.is_learner.into());
        self.id.with_label_values(&[&id.to_string()]).set(1);
    }
}
