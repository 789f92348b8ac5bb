//! The one place where an error becomes a gRPC status.

use tonic::{Code as GrpcCode, Status};

use crate::error::RequestError;

/// The status that etcd sends for `error`.
pub(super) fn status(error: RequestError) -> Status {
    let code = GrpcCode::from_i32(error.code() as i32);
    Status::new(code, error.text())
}

/// The status of a method that is part of etcd's surface and not served yet.
pub(super) fn not_yet(what: &str, instead: &str) -> Status {
    Status::unimplemented(format!(
        "trilith: {what} is not supported by this version; {instead}"
    ))
}
