//! Sends a large range reply without a second copy of it.
//!
//! tonic encodes a reply whole before its first byte goes out, so a list of 100 MiB takes twice
//! that. Here the rows go out as they were read, and are freed as they go. gRPC wants to know the
//! length of a message before its first byte: a reply larger than [`HELD_BYTES_MAX`] is read twice,
//! once to measure it and once to send it, and never held as a whole.

use bytes::{BufMut as _, Bytes, BytesMut};
use prost::Message as _;
use prost::encoding::encode_varint;
use tonic::{Response as Reply, Status};
use trilith_proto::etcdserverpb::ResponseHeader;
use trilith_proto::wire::RangeResponse;

use super::kv::refused;
use super::list::{Lister, ROW_TAG, row_length};
use super::list_body::{self, Parts, message_length};
use super::status::status;
use crate::mvcc::MvccError;

/// The reply with at most `limit` rows of `lister`, all without one. May block.
///
/// # Errors
///
/// When the range cannot be read, or is longer than gRPC clients take, in grpc-go's words.
pub(super) fn list(
    lister: Lister,
    limit: i64,
    header: ResponseHeader,
) -> Result<Reply<RangeResponse>, Status> {
    list_holding(lister, limit, header, HELD_BYTES_MAX)
}

/// As [`list`], with a bound on what is held.
pub(super) fn list_holding(
    mut lister: Lister,
    limit: i64,
    header: ResponseHeader,
    held_max: usize,
) -> Result<Reply<RangeResponse>, Status> {
    let refused = |error: MvccError| status(refused(error));
    let keys_max = if limit <= 0 { i64::MAX } else { limit };
    let all = lister.clone();
    let held = lister.next(keys_max, held_max).map_err(refused)?;
    let mut rest = Measured::default();
    let mut more = held.more;
    if more && held.keys < keys_max {
        let left = keys_max - held.keys;
        (rest.keys, rest.bytes, more) = lister.clone().measure(left).map_err(refused)?;
    }
    let count = if more {
        all.count_left().map_err(refused)?
    } else {
        held.keys + rest.keys
    };
    let ends = Ends::new(header, more, count);
    let mut frames = vec![ends.opening(held.bytes + rest.bytes)?];
    frames.extend(held.segments);
    let mut rest = Rest {
        lister,
        left: rest,
        closing: Some(ends.closing()),
    };
    let parts = if rest.left.keys > 0 {
        Some(rest)
    } else {
        frames.extend(rest.closing.take().filter(|closing| !closing.is_empty()));
        None
    };
    Ok(list_body::reply(RangeResponse::default(), frames, parts))
}

/// The reply with `response`; a large one keeps its rows out of the message.
///
/// # Errors
///
/// When it is longer than gRPC clients take, in grpc-go's words.
pub(super) fn reply(mut response: RangeResponse) -> Result<Reply<RangeResponse>, Status> {
    let bytes = response.kvs.iter().map(|row| row_length(row)).sum();
    if bytes < LARGE_BYTES {
        return Ok(Reply::new(response));
    }
    let rows = std::mem::take(&mut response.kvs).into_iter();
    let header = response.header.take().unwrap_or_default();
    let ends = Ends::new(header, response.more, response.count);
    let frames = vec![ends.opening(bytes)?];
    let rows = Rows {
        rows,
        closing: Some(ends.closing()),
    };
    Ok(list_body::reply(
        RangeResponse::default(),
        frames,
        Some(rows),
    ))
}

/// What stands before and behind the rows of a reply.
struct Ends {
    head: RangeResponse,
    tail: RangeResponse,
}

impl Ends {
    fn new(header: ResponseHeader, more: bool, count: i64) -> Self {
        Self {
            head: RangeResponse {
                header: Some(header),
                ..RangeResponse::default()
            },
            tail: RangeResponse {
                more,
                count,
                ..RangeResponse::default()
            },
        }
    }

    /// The begin of a message whose rows take `bytes`.
    fn opening(&self, bytes: usize) -> Result<Bytes, Status> {
        let length = self.head.encoded_len() + bytes + self.tail.encoded_len();
        let mut opening = BytesMut::new();
        list_body::open_message(message_length(length)?, &mut opening);
        self.head.encode_raw(&mut opening);
        Ok(opening.freeze())
    }

    /// Its end; empty when no field of it is set.
    fn closing(&self) -> Bytes {
        self.tail.encode_to_vec().into()
    }
}

/// What was not held: how many keys, and the bytes that they will take.
#[derive(Clone, Copy, Default)]
struct Measured {
    keys: i64,
    bytes: usize,
}

/// The rows that were measured and not held, read again.
struct Rest {
    lister: Lister,
    left: Measured,
    closing: Option<Bytes>,
}

impl Parts for Rest {
    fn next(&mut self) -> Result<Option<Vec<Bytes>>, Status> {
        if self.closing.is_none() {
            return Ok(None);
        }
        let piece = self.lister.next(self.left.keys, PART_BYTES);
        let piece = piece.map_err(|error| status(refused(error)))?;
        self.left.keys -= piece.keys;
        // The view is the same, so the rows are: a message of another length than was said would
        // be read as something else.
        let left = self.left.bytes.checked_sub(piece.bytes);
        self.left.bytes = left.ok_or_else(changed)?;
        let mut frames = piece.segments;
        if self.left.keys == 0 || !piece.more {
            if self.left.bytes != 0 || self.left.keys != 0 {
                return Err(changed());
            }
            frames.extend(self.closing.take());
        }
        Ok(Some(frames))
    }
}

fn changed() -> Status {
    Status::data_loss("a range was of another length when it was read again")
}

/// Rows that were sorted or picked, which needs all of them at once.
struct Rows {
    rows: std::vec::IntoIter<Bytes>,
    closing: Option<Bytes>,
}

impl Parts for Rows {
    fn next(&mut self) -> Result<Option<Vec<Bytes>>, Status> {
        if self.closing.is_none() {
            return Ok(None);
        }
        let mut frame = BytesMut::with_capacity(ROWS_FRAME_BYTES);
        while frame.len() < ROWS_FRAME_BYTES {
            let Some(row) = self.rows.next() else {
                frame.extend(self.closing.take());
                break;
            };
            frame.reserve(row_length(&row));
            frame.put_u8(ROW_TAG);
            encode_varint(row.len() as u64, &mut frame);
            frame.put_slice(&row);
        }
        Ok(Some(vec![frame.freeze()]))
    }
}

/// Below this a copy costs less than the detour.
const LARGE_BYTES: usize = 256 * 1024;

/// About what is sent at once of rows that are there already.
const ROWS_FRAME_BYTES: usize = 256 * 1024;

/// What one reply may hold of its rows.
const HELD_BYTES_MAX: usize = 8 << 20;

/// About what is read at once of the rest: while it is sent, the next is read.
const PART_BYTES: usize = 1 << 20;
