//! Refuses clients while the cluster has authentication on: nobody can be a user here.
//!
//! Entries of other members, which have authenticated their clients, are checked by `apply` and go
//! on. What comes in here stands in nobody's name, so reads of it would show anybody everything.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures::Stream;
use tonic::{Code, Status};

use crate::auth::AuthStore;
use crate::metrics::Counter;

/// Refuses a call to `method` of `service` while authentication is on.
pub(super) fn check(auth: &AuthStore, service: &str, method: &str) -> Result<(), Status> {
    if auth.is_enabled() && !OPEN.contains(&(service, method)) {
        return Err(missing());
    }
    Ok(())
}

/// The requests of a stream; ends with the refusal when one comes while authentication is on.
///
/// What the stream has got before stays: etcd looks at users only when requests come, too.
pub struct CheckedRequests<R> {
    requests: R,
    auth: AuthStore,
    /// Counts streams that break here, and not because the client has gone.
    failures: Counter,
}

impl<R> CheckedRequests<R> {
    pub(super) fn new(requests: R, auth: &AuthStore, failures: &Counter) -> Self {
        Self {
            requests,
            auth: auth.clone(),
            failures: failures.clone(),
        }
    }
}

impl<T, R: Stream<Item = Result<T, Status>> + Unpin> Stream for CheckedRequests<R> {
    type Item = Result<T, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let request = ready!(Pin::new(&mut self.requests).poll_next(context));
        Poll::Ready(match request {
            Some(Ok(_)) if self.auth.is_enabled() => Some(Err(missing())),
            Some(Err(broken)) => {
                if UNREADABLE.contains(&broken.code()) {
                    self.failures.inc();
                }
                Some(Err(broken))
            }
            other => other,
        })
    }
}

fn missing() -> Status {
    Status::failed_precondition(
        "trilith: authentication is enabled in this cluster, and this version cannot authenticate \
         clients; turn it off through a member that runs etcd ('etcdctl auth disable')",
    )
}

/// What a stream ends with when its bytes are no requests, or too many.
const UNREADABLE: [Code; 3] = [Code::Internal, Code::OutOfRange, Code::ResourceExhausted];

/// What is answered all the same: it names members and tells how they are, so that operators can
/// see what they have, and nothing of keys or users. The service Auth is not served in any case.
const OPEN: [(&str, &str); 2] = [
    ("etcdserverpb.Maintenance", "Status"),
    ("etcdserverpb.Cluster", "MemberList"),
];

#[cfg(test)]
mod tests {
    use futures::StreamExt;
    use futures::stream;
    use trilith_proto::etcdserverpb as pb;

    use super::*;
    use crate::metrics::Metrics;
    use crate::storage::{Backend, BackendOptions};

    fn enable(auth: &AuthStore, backend: &Backend) {
        let mut batch = backend.batch();
        let root = pb::AuthUserAddRequest {
            name: "root".to_owned(),
            ..Default::default()
        };
        auth.change(&mut batch, |table, batch| {
            table.add_user(&root, batch)?;
            table.grant_role("root", "root", batch)?;
            table.enable(batch)
        })
        .expect("root has its role");
    }

    #[tokio::test]
    async fn calls_and_requests_on_open_streams_are_refused_from_the_moment_it_is_on() {
        let dir = tempfile::tempdir().expect("a folder for the test");
        let backend = Backend::open(dir.path(), &BackendOptions::default()).expect("a new state");
        let auth = AuthStore::load(&backend.view()).expect("no users yet");
        let gone = Err(Status::cancelled("gone"));
        let requests = stream::iter([Ok(1), Ok(2), gone, Err(Status::internal("junk"))]);
        let failures = Metrics::new().network.stream_failures().watch;
        let mut requests = CheckedRequests::new(requests, &auth, &failures);
        assert!(check(&auth, "etcdserverpb.KV", "Range").is_ok());
        assert!(matches!(requests.next().await, Some(Ok(1))));
        enable(&auth, &backend);
        for refused in [
            check(&auth, "etcdserverpb.KV", "Range"),
            check(&auth, "etcdserverpb.Maintenance", "Snapshot"),
            requests.next().await.expect("a second request").map(|_| ()),
        ] {
            let refused = refused.expect_err("authentication is on");
            assert_eq!(refused.code(), Code::FailedPrecondition);
        }
        assert!(check(&auth, "etcdserverpb.Maintenance", "Status").is_ok());
        let broken = requests
            .next()
            .await
            .expect("a third")
            .expect_err("a broken stream");
        assert_eq!(broken.code(), Code::Cancelled);
        assert_eq!(failures.get(), 0);
        assert!(requests.next().await.is_some_and(|junk| junk.is_err()));
        assert_eq!(failures.get(), 1);
    }
}
