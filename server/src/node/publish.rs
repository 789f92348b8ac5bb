//! What a member tells the cluster about itself through the log, once it can.

use std::time::Duration;

use trilith_proto::etcdserverpb::InternalRaftRequest;
use trilith_proto::membershippb::{
    Attributes, ClusterMemberAttrSetRequest, ClusterVersionSetRequest,
};

use crate::cluster::Membership;
use crate::error::RequestError;
use crate::ids::MemberId;
use crate::member::MemberHandle;
use crate::propose::Proposer;

/// Publishes name and client URLs of this member, again until it is applied, as etcd does.
pub(super) async fn attributes(
    proposer: Proposer,
    member: MemberId,
    name: String,
    client_urls: Vec<String>,
) {
    let request = InternalRaftRequest {
        cluster_member_attr_set: Some(Box::new(ClusterMemberAttrSetRequest {
            member_id: member.get(),
            member_attributes: Some(Attributes {
                name: name.clone(),
                client_urls,
            }),
        })),
        ..InternalRaftRequest::default()
    };
    loop {
        match proposer.propose(request.clone()).await {
            Ok(_) => break,
            Err(RequestError::Stopped) => return,
            Err(error) => {
                tracing::warn!(%error, "failed to publish local member to cluster through raft");
                tokio::time::sleep(RETRY_AFTER).await;
            }
        }
    }
    tracing::info!(
        "local-member-id" = %member,
        "local-member-name" = name,
        "published local member to cluster through raft"
    );
}

/// Sets the cluster version, when this member leads a cluster that has none yet.
pub(super) async fn cluster_version(
    proposer: Proposer,
    handle: MemberHandle,
    id: MemberId,
    membership: Membership,
) {
    while membership.table().version().is_none() {
        if handle.status().leader == Some(id) {
            let set = ClusterVersionSetRequest {
                ver: CLUSTER_VERSION.to_owned(),
            };
            let request = InternalRaftRequest {
                cluster_version_set: Some(Box::new(set)),
                ..InternalRaftRequest::default()
            };
            match proposer.propose(request).await {
                Ok(_) => return,
                Err(RequestError::Stopped) => return,
                Err(error) => tracing::warn!(%error, "failed to set the cluster version"),
            }
        }
        tokio::time::sleep(RETRY_AFTER).await;
    }
}

/// The version of etcd's cluster protocol that this member speaks.
const CLUSTER_VERSION: &str = "3.7.0";

/// Pause between two tries.
const RETRY_AFTER: Duration = Duration::from_millis(100);
