//! etcd's gRPC surface: services, and the listeners that carry them.
//!
//! A service takes a request apart, calls the layer below and puts the answer together; it holds no
//! state but the streams of its connections. Only this module names tonic.

mod cluster;
mod fallback;
mod header;
mod kv;
mod lease;
mod maintenance;
mod range_stream;
mod status;
mod validate;
mod watch;

use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::TcpListener;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use trilith_proto::server::cluster_server::ClusterServer;
use trilith_proto::server::kv_server::KvServer;
use trilith_proto::server::lease_server::LeaseServer;
use trilith_proto::server::maintenance_server::MaintenanceServer;
use trilith_proto::server::watch_server::WatchServer;

use crate::limits::GRPC_OVERHEAD_BYTES;

pub use cluster::ClusterService;
pub use header::HeaderSource;
pub use kv::KvService;
pub use lease::LeaseService;
pub use maintenance::MaintenanceService;
pub use watch::WatchService;

/// All services of the client port.
#[derive(Clone)]
#[expect(missing_docs, reason = "each field is the service it is named after")]
pub struct Services {
    pub kv: KvService,
    pub watch: WatchService,
    pub lease: LeaseService,
    pub cluster: ClusterService,
    pub maintenance: MaintenanceService,
}

/// Settings of a connection, from the flags of the same names.
#[derive(Clone, Debug)]
pub struct ConnectionSettings {
    /// `--max-request-bytes`; a message may have [`GRPC_OVERHEAD_BYTES`] more.
    pub request_bytes_max: usize,
    /// `--max-concurrent-streams`, per connection.
    pub concurrent_streams_max: u32,
    /// `--grpc-keepalive-interval`: a ping after this long without traffic.
    pub keepalive_interval: Duration,
    /// `--grpc-keepalive-timeout`: how long its answer may take.
    pub keepalive_timeout: Duration,
}

/// Serves every listener until `shutdown` resolves, then lets what is in flight finish.
///
/// # Errors
///
/// When a listener fails.
pub async fn serve(
    listeners: Vec<TcpListener>,
    services: Services,
    settings: ConnectionSettings,
    shutdown: impl Future<Output = ()> + Clone + Send + 'static,
) -> Result<(), ServeError> {
    let servers = listeners.into_iter().map(|listener| {
        let router = router(&services, &settings);
        let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
        router.serve_with_incoming_shutdown(incoming, shutdown.clone())
    });
    futures::future::try_join_all(servers).await?;
    Ok(())
}

/// Why serving clients ended early.
#[derive(Debug, thiserror::Error)]
#[error("serving clients failed: {0}")]
pub struct ServeError(#[from] tonic::transport::Error);

/// Binds a listener of client traffic.
///
/// # Errors
///
/// When the address cannot be bound: usually another process has it.
pub async fn bind(address: SocketAddr) -> std::io::Result<TcpListener> {
    TcpListener::bind(address).await
}

fn router(services: &Services, settings: &ConnectionSettings) -> tonic::transport::server::Router {
    let receive_max = settings.request_bytes_max + GRPC_OVERHEAD_BYTES;
    macro_rules! limited {
        ($server:ident, $service:expr) => {
            $server::new($service.clone())
                .max_decoding_message_size(receive_max)
                .max_encoding_message_size(SEND_BYTES_MAX)
        };
    }
    let routes = tonic::service::Routes::new(limited!(KvServer, services.kv))
        .add_service(limited!(WatchServer, services.watch))
        .add_service(limited!(LeaseServer, services.lease))
        .add_service(limited!(ClusterServer, services.cluster))
        .add_service(limited!(MaintenanceServer, services.maintenance));
    Server::builder()
        .max_concurrent_streams(settings.concurrent_streams_max)
        .http2_keepalive_interval(Some(settings.keepalive_interval))
        .http2_keepalive_timeout(Some(settings.keepalive_timeout))
        .http2_max_header_list_size(HEADER_LIST_BYTES_MAX)
        .add_routes(fallback::with_fallback(routes))
}

/// grpc-go's bound on a message that is sent: what a signed 32-bit length holds.
const SEND_BYTES_MAX: usize = i32::MAX as usize;

/// Bytes of one request's headers: generous for gRPC metadata, and no room for header bombs.
const HEADER_LIST_BYTES_MAX: u32 = 16 * 1024;
