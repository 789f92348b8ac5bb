//! A range as a stream of chunks, all of one revision, none much larger than a request may be.

use std::pin::Pin;

use bytes::Bytes;
use futures::Stream;
use prost::Message;
use tonic::Status;
use trilith_proto::etcdserverpb::ResponseHeader;
use trilith_proto::mvccpb::KeyValue;
use trilith_proto::wire::{RangeResponse, RangeStreamResponse};

use super::header::HeaderSource;
use super::kv::refused;
use super::status::status;
use crate::mvcc::{End, RangeQuery, RangeResult, ReadTxn};

/// The stream that the RPC answers with.
pub(super) type RangeStream =
    Pin<Box<dyn Stream<Item = Result<RangeStreamResponse, Status>> + Send + 'static>>;

/// Streams `query` from `read`. Header, count and `more` are on the last message only, as in etcd.
pub(super) fn stream(
    read: ReadTxn,
    mut query: RangeQuery,
    header: HeaderSource,
    chunk_bytes: usize,
) -> RangeStream {
    let revision = read.revision().get();
    if query.revision <= 0 {
        query.revision = revision;
    }
    let left = if query.limit <= 0 {
        i64::MAX
    } else {
        query.limit
    };
    let chunks = Chunks {
        read,
        query,
        header,
        revision,
        chunk_bytes,
        left,
        sent: 0,
        keys: CHUNK_KEYS_FIRST.min(left),
    };
    Box::pin(futures::stream::unfold(Some(chunks), |chunks| async move {
        let mut chunks = chunks?;
        match tokio::task::block_in_place(|| chunks.next()) {
            Ok((response, true)) => Some((Ok(response), None)),
            Ok((response, false)) => Some((Ok(response), Some(chunks))),
            Err(error) => Some((Err(error), None)),
        }
    }))
}

struct Chunks {
    read: ReadTxn,
    /// What is still to be read; its key moves on with each chunk.
    query: RangeQuery,
    header: HeaderSource,
    /// The revision of the store when the stream began.
    revision: i64,
    chunk_bytes: usize,
    /// Keys that the client still wants.
    left: i64,
    sent: i64,
    /// Keys of the next chunk.
    keys: i64,
}

impl Chunks {
    /// The next message, and whether it is the last.
    fn next(&mut self) -> Result<(RangeStreamResponse, bool), Status> {
        if self.query.count_only {
            let count = self.range(0, false)?.count;
            return Ok((self.last(Vec::new(), false, count), true));
        }
        // Only the last chunk has a count, and only a limit can leave something uncounted behind
        // it.
        let may_be_last = self.left == self.keys;
        let found = self.range(self.keys, !may_be_last)?;
        let keys = i64::try_from(found.kvs.len()).expect("a chunk's keys fit");
        self.sent += keys;
        self.left -= keys;
        if !found.more || self.left == 0 {
            // What was sent before, and this chunk with what follows it.
            let count = self.sent - keys + if found.more { found.count } else { keys };
            return Ok((self.last(found.kvs, found.more, count), true));
        }
        self.advance(&found.kvs)?;
        let response = RangeResponse {
            kvs: found.kvs,
            ..RangeResponse::default()
        };
        Ok((
            RangeStreamResponse {
                range_response: Some(response),
            },
            false,
        ))
    }

    fn range(&mut self, limit: i64, skip_count: bool) -> Result<RangeResult, Status> {
        self.query.limit = limit;
        self.query.skip_count = skip_count;
        self.read
            .range(&self.query)
            .map_err(|error| status(refused(error)))
    }

    /// Moves to the key after the last one sent, and doubles or halves the chunk towards its size.
    fn advance(&mut self, kvs: &[Bytes]) -> Result<(), Status> {
        let last = kvs.last().expect("a chunk with more behind it holds a key");
        let last = KeyValue::decode(last.clone())
            .map_err(|error| Status::data_loss(format!("a stored key-value is broken: {error}")))?;
        let mut after = Vec::with_capacity(last.key.len() + 1);
        after.extend_from_slice(&last.key);
        after.push(0);
        self.query.interval.key = Bytes::from(after);
        if self.query.interval.end == End::Single {
            return Err(Status::internal("a single key has more behind it"));
        }
        let bytes: usize = kvs.iter().map(Bytes::len).sum();
        if bytes < self.chunk_bytes / 2 {
            self.keys = self.keys.saturating_mul(2);
        } else if bytes > self.chunk_bytes * 2 {
            self.keys = (self.keys / 2).max(1);
        }
        self.keys = self.keys.min(self.left);
        Ok(())
    }

    fn last(&self, kvs: Vec<Bytes>, more: bool, count: i64) -> RangeStreamResponse {
        let mut header = ResponseHeader {
            revision: self.revision,
            ..ResponseHeader::default()
        };
        self.header.fill_without_revision(&mut header);
        let response = RangeResponse {
            header: Some(header),
            kvs,
            more,
            count,
        };
        RangeStreamResponse {
            range_response: Some(response),
        }
    }
}

/// etcd's first chunk (`initialStreamChunkLimit`).
const CHUNK_KEYS_FIRST: i64 = 10;
