//! The Cluster service. Headers of its answers have revision 0, as in etcd.

use tonic::{Request, Response, Status};
use trilith_proto::etcdserverpb as pb;
use trilith_proto::server::cluster_server::Cluster;

use super::header::HeaderSource;
use super::status::status;
use crate::cluster::{Member, Membership, is_peer_url};
use crate::error::RequestError;
use crate::ids::MemberId;
use crate::read::Reader;
use crate::reconfigure::Reconfigurer;

/// Serves `etcdserverpb.Cluster`.
#[derive(Clone)]
pub struct ClusterService {
    /// Fills in headers.
    pub header: HeaderSource,
    /// Confirms linearizable lists.
    pub reader: Reader,
    /// Who is a member.
    pub membership: Membership,
    /// Changes who is.
    pub reconfigurer: Reconfigurer,
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
        let members = self.members();
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
        let added = self.reconfigurer.add(urls, request.is_learner).await;
        let id = added.map_err(status)?;
        let members = self.members();
        Ok(Response::new(pb::MemberAddResponse {
            header: Some(self.header.at(0)),
            member: members.iter().find(|member| member.id == id.get()).cloned(),
            members,
        }))
    }

    async fn member_remove(
        &self,
        request: Request<pb::MemberRemoveRequest>,
    ) -> Result<Response<pb::MemberRemoveResponse>, Status> {
        let id = MemberId::new(request.into_inner().id);
        self.reconfigurer.remove(id).await.map_err(status)?;
        Ok(Response::new(pb::MemberRemoveResponse {
            header: Some(self.header.at(0)),
            members: self.members(),
        }))
    }

    async fn member_update(
        &self,
        request: Request<pb::MemberUpdateRequest>,
    ) -> Result<Response<pb::MemberUpdateResponse>, Status> {
        let request = request.into_inner();
        let id = MemberId::new(request.id);
        let updated = self.reconfigurer.update(id, request.peer_ur_ls).await;
        updated.map_err(status)?;
        Ok(Response::new(pb::MemberUpdateResponse {
            header: Some(self.header.at(0)),
            members: self.members(),
        }))
    }

    async fn member_promote(
        &self,
        request: Request<pb::MemberPromoteRequest>,
    ) -> Result<Response<pb::MemberPromoteResponse>, Status> {
        let id = MemberId::new(request.into_inner().id);
        self.reconfigurer.promote(id).await.map_err(status)?;
        Ok(Response::new(pb::MemberPromoteResponse {
            header: Some(self.header.at(0)),
            members: self.members(),
        }))
    }
}

impl ClusterService {
    fn members(&self) -> Vec<pb::Member> {
        self.membership.table().members().map(wire_member).collect()
    }
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
