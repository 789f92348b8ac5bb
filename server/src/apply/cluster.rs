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
    round.batch().put(Family::Meta, meta::CONF_STATE, conf_state);
}

/// Sets the cluster version.
pub(super) fn set_version(
    state: &State,
    round: &mut Round,
    request: &membershippb::ClusterVersionSetRequest,
) -> Result<(), Failure> {
    let Some(version) = Version::parse(&request.ver) else {
        return Err(Failure::Invalid(format!("{:?} is no cluster version", request.ver)));
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
    match state.membership.set_attributes(id, name, client_urls, round.batch()) {
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
    let target_version = if request.enabled { request.ver.clone() } else { String::new() };
    let info = DowngradeInfo { target_version, enabled: request.enabled };
    state.membership.set_downgrade(info, round.batch());
    Ok(())
}
