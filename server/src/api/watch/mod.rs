//! The Watch service: a client's stream of watch requests, and the stream of responses to it.
//!
//! The response stream does all the work when it is polled: it takes deliveries from the hub, reads
//! requests, and looks at its progress timer. There is no task and no queue of its own, so a client
//! that does not read costs what the hub's mailbox and the transport hold for it.

mod stream;

mod progress;
mod response;

#[cfg(test)]
mod stream_test;

use std::time::Duration;

use tonic::{Request, Response, Status, Streaming};
use trilith_proto::etcdserverpb::WatchRequest;
use trilith_proto::server::watch_server::Watch;

use self::stream::ResponseStream;
use super::authentication::CheckedRequests;
use super::header::HeaderSource;
use crate::auth::AuthStore;
use crate::limits::GRPC_OVERHEAD_BYTES;
use crate::metrics::Counter;
use crate::mvcc::watch::WatchHub;

/// Serves `etcdserverpb.Watch`.
#[derive(Clone)]
pub struct WatchService {
    /// Tells whether anybody is served.
    pub auth: AuthStore,
    /// Fills in headers.
    pub header: HeaderSource,
    /// Where watchers live.
    pub hub: WatchHub,
    /// Counts streams that break.
    pub failures: Counter,
    /// `--watch-progress-notify-interval`.
    pub progress_interval: Duration,
    /// `--max-request-bytes`; what is larger by an envelope is fragmented where the client allows.
    pub request_bytes_max: usize,
}

#[tonic::async_trait]
impl Watch for WatchService {
    type WatchStream = ResponseStream<CheckedRequests<Streaming<WatchRequest>>>;

    async fn watch(
        &self,
        request: Request<Streaming<WatchRequest>>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let header = self.header.clone();
        Ok(Response::new(ResponseStream::new(
            CheckedRequests::new(request.into_inner(), &self.auth, &self.failures),
            self.hub.open(),
            Box::new(move |revision| header.at(revision)),
            self.progress_interval,
            self.request_bytes_max + GRPC_OVERHEAD_BYTES,
        )))
    }
}
