//! What a member tells the cluster about itself through the log, once it can.

use std::time::Duration;

use trilith_proto::etcdserverpb::InternalRaftRequest;
use trilith_proto::membershippb::{
    Attributes, ClusterMemberAttrSetRequest, ClusterVersionSetRequest,
};

use crate::cluster::{Membership, SERVER_VERSION, next_cluster_version};
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

/// Keeps the cluster version at what the members and the downgrade job ask for, while this member
/// leads.
///
/// Runs until the server stops. The only member there is speaks [`SERVER_VERSION`].
pub(super) async fn cluster_version(
    proposer: Proposer,
    handle: MemberHandle,
    id: MemberId,
    membership: Membership,
) {
    loop {
        let table = membership.table();
        let next = next_cluster_version(table.version(), Some(SERVER_VERSION), table.downgrade());
        if let Some(next) = next
            && handle.status().leader == Some(id)
        {
            let set = ClusterVersionSetRequest {
                ver: next.to_string(),
            };
            let request = InternalRaftRequest {
                cluster_version_set: Some(Box::new(set)),
                ..InternalRaftRequest::default()
            };
            match proposer.propose(request).await {
                Ok(_) => tracing::info!("cluster-version" = %next, "cluster version is updated"),
                Err(RequestError::Stopped) => return,
                Err(error) => tracing::warn!(%error, "failed to set the cluster version"),
            }
        }
        let pause = match membership.table().version() {
            Some(_) => VERSION_LOOK,
            None => RETRY_AFTER,
        };
        tokio::time::sleep(pause).await;
    }
}

/// How often the cluster version is looked at once there is one: etcd's interval.
const VERSION_LOOK: Duration = Duration::from_secs(4);

/// Pause between two tries.
const RETRY_AFTER: Duration = Duration::from_millis(100);
