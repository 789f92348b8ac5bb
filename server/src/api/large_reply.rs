//! Sends a large range reply without a second copy of it.
//!
//! tonic encodes a reply whole before its first byte goes out, so a list of 100 MiB takes twice
//! that. Here the rows stay as they were read, become frames as the connection takes them, and are
//! freed as they go. A reply travels from its service to the dispatch as an extension of the
//! response.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{BufMut as _, Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Response};
use http_body::{Body as HttpBody, Frame, SizeHint};
use parking_lot::Mutex;
use prost::Message as _;
use prost::encoding::{encode_varint, encoded_len_varint};
use tonic::body::Body;
use tonic::{Response as Reply, Status};
use trilith_proto::wire::RangeResponse;

use crate::limits::GRPC_SEND_BYTES_MAX;

/// The reply with `response`; a large one keeps its rows out of the message.
///
/// # Errors
///
/// When it is longer than gRPC clients take, in grpc-go's words.
pub(super) fn reply(mut response: RangeResponse) -> Result<Reply<RangeResponse>, Status> {
    let rows = response.kvs.iter().map(|row| row.len()).sum::<usize>();
    if rows < LARGE_BYTES {
        return Ok(Reply::new(response));
    }
    let kvs = std::mem::take(&mut response.kvs);
    let tail = RangeResponse {
        more: response.more,
        count: response.count,
        ..Default::default()
    };
    let head = RangeResponse {
        header: response.header.take(),
        ..Default::default()
    };
    let rows = kvs.iter().map(row_length).sum::<usize>();
    let length = head.encoded_len() + rows + tail.encoded_len();
    if length > GRPC_SEND_BYTES_MAX {
        let text =
            format!("trying to send message larger than max ({length} vs. {GRPC_SEND_BYTES_MAX})");
        return Err(Status::resource_exhausted(text));
    }
    let body = LargeBody {
        length: u32::try_from(length).expect("it was compared with a signed 32-bit bound"),
        head: Some(head),
        rows: kvs.into_iter(),
        tail: Some(tail),
        is_over: false,
    };
    let mut reply = Reply::new(RangeResponse::default());
    reply
        .extensions_mut()
        .insert(Held(Arc::new(Mutex::new(Some(body)))));
    Ok(reply)
}

/// Gives a response the body that its service left beside it, if it did.
pub(super) fn with_held_body(mut response: Response<Body>) -> Response<Body> {
    let Some(Held(held)) = response.extensions_mut().remove::<Held>() else {
        return response;
    };
    match held.lock().take() {
        Some(body) => response.map(|_placeholder| Body::new(body)),
        None => response,
    }
}

/// A body on its way to the dispatch; extensions have to be cloneable, and a body is sent once.
#[derive(Clone)]
struct Held(Arc<Mutex<Option<LargeBody>>>);

/// A gRPC message of one range response, as frames, and the trailers behind it.
struct LargeBody {
    /// Of the message, in bytes.
    length: u32,
    /// The fields before the rows; taken by the first frame.
    head: Option<RangeResponse>,
    rows: std::vec::IntoIter<Bytes>,
    /// The fields behind the rows; taken by the last frame.
    tail: Option<RangeResponse>,
    is_over: bool,
}

impl LargeBody {
    /// The next frame of the message; `None` when it is complete.
    fn next_frame(&mut self) -> Option<Bytes> {
        self.tail.as_ref()?;
        let mut frame = BytesMut::with_capacity(FRAME_BYTES);
        if let Some(head) = self.head.take() {
            frame.put_u8(UNCOMPRESSED);
            frame.put_u32(self.length);
            head.encode_raw(&mut frame);
        }
        while frame.len() < FRAME_BYTES {
            let Some(row) = self.rows.next() else {
                if let Some(tail) = self.tail.take() {
                    tail.encode_raw(&mut frame);
                }
                break;
            };
            frame.reserve(row_length(&row));
            frame.put_u8(ROW_TAG);
            encode_varint(row.len() as u64, &mut frame);
            frame.put_slice(&row);
        }
        Some(frame.freeze())
    }
}

impl HttpBody for LargeBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if let Some(frame) = self.next_frame() {
            return Poll::Ready(Some(Ok(Frame::data(frame))));
        }
        if std::mem::replace(&mut self.is_over, true) {
            return Poll::Ready(None);
        }
        let mut trailers = HeaderMap::new();
        trailers.insert(Status::GRPC_STATUS, HeaderValue::from_static("0"));
        Poll::Ready(Some(Ok(Frame::trailers(trailers))))
    }

    fn is_end_stream(&self) -> bool {
        self.is_over
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}

/// What a row takes in the message.
fn row_length(row: &Bytes) -> usize {
    1 + encoded_len_varint(row.len() as u64) + row.len()
}

/// Tag of `RangeResponse.kvs`: field 2, with a length in front.
const ROW_TAG: u8 = 2 << 3 | 2;

/// First byte of a gRPC message that is not compressed.
const UNCOMPRESSED: u8 = 0;

/// Below this a copy costs less than the detour.
const LARGE_BYTES: usize = 256 * 1024;

/// About what a frame holds: a few HTTP/2 frames.
const FRAME_BYTES: usize = 32 * 1024;

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;
    use trilith_proto::etcdserverpb::ResponseHeader;

    use super::*;

    fn response(rows: usize) -> RangeResponse {
        RangeResponse {
            header: Some(ResponseHeader {
                revision: 7,
                ..Default::default()
            }),
            kvs: (0..rows)
                .map(|n| Bytes::from(vec![n as u8; 1000 + n]))
                .collect(),
            more: true,
            count: 1 << 40,
        }
    }

    #[tokio::test]
    async fn a_large_reply_is_the_same_message_in_frames() {
        let expected = response(400);
        let mut reply = reply(expected.clone()).unwrap();
        let held = reply.extensions_mut().remove::<Held>().unwrap();
        let mut http = Response::new(Body::empty());
        http.extensions_mut().insert(held);
        let collected = with_held_body(http).into_body().collect().await.unwrap();
        assert_eq!(collected.trailers().unwrap()[Status::GRPC_STATUS], "0");
        let bytes = collected.to_bytes();
        let length = u32::from_be_bytes(bytes[1..5].try_into().unwrap());
        assert_eq!((bytes[0], length as usize), (0, bytes.len() - 5));
        assert_eq!(bytes.slice(5..), expected.encode_to_vec());
    }

    #[test]
    fn a_small_reply_takes_the_common_way() {
        let mut reply = reply(response(3)).unwrap();
        assert!(reply.extensions_mut().remove::<Held>().is_none());
        assert_eq!(reply.into_inner(), response(3));
    }
}
