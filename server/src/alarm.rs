//! Alarms: which are raised, their rows, and which requests they refuse at apply.
//!
//! ```text
//! family alarm:  etcdserverpb.AlarmMember { memberID = 1, alarm = 2 }  ->  nothing
//! ```

use std::collections::BTreeSet;
use std::sync::Arc;

use arc_swap::ArcSwap;
use prost::Message;
use trilith_proto::etcdserverpb::request_op::Request;
use trilith_proto::etcdserverpb::{
    AlarmMember, AlarmType, InternalRaftRequest, RequestOp, TxnRequest,
};

use crate::error::RequestError;
use crate::ids::MemberId;
use crate::storage::{Batch, Family, StorageError, View};

/// Handle to the alarms of the cluster; clones share them. Only `apply` raises and clears.
#[derive(Clone, Debug)]
pub struct Alarms {
    raised: Arc<ArcSwap<Raised>>,
}

/// What is raised: pairs of alarm type and member, in this order. The type is a number, since a
/// newer member may raise one that we do not know.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Raised(BTreeSet<(i32, MemberId)>);

impl Alarms {
    /// Reads the rows.
    ///
    /// # Errors
    ///
    /// When they cannot be read, or one of them is no alarm.
    pub fn load(view: &View) -> Result<Self, StorageError> {
        let mut raised = Raised::default();
        let mut rows = view.scan(Family::Alarm, &[], None);
        while let Some((key, _)) = rows.next()? {
            let alarm = AlarmMember::decode(key)
                .map_err(|error| StorageError::corrupt(Family::Alarm, error.to_string()))?;
            raised
                .0
                .insert((alarm.alarm, MemberId::new(alarm.member_id)));
        }
        Ok(Self {
            raised: Arc::new(ArcSwap::from_pointee(raised)),
        })
    }

    /// Raises an alarm; one that is raised already stays. For `apply` only.
    pub fn activate(&self, alarm: i32, member: MemberId, batch: &mut Batch) {
        let mut raised = Raised::clone(&self.raised.load());
        if raised.0.insert((alarm, member)) {
            batch.put(Family::Alarm, row_key(alarm, member), []);
            self.raised.store(Arc::new(raised));
        }
    }

    /// Clears an alarm. False if it was not raised. For `apply` only.
    pub fn deactivate(&self, alarm: i32, member: MemberId, batch: &mut Batch) -> bool {
        let mut raised = Raised::clone(&self.raised.load());
        if !raised.0.remove(&(alarm, member)) {
            return false;
        }
        batch.delete(Family::Alarm, row_key(alarm, member));
        self.raised.store(Arc::new(raised));
        true
    }

    /// The raised alarms of a type, or all of them for `None` of etcd's, number 0.
    pub fn list(&self, alarm: i32) -> Vec<AlarmMember> {
        let raised = self.raised.load();
        let wanted = raised
            .0
            .iter()
            .filter(|(kind, _)| alarm == NONE || *kind == alarm);
        wanted
            .map(|(kind, member)| alarm_member(*kind, *member))
            .collect()
    }

    /// The raised alarms as `Status` words them.
    pub fn texts(&self) -> Vec<String> {
        self.list(NONE).iter().map(text).collect()
    }

    /// Whether some member has run out of space.
    pub fn no_space(&self) -> bool {
        self.raised.load().has(AlarmType::Nospace)
    }

    /// Why `request` may not be applied, if it may not. The request is consumed and changes
    /// nothing.
    ///
    /// A corrupt cluster refuses what changes keys or leases, and reads that go through the log;
    /// one without space refuses what needs space.
    pub fn refuses(&self, request: &InternalRaftRequest) -> Option<RequestError> {
        let raised = self.raised.load();
        // Almost always there is no alarm, and every entry asks.
        if raised.0.is_empty() {
            return None;
        }
        if raised.has(AlarmType::Corrupt) && is_refused_when_corrupt(request) {
            return Some(RequestError::Corrupt);
        }
        if raised.has(AlarmType::Nospace) && needs_space(request) {
            return Some(RequestError::NoSpace);
        }
        None
    }
}

impl Raised {
    fn has(&self, alarm: AlarmType) -> bool {
        let from = (alarm as i32, MemberId::new(0));
        let to = (alarm as i32, MemberId::new(u64::MAX));
        self.0.range(from..=to).next().is_some()
    }
}

const NONE: i32 = AlarmType::None as i32;

/// An alarm as it stands on the wire and, encoded, as the key of its row.
pub fn alarm_member(alarm: i32, member: MemberId) -> AlarmMember {
    AlarmMember {
        member_id: member.get(),
        alarm,
    }
}

fn row_key(alarm: i32, member: MemberId) -> Vec<u8> {
    alarm_member(alarm, member).encode_to_vec()
}

/// The text form of the message, which etcd puts among the errors of `Status`: fields that are zero
/// are left out.
fn text(alarm: &AlarmMember) -> String {
    let mut parts = Vec::new();
    if alarm.member_id != 0 {
        parts.push(format!("memberID:{}", alarm.member_id));
    }
    match AlarmType::try_from(alarm.alarm) {
        Ok(AlarmType::None) => {}
        Ok(known) => parts.push(format!("alarm:{}", known.as_str_name())),
        Err(_) => parts.push(format!("alarm:{}", alarm.alarm)),
    }
    parts.join(" ")
}

fn is_refused_when_corrupt(request: &InternalRaftRequest) -> bool {
    request.put.is_some()
        || request.range.is_some()
        || request.delete_range.is_some()
        || request.txn.is_some()
        || request.compaction.is_some()
        || request.lease_grant.is_some()
        || request.lease_revoke.is_some()
}

fn needs_space(request: &InternalRaftRequest) -> bool {
    request.put.is_some()
        || request.lease_grant.is_some()
        || request.txn.as_ref().is_some_and(puts_something)
}

/// Is there a put in either branch, however deep? etcd asks whether the costlier branch costs
/// anything, and each put does.
fn puts_something(txn: &TxnRequest) -> bool {
    let puts = |op: &RequestOp| match &op.request {
        Some(Request::RequestPut(_)) => true,
        Some(Request::RequestTxn(nested)) => puts_something(nested),
        _ => false,
    };
    txn.success.iter().chain(&txn.failure).any(puts)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::{Backend, BackendOptions};

    const NOSPACE: i32 = AlarmType::Nospace as i32;
    const CORRUPT: i32 = AlarmType::Corrupt as i32;

    fn empty() -> Alarms {
        Alarms {
            raised: Arc::default(),
        }
    }

    fn with(alarm: i32) -> Alarms {
        let raised = Raised(BTreeSet::from([(alarm, MemberId::new(7))]));
        Alarms {
            raised: Arc::new(ArcSwap::from_pointee(raised)),
        }
    }

    fn txn(operation: Request) -> InternalRaftRequest {
        let success = vec![RequestOp {
            request: Some(operation),
        }];
        let txn = Some(TxnRequest {
            success,
            ..TxnRequest::default()
        });
        InternalRaftRequest {
            txn,
            ..Default::default()
        }
    }

    macro_rules! request {
        ($field:ident) => {
            InternalRaftRequest {
                $field: Some(Default::default()),
                ..Default::default()
            }
        };
    }

    #[test]
    fn no_space_refuses_what_needs_space_and_nothing_else() {
        let alarms = with(NOSPACE);
        let nested = txn(Request::RequestPut(Default::default()))
            .txn
            .expect("it is one");
        for refused in [
            request!(put),
            request!(lease_grant),
            txn(Request::RequestPut(Default::default())),
            txn(Request::RequestTxn(nested)),
        ] {
            assert_eq!(alarms.refuses(&refused), Some(RequestError::NoSpace));
        }
        for passes in [
            request!(delete_range),
            request!(compaction),
            request!(lease_revoke),
            request!(alarm),
            request!(cluster_version_set),
            txn(Request::RequestDeleteRange(Default::default())),
            txn(Request::RequestRange(Default::default())),
        ] {
            assert_eq!(alarms.refuses(&passes), None);
        }
    }

    #[test]
    fn corrupt_refuses_every_change_of_keys_and_leases_and_wins_over_no_space() {
        let alarms = with(CORRUPT);
        let mut both = Raised::clone(&alarms.raised.load());
        both.0.insert((NOSPACE, MemberId::new(1)));
        alarms.raised.store(Arc::new(both));
        for refused in [
            request!(put),
            request!(range),
            request!(delete_range),
            request!(txn),
            request!(compaction),
            request!(lease_grant),
            request!(lease_revoke),
        ] {
            assert_eq!(alarms.refuses(&refused), Some(RequestError::Corrupt));
        }
        for passes in [
            request!(alarm),
            request!(lease_checkpoint),
            request!(auth_enable),
        ] {
            assert_eq!(alarms.refuses(&passes), None);
        }
    }

    #[test]
    fn alarms_of_unknown_types_refuse_nothing() {
        assert_eq!(with(5).refuses(&request!(put)), None);
        assert_eq!(empty().refuses(&request!(put)), None);
    }

    #[test]
    fn texts_are_those_of_the_message() {
        let text = |alarm, member| text(&alarm_member(alarm, MemberId::new(member)));
        assert_eq!(text(NOSPACE, 7), "memberID:7 alarm:NOSPACE");
        assert_eq!(text(CORRUPT, 0), "alarm:CORRUPT");
        assert_eq!(text(5, 7), "memberID:7 alarm:5");
    }

    #[test]
    fn alarms_are_found_again_and_their_rows_are_etcds() {
        let dir = tempfile::tempdir().expect("a folder for the test");
        let backend = Backend::open(dir.path(), &BackendOptions::default()).expect("a new state");
        let alarms = empty();
        let mut batch = backend.batch();
        alarms.activate(NOSPACE, MemberId::new(7), &mut batch);
        alarms.activate(CORRUPT, MemberId::new(300), &mut batch);
        alarms.activate(NOSPACE, MemberId::new(0), &mut batch);
        assert!(alarms.deactivate(NOSPACE, MemberId::new(0), &mut batch));
        assert!(!alarms.deactivate(NOSPACE, MemberId::new(8), &mut batch));
        backend.write(batch).expect("a write to a new state");
        let golden = [0x08, 0xac, 0x02, 0x10, 0x02];
        assert!(
            backend
                .get(Family::Alarm, &golden)
                .expect("a read")
                .is_some()
        );
        let loaded = Alarms::load(&backend.view()).expect("our own rows");
        assert_eq!(loaded.list(0), alarms.list(0));
        assert_eq!(
            loaded.list(CORRUPT),
            [alarm_member(CORRUPT, MemberId::new(300))]
        );
    }
}
