//! What a call's metadata asks for, checked before the call reaches its service.

use http::HeaderMap;

use super::header::HeaderSource;
use crate::error::RequestError;

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
    let wants_leader = metadata
        .get("hasleader")
        .is_some_and(|wanted| wanted == "true");
    if wants_leader && !header.has_leader() {
        return Err(RequestError::NoLeader);
    }
    Ok(())
}
