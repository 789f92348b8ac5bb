//! The KV service: check, call, map the error, fill in the header; nothing else.

use tonic::{Request, Response, Status};
use trilith_proto::etcdserverpb as pb;
use trilith_proto::etcdserverpb::request_op::Request as Operation;
use trilith_proto::server::kv_server::Kv;
use trilith_proto::wire;

use super::header::HeaderSource;
use super::large_reply;
use super::list::Lister;
use super::range_stream::{self, RangeStream};
use super::space::SpaceGuard;
use super::status::status;
use super::validate;
use crate::apply::{self, Applied, Reply};
use crate::error::{Code, RequestError};
use crate::ids::Revision;
use crate::mvcc::{End, MvccError, RangeQuery, ReadTxn, Store};
use crate::propose::Proposer;
use crate::quota;
use crate::read::Reader;

/// Serves `etcdserverpb.KV`.
#[derive(Clone)]
pub struct KvService {
    /// Fills in headers.
    pub header: HeaderSource,
    /// Takes writes into the log.
    pub proposer: Proposer,
    /// Refuses writes that there is no room for: before anything else is checked, as etcd does.
    pub space: SpaceGuard,
    /// Confirms linearizable reads.
    pub reader: Reader,
    /// Where reads are answered from.
    pub store: Store,
    /// Says when a compaction has deleted everything it covers.
    pub compaction: tokio::sync::watch::Receiver<Revision>,
    /// `--max-txn-ops`.
    pub txn_operations_max: usize,
    /// `--max-request-bytes`, which chunks of a streamed range aim at.
    pub request_bytes_max: usize,
}

#[tonic::async_trait]
impl Kv for KvService {
    async fn range(
        &self,
        request: Request<pb::RangeRequest>,
    ) -> Result<Response<wire::RangeResponse>, Status> {
        let request = request.into_inner();
        if self.header.is_learner() && !request.serializable {
            return Err(status(RequestError::NotSupportedForLearner));
        }
        let query = validate::range(&request).map_err(status)?;
        self.confirm(!request.serializable).await.map_err(status)?;
        let read = self.store.read();
        let is_short = query.interval.end == End::Single
            || (query.looks_at_most(INLINE_KEYS_MAX) && query.revision <= 0);
        if is_short || query.count_only || !query.is_in_key_order() {
            let mut response = range(&read, &query, is_short).map_err(status)?;
            self.header.fill(&mut response.header);
            return large_reply::reply(response);
        }
        let header = self.header.at(read.revision().get());
        let lister = Lister::new(read, &query);
        // A long scan would keep everything else on this worker thread waiting.
        tokio::task::block_in_place(|| large_reply::list(lister, query.limit, header))
    }

    type RangeStreamStream = RangeStream;

    async fn range_stream(
        &self,
        request: Request<pb::RangeRequest>,
    ) -> Result<Response<RangeStream>, Status> {
        let request = request.into_inner();
        let query = validate::range_stream(&request).map_err(status)?;
        self.confirm(!request.serializable).await.map_err(status)?;
        let read = self.store.read();
        let header = self.header.clone();
        Ok(range_stream::stream(
            read,
            &query,
            Box::new(move |revision| header.at(revision)),
            self.request_bytes_max,
        ))
    }

    async fn put(
        &self,
        request: Request<pb::PutRequest>,
    ) -> Result<Response<wire::PutResponse>, Status> {
        let request = request.into_inner();
        self.space.admit(quota::put_cost(&request)).await?;
        validate::put(&request).map_err(status)?;
        let request = pb::InternalRaftRequest {
            put: Some(request),
            ..Default::default()
        };
        let mut response = match self.proposer.propose(request).await {
            Ok(Reply::Put(response)) => response,
            other => return Err(unexpected(other)),
        };
        self.header.fill(&mut response.header);
        Ok(Response::new(response))
    }

    async fn delete_range(
        &self,
        request: Request<pb::DeleteRangeRequest>,
    ) -> Result<Response<wire::DeleteRangeResponse>, Status> {
        let request = request.into_inner();
        validate::delete_range(&request).map_err(status)?;
        let request = pb::InternalRaftRequest {
            delete_range: Some(request),
            ..Default::default()
        };
        let mut response = match self.proposer.propose(request).await {
            Ok(Reply::DeleteRange(response)) => response,
            other => return Err(unexpected(other)),
        };
        self.header.fill(&mut response.header);
        Ok(Response::new(response))
    }

    async fn txn(
        &self,
        request: Request<pb::TxnRequest>,
    ) -> Result<Response<wire::TxnResponse>, Status> {
        let request = request.into_inner();
        self.space.admit(quota::txn_cost(&request)).await?;
        validate::txn(&request, self.txn_operations_max).map_err(status)?;
        let mut response = if apply::is_read_only(&request) {
            self.confirm(!apply::is_serializable(&request))
                .await
                .map_err(status)?;
            let read = || apply::read_only_txn(&self.store.read(), &request);
            let answered = if reads_single_keys(&request) {
                read()
            } else {
                // As a long range does, it would keep this worker thread to itself.
                tokio::task::block_in_place(read)
            };
            answered.map_err(status)?
        } else {
            let request = pb::InternalRaftRequest {
                txn: Some(request),
                ..Default::default()
            };
            match self.proposer.propose(request).await {
                Ok(Reply::Txn(response)) => response,
                other => return Err(unexpected(other)),
            }
        };
        self.header.fill(&mut response.header);
        Ok(Response::new(response))
    }

    async fn compact(
        &self,
        request: Request<pb::CompactionRequest>,
    ) -> Result<Response<pb::CompactionResponse>, Status> {
        let request = request.into_inner();
        let (target, physical) = (Revision::new(request.revision), request.physical);
        let request = pb::InternalRaftRequest {
            compaction: Some(request),
            ..Default::default()
        };
        let mut response = match self.proposer.propose(request).await {
            Ok(Reply::Compact(response)) => response,
            other => return Err(unexpected(other)),
        };
        if physical {
            let mut compaction = self.compaction.clone();
            let finished = compaction.wait_for(|finished| *finished >= target).await;
            finished.map_err(|_closed| status(RequestError::Stopped))?;
        }
        // etcd answers with the revision at the end of the call, not at the apply.
        let header = response.header.get_or_insert_default();
        header.revision = self.store.read().revision().get();
        self.header.fill_without_revision(header);
        Ok(Response::new(response))
    }
}

impl KvService {
    /// Waits until a read sees everything that was committed before, if it has to.
    async fn confirm(&self, linearizable: bool) -> Result<(), RequestError> {
        if linearizable {
            self.reader.linearizable().await
        } else {
            Ok(())
        }
    }
}

fn range(
    read: &ReadTxn,
    query: &RangeQuery,
    is_short: bool,
) -> Result<wire::RangeResponse, RequestError> {
    let found = if is_short {
        read.range(query)
    } else {
        tokio::task::block_in_place(|| read.range(query))
    };
    let found = found.map_err(refused)?;
    Ok(wire::RangeResponse {
        header: Some(pb::ResponseHeader {
            revision: found.revision.get(),
            ..pb::ResponseHeader::default()
        }),
        kvs: found.kvs,
        more: found.more,
        count: found.count,
    })
}

/// Whether no operation or compare of a transaction that only reads goes over a range.
fn reads_single_keys(request: &pb::TxnRequest) -> bool {
    let operations = request.success.iter().chain(&request.failure);
    request
        .compare
        .iter()
        .all(|compare| compare.range_end.is_empty())
        && operations
            .into_iter()
            .all(|operation| match &operation.request {
                Some(Operation::RequestRange(range)) => range.range_end.is_empty(),
                _ => true,
            })
}

/// Keys that a read may scan on the thread that serves connections: well under a millisecond's
/// worth.
const INLINE_KEYS_MAX: i64 = 128;

/// What a reader of the store is told.
pub(super) fn refused(error: MvccError) -> RequestError {
    match error {
        MvccError::Compacted { .. } => RequestError::Compacted,
        MvccError::FutureRevision { .. } => RequestError::FutureRevision,
        MvccError::Stopped => RequestError::Stopped,
        other => RequestError::Other(Code::DataLoss, other.to_string()),
    }
}

/// The status of a proposal that brought anything but the reply to its kind of request.
pub(super) fn unexpected(applied: Applied) -> Status {
    match applied {
        Err(error) => status(error),
        Ok(reply) => Status::internal(format!("apply answered {reply:?} to another request")),
    }
}
