//! The one place where an error becomes a gRPC status.

use http::Response;
use tonic::body::Body;
use tonic::{Code as GrpcCode, Status};

use crate::error::RequestError;

/// The status that etcd sends for `error`.
pub(super) fn status(error: RequestError) -> Status {
    let code = GrpcCode::from_i32(error.code() as i32);
    Status::new(code, error.text())
}

/// Words a refusal of a message that is too large as grpc-go does; others are left as they are.
///
/// tonic has a code of its own for it, which clients of etcd would take for a wrong revision.
pub(super) fn with_grpc_go_refusal(response: Response<Body>) -> Response<Body> {
    const OUT_OF_RANGE: &[u8] = b"11";
    let code = response.headers().get(Status::GRPC_STATUS);
    if code.is_none_or(|code| code.as_bytes() != OUT_OF_RANGE) {
        return response;
    }
    let Some(status) = Status::from_header_map(response.headers()) else {
        return response;
    };
    let Some((found, limit)) = status
        .message()
        .strip_prefix("Error, decoded message length too large: found ")
        .and_then(|rest| rest.strip_suffix(" bytes"))
        .and_then(|rest| rest.split_once(" bytes, the limit is: "))
    else {
        return response;
    };
    let text = format!("grpc: received message larger than max ({found} vs. {limit})");
    Status::resource_exhausted(text).into_http()
}

/// The status of a method that is part of etcd's surface and not served yet.
pub(super) fn not_yet(what: &str, instead: &str) -> Status {
    Status::unimplemented(format!(
        "trilith: {what} is not supported by this version; {instead}"
    ))
}
