//! The body of a long reply: frames that are made while those before them go out.
//!
//! tonic encodes a message whole before its first byte goes out, and makes the next one when the
//! last has gone. Here the parts of a reply are made on a thread that may block, a few ahead of
//! what the connection takes, and go to it as they are. A body travels from its service to the
//! dispatch as an extension of the response.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{BufMut as _, Bytes, BytesMut};
use http::{HeaderMap, Response};
use http_body::{Body as HttpBody, Frame};
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tonic::body::Body;
use tonic::{Response as Reply, Status};

use super::snapshot_stream::STALL_MAX;
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
    let body = Body::new(ListBody::new(frames, parts, STALL_MAX));
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
    rest: Rest,
    parking: Arc<Parking<P>>,
    /// Gives the client up when it has stopped.
    watch: Option<JoinHandle<()>>,
}

/// What comes behind the frames.
enum Rest {
    /// Parts, as they are made.
    Made(mpsc::Receiver<Made>),
    /// The trailers.
    Trailers(Status),
    Nothing,
}

/// A part, or that there are no more.
type Made = Result<Option<Vec<Bytes>>, Status>;

/// Makes parts as long as there is room for them. Without room it does not wait, since a client
/// that does not read would keep its thread: it parks until a part is taken.
struct Maker<P> {
    parts: P,
    made: mpsc::Sender<Made>,
}

type Parking<P> = Mutex<Parked<P>>;

/// Where a maker waits until a part is taken.
struct Parked<P> {
    maker: Option<Maker<P>>,
    /// Parts that were taken.
    taken: u64,
    is_given_up: bool,
}

impl<P: Parts> Maker<P> {
    fn run(mut self, parking: &Parking<P>) {
        loop {
            if self.made.capacity() == 0 {
                let mut parked = parking.lock();
                // Looked at again under the lock: whoever makes room from now on finds us here.
                if self.made.capacity() == 0 {
                    parked.maker = Some(self);
                    return;
                }
            }
            let part = self.parts.next();
            let is_last = !matches!(part, Ok(Some(_)));
            // It fails when the client is gone; there is room, for nobody else fills it.
            let is_gone = self.made.try_send(part).is_err();
            if is_last || is_gone {
                return;
            }
        }
    }
}

/// Drops a maker that has been parked for at least `stall_max` while no part was taken. Its view
/// keeps what compactions remove on disk, and a client may stop for good without closing.
async fn give_up_stalled<P>(parking: Arc<Parking<P>>, stall_max: Duration) {
    let mut seen = None;
    loop {
        tokio::time::sleep(stall_max).await;
        let mut parked = parking.lock();
        if parked.maker.is_some() && seen == Some(parked.taken) {
            parked.maker = None;
            parked.is_given_up = true;
            return;
        }
        seen = Some(parked.taken);
    }
}

impl<P: Parts> ListBody<P> {
    fn new(frames: Vec<Bytes>, parts: Option<P>, stall_max: Duration) -> Self {
        let parked = Parked {
            maker: None,
            taken: 0,
            is_given_up: false,
        };
        let mut body = Self {
            frames: frames.into(),
            rest: Rest::Trailers(Status::ok("")),
            parking: Arc::new(Mutex::new(parked)),
            watch: None,
        };
        if let Some(parts) = parts {
            let (made, parts_made) = mpsc::channel(PARTS_AHEAD);
            body.rest = Rest::Made(parts_made);
            body.go_on(Maker { parts, made });
            let watch = give_up_stalled(body.parking.clone(), stall_max);
            body.watch = Some(tokio::spawn(watch));
        }
        body
    }

    fn go_on(&self, maker: Maker<P>) {
        let parking = self.parking.clone();
        tokio::task::spawn_blocking(move || maker.run(&parking));
    }

    /// Notes that a part was taken, and has more made when few are `left`.
    fn took(&self, left: usize) {
        let mut parked = self.parking.lock();
        parked.taken += 1;
        if left <= PARTS_LEFT
            && let Some(maker) = parked.maker.take()
        {
            self.go_on(maker);
        }
    }

    /// Why the parts have ended before the last.
    fn broken_off(&self) -> Status {
        if self.parking.lock().is_given_up {
            return Status::deadline_exceeded("the client has stopped reading for too long");
        }
        // The runtime stops, and with it the server.
        status(RequestError::Stopped)
    }
}

impl<P> Drop for ListBody<P> {
    fn drop(&mut self) {
        if let Some(watch) = &self.watch {
            watch.abort();
        }
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
            let (part, left) = match &mut self.rest {
                Rest::Made(made) => (ready!(made.poll_recv(context)), made.len()),
                Rest::Trailers(status) => {
                    let mut trailers = HeaderMap::new();
                    let added = status.add_header(&mut trailers);
                    self.rest = Rest::Nothing;
                    return Poll::Ready(Some(added.map(|()| Frame::trailers(trailers))));
                }
                Rest::Nothing => return Poll::Ready(None),
            };
            self.took(left);
            match part {
                Some(Ok(Some(frames))) => self.frames = frames.into(),
                Some(Ok(None)) => self.rest = Rest::Trailers(Status::ok("")),
                Some(Err(error)) => self.rest = Rest::Trailers(error),
                None => self.rest = Rest::Trailers(self.broken_off()),
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.frames.is_empty() && matches!(self.rest, Rest::Nothing)
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

/// Parts that are made before the connection takes them: what a client that does not read makes us
/// hold, and a little more.
const PARTS_AHEAD: usize = 3;

/// With so many of them left the next ones are begun: waking a thread for each would cost more
/// than some are worth.
const PARTS_LEFT: usize = 1;

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;
    use tonic::Code;

    use super::*;

    /// Numbered parts up to a last one; it knows how many were made.
    struct Numbers {
        next: u8,
        last: u8,
        alive: Arc<()>,
    }

    impl Parts for Numbers {
        fn next(&mut self) -> Result<Option<Vec<Bytes>>, Status> {
            self.next += 1;
            let part = vec![Bytes::copy_from_slice(&[self.next]); 2];
            Ok((self.next <= self.last).then_some(part))
        }
    }

    fn numbers(last: u8) -> (Numbers, Arc<()>) {
        let alive = Arc::default();
        let parts = Numbers {
            next: 0,
            last,
            alive: Arc::clone(&alive),
        };
        (parts, alive)
    }

    #[tokio::test]
    async fn parts_come_whole_and_in_order_however_many_there_are() {
        for last in 0..20 {
            let (parts, _alive) = numbers(last);
            let begin = vec![Bytes::from_static(b"begin")];
            let body = ListBody::new(begin, Some(parts), STALL_MAX);
            let collected = body.collect().await.expect("never fails");
            assert_eq!(collected.trailers().expect("a status")["grpc-status"], "0");
            let numbers = (1..=last).flat_map(|number| [number; 2]);
            let expected = b"begin".iter().copied().chain(numbers);
            assert!(collected.to_bytes().iter().copied().eq(expected), "{last}");
        }
    }

    #[tokio::test]
    async fn a_client_that_stops_is_given_up_and_what_was_made_still_comes() {
        let (parts, alive) = numbers(100);
        assert!(Arc::ptr_eq(&parts.alive, &alive));
        let body = ListBody::new(Vec::new(), Some(parts), Duration::from_millis(1));
        while Arc::strong_count(&alive) > 1 {
            tokio::task::yield_now().await;
        }
        let collected = body.collect().await.expect("never fails");
        let trailers = collected.trailers().expect("a status").clone();
        let status = Status::from_header_map(&trailers).expect("a status");
        assert_eq!(status.code(), Code::DeadlineExceeded);
        assert_eq!(collected.to_bytes().len(), 2 * PARTS_AHEAD);
    }
}
