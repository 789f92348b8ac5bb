//! What a member tells the cluster about itself through the log, once it can.

use std::time::Duration;

use bytes::Bytes;
use futures::future::join_all;
use http::{Request, Uri};
use serde::Deserialize;
use trilith_proto::etcdserverpb::InternalRaftRequest;
use trilith_proto::membershippb::{
    Attributes, ClusterMemberAttrSetRequest, ClusterVersionSetRequest,
};

use crate::cluster::{Member, Membership, SERVER_VERSION, Version, next_cluster_version};
use crate::error::RequestError;
use crate::ids::MemberId;
use crate::member::MemberHandle;
use crate::peer::Peers;
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
/// leads. Runs until the server stops.
pub(super) async fn cluster_version(
    proposer: Proposer,
    handle: MemberHandle,
    id: MemberId,
    membership: Membership,
    peers: Peers,
) {
    let leads = || handle.status().leader == Some(id);
    let mut looks_without = 0;
    loop {
        let is_first = membership.table().version().is_none();
        if leads() {
            let oldest = oldest_version(id, &membership, &peers).await;
            looks_without += u32::from(is_first);
            // The members of a new cluster start at about the same time.
            let may_wait = is_first && oldest.is_none() && looks_without < FIRST_LOOKS;
            let table = membership.table();
            let next = next_cluster_version(table.version(), oldest, table.downgrade());
            if let Some(next) = next.filter(|_| !may_wait && leads()) {
                match set_cluster_version(&proposer, next).await {
                    Ok(()) => {
                        tracing::info!("cluster-version" = %next, "cluster version is updated")
                    }
                    Err(RequestError::Stopped) => return,
                    Err(error) => tracing::warn!(%error, "failed to set the cluster version"),
                }
            }
        }
        let pause = match membership.table().version() {
            Some(_) => VERSION_LOOK,
            None => RETRY_AFTER,
        };
        tokio::time::sleep(pause).await;
    }
}

async fn set_cluster_version(proposer: &Proposer, version: Version) -> Result<(), RequestError> {
    let set = ClusterVersionSetRequest {
        ver: version.to_string(),
    };
    let request = InternalRaftRequest {
        cluster_version_set: Some(Box::new(set)),
        ..InternalRaftRequest::default()
    };
    proposer.propose(request).await.map(|_| ())
}

/// The lowest version among the members; `None` while one of them does not tell its own.
async fn oldest_version(id: MemberId, membership: &Membership, peers: &Peers) -> Option<Version> {
    let table = membership.table();
    let others = table.members().map(Member::id).filter(|other| *other != id);
    let told = join_all(others.map(|other| version_of(other, peers))).await;
    let oldest = |oldest: Version, told: Option<Version>| Some(oldest.min(told?));
    told.into_iter().try_fold(SERVER_VERSION, oldest)
}

/// What a member says of itself at `/version`.
#[derive(Deserialize)]
struct Told {
    etcdserver: String,
}

async fn version_of(id: MemberId, peers: &Peers) -> Option<Version> {
    let mut request = Request::new(Bytes::new());
    *request.uri_mut() = Uri::from_static("/version");
    let answer = match peers.ask(id, request, VERSION_WAIT).await {
        Ok(answer) => answer.into_body(),
        Err(error) => {
            tracing::warn!("remote-member-id" = %id, %error, "failed to get version");
            return None;
        }
    };
    let told = serde_json::from_slice::<Told>(&answer).ok();
    let Some(version) = told.and_then(|told| Version::parse(&told.etcdserver)) else {
        let said = String::from_utf8_lossy(&answer);
        tracing::warn!(
            "remote-member-id" = %id,
            "remote-member-version" = %said,
            "failed to parse server version of remote member"
        );
        return None;
    };
    if version > SERVER_VERSION {
        tracing::warn!(
            "local-member-version" = %SERVER_VERSION,
            "remote-member-id" = %id,
            "remote-member-version" = %version,
            "leader found higher-versioned member"
        );
    }
    Some(version)
}

/// How often the cluster version is looked at once there is one: etcd's interval.
const VERSION_LOOK: Duration = Duration::from_secs(4);

/// Pause between two tries.
const RETRY_AFTER: Duration = Duration::from_millis(100);

/// How long a member may take to tell its version.
const VERSION_WAIT: Duration = Duration::from_secs(1);

/// Looks at the members before a cluster of which not all are there gets the lowest version.
const FIRST_LOOKS: u32 = 10;
