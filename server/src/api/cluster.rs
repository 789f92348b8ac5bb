//! The Cluster service. Headers of its answers have revision 0, as in etcd.

use tonic::{Request, Response, Status};
use trilith_proto::etcdserverpb as pb;
use trilith_proto::server::cluster_server::Cluster;

use super::header::HeaderSource;
use super::status::{not_yet, status};
use crate::cluster::{Change, Member, Membership, is_peer_url};
use crate::error::RequestError;
use crate::ids::MemberId;
use crate::read::Reader;

/// Serves `etcdserverpb.Cluster`.
///
/// A change that etcd would refuse is refused in etcd's words; one that it would make is answered
/// with `Unimplemented`, until there is more than one member to a cluster.
#[derive(Clone)]
pub struct ClusterService {
    /// Fills in headers.
    pub header: HeaderSource,
    /// Confirms linearizable lists.
    pub reader: Reader,
    /// Who is a member.
    pub membership: Membership,
    /// `--strict-reconfig-check`: refuse changes that could cost the quorum.
    pub strict_reconfig_check: bool,
}

#[tonic::async_trait]
impl Cluster for ClusterService {
    async fn member_list(
        &self,
        request: Request<pb::MemberListRequest>,
    ) -> Result<Response<pb::MemberListResponse>, Status> {
        if request.into_inner().linearizable {
            self.reader.linearizable().await.map_err(status)?;
        }
        let header = Some(self.header.at(0));
        let members = self.membership.table().members().map(wire_member).collect();
        Ok(Response::new(pb::MemberListResponse { header, members }))
    }

    async fn member_add(
        &self,
        request: Request<pb::MemberAddRequest>,
    ) -> Result<Response<pb::MemberAddResponse>, Status> {
        let request = request.into_inner();
        let trimmed = request.peer_ur_ls.iter().map(|url| url.trim().to_owned());
        let urls: Vec<String> = trimmed.collect();
        if urls.is_empty() || !urls.iter().all(|url| is_peer_url(url)) {
            return Err(status(RequestError::MemberBadUrls));
        }
        let table = self.membership.table();
        if self.strict_reconfig_check && !request.is_learner && !table.is_addition_safe() {
            return Err(status(RequestError::MemberNotEnoughStarted));
        }
        let member = Member {
            peer_urls: Some(urls),
            ..unnamed(request.is_learner)
        };
        self.would_be_refused(&match request.is_learner {
            true => Change::AddLearner(member),
            false => Change::Add(member),
        })?;
        Err(no_changes_yet())
    }

    async fn member_remove(
        &self,
        request: Request<pb::MemberRemoveRequest>,
    ) -> Result<Response<pb::MemberRemoveResponse>, Status> {
        let id = MemberId::new(request.into_inner().id);
        let table = self.membership.table();
        let learner = table.member(id).is_some_and(|member| member.is_learner);
        if self.strict_reconfig_check && !learner && !table.is_removal_safe(id) {
            return Err(status(RequestError::MemberNotEnoughStarted));
        }
        self.would_be_refused(&Change::Remove(id))?;
        Err(no_changes_yet())
    }

    async fn member_update(
        &self,
        request: Request<pb::MemberUpdateRequest>,
    ) -> Result<Response<pb::MemberUpdateResponse>, Status> {
        let request = request.into_inner();
        let peer_urls = Some(request.peer_ur_ls);
        let member = Member {
            id: request.id,
            peer_urls,
            ..unnamed(false)
        };
        self.would_be_refused(&Change::Update(member))?;
        Err(no_changes_yet())
    }

    async fn member_promote(
        &self,
        request: Request<pb::MemberPromoteRequest>,
    ) -> Result<Response<pb::MemberPromoteResponse>, Status> {
        let id = MemberId::new(request.into_inner().id);
        self.would_be_refused(&Change::Promote(id))?;
        Err(no_changes_yet())
    }
}

impl ClusterService {
    /// Refuses what apply would refuse.
    fn would_be_refused(&self, change: &Change) -> Result<(), Status> {
        self.membership.check(change).map_err(status)
    }
}

fn unnamed(is_learner: bool) -> Member {
    Member {
        is_learner,
        ..Member::default()
    }
}

fn no_changes_yet() -> Status {
    not_yet(
        "changing the members of a cluster",
        "a cluster has one member and keeps it",
    )
}

fn wire_member(member: &Member) -> pb::Member {
    pb::Member {
        id: member.id,
        name: member.name.clone(),
        peer_ur_ls: member.peer_urls().to_vec(),
        client_ur_ls: member.client_urls.clone(),
        is_learner: member.is_learner,
    }
}
