//! The Lease service. Keep-alives are answered where their stream is polled: no task, no channel,
//! and no log entry.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures::Stream;
use futures::future::BoxFuture;
use tonic::{Request, Response, Status, Streaming};
use trilith_proto::etcdserverpb as pb;
use trilith_proto::server::lease_server::Lease;

use super::header::HeaderSource;
use super::kv::{refused, unexpected};
use super::space::SpaceGuard;
use super::status::status;
use crate::apply::Reply;
use crate::error::RequestError;
use crate::ids::LeaseId;
use crate::lease::{Lessor, Renewal, TimeToLive};
use crate::mvcc::Store;
use crate::propose::Proposer;
use crate::quota;
use crate::read::Reader;

/// How long a request for the leader waits before it looks for one again: etcd's pause.
const LEADER_RETRY: Duration = Duration::from_millis(50);

/// Serves `etcdserverpb.Lease`.
#[derive(Clone)]
pub struct LeaseService {
    /// Fills in headers.
    pub header: HeaderSource,
    /// Takes grants and revokes into the log.
    pub proposer: Proposer,
    /// Refuses grants that there is no room for.
    pub space: SpaceGuard,
    /// Waits until everything committed is applied.
    pub reader: Reader,
    /// Which keys hang on a lease.
    pub store: Store,
    /// Deadlines.
    pub lessor: Lessor,
}

#[tonic::async_trait]
impl Lease for LeaseService {
    async fn lease_grant(
        &self,
        request: Request<pb::LeaseGrantRequest>,
    ) -> Result<Response<pb::LeaseGrantResponse>, Status> {
        self.space.admit(quota::LEASE_BYTES).await?;
        let mut request = request.into_inner();
        while request.id == 0 {
            request.id = (self.proposer.next_id().get() & (u64::MAX >> 1)) as i64;
        }
        let request = pb::InternalRaftRequest {
            lease_grant: Some(request),
            ..Default::default()
        };
        let mut response = match self.proposer.propose(request).await {
            Ok(Reply::LeaseGrant(response)) => response,
            other => return Err(unexpected(other)),
        };
        self.header.fill(&mut response.header);
        Ok(Response::new(response))
    }

    async fn lease_revoke(
        &self,
        request: Request<pb::LeaseRevokeRequest>,
    ) -> Result<Response<pb::LeaseRevokeResponse>, Status> {
        let request = pb::InternalRaftRequest {
            lease_revoke: Some(request.into_inner()),
            ..Default::default()
        };
        let mut response = match self.proposer.propose(request).await {
            Ok(Reply::LeaseRevoke(response)) => response,
            other => return Err(unexpected(other)),
        };
        self.header.fill(&mut response.header);
        Ok(Response::new(response))
    }

    type LeaseKeepAliveStream = KeepAliveStream;

    async fn lease_keep_alive(
        &self,
        request: Request<Streaming<pb::LeaseKeepAliveRequest>>,
    ) -> Result<Response<KeepAliveStream>, Status> {
        let requests = request.into_inner();
        let stream = KeepAliveStream {
            service: self.clone(),
            requests: Some(requests),
            slow: None,
        };
        Ok(Response::new(stream))
    }

    async fn lease_time_to_live(
        &self,
        request: Request<pb::LeaseTimeToLiveRequest>,
    ) -> Result<Response<pb::LeaseTimeToLiveResponse>, Status> {
        let request = request.into_inner();
        let mut response = self.time_to_live(&request).await.map_err(status)?;
        self.header.fill(&mut response.header);
        Ok(Response::new(response))
    }

    async fn lease_leases(
        &self,
        _request: Request<pb::LeaseLeasesRequest>,
    ) -> Result<Response<pb::LeaseLeasesResponse>, Status> {
        // Sorting a million leases would keep everything else on this worker thread waiting.
        let ids = tokio::task::block_in_place(|| self.lessor.leases());
        let leases = ids
            .into_iter()
            .map(|id| pb::LeaseStatus { id: id.get() })
            .collect();
        let header = Some(self.header.now());
        Ok(Response::new(pb::LeaseLeasesResponse { header, leases }))
    }
}

impl LeaseService {
    /// A missing lease is no error: its time to live is -1.
    async fn time_to_live(
        &self,
        request: &pb::LeaseTimeToLiveRequest,
    ) -> Result<pb::LeaseTimeToLiveResponse, RequestError> {
        let id = LeaseId::new(request.id);
        self.wait_primary().await?;
        // A grant that is committed and not yet applied must be found.
        self.reader.linearizable().await?;
        let (granted_ttl, ttl) = match self.lessor.time_to_live(id) {
            Some(TimeToLive {
                granted,
                remaining: Some(remaining),
            }) => (granted, remaining),
            Some(TimeToLive {
                remaining: None, ..
            }) => return Err(RequestError::LeaderChanged),
            None => (0, -1),
        };
        let keys = if request.keys && granted_ttl != 0 {
            let read = self.store.read();
            tokio::task::block_in_place(|| read.lease_keys(id)).map_err(refused)?
        } else {
            Vec::new()
        };
        Ok(pb::LeaseTimeToLiveResponse {
            header: None,
            id: request.id,
            ttl,
            granted_ttl,
            keys,
        })
    }

    /// The seldom ways of a keep-alive: those that have to wait for something.
    async fn renew_slowly(&self, id: LeaseId) -> Result<i64, RequestError> {
        let mut looked_again = false;
        loop {
            match self.lessor.renew(id) {
                Renewal::Renewed(ttl) => return Ok(ttl),
                Renewal::Missing if looked_again => return Ok(0),
                Renewal::Missing => {
                    // It may be committed and not yet applied.
                    self.reader.linearizable().await?;
                    looked_again = true;
                }
                Renewal::Expired => {
                    // Whether the revoke or the loss of leadership ends this, the next look tells.
                    if let Some(revoked) = self.lessor.revoked(id) {
                        let _ = revoked.await;
                    }
                }
                Renewal::Checkpointed => self.clear_checkpoint(id).await?,
                Renewal::NotPrimary => self.wait_primary().await?,
            }
        }
    }

    /// Takes back what the last checkpoint said of a lease, since it gets its full time now.
    async fn clear_checkpoint(&self, id: LeaseId) -> Result<(), RequestError> {
        let checkpoints = vec![pb::LeaseCheckpoint {
            id: id.get(),
            remaining_ttl: 0,
        }];
        let request = pb::LeaseCheckpointRequest { checkpoints };
        let request = pb::InternalRaftRequest {
            lease_checkpoint: Some(request),
            ..Default::default()
        };
        self.proposer.propose(request).await.map(|_| ())
    }

    /// Waits until this member keeps deadlines.
    async fn wait_primary(&self) -> Result<(), RequestError> {
        let leads = async {
            while !self.lessor.is_primary() {
                tokio::time::sleep(LEADER_RETRY).await;
            }
        };
        let in_time = tokio::time::timeout(self.proposer.timeout(), leads).await;
        in_time.map_err(|_elapsed| RequestError::NoLeader)
    }
}

/// The answers of one keep-alive stream, in the order of its requests, one at a time.
pub struct KeepAliveStream {
    service: LeaseService,
    /// `None` once the stream has ended.
    requests: Option<Streaming<pb::LeaseKeepAliveRequest>>,
    /// A keep-alive that has to wait.
    slow: Option<BoxFuture<'static, Result<pb::LeaseKeepAliveResponse, RequestError>>>,
}

impl Stream for KeepAliveStream {
    type Item = Result<pb::LeaseKeepAliveResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let stream = &mut *self;
        loop {
            if let Some(slow) = &mut stream.slow {
                let answer = ready!(slow.as_mut().poll(context));
                stream.slow = None;
                if answer.is_err() {
                    stream.requests = None;
                }
                return Poll::Ready(Some(answer.map_err(status)));
            }
            let Some(requests) = &mut stream.requests else {
                return Poll::Ready(None);
            };
            let request = match ready!(Pin::new(requests).poll_next(context)) {
                Some(Ok(request)) => request,
                Some(Err(broken)) => {
                    stream.requests = None;
                    return Poll::Ready(Some(Err(broken)));
                }
                None => {
                    stream.requests = None;
                    return Poll::Ready(None);
                }
            };
            if let Some(answer) = stream.renew(request.id) {
                return Poll::Ready(Some(Ok(answer)));
            }
        }
    }
}

impl KeepAliveStream {
    /// Answers at once, or leaves the answer to the future in `slow`.
    fn renew(&mut self, id: i64) -> Option<pb::LeaseKeepAliveResponse> {
        // The header comes first: its revision may not be later than the renewal, or a client could
        // see a lease alive at a revision at which it had been revoked.
        let header = Some(self.service.header.now());
        if let Renewal::Renewed(ttl) = self.service.lessor.renew(LeaseId::new(id)) {
            return Some(pb::LeaseKeepAliveResponse { header, id, ttl });
        }
        let service = self.service.clone();
        self.slow = Some(Box::pin(async move {
            let ttl = service.renew_slowly(LeaseId::new(id)).await?;
            Ok(pb::LeaseKeepAliveResponse { header, id, ttl })
        }));
        None
    }
}
