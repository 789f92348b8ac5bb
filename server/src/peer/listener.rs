//! Connections of other members: accepted, bounded, served as HTTP/1.1.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::Peers;
use super::dial::prepare;
use super::routes::{self, Endpoints};

/// Serves `listeners` for as long as it is polled; dropped, every connection ends at once, since
/// raft can lose any message.
pub async fn serve(listeners: Vec<TcpListener>, peers: Peers, endpoints: Endpoints) {
    let connections = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let endpoints = Arc::new(endpoints);
    let mut accepting = JoinSet::new();
    for listener in listeners {
        let accept = accept(
            listener,
            peers.clone(),
            endpoints.clone(),
            connections.clone(),
        );
        accepting.spawn(accept);
    }
    while accepting.join_next().await.is_some() {}
}

async fn accept(
    listener: TcpListener,
    peers: Peers,
    endpoints: Arc<Endpoints>,
    connections: Arc<Semaphore>,
) {
    let mut served = JoinSet::new();
    loop {
        let permit = connections.clone().acquire_owned().await;
        let permit = permit.expect("the semaphore is never closed");
        match listener.accept().await {
            Ok((stream, _address)) => {
                let connection = serve_connection(stream, peers.clone(), endpoints.clone());
                served.spawn(async move {
                    connection.await;
                    drop(permit);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection of a peer");
                tokio::time::sleep(ACCEPT_BACK_OFF).await;
            }
        }
        while served.try_join_next().is_some() {}
    }
}

async fn serve_connection(stream: TcpStream, peers: Peers, endpoints: Arc<Endpoints>) {
    if let Err(error) = prepare(&stream, peers.shared.timeouts.write) {
        tracing::debug!(%error, "a connection of a peer closed before it was served");
        return;
    }
    let service = hyper::service::service_fn(move |request: Request<Incoming>| {
        let (peers, endpoints) = (peers.clone(), endpoints.clone());
        async move { Ok::<_, Infallible>(routes::answer(&peers, &endpoints, request).await) }
    });
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_READ_TIME_MAX);
    let connection = builder.serve_connection(TokioIo::new(stream), service);
    if let Err(error) = connection.await {
        tracing::debug!(%error, "a connection of a peer ended with an error");
    }
}

/// Connections served at once. A peer has two streams, four of the pipeline, two probes and a few
/// for questions.
const CONNECTIONS_MAX: usize = 512;

/// How long a peer may take over the head of its next request. Probes come every four seconds on a
/// connection that stays.
const HEADER_READ_TIME_MAX: Duration = Duration::from_secs(10);

/// Pause after a failed accept, so that a lack of file descriptors does not spin.
const ACCEPT_BACK_OFF: Duration = Duration::from_millis(100);
