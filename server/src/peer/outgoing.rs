//! A stream to a peer: the endless body of the answer to its request for one.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body::{Body, Frame};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};

use super::framing::{Encoder, StreamKind};
use super::link::Peer;
use super::outbox::{Outbox, message_bytes};

/// Encodes what waits for a peer, all that is there into one write.
pub(super) struct Outgoing {
    peer: Arc<Peer>,
    kind: StreamKind,
    outbox: Arc<Outbox>,
    encoder: Encoder,
    heartbeat: Interval,
    /// Whether anything was sent since the last tick of `heartbeat`.
    talked: bool,
}

impl Outgoing {
    /// Takes the place of the peer's last stream of this kind, which ends.
    pub(super) fn attach(peer: Arc<Peer>, kind: StreamKind, heartbeat: Duration) -> Self {
        let outbox = peer.attach(kind);
        let mut heartbeat = interval_at(Instant::now() + heartbeat, heartbeat);
        heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self {
            outbox,
            encoder: Encoder::new(kind),
            heartbeat,
            talked: false,
            peer,
            kind,
        }
    }
}

impl Body for Outgoing {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let this = &mut *self;
        let mut out = BytesMut::new();
        match this.outbox.poll_take(cx) {
            Poll::Ready(None) => return Poll::Ready(None),
            Poll::Ready(Some(messages)) => {
                out.reserve(messages.iter().map(message_bytes).sum());
                for message in &messages {
                    this.encoder.message(message, &mut out);
                }
                this.talked = true;
            }
            // Traffic is as good as a heartbeat.
            Poll::Pending => loop {
                match this.heartbeat.poll_tick(cx) {
                    Poll::Ready(_) if std::mem::take(&mut this.talked) => {}
                    Poll::Ready(_) => {
                        this.encoder.heartbeat(&mut out);
                        break;
                    }
                    Poll::Pending => return Poll::Pending,
                }
            },
        }
        this.peer.metrics.sent_bytes.inc_by(out.len() as u64);
        Poll::Ready(Some(Ok(Frame::data(out.freeze()))))
    }
}

impl Drop for Outgoing {
    fn drop(&mut self) {
        self.peer.detach(self.kind, &self.outbox);
    }
}
