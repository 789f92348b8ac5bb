//! From the path of a call to the service that answers it.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use http::header::CONTENT_TYPE;
use http::uri::PathAndQuery;
use http::{HeaderValue, Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use tonic::Status;
use tonic::body::Body;
use tower_service::Service;
use trilith_proto::server::cluster_server::ClusterServer;
use trilith_proto::server::kv_server::KvServer;
use trilith_proto::server::lease_server::LeaseServer;
use trilith_proto::server::maintenance_server::MaintenanceServer;
use trilith_proto::server::watch_server::WatchServer;

use super::authentication;
use super::header::HeaderSource;
use super::leader_loss::LeaderLoss;
use super::list_body::with_held_body;
use super::metadata;
use super::status::{not_yet, status, with_grpc_go_refusal};
use super::{ClusterService, KvService, LeaseService, MaintenanceService, WatchService};
use crate::auth::AuthStore;
use crate::limits::{GRPC_OVERHEAD_BYTES, GRPC_SEND_BYTES_MAX};

/// Tells what is counted, in Prometheus' text format.
pub type Scrape = Arc<dyn Fn() -> Vec<u8> + Send + Sync>;

/// All services of the client port.
#[derive(Clone)]
#[expect(missing_docs, reason = "each field is the service it is named after")]
pub struct Services {
    pub auth: AuthStore,
    pub scrape: Scrape,
    pub kv: KvService,
    pub watch: WatchService,
    pub lease: LeaseService,
    pub cluster: ClusterService,
    pub maintenance: MaintenanceService,
}

/// Routes calls by their path. A plain match instead of a router: it is on the way of every
/// request.
#[derive(Clone)]
pub(super) struct Dispatch {
    header: HeaderSource,
    leader_loss: LeaderLoss,
    auth: AuthStore,
    scrape: Scrape,
    warn_after: Duration,
    kv: KvServer<KvService>,
    watch: WatchServer<WatchService>,
    lease: LeaseServer<LeaseService>,
    cluster: ClusterServer<ClusterService>,
    maintenance: MaintenanceServer<MaintenanceService>,
}

/// The answer to a call, as the generated services give it.
pub(super) type Answer =
    Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send + 'static>>;

/// An [`Answer`] on its way out: put into grpc-go's words, and told in the log when it took long.
pub(super) struct Timed {
    answer: Answer,
    path: PathAndQuery,
    begun: Instant,
    warn_after: Duration,
    /// Ends the stream that is the answer, if the client wants a leader.
    leader_loss: Option<LeaderLoss>,
}

impl Future for Timed {
    type Output = Result<Response<Body>, Infallible>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let Ok(response) = ready!(self.answer.as_mut().poll(context));
        let took = self.begun.elapsed();
        if took > self.warn_after {
            tracing::warn!(
                { "time spent" } = ?took,
                { "response type" } = self.path.path(),
                "request stats"
            );
        }
        let response = with_held_body(with_grpc_go_refusal(response));
        Poll::Ready(Ok(match &self.leader_loss {
            Some(loss) => loss.bind(response),
            None => response,
        }))
    }
}

impl Dispatch {
    /// Limits messages to `request_bytes_max` and an envelope, as grpc-go does for etcd.
    /// A call whose answer takes longer than `warn_after` is told in the log.
    /// Streams that want a leader end three times `election_timeout` after the last one was lost.
    ///
    /// Runs within a tokio runtime.
    pub(super) fn new(
        services: &Services,
        request_bytes_max: usize,
        warn_after: Duration,
        election_timeout: Duration,
    ) -> Self {
        macro_rules! limited {
            ($server:ident, $service:expr) => {
                $server::new($service.clone())
                    .max_decoding_message_size(request_bytes_max + GRPC_OVERHEAD_BYTES)
                    .max_encoding_message_size(GRPC_SEND_BYTES_MAX)
            };
        }
        Self {
            leader_loss: LeaderLoss::look_out(services.kv.header.clone(), election_timeout),
            header: services.kv.header.clone(),
            auth: services.auth.clone(),
            scrape: services.scrape.clone(),
            warn_after,
            kv: limited!(KvServer, services.kv),
            watch: limited!(WatchServer, services.watch),
            lease: limited!(LeaseServer, services.lease),
            cluster: limited!(ClusterServer, services.cluster),
            maintenance: limited!(MaintenanceServer, services.maintenance),
        }
    }

    /// Answers one call.
    pub(super) fn call(&self, request: Request<Incoming>) -> Timed {
        let path = PathAndQuery::clone(request.uri().path_and_query().unwrap_or(&NO_PATH));
        let (begun, warn_after) = (Instant::now(), self.warn_after);
        let is_bound = metadata::wants_leader(request.headers()) && STREAMS.contains(&path.path());
        let leader_loss = is_bound.then(|| self.leader_loss.clone());
        Timed {
            answer: self.route(request),
            path,
            begun,
            warn_after,
            leader_loss,
        }
    }

    fn route(&self, request: Request<Incoming>) -> Answer {
        let path = request.uri().path();
        if path == METRICS_PATH {
            let answer = metrics((self.scrape)());
            return Box::pin(async { Ok(answer) });
        }
        let checked = metadata::check_learner(path, &self.header);
        let checked = checked.and_then(|()| metadata::check(request.headers(), &self.header));
        if let Err(error) = checked {
            return refuse(status(error));
        }
        let Some((service, method)) = path.strip_prefix('/').and_then(|p| p.rsplit_once('/'))
        else {
            return refuse(Status::unimplemented(format!(
                "malformed method name: {path:?}"
            )));
        };
        if let Err(refused) = authentication::check(&self.auth, service, method) {
            return refuse(refused);
        }
        match service {
            "etcdserverpb.KV" if KV.contains(&method) => self.kv.clone().call(request),
            "etcdserverpb.Watch" if method == "Watch" => self.watch.clone().call(request),
            "etcdserverpb.Lease" if LEASE.contains(&method) => self.lease.clone().call(request),
            "etcdserverpb.Cluster" if CLUSTER.contains(&method) => {
                self.cluster.clone().call(request)
            }
            "etcdserverpb.Maintenance" if MAINTENANCE.contains(&method) => {
                self.maintenance.clone().call(request)
            }
            "etcdserverpb.KV"
            | "etcdserverpb.Watch"
            | "etcdserverpb.Lease"
            | "etcdserverpb.Cluster"
            | "etcdserverpb.Maintenance" => refuse(Status::unimplemented(format!(
                "unknown method {method} for service {service}"
            ))),
            "etcdserverpb.Auth" | "v3lockpb.Lock" | "v3electionpb.Election" => refuse(not_yet(
                &format!("service {service}"),
                "locks and elections of etcd's client libraries need only KV and Lease",
            )),
            _ => refuse(Status::unimplemented(format!("unknown service {service}"))),
        }
    }
}

/// What is counted, to whoever asks.
fn metrics(text: Vec<u8>) -> Response<Body> {
    let mut answer = Response::new(Body::new(Full::from(text)));
    let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    answer.headers_mut().insert(CONTENT_TYPE, kind);
    answer
}

/// Where Prometheus looks.
const METRICS_PATH: &str = "/metrics";

/// A call that is refused before it reaches a service.
fn refuse(status: Status) -> Answer {
    Box::pin(async move { Ok(status.into_http()) })
}

/// What a request without a path is called in the log.
static NO_PATH: PathAndQuery = PathAndQuery::from_static("/");

/// The methods whose answers are streams, which end without a leader, if the client wants that.
const STREAMS: [&str; 4] = [
    "/etcdserverpb.KV/RangeStream",
    "/etcdserverpb.Watch/Watch",
    "/etcdserverpb.Lease/LeaseKeepAlive",
    "/etcdserverpb.Maintenance/Snapshot",
];

const KV: [&str; 6] = [
    "Range",
    "Put",
    "Txn",
    "DeleteRange",
    "RangeStream",
    "Compact",
];

const LEASE: [&str; 5] = [
    "LeaseKeepAlive",
    "LeaseGrant",
    "LeaseRevoke",
    "LeaseTimeToLive",
    "LeaseLeases",
];

const CLUSTER: [&str; 5] = [
    "MemberList",
    "MemberAdd",
    "MemberRemove",
    "MemberUpdate",
    "MemberPromote",
];

const MAINTENANCE: [&str; 8] = [
    "Status",
    "Alarm",
    "HashKV",
    "Hash",
    "Defragment",
    "Snapshot",
    "MoveLeader",
    "Downgrade",
];
