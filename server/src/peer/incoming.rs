//! Streams from a peer: whoever receives messages dials the one who sends them, again and again.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use tokio::time::timeout;

use super::dial::{self, Connection, DialError};
use super::framing::{Decoder, Frame, FrameError, StreamKind};
use super::headers;
use super::link::Peer;
use super::{Refused, STREAM_PATH};

/// Why a stream is not there.
#[derive(Debug, thiserror::Error)]
enum Lost {
    #[error(transparent)]
    Dial(#[from] DialError),
    #[error("{0}")]
    Http(#[from] hyper::Error),
    #[error("{0}")]
    Frame(#[from] FrameError),
    #[error("nothing came for {0:?}")]
    Silence(Duration),
    #[error("EOF")]
    End,
    #[error("the member has been permanently removed from the cluster")]
    Removed,
    #[error("{0}")]
    Refused(String),
    #[error("a message is not from the peer, or not for this member")]
    Forged,
}

/// Receives from one stream of a peer, for as long as the peer is known.
pub(super) async fn read(peer: Arc<Peer>, kind: StreamKind) {
    loop {
        let (source, lost) = match dial(&peer, kind).await {
            Ok(body) => {
                peer.status.activate();
                tracing::info!(
                    "stream-reader-type" = kind.name(),
                    "remote-peer-id" = %peer.id,
                    "established TCP streaming connection with remote peer"
                );
                ("read", receive(&peer, kind, body).await)
            }
            Err(lost) => ("dial", lost),
        };
        if matches!(lost, Lost::Removed) {
            peer.shared.raft.removed();
        }
        let stream = format!("stream {}", kind.name());
        peer.status.deactivate(source, &stream, &lost);
        tokio::time::sleep(REDIAL_AFTER).await;
    }
}

async fn dial(peer: &Peer, kind: StreamKind) -> Result<Incoming, Lost> {
    let url = peer.url().ok_or_else(no_url)?;
    let answer = request(peer, kind, &url).await;
    if answer.is_err() {
        peer.unreachable(&url);
    }
    answer
}

fn no_url() -> Lost {
    Lost::Refused("the peer has no URL".to_owned())
}

async fn request(peer: &Peer, kind: StreamKind, url: &str) -> Result<Incoming, Lost> {
    let shared = &peer.shared;
    let mut connection = Connection::open(url, &shared.timeouts).await?;
    let mut request = Request::new(Full::<Bytes>::default());
    *request.method_mut() = Method::GET;
    let path = format!("{STREAM_PATH}{}/{}", kind.name(), shared.own.id);
    *request.uri_mut() = path.parse().expect("words, a slash and an id make a path");
    *request.headers_mut() = shared.own.headers();
    let to = HeaderValue::try_from(peer.id.to_string()).expect("hexadecimal digits");
    request.headers_mut().insert(headers::RAFT_TO, to);
    let answer = connection.send(request, shared.timeouts.read).await?;
    let status = answer.status();
    if status == StatusCode::OK {
        return Ok(answer.into_body());
    }
    let theirs = headers::text(answer.headers(), &headers::CLUSTER_ID);
    let theirs = theirs.unwrap_or_default().to_owned();
    if status == StatusCode::GONE {
        return Err(Lost::Removed);
    }
    let text = dial::read_answer(answer.into_body(), shared.timeouts.read).await?;
    let text = String::from_utf8_lossy(&text).trim_end().to_owned();
    Err(Lost::Refused(match status {
        StatusCode::NOT_FOUND => {
            format!(
                "peer {} failed to find local node {}",
                peer.id, shared.own.id
            )
        }
        StatusCode::PRECONDITION_FAILED if text == headers::CLUSTER_ID_MISMATCH => {
            format!("{text}: remote[{theirs}], local[{}]", shared.own.cluster_id)
        }
        StatusCode::PRECONDITION_FAILED => text,
        other => format!("unhandled http status {other}"),
    }))
}

/// Hands on what comes, until nothing more does.
async fn receive(peer: &Peer, kind: StreamKind, mut body: Incoming) -> Lost {
    let shared = &peer.shared;
    let limit = shared.message_bytes_max;
    let mut decoder = Decoder::new(kind, shared.own.id, peer.id, limit);
    loop {
        // The other end sends a heartbeat three times within this.
        let frame = match timeout(shared.timeouts.read, body.frame()).await {
            Ok(Some(Ok(frame))) => frame,
            Ok(Some(Err(error))) => return error.into(),
            Ok(None) => return Lost::End,
            Err(_elapsed) => return Lost::Silence(shared.timeouts.read),
        };
        if let Some(bytes) = frame.data_ref() {
            peer.metrics.received_bytes.inc_by(bytes.len() as u64);
            decoder.push(bytes);
        }
        loop {
            match decoder.next() {
                Ok(Some(Frame::Heartbeat)) => {}
                Ok(Some(Frame::Message(message))) => match shared.take(peer.id, message) {
                    Ok(()) => {}
                    Err(Refused::Raft(error)) => {
                        peer.metrics.received_failures.inc();
                        tracing::warn!(error, "failed to process Raft message");
                    }
                    Err(Refused::RemovedSender | Refused::Mismatch) => {
                        peer.metrics.received_failures.inc();
                        return Lost::Forged;
                    }
                },
                Ok(None) => break,
                Err(error) => {
                    peer.metrics.received_failures.inc();
                    return error.into();
                }
            }
        }
    }
}

/// etcd's pause between two tries to get a stream.
const REDIAL_AFTER: Duration = Duration::from_millis(100);
