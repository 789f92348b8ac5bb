//! Refuses what there is no room for before it is proposed, and raises the alarm for it.

use tonic::Status;
use trilith_proto::etcdserverpb as pb;
use trilith_proto::etcdserverpb::AlarmType;
use trilith_proto::etcdserverpb::alarm_request::AlarmAction;

use super::status::status;
use crate::alarm::Alarms;
use crate::error::RequestError;
use crate::ids::MemberId;
use crate::propose::Proposer;
use crate::quota::Quota;

/// Watches over the quota of one member.
#[derive(Clone)]
pub struct SpaceGuard {
    /// How much room there is.
    pub quota: Quota,
    /// Whether the alarm is raised already.
    pub alarms: Alarms,
    /// Takes the alarm into the log.
    pub proposer: Proposer,
    /// The member whose alarm it is.
    pub member: MemberId,
}

impl SpaceGuard {
    /// Refuses a request if there is no room for what it costs.
    pub(super) async fn admit(&self, cost: u64) -> Result<(), Status> {
        if self.quota.admits(cost, 0) {
            return Ok(());
        }
        self.raise().await;
        Err(status(RequestError::NoSpace))
    }

    /// Raises this member's `NOSPACE` alarm, unless it is raised.
    pub async fn raise(&self) {
        let kind = AlarmType::Nospace as i32;
        let raised = self.alarms.list(kind);
        if raised
            .iter()
            .any(|alarm| alarm.member_id == self.member.get())
        {
            return;
        }
        let request = pb::InternalRaftRequest {
            alarm: Some(pb::AlarmRequest {
                action: AlarmAction::Activate as i32,
                member_id: self.member.get(),
                alarm: kind,
            }),
            ..Default::default()
        };
        // The client is refused either way, and the next request without room tries again.
        if let Err(error) = self.proposer.propose(request).await {
            tracing::warn!(%error, "failed to raise the NOSPACE alarm");
        }
    }
}
