//! What the peer URLs serve beside raft.

use std::sync::Arc;

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use serde::Serialize;
use tokio::runtime::Handle;

use crate::apply::State;
use crate::cluster::SERVER_VERSION;
use crate::mvcc;
use crate::peer::{self, Endpoints};

/// The versions that a member has, by etcd's names.
#[derive(Serialize)]
struct Versions {
    etcdserver: String,
    etcdcluster: String,
    storage: String,
}

/// All of them; handlers run on `runtime`.
pub(super) fn endpoints(state: &State, runtime: Handle) -> Endpoints {
    let state = state.clone();
    Endpoints::new(runtime).on(
        "/version",
        Arc::new(move |request| {
            let answer = version(&state, &request);
            Box::pin(async move { answer })
        }),
    )
}

/// By this, a leader finds the version that all members speak.
fn version(state: &State, request: &Request<Bytes>) -> Response<Bytes> {
    if request.method() != Method::GET {
        let mut answer = peer::error(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed");
        let allowed = HeaderValue::from_static("GET");
        answer.headers_mut().insert(ALLOW, allowed);
        return answer;
    }
    let cluster = state.membership.table().version();
    let storage = mvcc::storage_version(state.store.read().view());
    let versions = Versions {
        etcdserver: SERVER_VERSION.to_string(),
        etcdcluster: cluster.map_or("not_decided".to_owned(), |version| version.to_string()),
        storage: storage.ok().flatten().unwrap_or("unknown".to_owned()),
    };
    let json = serde_json::to_vec(&versions).expect("three texts make JSON");
    let mut answer = Response::new(Bytes::from(json));
    let content_type = HeaderValue::from_static("application/json");
    answer.headers_mut().insert(CONTENT_TYPE, content_type);
    answer
}
