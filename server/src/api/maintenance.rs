//! The Maintenance service, as far as one member goes.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::{Mutex, watch};
use tonic::{Request, Response, Status};
use trilith_proto::etcdserverpb as pb;
use trilith_proto::etcdserverpb::alarm_request::AlarmAction;
use trilith_proto::etcdserverpb::downgrade_request::DowngradeAction;
use trilith_proto::membershippb::DowngradeInfoSetRequest;
use trilith_proto::server::maintenance_server::Maintenance;

use super::header::HeaderSource;
use super::kv::{refused, unexpected};
use super::snapshot_stream::{SnapshotSlots, SnapshotStream};
use super::status::status;
use crate::alarm::Alarms;
use crate::apply::Reply;
use crate::cluster::{Membership, SERVER_VERSION, Version, downgrade_target};
use crate::error::RequestError;
use crate::hashing::Hashing;
use crate::ids::{MemberId, Revision};
use crate::member::MemberHandle;
use crate::mvcc::Store;
use crate::propose::Proposer;
use crate::quiet;
use crate::quota::Quota;
use crate::read::Reader;
use crate::storage::{Backend, StorageError};
use crate::transfer::Transfer;

/// Serves `etcdserverpb.Maintenance`.
#[derive(Clone)]
pub struct MaintenanceService {
    /// Fills in headers.
    pub header: HeaderSource,
    /// Takes alarms and downgrade jobs into the log.
    pub proposer: Proposer,
    /// Confirms what is decided from the state.
    pub reader: Reader,
    /// What is hashed, a few at a time.
    pub hashing: Hashing,
    /// What is defragmented, and sent as a snapshot.
    pub store: Store,
    /// What is measured.
    pub backend: Backend,
    /// Raised alarms.
    pub alarms: Alarms,
    /// Members, cluster version, downgrade job.
    pub membership: Membership,
    /// Leader, term, committed and applied index.
    pub member: MemberHandle,
    /// `--quota-backend-bytes`, as it is reported.
    pub quota: Quota,
    /// Held while a client's defragmentation runs; others wait for their turn.
    pub defragmenting: Arc<Mutex<()>>,
    /// How far compactions have deleted what they cover.
    pub compacted: watch::Receiver<Revision>,
    /// Lets another member lead.
    pub transfer: Transfer,
    /// Set when the server stops.
    pub stopping: watch::Receiver<bool>,
    /// How many snapshots may be sent at once.
    pub snapshots: SnapshotSlots,
}

#[tonic::async_trait]
impl Maintenance for MaintenanceService {
    async fn alarm(
        &self,
        request: Request<pb::AlarmRequest>,
    ) -> Result<Response<pb::AlarmResponse>, Status> {
        let request = request.into_inner();
        // etcd crashes on such a request, at apply.
        if AlarmAction::try_from(request.action).is_err() {
            let text = format!("trilith: there is no alarm action {}", request.action);
            return Err(Status::invalid_argument(text));
        }
        let request = pb::InternalRaftRequest {
            alarm: Some(request),
            ..Default::default()
        };
        let mut response = match self.proposer.propose(request).await {
            Ok(Reply::Alarm(response)) => response,
            other => return Err(unexpected(other)),
        };
        self.header.fill(&mut response.header);
        Ok(Response::new(response))
    }

    async fn status(
        &self,
        _request: Request<pb::StatusRequest>,
    ) -> Result<Response<pb::StatusResponse>, Status> {
        Ok(Response::new(self.describe()))
    }

    async fn defragment(
        &self,
        _request: Request<pb::DefragmentRequest>,
    ) -> Result<Response<pb::DefragmentResponse>, Status> {
        // A client that goes away while it waits for its turn gives it up; once begun, the work
        // goes on without it.
        let turn = self.defragmenting.clone().lock_owned().await;
        // What an accepted compaction removes is to be given back too.
        let mut compacted = self.compacted.clone();
        while let Some(target) = self.store.next_compaction() {
            let finished = compacted.wait_for(|finished| *finished >= target).await;
            finished.map_err(|_stopping| status(RequestError::Stopped))?;
        }
        let store = self.store.clone();
        let stopping = self.stopping.clone();
        let defragmented = quiet::run("defragment", move || {
            let _turn = turn;
            defragment(&store, &|| !*stopping.borrow())
        });
        match defragmented.await {
            Some(Ok(ControlFlow::Continue(()))) => {
                Ok(Response::new(pb::DefragmentResponse::default()))
            }
            Some(Err(error)) => Err(Status::unknown(error.to_string())),
            Some(Ok(ControlFlow::Break(()))) | None => Err(status(RequestError::Stopped)),
        }
    }

    async fn hash(
        &self,
        _request: Request<pb::HashRequest>,
    ) -> Result<Response<pb::HashResponse>, Status> {
        let hashed = self.hashing.all().await;
        let (hash, revision) = hashed.map_err(|error| status(refused(error)))?;
        let header = Some(self.header.at(revision.get()));
        Ok(Response::new(pb::HashResponse { header, hash }))
    }

    async fn hash_kv(
        &self,
        request: Request<pb::HashKvRequest>,
    ) -> Result<Response<pb::HashKvResponse>, Status> {
        let revision = Revision::new(request.into_inner().revision);
        let hashed = self.hashing.kv(revision).await;
        let hashed = hashed.map_err(|error| status(refused(error)))?;
        Ok(Response::new(pb::HashKvResponse {
            header: Some(self.header.at(hashed.current_revision.get())),
            hash: hashed.hash,
            compact_revision: hashed.compact_revision.get(),
            hash_revision: hashed.revision.get(),
        }))
    }

    type SnapshotStream = SnapshotStream;

    async fn snapshot(
        &self,
        _request: Request<pb::SnapshotRequest>,
    ) -> Result<Response<Self::SnapshotStream>, Status> {
        let view = self.store.read().view().clone();
        Ok(Response::new(self.snapshots.send(view)?))
    }

    async fn move_leader(
        &self,
        request: Request<pb::MoveLeaderRequest>,
    ) -> Result<Response<pb::MoveLeaderResponse>, Status> {
        let target = MemberId::new(request.into_inner().target_id);
        self.transfer.to(target).await.map_err(status)?;
        Ok(Response::new(pb::MoveLeaderResponse::default()))
    }

    async fn downgrade(
        &self,
        request: Request<pb::DowngradeRequest>,
    ) -> Result<Response<pb::DowngradeResponse>, Status> {
        let request = request.into_inner();
        let version = match DowngradeAction::try_from(request.action) {
            Ok(DowngradeAction::Validate) => self.downgrade_validate(&request.version).await,
            Ok(DowngradeAction::Enable) => self.downgrade_enable(&request.version).await,
            Ok(DowngradeAction::Cancel) => self.downgrade_cancel().await,
            Err(_) => Err(RequestError::UnknownMethod),
        };
        let version = version.map_err(status)?.short();
        let header = Some(self.header.now());
        Ok(Response::new(pb::DowngradeResponse { header, version }))
    }
}

impl MaintenanceService {
    fn describe(&self) -> pb::StatusResponse {
        let raft = self.member.status();
        let table = self.membership.table();
        let sizes = self.backend.sizes();
        let mut errors = Vec::new();
        if raft.leader().is_none() {
            errors.push(RequestError::NoLeader.text().to_owned());
        }
        errors.extend(self.alarms.texts());
        pb::StatusResponse {
            header: Some(self.header.now()),
            version: SERVER_VERSION.to_string(),
            db_size: signed(sizes.total_bytes),
            db_size_in_use: signed(sizes.in_use_bytes),
            db_size_quota: self.quota.reported(),
            leader: raft.leader().unwrap_or_default().get(),
            raft_index: raft.committed().get(),
            raft_applied_index: raft.applied().get(),
            raft_term: raft.term().get(),
            errors,
            is_learner: table
                .member(self.header.member_id())
                .is_some_and(|m| m.is_learner),
            // What is stored is what the cluster version says: nothing of ours depends on it.
            storage_version: table.version().map(|v| v.to_string()).unwrap_or_default(),
            downgrade_info: Some(pb::DowngradeInfo {
                enabled: table.downgrade().enabled,
                target_version: table.downgrade().target_version.clone(),
            }),
        }
    }

    /// The cluster version, if the cluster could be downgraded to the one that the client names.
    async fn downgrade_validate(&self, target: &str) -> Result<Version, RequestError> {
        let target = downgrade_target(target)?;
        if self.membership.table().version().is_none() {
            return Err(RequestError::ClusterVersionUnavailable);
        }
        self.reader.linearizable().await?;
        let table = self.membership.table();
        let current = table
            .version()
            .ok_or(RequestError::ClusterVersionUnavailable)?;
        if current.downgrade_target() != Some(target) {
            return Err(RequestError::InvalidDowngradeTarget);
        }
        if table.downgrade().enabled {
            return Err(RequestError::DowngradeInProgress);
        }
        Ok(current)
    }

    async fn downgrade_enable(&self, target: &str) -> Result<Version, RequestError> {
        let current = self.downgrade_validate(target).await?;
        let ver = downgrade_target(target)?.to_string();
        self.set_downgrade(DowngradeInfoSetRequest { enabled: true, ver })
            .await?;
        Ok(self.membership.table().version().unwrap_or(current))
    }

    /// Without a job it answers the same, as etcd does.
    async fn downgrade_cancel(&self) -> Result<Version, RequestError> {
        self.reader.linearizable().await?;
        if self.membership.table().downgrade().enabled {
            self.set_downgrade(DowngradeInfoSetRequest::default())
                .await?;
        }
        self.membership
            .table()
            .version()
            .ok_or(RequestError::ClusterVersionUnavailable)
    }

    async fn set_downgrade(&self, request: DowngradeInfoSetRequest) -> Result<(), RequestError> {
        let request = pb::InternalRaftRequest {
            downgrade_info_set: Some(Box::new(request)),
            ..Default::default()
        };
        self.proposer.propose(request).await.map(|_| ())
    }
}

/// Gives back the space of removed revisions, and tells the log what came of it.
///
/// # Errors
///
/// A failure of the state.
pub fn defragment(
    store: &Store,
    go_on: &dyn Fn() -> bool,
) -> Result<ControlFlow<()>, StorageError> {
    let begun = Instant::now();
    let before = store.backend().sizes();
    tracing::info!(
        "current-db-size-bytes" = before.total_bytes,
        "current-db-size-in-use-bytes" = before.in_use_bytes,
        "starting defragment"
    );
    let ended = store
        .defragment(go_on)
        .inspect_err(|error| tracing::warn!(%error, "failed to defragment"))?;
    let after = store.backend().sizes();
    tracing::info!(
        "current-db-size-bytes-diff" = signed(after.total_bytes) - signed(before.total_bytes),
        "current-db-size-bytes" = after.total_bytes,
        "current-db-size-in-use-bytes" = after.in_use_bytes,
        "took" = ?begun.elapsed(),
        "finished defragment"
    );
    Ok(ended)
}

fn signed(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}
