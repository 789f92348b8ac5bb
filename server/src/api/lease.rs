//! The Lease service. Keep-alives are answered where their stream is polled: no task, no channel,
//! and no log entry.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures::Stream;
use futures::future::BoxFuture;
use tonic::{Request, Response, Status, Streaming};
use trilith_proto::etcdserverpb as pb;
use trilith_proto::server::lease_server::Lease;

use super::authentication::CheckedRequests;
use super::header::HeaderSource;
use super::kv::unexpected;
use super::space::SpaceGuard;
use super::status::status;
use crate::apply::Reply;
use crate::auth::AuthStore;
use crate::error::RequestError;
use crate::ids::LeaseId;
use crate::lease::Lessor;
use crate::metrics::Counter;
use crate::primary::Primary;
use crate::propose::Proposer;
use crate::quota;

/// Serves `etcdserverpb.Lease`.
#[derive(Clone)]
pub struct LeaseService {
    /// Tells whether anybody is served.
    pub auth: AuthStore,
    /// Fills in headers.
    pub header: HeaderSource,
    /// Takes grants and revokes into the log.
    pub proposer: Proposer,
    /// Refuses grants that there is no room for.
    pub space: SpaceGuard,
    /// The leases there are.
    pub lessor: Lessor,
    /// Their deadlines.
    pub primary: Primary,
    /// Counts streams that break.
    pub failures: Counter,
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
        let requests = CheckedRequests::new(request.into_inner(), &self.auth, &self.failures);
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
        match self.primary.time_to_live(request).await {
            Err(RequestError::LeaseNotFound) => Ok(pb::LeaseTimeToLiveResponse {
                id: request.id,
                ttl: -1,
                ..pb::LeaseTimeToLiveResponse::default()
            }),
            told => told,
        }
    }
}

/// The answers of one keep-alive stream, in the order of its requests, one at a time.
pub struct KeepAliveStream {
    service: LeaseService,
    /// `None` once the stream has ended.
    requests: Option<CheckedRequests<Streaming<pb::LeaseKeepAliveRequest>>>,
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
        let lease = LeaseId::new(id);
        if let Some(ttl) = self.service.primary.renew_now(lease) {
            return Some(pb::LeaseKeepAliveResponse { header, id, ttl });
        }
        let primary = self.service.primary.clone();
        self.slow = Some(Box::pin(async move {
            let ttl = match primary.renew(lease).await {
                Err(RequestError::LeaseNotFound) => 0,
                renewed => renewed?,
            };
            Ok(pb::LeaseKeepAliveResponse { header, id, ttl })
        }));
        None
    }
}
