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
    Ok(pb::AlarmResponse {
        header: None,
        alarms,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::apply::testing::Fixture;

    const NOSPACE: i32 = AlarmType::Nospace as i32;
    const CORRUPT: i32 = AlarmType::Corrupt as i32;

    #[test]
    fn answers_list_the_alarms_concerned_as_etcd_answers() {
        let fixture = Fixture::new();
        let ask = |round: &mut Round, action, alarm: i32, member_id| {
            let request = pb::AlarmRequest {
                action,
                member_id,
                alarm,
            };
            let response = super::alarm(&fixture.state, round, &request).expect("no failure");
            response
                .alarms
                .iter()
                .map(|found| (found.member_id, found.alarm))
                .collect::<Vec<_>>()
        };
        let (get, activate) = (AlarmAction::Get as i32, AlarmAction::Activate as i32);
        let deactivate = AlarmAction::Deactivate as i32;
        fixture.round(|round| {
            assert_eq!(ask(round, activate, 0, 7), []);
            assert_eq!(ask(round, activate, NOSPACE, 7), [(7, NOSPACE)]);
            assert_eq!(ask(round, activate, NOSPACE, 7), [(7, NOSPACE)], "again");
            assert_eq!(ask(round, activate, CORRUPT, 3), [(3, CORRUPT)]);
            assert_eq!(
                ask(round, activate, 5, 7),
                [(7, 5)],
                "a type from the future"
            );
            assert_eq!(ask(round, get, 0, 9), [(7, NOSPACE), (3, CORRUPT), (7, 5)]);
            assert_eq!(ask(round, get, CORRUPT, 9), [(3, CORRUPT)]);
            assert_eq!(ask(round, deactivate, CORRUPT, 8), []);
            assert_eq!(ask(round, deactivate, 0, 7), []);
            assert_eq!(ask(round, deactivate, CORRUPT, 3), [(3, CORRUPT)]);
            assert_eq!(ask(round, 9, NOSPACE, 7), [], "an action from the future");
            assert_eq!(ask(round, get, 0, 0), [(7, NOSPACE), (7, 5)]);
        });
    }
}
