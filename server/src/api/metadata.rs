//! What is checked of every call before it reaches its service: whether a learner serves it, and
//! what its metadata asks for.

use http::HeaderMap;

use super::header::HeaderSource;
use crate::error::RequestError;

/// Refuses on a learner all but what etcd's learners serve. Of these, `KV.Range` still has to be
/// serializable, which only the service sees.
pub(super) fn check_learner(path: &str, header: &HeaderSource) -> Result<(), RequestError> {
    if header.is_learner() && !LEARNERS_SERVE.contains(&path) {
        return Err(RequestError::NotSupportedForLearner);
    }
    Ok(())
}

const LEARNERS_SERVE: [&str; 3] = [
    "/etcdserverpb.KV/Range",
    "/etcdserverpb.Maintenance/Status",
    "/etcdserverpb.Maintenance/Snapshot",
];

/// Refuses a call that wants a leader while there is none, or that names its version in no text.
///
/// As etcd's interceptors do (`api/v3rpc/interceptor.go`).
pub(super) fn check(metadata: &HeaderMap, header: &HeaderSource) -> Result<(), RequestError> {
    // gRPC metadata is bytes to HTTP; etcd takes any text that is UTF-8.
    let is_text = |value: &http::HeaderValue| std::str::from_utf8(value.as_bytes()).is_ok();
    if metadata
        .get("client-api-version")
        .is_some_and(|version| !is_text(version))
    {
        return Err(RequestError::InvalidClientApiVersion);
    }
    if wants_leader(metadata) && !header.has_leader() {
        return Err(RequestError::NoLeader);
    }
    Ok(())
}

/// Whether the client wants an answer only while there is a leader.
pub(super) fn wants_leader(metadata: &HeaderMap) -> bool {
    let wanted = metadata.get("hasleader");
    wanted.is_some_and(|wanted| wanted == "true")
}
