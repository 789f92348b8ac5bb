//! A snapshot that a peer posts: the message first, then the file, handed on as it comes.

use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use futures::future::BoxFuture;
use http::{Method, Request, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use prost::Message as _;
use tokio::sync::mpsc;
use tokio::time::timeout;
use trilith_proto::raftpb::{Message, MessageType};

use super::Peers;
use super::routes::{Refusal, meet_sender, method_not_allowed, not_taken, refusal};
use crate::ids::MemberId;
use crate::metrics::PeerMetrics;

/// What comes of a file. One that ends without [`Piece::End`] was cut off.
#[derive(Debug)]
pub enum Piece {
    /// Its next bytes.
    Bytes(Bytes),
    /// It is whole.
    End,
}

/// What became of a snapshot, sooner or later: an error says why it was not taken.
pub type Received = BoxFuture<'static, Result<(), String>>;

/// Takes what a peer posts.
pub(super) async fn snapshot(peers: &Peers, request: Request<Incoming>) -> Result<(), Refusal> {
    if request.method() != Method::POST {
        return Err(method_not_allowed("POST"));
    }
    let sender = meet_sender(peers, request.headers())?;
    let known = sender.and_then(|sender| peers.find(sender));
    let metrics = known.map(|peer| peer.metrics.clone());
    let body = Body::new(request.into_body(), metrics.clone());
    let taking = take(peers, sender, body);
    match metrics {
        Some(metrics) => metrics.snapshot_received.count(taking).await,
        None => taking.await,
    }
}

async fn take(peers: &Peers, sender: Option<MemberId>, mut body: Body) -> Result<(), Refusal> {
    let message = body.message().await.map_err(|why| {
        if let Some(metrics) = &body.metrics {
            metrics.received_failures.inc();
        }
        let text = format!("failed to decode raft message ({why})");
        refusal(StatusCode::BAD_REQUEST, text)
    })?;
    if message.r#type != MessageType::MsgSnap as i32 {
        let text = "wrong raft message type";
        return Err(refusal(StatusCode::BAD_REQUEST, text));
    }
    let sender = sender.unwrap_or(MemberId::new(message.from));
    let shared = &peers.shared;
    shared.check(sender, &message).map_err(not_taken)?;
    let (pieces, file) = mpsc::channel(PIECES_IN_FLIGHT_MAX);
    let received = shared.raft.receive_snapshot(message, file);
    let ((), taken) = tokio::join!(body.hand_on(pieces), received);
    taken.map_err(|why| {
        let sender = sender.to_string();
        tracing::warn!(
            "remote-snapshot-sender-id" = sender,
            error = why,
            "failed to save incoming database snapshot"
        );
        let text = format!("failed to save KV snapshot ({why})");
        refusal(StatusCode::INTERNAL_SERVER_ERROR, text)
    })
}

/// A body that is read piece by piece.
struct Body {
    incoming: Incoming,
    /// Bytes that came and were not taken yet.
    ahead: BytesMut,
    /// Those of the peer, if it is known.
    metrics: Option<PeerMetrics>,
}

impl Body {
    fn new(incoming: Incoming, metrics: Option<PeerMetrics>) -> Self {
        Self {
            incoming,
            ahead: BytesMut::new(),
            metrics,
        }
    }

    /// The next bytes; `None` at the end.
    async fn next(&mut self) -> Result<Option<Bytes>, String> {
        loop {
            let frame = timeout(STALL_MAX, self.incoming.frame()).await;
            let frame = frame.map_err(|_elapsed| format!("nothing came for {STALL_MAX:?}"))?;
            match frame {
                Some(Ok(frame)) => {
                    if let Ok(bytes) = frame.into_data() {
                        if let Some(metrics) = &self.metrics {
                            metrics.received_bytes.inc_by(bytes.len() as u64);
                        }
                        return Ok(Some(bytes));
                    }
                }
                Some(Err(error)) => return Err(error.to_string()),
                None => return Ok(None),
            }
        }
    }

    /// Reads until so many bytes are there.
    async fn fill(&mut self, wanted: usize) -> Result<(), String> {
        while self.ahead.len() < wanted {
            match self.next().await? {
                Some(bytes) => self.ahead.extend_from_slice(&bytes),
                None if self.ahead.is_empty() => return Err("EOF".to_owned()),
                None => return Err("unexpected EOF".to_owned()),
            }
        }
        Ok(())
    }

    /// The message before the file. A length makes room for nothing before its bytes are there.
    async fn message(&mut self) -> Result<Message, String> {
        self.fill(LENGTH_BYTES).await?;
        let length = self.ahead.get_u64();
        if length > MESSAGE_BYTES_MAX {
            return Err("rafthttp: error limit exceeded".to_owned());
        }
        let length = usize::try_from(length).map_err(|error| error.to_string())?;
        self.fill(length).await?;
        let message = self.ahead.split_to(length).freeze();
        Message::decode(message).map_err(|error| error.to_string())
    }

    /// Hands on the rest, for as long as somebody takes it.
    async fn hand_on(mut self, pieces: mpsc::Sender<Piece>) {
        let mut piece = Some(self.ahead.split().freeze());
        while let Some(bytes) = piece {
            if !bytes.is_empty() && pieces.send(Piece::Bytes(bytes)).await.is_err() {
                return;
            }
            piece = match self.next().await {
                Ok(next) => next,
                Err(error) => {
                    tracing::debug!(error, "a snapshot of a peer was cut off");
                    return;
                }
            };
        }
        // Whoever does not want it any more knows enough.
        let _gone = pieces.send(Piece::End).await;
    }
}

const LENGTH_BYTES: usize = 8;

/// etcd's bound on the message, which holds no state.
const MESSAGE_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// Pieces between the socket and the file; a piece is what one read of the socket gives.
const PIECES_IN_FLIGHT_MAX: usize = 16;

/// How long a peer may send nothing in the middle of a snapshot.
const STALL_MAX: Duration = Duration::from_secs(60);
