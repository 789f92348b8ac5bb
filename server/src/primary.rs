//! What only the leader knows of a lease, since it alone keeps deadlines: renewals, and what is
//! left of a lease. Other members ask it, as etcd's do, by `POST` on its peer URL.

use std::future::Future;
use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Method, Request, StatusCode};
use prost::Message;
use trilith_proto::etcdserverpb as pb;
use trilith_proto::leasepb::{LeaseInternalRequest, LeaseInternalResponse};

use crate::error::{Code, RequestError};
use crate::ids::{LeaseId, MemberId};
use crate::lease::{Lessor, Renewal, TimeToLive};
use crate::member::MemberHandle;
use crate::mvcc::Store;
use crate::peer::Peers;
use crate::propose::Proposer;
use crate::read::Reader;

/// The lessor that keeps deadlines, be it this member's or the leader's; cheap to clone.
#[derive(Clone)]
pub struct Primary {
    /// This member.
    pub id: MemberId,
    /// Knows who leads.
    pub member: MemberHandle,
    /// The leases of this member.
    pub lessor: Lessor,
    /// Which keys hang on a lease.
    pub store: Store,
    /// Confirms that this member leads, and waits until everything committed is applied.
    pub reader: Reader,
    /// Takes checkpoints into the log; says how long a request may take.
    pub proposer: Proposer,
    /// Where the leader is asked.
    pub peers: Peers,
}

impl Primary {
    /// Gives a lease its time to live again, if that is possible at once.
    pub fn renew_now(&self, id: LeaseId) -> Option<i64> {
        if !self.member.is_steady() {
            return None;
        }
        match self.lessor.renew(id) {
            Renewal::Renewed(ttl) => Some(ttl),
            _ => None,
        }
    }

    /// Gives a lease its time to live again, wherever its deadline is kept, and tells that time.
    ///
    /// # Errors
    ///
    /// [`RequestError::LeaseNotFound`]; nobody who leads, or no answer in time.
    pub async fn renew(&self, id: LeaseId) -> Result<i64, RequestError> {
        self.until_answered(async || match self.renew_here(id).await? {
            Some(ttl) => Ok(Some(ttl)),
            None => self.renew_there(id).await,
        })
        .await
    }

    /// As [`Self::renew`], for this member as the leader; `None` when it does not lead.
    ///
    /// # Errors
    ///
    /// As [`Self::renew`].
    pub async fn renew_here(&self, id: LeaseId) -> Result<Option<i64>, RequestError> {
        let mut looked_again = false;
        loop {
            if self.lessor.is_primary() && !self.member.is_steady() {
                self.confirm().await?;
            }
            match self.lessor.renew(id) {
                Renewal::Renewed(ttl) => return Ok(Some(ttl)),
                Renewal::Missing if looked_again => return Err(RequestError::LeaseNotFound),
                Renewal::Missing => {
                    // It may be committed and not yet applied.
                    if !self.catch_up().await? {
                        return Ok(None);
                    }
                    looked_again = true;
                }
                Renewal::Expired => {
                    // Whether the revoke or the loss of leadership ends this, the next look tells.
                    if let Some(revoked) = self.lessor.revoked(id) {
                        let _ = revoked.await;
                    }
                }
                Renewal::Checkpointed => self.clear_checkpoint(id).await?,
                Renewal::NotPrimary => return Ok(None),
            }
        }
    }

    /// What is granted and left of a lease, and its keys if they are asked for. The header is left
    /// empty.
    ///
    /// # Errors
    ///
    /// As [`Self::renew`].
    pub async fn time_to_live(
        &self,
        request: &pb::LeaseTimeToLiveRequest,
    ) -> Result<pb::LeaseTimeToLiveResponse, RequestError> {
        self.until_answered(async || match self.time_to_live_here(request).await? {
            Some(answer) => Ok(Some(answer)),
            None => self.time_to_live_there(request).await,
        })
        .await
    }

    /// As [`Self::time_to_live`], for this member as the leader; `None` when it does not lead.
    ///
    /// # Errors
    ///
    /// As [`Self::renew`].
    pub async fn time_to_live_here(
        &self,
        request: &pb::LeaseTimeToLiveRequest,
    ) -> Result<Option<pb::LeaseTimeToLiveResponse>, RequestError> {
        if !self.lessor.is_primary() || !self.catch_up().await? {
            return Ok(None);
        }
        let id = LeaseId::new(request.id);
        let (granted_ttl, ttl) = match self.lessor.time_to_live(id) {
            Some(TimeToLive {
                granted,
                remaining: Some(remaining),
            }) => (granted, remaining),
            Some(TimeToLive {
                remaining: None, ..
            }) => return Ok(None),
            None => return Err(RequestError::LeaseNotFound),
        };
        let keys = if request.keys {
            let read = self.store.read();
            let keys = tokio::task::block_in_place(|| read.lease_keys(id));
            keys.map_err(|error| RequestError::Other(Code::DataLoss, error.to_string()))?
        } else {
            Vec::new()
        };
        Ok(Some(pb::LeaseTimeToLiveResponse {
            header: None,
            id: request.id,
            ttl,
            granted_ttl,
            keys,
        }))
    }

    async fn renew_there(&self, id: LeaseId) -> Result<Option<i64>, RequestError> {
        let request = pb::LeaseKeepAliveRequest { id: id.get() };
        let Some(answer) = self.ask(RENEW_PATH, &request).await? else {
            return Ok(None);
        };
        match pb::LeaseKeepAliveResponse::decode(answer) {
            Ok(renewed) if renewed.id == id.get() => Ok(Some(renewed.ttl)),
            _ => Ok(nonsense()),
        }
    }

    async fn time_to_live_there(
        &self,
        request: &pb::LeaseTimeToLiveRequest,
    ) -> Result<Option<pb::LeaseTimeToLiveResponse>, RequestError> {
        let question = LeaseInternalRequest {
            lease_time_to_live_request: Some(*request),
        };
        let Some(answer) = self.ask(TIME_TO_LIVE_PATH, &question).await? else {
            return Ok(None);
        };
        let answer = LeaseInternalResponse::decode(answer);
        match answer.map(|answer| answer.lease_time_to_live_response) {
            Ok(Some(answer)) if answer.id == request.id => {
                let header = None;
                Ok(Some(pb::LeaseTimeToLiveResponse { header, ..answer }))
            }
            _ => Ok(nonsense()),
        }
    }

    /// Asks the leader. `None` when it may be worth asking again, perhaps somebody else.
    async fn ask(
        &self,
        path: &'static str,
        question: &impl Message,
    ) -> Result<Option<Bytes>, RequestError> {
        let leader = match self.member.status().leader {
            Some(leader) if leader != self.id => leader,
            _ => return Ok(None),
        };
        let mut request = Request::new(Bytes::from(question.encode_to_vec()));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = http::Uri::from_static(path);
        let protobuf = HeaderValue::from_static(PROTOBUF);
        request.headers_mut().insert(CONTENT_TYPE, protobuf);
        let asked = tokio::select! {
            asked = self.peers.ask(leader, request, self.proposer.timeout()) => asked,
            // It may hang, and would keep the request waiting for nothing.
            _ = self.proposer.led_by(|by| by != leader) => return Ok(None),
        };
        let answer = match asked {
            Ok(answer) => answer,
            Err(error) => {
                tracing::debug!(%error, %leader, "cannot ask the leader about a lease");
                return Ok(None);
            }
        };
        let text = String::from_utf8_lossy(answer.body());
        match answer.status() {
            StatusCode::OK => Ok(Some(answer.into_body())),
            // Whoever does not know the path answers by the same code.
            StatusCode::NOT_FOUND if text.trim_end() == NOT_FOUND => {
                Err(RequestError::LeaseNotFound)
            }
            code => {
                tracing::debug!(%code, %text, %leader, "the leader does not answer about a lease");
                Ok(None)
            }
        }
    }

    /// Asks again, since leaders change, until there is an answer or the request has waited for as
    /// long as any may.
    async fn until_answered<T, F>(&self, mut ask: impl FnMut() -> F) -> Result<T, RequestError>
    where
        F: Future<Output = Result<Option<T>, RequestError>>,
    {
        let answered = async {
            loop {
                if let Some(answer) = ask().await? {
                    return Ok(answer);
                }
                tokio::time::sleep(ASK_AGAIN).await;
            }
        };
        match tokio::time::timeout(self.proposer.timeout(), answered).await {
            Ok(answered) => answered,
            Err(_elapsed) if self.member.status().leader.is_none() => Err(RequestError::NoLeader),
            Err(_elapsed) => Err(RequestError::Timeout),
        }
    }

    /// Makes sure that this member still leads, when it could have missed that it does not: etcd's
    /// `ensureLeadership`.
    async fn confirm(&self) -> Result<(), RequestError> {
        let confirmed = self.reader.linearizable().await;
        if confirmed.is_ok() && self.member.status().leader == Some(self.id) {
            return Ok(());
        }
        tracing::warn!("local-member-id" = %self.id, "Current member isn't a leader");
        Err(RequestError::LeaseNotPrimary)
    }

    /// Waits until everything committed is applied, as long as etcd does. False when the leader
    /// has changed meanwhile.
    async fn catch_up(&self) -> Result<bool, RequestError> {
        match tokio::time::timeout(CATCH_UP_WITHIN, self.reader.linearizable()).await {
            Ok(Ok(())) => Ok(true),
            Ok(Err(RequestError::LeaderChanged)) => Ok(false),
            Ok(Err(error)) => Err(error),
            Err(_elapsed) => Err(RequestError::TimeoutWaitAppliedIndex),
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
}

fn nonsense<T>() -> Option<T> {
    tracing::warn!("the leader's answer about a lease makes no sense");
    None
}

/// Where a leader renews leases for the others.
pub const RENEW_PATH: &str = "/leases";

/// Where it tells them how long leases live.
pub const TIME_TO_LIVE_PATH: &str = "/leases/internal";

/// What questions and answers between members are.
pub const PROTOBUF: &str = "application/protobuf";

/// How members tell each other that there is no such lease.
pub const NOT_FOUND: &str = "lease not found";

/// Pause before the leader is asked again: etcd's.
const ASK_AGAIN: Duration = Duration::from_millis(50);

/// How long a leader waits for its own apply: etcd's `applyTimeout`.
const CATCH_UP_WITHIN: Duration = Duration::from_secs(1);
