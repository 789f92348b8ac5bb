//! What the peer URLs serve beside raft.

use std::sync::Arc;

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use serde::Serialize;
use tokio::runtime::Handle;

use super::lease_endpoints;
use super::state_endpoints::{Asked, DOWNGRADE_PATH};
use crate::apply::State;
use crate::cluster::{Membership, SERVER_VERSION};
use crate::corruption::HASH_PATH;
use crate::error::RequestError;
use crate::ids::{ClusterId, MemberId};
use crate::mvcc;
use crate::peer::{self, CLUSTER_ID, Endpoints};
use crate::primary::{Primary, RENEW_PATH, TIME_TO_LIVE_PATH};
use crate::reconfigure::{PROMOTE_PATH, Reconfigurer};

/// The versions that a member has, by etcd's names.
#[derive(Serialize)]
struct Versions {
    etcdserver: String,
    etcdcluster: String,
    storage: String,
}

/// All of them; handlers run on `runtime`.
pub(super) fn endpoints(
    state: &State,
    reconfigurer: Reconfigurer,
    primary: Primary,
    asked: Asked,
    runtime: Handle,
) -> Endpoints {
    let hashed = asked.clone();
    let state = state.clone();
    let listed = asked.clone();
    let renewing = primary.clone();
    Endpoints::new(runtime)
        .on(
            "/version",
            Arc::new(move |request| {
                let answer = version(&state, &request);
                Box::pin(async move { answer })
            }),
        )
        .on(
            "/members",
            Arc::new(move |request| {
                let answer = members(&listed.membership, listed.cluster_id, &request);
                Box::pin(async move { answer })
            }),
        )
        .on(
            PROMOTE_PATH,
            Arc::new(move |request| {
                let reconfigurer = reconfigurer.clone();
                Box::pin(async move { promote(&reconfigurer, &request).await })
            }),
        )
        .on(
            HASH_PATH,
            Arc::new(move |request| {
                let asked = hashed.clone();
                Box::pin(async move { asked.hash_kv(&request).await })
            }),
        )
        .on(
            DOWNGRADE_PATH,
            Arc::new(move |request| {
                let asked = asked.clone();
                Box::pin(async move { asked.downgrade_enabled(&request).await })
            }),
        )
        .on(
            RENEW_PATH,
            Arc::new(move |request| {
                let primary = renewing.clone();
                Box::pin(async move { lease_endpoints::renew(&primary, &request).await })
            }),
        )
        .on(
            TIME_TO_LIVE_PATH,
            Arc::new(move |request| {
                let primary = primary.clone();
                Box::pin(async move { lease_endpoints::time_to_live(&primary, &request).await })
            }),
        )
}

/// By this, a member that joins finds its id and its cluster's.
fn members(
    membership: &Membership,
    cluster_id: ClusterId,
    request: &Request<Bytes>,
) -> Response<Bytes> {
    if request.method() != Method::GET {
        return not_allowed("GET");
    }
    let mut answer = json_text(membership.table().to_json());
    let id = HeaderValue::try_from(cluster_id.to_string()).expect("hexadecimal fits a header");
    answer.headers_mut().insert(CLUSTER_ID, id);
    answer
}

/// By this, a member that does not lead has a learner promoted.
async fn promote(reconfigurer: &Reconfigurer, request: &Request<Bytes>) -> Response<Bytes> {
    if request.method() != Method::POST {
        return not_allowed("POST");
    }
    let path = request.uri().path();
    let id = path.strip_prefix(PROMOTE_PATH).unwrap_or_default();
    let Ok(id) = id.parse() else {
        let text = format!("member {id:?} not found in cluster");
        return peer::error(StatusCode::NOT_FOUND, &text);
    };
    let promoted = reconfigurer.promote_here(MemberId::new(id)).await;
    match promoted {
        Ok(()) => json(
            &reconfigurer
                .membership
                .table()
                .members()
                .collect::<Vec<_>>(),
        ),
        Err(error) => {
            let code = match error {
                RequestError::MemberNotFound => StatusCode::NOT_FOUND,
                RequestError::MemberNotLearner | RequestError::LearnerNotReady => {
                    StatusCode::PRECONDITION_FAILED
                }
                _ => StatusCode::INTERNAL_SERVER_ERROR,
            };
            peer::error(code, error.text())
        }
    }
}

/// By this, a leader finds the version that all members speak.
fn version(state: &State, request: &Request<Bytes>) -> Response<Bytes> {
    if request.method() != Method::GET {
        return not_allowed("GET");
    }
    let cluster = state.membership.table().version();
    let storage = mvcc::storage_version(state.store.read().view());
    let versions = Versions {
        etcdserver: SERVER_VERSION.to_string(),
        etcdcluster: cluster.map_or("not_decided".to_owned(), |version| version.to_string()),
        storage: storage.ok().flatten().unwrap_or("unknown".to_owned()),
    };
    json(&versions)
}

pub(super) fn not_allowed(allowed: &'static str) -> Response<Bytes> {
    let mut answer = peer::error(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed");
    let allowed = HeaderValue::from_static(allowed);
    answer.headers_mut().insert(ALLOW, allowed);
    answer
}

fn json(value: &impl Serialize) -> Response<Bytes> {
    json_text(serde_json::to_string(value).expect("texts, numbers and lists make JSON"))
}

fn json_text(json: String) -> Response<Bytes> {
    let mut answer = Response::new(Bytes::from(json));
    let content_type = HeaderValue::from_static("application/json");
    answer.headers_mut().insert(CONTENT_TYPE, content_type);
    answer
}
