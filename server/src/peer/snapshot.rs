//! A snapshot on its way to a peer: one long request, the message first and then the file.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Method, Request, StatusCode, Uri};
use http_body::{Body, Frame, SizeHint};
use prost::Message as _;
use tokio::sync::mpsc;
use tokio::time::timeout;
use trilith_proto::raftpb::Message;

use super::SNAPSHOT_PATH;
use super::dial::{self, Connection};
use super::link::Peer;

/// Posts `message` and the `size` bytes that come through `pieces`; tells how many bytes that were.
pub(super) async fn send(
    peer: &Peer,
    message: &Message,
    size: u64,
    pieces: mpsc::Receiver<io::Result<Bytes>>,
) -> Result<u64, String> {
    let timeouts = &peer.shared.timeouts;
    let url = peer.url().ok_or("the peer has no URL")?;
    let opened = Connection::open(&url, timeouts).await;
    if opened.is_err() {
        peer.unreachable(&url);
    }
    let mut connection = opened.map_err(|error| error.to_string())?;
    let mut head = BytesMut::new();
    head.put_u64(message.encoded_len() as u64);
    head.put_slice(&message.encode_to_vec());
    let sent = Arc::new(AtomicU64::new(0));
    let total = head.len() as u64 + size;
    let body = SnapshotBody {
        left: total,
        head: Some(head.freeze()),
        pieces,
        sent: sent.clone(),
    };
    let mut request = Request::new(body);
    *request.method_mut() = Method::POST;
    *request.uri_mut() = Uri::from_static(SNAPSHOT_PATH);
    *request.headers_mut() = peer.shared.own.headers();
    let content_type = HeaderValue::from_static("application/octet-stream");
    request.headers_mut().insert(CONTENT_TYPE, content_type);
    let answer = connection.send(request, NO_TIMEOUT);
    tokio::pin!(answer);
    let (mut seen, mut waited) = (0, Duration::ZERO);
    let answer = loop {
        match timeout(STALL_MAX, &mut answer).await {
            Ok(answer) => break answer.map_err(|error| error.to_string())?,
            Err(_elapsed) => {
                let now = sent.load(Ordering::Relaxed);
                waited = if now == seen {
                    waited + STALL_MAX
                } else {
                    Duration::ZERO
                };
                let patience = if now < total {
                    STALL_MAX
                } else {
                    ANSWER_TIME_MAX
                };
                if waited >= patience {
                    return Err(format!("the peer has done nothing for {waited:?}"));
                }
                seen = now;
            }
        }
    };
    let status = answer.status();
    if status == StatusCode::NO_CONTENT {
        return Ok(total);
    }
    let text = dial::read_answer(answer.into_body(), timeouts.read).await;
    let text = text.map_err(|error| error.to_string())?;
    let text = String::from_utf8_lossy(&text);
    Err(format!("the peer answers {status}: {}", text.trim_end()))
}

/// The message, then the file as it is made.
struct SnapshotBody {
    head: Option<Bytes>,
    pieces: mpsc::Receiver<io::Result<Bytes>>,
    /// Bytes that are still to come.
    left: u64,
    /// Bytes that the connection has taken.
    sent: Arc<AtomicU64>,
}

impl Body for SnapshotBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let piece = match self.head.take() {
            Some(head) => Some(Ok(head)),
            None => ready!(self.pieces.poll_recv(cx)),
        };
        let Some(piece) = piece.transpose()? else {
            // A body that is cut off is none: the peer must not take it for whole.
            return Poll::Ready((self.left > 0).then(|| Err(io::ErrorKind::UnexpectedEof.into())));
        };
        let bytes = piece.len() as u64;
        self.left = self.left.saturating_sub(bytes);
        self.sent.fetch_add(bytes, Ordering::Relaxed);
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

/// How long a peer may take nothing of a snapshot before it is given up.
const STALL_MAX: Duration = Duration::from_secs(60);

/// How long it may take over the answer: it has to make a durable state of the whole file.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(1800);

/// The stall is watched instead.
const NO_TIMEOUT: Duration = Duration::from_secs(365 * 24 * 3600);
