//! Messages to a peer that has no stream from us: one request each, as etcd's pipeline.

use std::sync::Arc;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Method, Request, StatusCode};
use http_body_util::Full;
use prost::Message as _;
use tokio::sync::{Mutex, mpsc};
use trilith_proto::raftpb::Message;

use super::RAFT_PATH;
use super::dial::{self, Connection, DialError};
use super::link::Peer;

/// Messages that wait for the pipeline of one peer: etcd's number.
pub(super) const MESSAGES_MAX: usize = 64;

/// Connections of one pipeline: etcd's number.
const CONNECTIONS: usize = 4;

/// Why a message did not arrive.
#[derive(Debug, thiserror::Error)]
enum Failed {
    #[error(transparent)]
    Dial(#[from] DialError),
    #[error("the member has been permanently removed from the cluster")]
    Forbidden,
    #[error("{0}")]
    Refused(String),
    #[error("the peer has no URL")]
    NoUrl,
}

/// The tasks that send what comes out of `waiting`.
pub(super) fn senders(
    peer: &Arc<Peer>,
    waiting: mpsc::Receiver<Message>,
) -> impl Iterator<Item = impl Future<Output = ()> + use<>> + use<> {
    let waiting = Arc::new(Mutex::new(waiting));
    let peer = peer.clone();
    (0..CONNECTIONS).map(move |_| send_all(peer.clone(), waiting.clone()))
}

async fn send_all(peer: Arc<Peer>, waiting: Arc<Mutex<mpsc::Receiver<Message>>>) {
    let mut connection = None;
    loop {
        // The guard of a `let` is dropped at its end, so the others wait for a message and not for
        // an answer.
        let message = waiting.lock().await.recv().await;
        let Some(message) = message else { return };
        match post(&peer, &mut connection, &message).await {
            Ok(()) => {
                let bytes = message.encoded_len() as u64;
                peer.metrics.sent_bytes.inc_by(bytes);
                peer.status.activate();
            }
            Err(failed) => {
                peer.metrics.sent_failures.inc();
                connection = None;
                peer.status.deactivate("write", "pipeline", &failed);
                peer.shared.raft.report_unreachable(peer.id);
            }
        }
    }
}

async fn post(
    peer: &Peer,
    connection: &mut Option<Connection>,
    message: &Message,
) -> Result<(), Failed> {
    let timeouts = &peer.shared.timeouts;
    let url = peer.url().ok_or(Failed::NoUrl)?;
    let connected = match connection {
        Some(connected) => connected,
        None => match Connection::open(&url, timeouts).await {
            Ok(opened) => connection.insert(opened),
            Err(error) => {
                peer.unreachable(&url);
                return Err(error.into());
            }
        },
    };
    let mut request = Request::new(Full::new(Bytes::from(message.encode_to_vec())));
    *request.method_mut() = Method::POST;
    *request.uri_mut() = http::Uri::from_static(RAFT_PATH);
    *request.headers_mut() = peer.shared.own.headers();
    let content_type = HeaderValue::from_static("application/protobuf");
    request.headers_mut().insert(CONTENT_TYPE, content_type);
    let answer = connected
        .send(request, timeouts.write + timeouts.read)
        .await?;
    let status = answer.status();
    let text = dial::read_answer(answer.into_body(), timeouts.read).await?;
    match status {
        StatusCode::NO_CONTENT => Ok(()),
        StatusCode::FORBIDDEN => Err(Failed::Forbidden),
        StatusCode::PRECONDITION_FAILED => {
            let text = String::from_utf8_lossy(&text);
            Err(Failed::Refused(text.trim_end().to_owned()))
        }
        other => Err(Failed::Refused(format!("unexpected http status {other}"))),
    }
}
