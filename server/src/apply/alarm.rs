//! Alarms are raised, cleared and listed through the log, so that every member gates alike.

use trilith_proto::etcdserverpb as pb;
use trilith_proto::etcdserverpb::AlarmType;
use trilith_proto::etcdserverpb::alarm_request::AlarmAction;

use super::{Failure, State};
use crate::alarm::alarm_member;
use crate::ids::MemberId;
use crate::mvcc::Round;

/// Applies an alarm request. The answer lists the alarms that it concerned.
pub(super) fn alarm(
    state: &State,
    round: &mut Round,
    request: &pb::AlarmRequest,
) -> Result<pb::AlarmResponse, Failure> {
    let (kind, member) = (request.alarm, MemberId::new(request.member_id));
    let alarms = match AlarmAction::try_from(request.action) {
        // The member is not looked at: etcd lists the alarms of all.
        Ok(AlarmAction::Get) => state.alarms.list(kind),
        Ok(AlarmAction::Activate) if kind == AlarmType::None as i32 => Vec::new(),
        Ok(AlarmAction::Activate) => {
            state.alarms.activate(kind, member, round.batch());
            vec![alarm_member(kind, member)]
        }
        Ok(AlarmAction::Deactivate) if state.alarms.deactivate(kind, member, round.batch()) => {
            vec![alarm_member(kind, member)]
        }
        // An action from the future changes nothing here; etcd's API crashes on one.
        Ok(AlarmAction::Deactivate) | Err(_) => Vec::new(),
    };
    Ok(pb::AlarmResponse { header: None, alarms })
}
