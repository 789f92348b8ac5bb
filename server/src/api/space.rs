//! Refuses what there is no room for before it is proposed, and raises the alarm for it.

use std::time::Duration;

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

/// How often it is looked whether an alarm can be disarmed.
const DISARM_LOOK: Duration = Duration::from_secs(1);

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
        if self.is_raised() {
            return;
        }
        // The client is refused either way, and the next request without room tries again.
        if let Err(error) = self.propose(AlarmAction::Activate).await {
            tracing::warn!(%error, "failed to raise the NOSPACE alarm");
        }
    }

    /// Disarms this member's `NOSPACE` alarm once the state takes less than `percent` of its quota
    /// and the disks have room; for as long as it is polled.
    pub async fn disarm_below(self, percent: u64) {
        let mut look = tokio::time::interval(DISARM_LOOK);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            look.tick().await;
            if !self.is_raised() || !self.quota.is_below(percent) {
                continue;
            }
            match self.propose(AlarmAction::Deactivate).await {
                Ok(()) => tracing::info!(percent, "there is room again; disarmed the alarm"),
                Err(error) => tracing::warn!(%error, "failed to disarm the NOSPACE alarm"),
            }
        }
    }

    fn is_raised(&self) -> bool {
        let raised = self.alarms.list(AlarmType::Nospace as i32);
        let own = self.member.get();
        raised.iter().any(|alarm| alarm.member_id == own)
    }

    async fn propose(&self, action: AlarmAction) -> Result<(), RequestError> {
        let request = pb::InternalRaftRequest {
            alarm: Some(pb::AlarmRequest {
                action: action as i32,
                member_id: self.member.get(),
                alarm: AlarmType::Nospace as i32,
            }),
            ..Default::default()
        };
        self.proposer.propose(request).await.map(drop)
    }
}
