//! Reads a long range piece by piece, as the bytes that its rows take in a reply.
//!
//! A row is copied once, from the state into the piece that goes to the socket, with what protobuf
//! wants in front of it.

use std::borrow::Cow;
use std::ops::ControlFlow;

use bytes::{BufMut as _, Bytes, BytesMut};
use prost::encoding::{encode_varint, encoded_len_varint};

use crate::mvcc::{Fields, Interval, MvccError, RangeQuery, ReadTxn};

/// A place in a range that is read in order, at one revision. A clone goes on from the same place.
#[derive(Clone)]
pub(super) struct Lister {
    read: ReadTxn,
    /// What is left to read.
    interval: Interval,
    revision: i64,
    keys_only: bool,
    /// Read so far, in bytes.
    passed: usize,
}

/// The next rows of a range.
pub(super) struct Piece {
    /// `RangeResponse.kvs` as encoded, one row behind the other.
    pub(super) segments: Vec<Bytes>,
    /// What these take, in bytes.
    pub(super) bytes: usize,
    /// How many rows there are.
    pub(super) keys: i64,
    /// Whether there are rows behind them.
    pub(super) more: bool,
}

impl Lister {
    /// Begins the range of `query`, which has no filters and no order but that of the keys.
    pub(super) fn new(read: ReadTxn, query: &RangeQuery) -> Self {
        let current = read.revision().get();
        let revision = if query.revision <= 0 {
            current
        } else {
            query.revision
        };
        Self {
            read,
            interval: query.interval.clone(),
            revision,
            keys_only: query.keys_only,
            passed: 0,
        }
    }

    /// The current revision of the read, whichever one was asked for.
    pub(super) fn current_revision(&self) -> i64 {
        self.read.revision().get()
    }

    /// The next rows: at most `keys_max`, and none that begins beyond `bytes_max`.
    pub(super) fn next(&mut self, keys_max: i64, bytes_max: usize) -> Result<Piece, MvccError> {
        let mut segments = Segments::default();
        let (keys, bytes, more) = self.pass(keys_max, bytes_max, |row, length| {
            segments.push(row, length)
        })?;
        Ok(Piece {
            segments: segments.finish(),
            bytes,
            keys,
            more,
        })
    }

    /// As [`Lister::next`] without the rows: how many keys there are, and what they would take.
    pub(super) fn measure(mut self, keys_max: i64) -> Result<(i64, usize, bool), MvccError> {
        self.pass(keys_max, usize::MAX, |_row, _length| {})
    }

    /// How many keys there are from here on.
    pub(super) fn count_left(&self) -> Result<i64, MvccError> {
        let query = RangeQuery {
            revision: self.revision,
            count_only: true,
            ..RangeQuery::new(self.interval.clone())
        };
        Ok(self.read.range(&query)?.count)
    }

    fn pass(
        &mut self,
        keys_max: i64,
        bytes_max: usize,
        mut take: impl FnMut(&[u8], usize),
    ) -> Result<(i64, usize, bool), MvccError> {
        let (mut keys, mut bytes, mut next) = (0, 0, None);
        let is_long = self.passed > CACHED_BYTES_MAX;
        let keys_only = self.keys_only;
        let mut visit = |row: &[u8]| {
            if keys == keys_max || bytes >= bytes_max {
                next = Some(Bytes::copy_from_slice(Fields::parse(row)?.key));
                return Ok(ControlFlow::Break(()));
            }
            let row = if keys_only {
                // etcd answers from its index, which knows no leases.
                let (value, lease) = (&[][..], 0);
                let fields = Fields::parse(row)?;
                let shown = Fields {
                    value,
                    lease,
                    ..fields
                };
                Cow::Owned(shown.encode().into())
            } else {
                Cow::Borrowed(row)
            };
            let length = row_length(&row);
            keys += 1;
            bytes += length;
            take(&row, length);
            Ok(ControlFlow::Continue(()))
        };
        let (interval, at) = (&self.interval, self.revision);
        self.read.visit(interval, at, is_long, &mut visit)?;
        self.passed = self.passed.saturating_add(bytes);
        let more = next.is_some();
        if let Some(next) = next {
            self.interval.key = next;
        }
        Ok((keys, bytes, more))
    }
}

/// Rows in buffers that many of them share.
#[derive(Default)]
struct Segments {
    full: Vec<Bytes>,
    open: BytesMut,
}

impl Segments {
    fn push(&mut self, row: &[u8], length: usize) {
        if self.open.capacity() - self.open.len() < length {
            let next = (self.open.capacity() * 2).clamp(SEGMENT_BYTES_MIN, SEGMENT_BYTES_MAX);
            let next = BytesMut::with_capacity(next.max(length));
            self.close(next);
        }
        self.open.put_u8(ROW_TAG);
        encode_varint(row.len() as u64, &mut self.open);
        self.open.put_slice(row);
    }

    fn close(&mut self, next: BytesMut) {
        let full = std::mem::replace(&mut self.open, next);
        if !full.is_empty() {
            self.full.push(full.freeze());
        }
    }

    fn finish(mut self) -> Vec<Bytes> {
        self.close(BytesMut::new());
        self.full
    }
}

/// What a row takes in a reply.
pub(super) fn row_length(row: &[u8]) -> usize {
    1 + encoded_len_varint(row.len() as u64) + row.len()
}

/// Tag of `RangeResponse.kvs`: field 2, with a length in front.
pub(super) const ROW_TAG: u8 = 2 << 3 | 2;

/// The first segment: most ranges are short.
const SEGMENT_BYTES_MIN: usize = 4 << 10;

/// Later ones double up to this. It is still in the processor's cache when the kernel takes it.
const SEGMENT_BYTES_MAX: usize = 256 << 10;

/// A range that has passed so much goes on beside the block cache: it would push out everything
/// that others read.
const CACHED_BYTES_MAX: usize = 4 << 20;
