//! A range as a stream of chunks, all of one revision, none much larger than a request may be.

use std::pin::Pin;

use bytes::{BufMut as _, Bytes, BytesMut};
use futures::Stream;
use prost::Message as _;
use prost::encoding::{encode_varint, encoded_len_varint};
use tonic::{Response as Reply, Status};
use trilith_proto::etcdserverpb::ResponseHeader;
use trilith_proto::wire::{RangeResponse, RangeStreamResponse};

use super::kv::refused;
use super::list::Lister;
use super::list_body::{self, Parts, message_length};
use super::status::status;
use crate::mvcc::{MvccError, RangeQuery, ReadTxn};

/// The stream that the generated service has the RPC answer with.
pub(super) type RangeStream =
    Pin<Box<dyn Stream<Item = Result<RangeStreamResponse, Status>> + Send + 'static>>;

/// Makes the header of a revision.
pub(super) type Header = Box<dyn Fn(i64) -> ResponseHeader + Send>;

/// Streams `query` from `read`. Header, count and `more` are on the last message only, as in etcd.
pub(super) fn stream(
    read: ReadTxn,
    query: &RangeQuery,
    header: Header,
    chunk_bytes: usize,
) -> Reply<RangeStream> {
    let left = if query.limit <= 0 {
        i64::MAX
    } else {
        query.limit
    };
    let chunks = Chunks {
        lister: Lister::new(read, query),
        header,
        count_only: query.count_only,
        chunk_bytes,
        left,
        sent: 0,
        keys: CHUNK_KEYS_FIRST.min(left),
        is_over: false,
    };
    let placeholder: RangeStream = Box::pin(futures::stream::empty());
    list_body::reply(placeholder, Vec::new(), Some(chunks))
}

struct Chunks {
    lister: Lister,
    header: Header,
    count_only: bool,
    chunk_bytes: usize,
    /// Keys that the client still wants.
    left: i64,
    sent: i64,
    /// Keys of the next chunk.
    keys: i64,
    is_over: bool,
}

impl Parts for Chunks {
    fn next(&mut self) -> Result<Option<Vec<Bytes>>, Status> {
        if self.is_over {
            return Ok(None);
        }
        let chunk = self.chunk().map_err(|error| status(refused(error)))?;
        chunk.frames().map(Some)
    }
}

impl Chunks {
    /// The next message.
    fn chunk(&mut self) -> Result<Chunk, MvccError> {
        if self.count_only {
            let count = self.lister.count_left()?;
            return Ok(self.last(Vec::new(), 0, false, count));
        }
        let piece = self.lister.next(self.keys, self.chunk_bytes * 2)?;
        self.sent += piece.keys;
        self.left -= piece.keys;
        if !piece.more || self.left == 0 {
            let behind = if piece.more {
                self.lister.count_left()?
            } else {
                0
            };
            let count = self.sent + behind;
            return Ok(self.last(piece.segments, piece.bytes, piece.more, count));
        }
        if piece.bytes < self.chunk_bytes / 2 {
            self.keys = self.keys.saturating_mul(2);
        } else if piece.bytes > self.chunk_bytes * 2 {
            self.keys = (self.keys / 2).max(1);
        }
        self.keys = self.keys.min(self.left);
        Ok(Chunk {
            segments: piece.segments,
            bytes: piece.bytes,
            ..Chunk::default()
        })
    }

    fn last(&mut self, segments: Vec<Bytes>, bytes: usize, more: bool, count: i64) -> Chunk {
        self.is_over = true;
        let header = (self.header)(self.lister.current_revision());
        Chunk {
            head: RangeResponse {
                header: Some(header),
                ..RangeResponse::default()
            },
            segments,
            bytes,
            tail: RangeResponse {
                more,
                count,
                ..RangeResponse::default()
            },
        }
    }
}

/// A `RangeStreamResponse`.
#[derive(Default)]
struct Chunk {
    /// The fields before the rows.
    head: RangeResponse,
    /// The rows as encoded.
    segments: Vec<Bytes>,
    /// What these take.
    bytes: usize,
    /// The fields behind the rows.
    tail: RangeResponse,
}

impl Chunk {
    fn frames(self) -> Result<Vec<Bytes>, Status> {
        let response = self.head.encoded_len() + self.bytes + self.tail.encoded_len();
        let length = 1 + encoded_len_varint(response as u64) + response;
        let mut opening = BytesMut::new();
        list_body::open_message(message_length(length)?, &mut opening);
        opening.put_u8(RESPONSE_TAG);
        encode_varint(response as u64, &mut opening);
        self.head.encode_raw(&mut opening);
        let mut frames = Vec::with_capacity(self.segments.len() + 2);
        frames.push(opening.freeze());
        frames.extend(self.segments);
        let tail = self.tail.encode_to_vec();
        if !tail.is_empty() {
            frames.push(tail.into());
        }
        Ok(frames)
    }
}

/// etcd's first chunk (`initialStreamChunkLimit`).
const CHUNK_KEYS_FIRST: i64 = 10;

/// Tag of `RangeStreamResponse.range_response`: field 1, with a length in front.
const RESPONSE_TAG: u8 = 1 << 3 | 2;
