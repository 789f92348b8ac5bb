//! Long replies, byte for byte, however they are made.

use bytes::{Buf as _, Bytes};
use http_body_util::BodyExt as _;
use prost::Message as _;
use tonic::body::Body;
use tonic::{Code, Response as Reply, Status};
use trilith_proto::etcdserverpb::ResponseHeader;
use trilith_proto::wire::{RangeResponse, RangeStreamResponse};

use super::large_reply;
use super::list::Lister;
use super::list_body::{message_length, with_held_body};
use super::range_stream;
use crate::ids::Revision;
use crate::mvcc::watch::test_store::{TestStore, put};
use crate::mvcc::{Interval, RangeQuery};

fn header(revision: i64) -> ResponseHeader {
    ResponseHeader {
        revision,
        raft_term: 7,
        ..ResponseHeader::default()
    }
}

/// 300 keys of 0 to 2,990 bytes, some of which were changed or deleted since revision 2.
fn store() -> TestStore {
    let mut store = TestStore::new();
    store.txn(|txn| {
        for key in 0..300 {
            put(txn, &format!("k{key:03}"), &"v".repeat(key * 10));
        }
    });
    store.txn(|txn| {
        for key in (0..300).step_by(7) {
            put(txn, &format!("k{key:03}"), "changed");
        }
    });
    store.delete("k100");
    store
}

fn query(limit: i64, revision: i64, keys_only: bool) -> RangeQuery {
    RangeQuery {
        limit,
        revision,
        keys_only,
        ..RangeQuery::new(Interval::from_request(
            Bytes::from_static(b"k01"),
            Bytes::from_static(b"k29"),
        ))
    }
}

/// Every combination of what changes a list.
fn queries() -> impl Iterator<Item = RangeQuery> {
    let limits = [0, 1, 10, 11, 200, 279, 280, 281, i64::MAX];
    limits.into_iter().flat_map(|limit| {
        [(0, false), (0, true), (2, false)]
            .map(|(revision, keys_only)| query(limit, revision, keys_only))
    })
}

fn expected(store: &TestStore, query: &RangeQuery) -> RangeResponse {
    let found = store.store.read().range(query).expect("a kept revision");
    RangeResponse {
        header: Some(header(found.revision.get())),
        kvs: found.kvs,
        more: found.more,
        count: found.count,
    }
}

/// The messages of a reply, and the status behind them.
async fn sent<T>(mut reply: Reply<T>) -> (Vec<Bytes>, Status) {
    let mut http = http::Response::new(Body::empty());
    std::mem::swap(http.extensions_mut(), reply.extensions_mut());
    let collected = with_held_body(http)
        .into_body()
        .collect()
        .await
        .expect("a body");
    let trailers = collected.trailers().expect("a status");
    let status = Status::from_header_map(trailers).expect("a status");
    let mut body = collected.to_bytes();
    let mut messages = Vec::new();
    while body.has_remaining() {
        assert_eq!(body.get_u8(), 0, "not compressed");
        let length = body.get_u32() as usize;
        messages.push(body.split_to(length));
    }
    (messages, status)
}

#[tokio::test]
async fn a_list_is_the_same_message_whether_its_rows_are_held_or_read_twice() {
    let store = store();
    for query in queries() {
        let expected = expected(&store, &query);
        for held_max in [0, 1, 10_000, usize::MAX] {
            let read = store.store.read();
            let header = header(read.revision().get());
            let lister = Lister::new(read, &query);
            let reply = large_reply::list_holding(lister, query.limit, header, held_max);
            let (messages, status) = sent(reply.expect("short enough")).await;
            assert_eq!(status.code(), Code::Ok);
            let bytes = expected.encode_to_vec();
            assert!(messages == [bytes], "{query:?}, holding {held_max}");
        }
    }
}

#[tokio::test]
async fn sorted_rows_are_the_same_message_in_frames() {
    let store = store();
    let mut response = expected(&store, &query(0, 0, false));
    response.kvs.reverse();
    let reply = large_reply::reply(response.clone()).expect("short enough");
    assert!(
        reply.get_ref().kvs.is_empty(),
        "the rows are not in the message"
    );
    let (messages, status) = sent(reply).await;
    assert_eq!(status.code(), Code::Ok);
    assert!(messages == [response.encode_to_vec()]);
    response.kvs.truncate(3);
    let reply = large_reply::reply(response.clone()).expect("short enough");
    assert_eq!(
        reply.into_inner(),
        response,
        "a small one takes the common way"
    );
}

#[tokio::test]
async fn a_stream_is_the_list_in_chunks_and_its_last_message_has_the_rest() {
    let store = store();
    for query in queries() {
        let mut expected = expected(&store, &query);
        for chunk_bytes in [1, 20_000, usize::MAX / 2] {
            let reply =
                range_stream::stream(store.store.read(), &query, Box::new(header), chunk_bytes);
            let (messages, status) = sent(reply).await;
            assert_eq!(status.code(), Code::Ok);
            let mut responses: Vec<RangeResponse> = messages
                .into_iter()
                .map(|bytes| RangeStreamResponse::decode(bytes).expect("our own encoding"))
                .map(|response| response.range_response.expect("never empty"))
                .collect();
            let rows = responses.iter().flat_map(|response| &response.kvs);
            assert!(rows.eq(&expected.kvs), "{query:?} by {chunk_bytes}");
            let last = responses.pop().expect("one at least");
            expected.kvs.clone_from(&last.kvs);
            assert_eq!(last, expected);
            for response in responses {
                let plain = RangeResponse {
                    kvs: response.kvs.clone(),
                    ..RangeResponse::default()
                };
                assert_eq!(response, plain);
            }
            expected = self::expected(&store, &query);
        }
    }
}

#[tokio::test]
async fn chunks_begin_with_10_keys_and_double_until_they_are_half_a_request() {
    let store = store();
    let chunk_bytes = 100_000;
    let query = query(0, 0, false);
    let reply = range_stream::stream(store.store.read(), &query, Box::new(header), chunk_bytes);
    let (messages, _) = sent(reply).await;
    let keys = messages.into_iter().map(|bytes| {
        let response = RangeStreamResponse::decode(bytes).expect("our own encoding");
        response.range_response.expect("never empty").kvs.len()
    });
    assert_eq!(Vec::from_iter(keys), [10, 20, 40, 80, 80, 49]);
}

#[tokio::test]
async fn a_stream_of_a_compacted_revision_ends_with_its_status() {
    let mut store = store();
    store.compact(3);
    let query = query(0, 2, false);
    let reply = range_stream::stream(store.store.read(), &query, Box::new(header), 1000);
    let (messages, status) = sent(reply).await;
    assert!(messages.is_empty());
    let text = "etcdserver: mvcc: required revision has been compacted";
    assert_eq!((status.code(), status.message()), (Code::OutOfRange, text));
}

#[test]
fn a_piece_is_bounded_by_its_keys_and_its_bytes() {
    let store = store();
    let read = store.store.read();
    let revision = read.revision();
    let mut lister = Lister::new(read, &query(0, 0, false));
    let piece = lister.next(5, usize::MAX).expect("readable");
    assert_eq!((piece.keys, piece.more), (5, true));
    let piece = lister.next(i64::MAX, 10_000).expect("readable");
    assert!((10_000..13_000).contains(&piece.bytes), "{}", piece.bytes);
    let segments: usize = piece.segments.iter().map(Bytes::len).sum();
    assert_eq!(segments, piece.bytes);
    let left = lister.count_left().expect("readable");
    assert_eq!(left, 279 - 5 - piece.keys);
    let (keys, bytes, more) = lister.clone().measure(left).expect("readable");
    let rest = lister.next(i64::MAX, usize::MAX).expect("readable");
    assert_eq!((keys, bytes, more), (rest.keys, rest.bytes, false));
    assert!(revision > Revision::new(2));
}

#[test]
fn a_message_longer_than_clients_take_is_refused_in_grpc_gos_words() {
    assert_eq!(
        message_length(i32::MAX as usize).expect("fits"),
        i32::MAX as u32
    );
    let refused = message_length(1 << 31).expect_err("too long");
    assert_eq!(refused.code(), Code::ResourceExhausted);
    let text = "trying to send message larger than max (2147483648 vs. 2147483647)";
    assert_eq!(refused.message(), text);
}
