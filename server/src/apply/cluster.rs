//! Membership changes, what members say of themselves, and the version of the cluster.

use bytes::Bytes;
use prost::Message;
use trilith_proto::membershippb;
use trilith_proto::raftpb;

use super::{Applied, Failure, Reply, State};
use crate::cluster::{Attributes, Change, DowngradeInfo, SERVER_VERSION, Version};
use crate::ids::{MemberId, RequestId};
use crate::mvcc::Round;
use crate::storage::Family;
use crate::storage::schema::meta;

/// Applies an encoded `ConfChange` to the membership, if its rules allow that.
///
/// # Errors
///
/// When the entry is not a change that etcd 3.7 could have made: etcd panics, and we stop.
pub(super) fn conf_change(
    state: &State,
    round: &mut Round,
    data: &Bytes,
) -> Result<(RequestId, Applied), ConfChangeError> {
    let entry = raftpb::ConfChange::decode(data.clone()).map_err(ConfChangeError::Encoding)?;
    let id = RequestId::new(entry.id);
    let change = Change::decode(entry.r#type, MemberId::new(entry.node_id), &entry.context)
        .map_err(ConfChangeError::Content)?;
    let made = state.membership.change(change, round.batch());
    Ok((id, made.map(|()| Reply::Done)))
}

/// Why a configuration change cannot be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConfChangeError {
    #[error("its encoding is broken: {0}")]
    Encoding(prost::DecodeError),
    #[error("{0}")]
    Content(String),
}

/// Notes the configuration that raft has come to, to start from it next time.
pub(super) fn put_conf_state(round: &mut Round, conf_state: &Bytes) {
    round
        .batch()
        .put(Family::Meta, meta::CONF_STATE, conf_state);
}

/// Sets the cluster version.
pub(super) fn set_version(
    state: &State,
    round: &mut Round,
    request: &membershippb::ClusterVersionSetRequest,
) -> Result<(), Failure> {
    let Some(version) = Version::parse(&request.ver) else {
        return Err(Failure::Invalid(format!(
            "{:?} is no cluster version",
            request.ver
        )));
    };
    // A member must not serve a cluster that speaks what it cannot understand.
    if version > SERVER_VERSION.cluster() {
        return Err(Failure::Invalid(format!(
            "the cluster version is {version}, this server can be no part of more than {}",
            SERVER_VERSION.cluster()
        )));
    }
    state.membership.set_version(version, round.batch());
    Ok(())
}

/// Notes what a member says of itself.
pub(super) fn set_attributes(
    state: &State,
    round: &mut Round,
    request: &membershippb::ClusterMemberAttrSetRequest,
) -> Result<(), Failure> {
    let id = MemberId::new(request.member_id);
    let membershippb::Attributes { name, client_urls } =
        request.member_attributes.clone().unwrap_or_default();
    match state
        .membership
        .set_attributes(id, name, client_urls, round.batch())
    {
        Attributes::Set | Attributes::Removed => Ok(()),
        Attributes::Unknown => Err(Failure::Invalid(format!("there was never a member {id}"))),
    }
}

/// Sets or ends the downgrade job.
pub(super) fn set_downgrade(
    state: &State,
    round: &mut Round,
    request: &membershippb::DowngradeInfoSetRequest,
) -> Result<(), Failure> {
    let target_version = if request.enabled {
        request.ver.clone()
    } else {
        String::new()
    };
    let info = DowngradeInfo {
        target_version,
        enabled: request.enabled,
    };
    state.membership.set_downgrade(info, round.batch());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::apply::testing::Fixture;
    use crate::error::RequestError;

    fn entry(kind: i32, node_id: u64, context: &str) -> Bytes {
        let context = Bytes::from(context.to_owned());
        let entry = raftpb::ConfChange {
            id: 77,
            r#type: kind,
            node_id,
            context,
        };
        Bytes::from(entry.encode_to_vec())
    }

    fn attributes(member_id: u64, name: &str) -> membershippb::ClusterMemberAttrSetRequest {
        let client_urls = vec!["http://c:2379".to_owned()];
        let attributes = membershippb::Attributes {
            name: name.to_owned(),
            client_urls,
        };
        membershippb::ClusterMemberAttrSetRequest {
            member_id,
            member_attributes: Some(attributes),
        }
    }

    #[test]
    fn a_configuration_change_answers_its_request_and_one_that_is_refused_changes_nothing() {
        let fixture = Fixture::new();
        let added = entry(0, 7, r#"{"id":7,"peerURLs":["http://a:1"]}"#);
        fixture.round(|round| {
            let id = RequestId::new(77);
            let first = conf_change(&fixture.state, round, &added).expect("readable");
            assert_eq!(first, (id, Ok(Reply::Done)));
            let second = conf_change(&fixture.state, round, &added).expect("readable");
            assert_eq!(second, (id, Err(RequestError::MemberExist)));
        });
        assert_eq!(fixture.state.membership.table().members().count(), 1);
    }

    #[test]
    fn what_no_etcd_writes_stops_the_member() {
        let fixture = Fixture::new();
        fixture.round(|round| {
            let other = entry(0, 7, r#"{"id":8,"peerURLs":["http://a:1"]}"#);
            assert!(conf_change(&fixture.state, round, &other).is_err());
            assert!(conf_change(&fixture.state, round, &Bytes::from_static(b"\xff")).is_err());
            let unknown = set_attributes(&fixture.state, round, &attributes(7, "x"));
            assert!(matches!(unknown, Err(Failure::Invalid(_))));
            for ver in ["3.8.0", "x"] {
                let ver = ver.to_owned();
                let request = membershippb::ClusterVersionSetRequest { ver };
                let set = set_version(&fixture.state, round, &request);
                assert!(matches!(set, Err(Failure::Invalid(_))));
            }
        });
    }

    #[test]
    fn versions_downgrades_and_attributes_are_noted() {
        let fixture = Fixture::new();
        fixture.round(|round| {
            let added = entry(0, 7, r#"{"id":7,"peerURLs":["http://a:1"]}"#);
            conf_change(&fixture.state, round, &added)
                .expect("readable")
                .1
                .expect("a new member");
            set_attributes(&fixture.state, round, &attributes(7, "seven")).expect("a member");
            let request = membershippb::ClusterVersionSetRequest {
                ver: "3.7.0".to_owned(),
            };
            set_version(&fixture.state, round, &request).expect("our version");
            let request = membershippb::DowngradeInfoSetRequest {
                enabled: true,
                ver: "3.6.0".to_owned(),
            };
            set_downgrade(&fixture.state, round, &request).expect("a job");
        });
        let table = fixture.state.membership.table();
        assert_eq!(
            table.member(MemberId::new(7)).map(|m| m.name.as_str()),
            Some("seven")
        );
        assert_eq!(table.version(), Version::parse("3.7.0"));
        assert_eq!(table.downgrade().target_version, "3.6.0");
    }
}
