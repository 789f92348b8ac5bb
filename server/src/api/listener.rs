//! Client connections: accepted, bounded, served as HTTP/2 or HTTP/1, and let go on shutdown.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::Request;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use super::dispatch::{Dispatch, Services};
use super::outlet;
use super::pings::{Calls, Pings};

/// Settings of a connection, from the flags of the same names.
#[derive(Clone, Debug)]
pub struct ConnectionSettings {
    /// `--max-request-bytes`; a message may have an envelope on top.
    pub request_bytes_max: usize,
    /// `--warning-unary-request-duration`: a call that takes longer is told in the log.
    pub warn_after: Duration,
    /// `--election-timeout`: streams that want a leader end after three of them without one.
    pub election_timeout: Duration,
    /// `--max-concurrent-streams`, per connection.
    pub concurrent_streams_max: u32,
    /// `--grpc-keepalive-min-time`: a client that pings more often is turned away.
    pub ping_min_time: Duration,
    /// `--grpc-keepalive-interval`: a ping after this long without traffic; `None` sends none.
    pub keepalive_interval: Option<Duration>,
    /// `--grpc-keepalive-timeout`: how long its answer may take; `None` for as long as it takes.
    pub keepalive_timeout: Option<Duration>,
}

/// Binds a listener, which is ready to be used by tokio.
///
/// # Errors
///
/// When the address cannot be bound: usually another process has it.
pub fn bind(address: SocketAddr, reuse: Reuse) -> io::Result<std::net::TcpListener> {
    let domain = Domain::for_address(address);
    let socket = Socket::new(domain, Type::STREAM, Some(Protocol::TCP))?;
    // Go sets it on every listener: a port in TIME_WAIT from the last run does not hinder a start.
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(reuse.port)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// `--socket-reuse-port`. (`--socket-reuse-address` asks for what every listener has anyway.)
#[derive(Clone, Copy, Debug)]
pub struct Reuse {
    /// Whether other processes may listen on the same port.
    pub port: bool,
}

/// Serves `listeners` until `shutdown` turns true, then lets calls in flight finish, for
/// [`DRAIN_TIME_MAX`] at most.
pub async fn serve(
    listeners: Vec<TcpListener>,
    services: Services,
    settings: ConnectionSettings,
    shutdown: watch::Receiver<bool>,
) {
    let dispatch = Dispatch::new(
        &services,
        settings.request_bytes_max,
        settings.warn_after,
        settings.election_timeout,
    );
    let connections = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut accepting = JoinSet::new();
    for listener in listeners {
        let server = Server {
            dispatch: dispatch.clone(),
            builder: builder(&settings),
            ping_min_time: settings.ping_min_time,
            connections: connections.clone(),
            shutdown: shutdown.clone(),
        };
        accepting.spawn(server.accept(listener));
    }
    while accepting.join_next().await.is_some() {}
    let all = u32::try_from(CONNECTIONS_MAX).expect("the bound on connections fits");
    let drained = tokio::time::timeout(DRAIN_TIME_MAX, connections.acquire_many(all)).await;
    if drained.is_err() {
        let left = CONNECTIONS_MAX - connections.available_permits();
        tracing::warn!(
            connections = left,
            "closing connections that did not finish in time"
        );
    }
}

struct Server {
    dispatch: Dispatch,
    builder: auto::Builder<TokioExecutor>,
    ping_min_time: Duration,
    connections: Arc<Semaphore>,
    shutdown: watch::Receiver<bool>,
}

impl Server {
    async fn accept(mut self, listener: TcpListener) {
        loop {
            let permit = self.connections.clone().acquire_owned().await;
            let permit = permit.expect("the semaphore is never closed");
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = stopped(&mut self.shutdown) => return,
            };
            match accepted {
                Ok((stream, peer)) => {
                    let connection = serve_connection(
                        stream,
                        peer,
                        self.dispatch.clone(),
                        self.builder.clone(),
                        self.ping_min_time,
                        self.shutdown.clone(),
                    );
                    tokio::spawn(async move {
                        connection.await;
                        drop(permit);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a client connection");
                    tokio::time::sleep(ACCEPT_BACK_OFF).await;
                }
            }
        }
    }
}

async fn serve_connection(
    stream: TcpStream,
    peer: SocketAddr,
    dispatch: Dispatch,
    builder: auto::Builder<TokioExecutor>,
    ping_min_time: Duration,
    mut shutdown: watch::Receiver<bool>,
) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "a client connection closed before it was served");
        return;
    }
    let calls = Calls::default();
    let (stream, mut outlet) = outlet::gather(stream, Pings::new(ping_min_time, calls.clone()));
    let service = hyper::service::service_fn(move |request: Request<Incoming>| {
        let (call, answer) = (calls.clone(), dispatch.call(request));
        async {
            answer
                .await
                .map(|answer| answer.map(|body| call.count(body)))
        }
    });
    let connection = builder.serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let served = tokio::select! {
        ended = poll_fn(|cx| outlet.poll(connection.as_mut(), cx)) => Some(ended),
        () = stopped(&mut shutdown) => None,
    };
    let ended = match served {
        Some(ended) => ended,
        None => {
            connection.as_mut().graceful_shutdown();
            poll_fn(|cx| outlet.poll(connection.as_mut(), cx)).await
        }
    };
    let ended = match ended {
        None => {
            tracing::info!(peer = %peer, "turning away a client that pings too often");
            let parted = tokio::time::timeout(PARTING_TIME_MAX, outlet.part()).await;
            // Whether it took the time to hear why is its own business.
            return drop(parted);
        }
        Some(ended) => ended,
    };
    let ended = match ended {
        Ok(()) => outlet.drain().await.map_err(Into::into),
        // A peer that is gone would never take what is left.
        Err(error) => Err(error),
    };
    if let Err(error) = ended {
        tracing::debug!(error, "a client connection ended with an error");
    }
}

/// Resolves when the server stops; a closed channel means that too.
async fn stopped(shutdown: &mut watch::Receiver<bool>) {
    // The guard that it resolves to holds a lock, and must not be kept over an await.
    drop(shutdown.wait_for(|stop| *stop).await);
}

fn builder(settings: &ConnectionSettings) -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_READ_TIME_MAX);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(settings.keepalive_interval)
        .keep_alive_timeout(settings.keepalive_timeout.unwrap_or(NO_TIMEOUT))
        .max_concurrent_streams(settings.concurrent_streams_max)
        .max_header_list_size(HEADER_LIST_BYTES_MAX)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_pending_accept_reset_streams(Some(PENDING_RESETS_MAX));
    builder
}

/// Connections served at once; with two descriptors for each a common limit of 65,536 leaves room
/// for files. More wait in the kernel's queue.
const CONNECTIONS_MAX: usize = 30_000;

/// Connections that the kernel holds until they are accepted; it caps this at its own limit.
const BACKLOG: i32 = 4096;

/// Stands for no timeout where one has to be named.
const NO_TIMEOUT: Duration = Duration::from_secs(365 * 24 * 3600);

/// How long calls in flight may take after the stop was asked for.
const DRAIN_TIME_MAX: Duration = Duration::from_secs(5);

/// How long a client that was turned away may take to hear why and close.
const PARTING_TIME_MAX: Duration = Duration::from_secs(1);

/// Pause after a failed accept, so that a lack of file descriptors does not spin.
const ACCEPT_BACK_OFF: Duration = Duration::from_millis(100);

/// How long an HTTP/1 client may take over its headers.
const HEADER_READ_TIME_MAX: Duration = Duration::from_secs(10);

/// Bytes of one request's headers: generous for gRPC metadata, and no room for header bombs.
const HEADER_LIST_BYTES_MAX: u32 = 16 * 1024;

/// Half of it is what h2 lets small messages waste before it closes the connection, at most 256
/// bytes for each that no stream has read yet. A client that keeps 50,000 leases alive, or creates
/// 10,000 watches, sends that many small messages in one go.
const CONNECTION_WINDOW_BYTES: u32 = 24 << 20;

/// Streams a client may have reset before we looked at them; more is a rapid-reset attack.
const PENDING_RESETS_MAX: usize = 64;
