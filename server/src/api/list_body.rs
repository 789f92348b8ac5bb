//! The body of a long reply: frames that are made while those before them go out.
//!
//! tonic encodes a message whole before its first byte goes out, and makes the next one when the
//! last has gone. Here the parts of a reply are made on a thread that may block, one ahead of what
//! the connection takes, and go to it as they are. A body travels from its service to the dispatch
//! as an extension of the response.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{BufMut as _, Bytes, BytesMut};
use http::{HeaderMap, Response};
use http_body::{Body as HttpBody, Frame};
use parking_lot::Mutex;
use tokio::task::JoinHandle;
use tonic::body::Body;
use tonic::{Response as Reply, Status};

use super::status::status;
use crate::error::RequestError;
use crate::limits::GRPC_SEND_BYTES_MAX;

/// What makes the parts of a reply, one call after the other.
pub(super) trait Parts: Send + 'static {
    /// The next part, as frames; `None` when the reply is complete. May block.
    fn next(&mut self) -> Result<Option<Vec<Bytes>>, Status>;
}

/// A reply that is sent as `frames`, and then what `parts` makes, with `placeholder` for what the
/// generated service wants to have.
pub(super) fn reply<T>(placeholder: T, frames: Vec<Bytes>, parts: Option<impl Parts>) -> Reply<T> {
    let body = Body::new(ListBody {
        frames: frames.into(),
        ahead: parts.map_or_else(|| Ahead::Ended(Status::ok("")), Ahead::making),
    });
    let mut reply = Reply::new(placeholder);
    let held = Held(Arc::new(Mutex::new(Some(body))));
    reply.extensions_mut().insert(held);
    reply
}

/// Gives a response the body that its service left beside it, if it did.
pub(super) fn with_held_body(mut response: Response<Body>) -> Response<Body> {
    let Some(Held(held)) = response.extensions_mut().remove::<Held>() else {
        return response;
    };
    match held.lock().take() {
        Some(body) => response.map(|_placeholder| body),
        None => response,
    }
}

/// A body on its way to the dispatch; extensions have to be cloneable, and a body is sent once.
#[derive(Clone)]
struct Held(Arc<Mutex<Option<Body>>>);

struct ListBody<P> {
    frames: VecDeque<Bytes>,
    ahead: Ahead<P>,
}

enum Ahead<P> {
    /// The next part is being made. It is the only one: what a client that does not read makes us
    /// hold is two parts.
    Making(JoinHandle<Made<P>>),
    /// All parts are made; the trailers are still to be sent.
    Ended(Status),
    Over,
}

type Made<P> = (P, Result<Option<Vec<Bytes>>, Status>);

impl<P: Parts> Ahead<P> {
    fn making(mut parts: P) -> Self {
        Self::Making(tokio::task::spawn_blocking(move || {
            let made = parts.next();
            (parts, made)
        }))
    }
}

impl<P: Parts> HttpBody for ListBody<P> {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        loop {
            if let Some(frame) = self.frames.pop_front() {
                return Poll::Ready(Some(Ok(Frame::data(frame))));
            }
            self.ahead = match &mut self.ahead {
                Ahead::Making(part) => match ready!(Pin::new(part).poll(context)) {
                    Ok((parts, Ok(Some(frames)))) => {
                        self.frames = frames.into();
                        Ahead::making(parts)
                    }
                    Ok((_, Ok(None))) => Ahead::Ended(Status::ok("")),
                    Ok((_, Err(error))) => Ahead::Ended(error),
                    // The runtime stops, and with it the server.
                    Err(_) => Ahead::Ended(status(RequestError::Stopped)),
                },
                Ahead::Ended(status) => {
                    let mut trailers = HeaderMap::new();
                    let added = status.add_header(&mut trailers);
                    self.ahead = Ahead::Over;
                    return Poll::Ready(Some(added.map(|()| Frame::trailers(trailers))));
                }
                Ahead::Over => return Poll::Ready(None),
            };
        }
    }

    fn is_end_stream(&self) -> bool {
        self.frames.is_empty() && matches!(self.ahead, Ahead::Over)
    }
}

/// The length of a message, if gRPC clients take one so long.
///
/// # Errors
///
/// Otherwise, in grpc-go's words.
pub(super) fn message_length(length: usize) -> Result<u32, Status> {
    let fits = |length: &u32| *length as usize <= GRPC_SEND_BYTES_MAX;
    u32::try_from(length).ok().filter(fits).ok_or_else(|| {
        Status::resource_exhausted(format!(
            "trying to send message larger than max ({length} vs. {GRPC_SEND_BYTES_MAX})"
        ))
    })
}

/// Puts gRPC's prefix of a message that is not compressed and `length` long.
pub(super) fn open_message(length: u32, into: &mut BytesMut) {
    into.put_u8(UNCOMPRESSED);
    into.put_u32(length);
}

/// First byte of a gRPC message that is not compressed.
const UNCOMPRESSED: u8 = 0;
