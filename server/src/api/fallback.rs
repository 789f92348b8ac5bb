//! Answers calls of methods that nobody serves, as grpc-go words it.

use tonic::service::Routes;

/// Puts the answer for unknown services and methods behind `routes`.
pub(super) fn with_fallback(routes: Routes) -> Routes {
    routes
}
