//! The structs of `trilith_proto::wire` have the bytes of the messages of the same name.

use std::fmt::Debug;

use bytes::Bytes;
use prost::Message;
use trilith_proto::etcdserverpb::{self as plain, ResponseHeader};
use trilith_proto::mvccpb::{Event, KeyValue};
use trilith_proto::wire;

/// Both encode to the same bytes, and the bytes read back as what they were made from.
fn check<W, P>(spliced: &W, message: &P)
where
    W: Message + Default + PartialEq + Debug,
    P: Message + Default + PartialEq + Debug,
{
    let bytes = message.encode_to_vec();
    assert_eq!(spliced.encode_to_vec(), bytes);
    assert_eq!(&W::decode(&bytes[..]).expect("own encoding"), spliced);
    assert_eq!(&P::decode(&bytes[..]).expect("own encoding"), message);
}

fn header() -> Option<ResponseHeader> {
    Some(ResponseHeader {
        cluster_id: u64::MAX,
        member_id: 7,
        revision: 300,
        raft_term: 2,
    })
}

/// The last one has all fields at their defaults, so that its encoding is empty.
fn key_values() -> Vec<KeyValue> {
    let full = KeyValue {
        key: Bytes::from_static(b"key"),
        create_revision: 2,
        mod_revision: 300,
        version: 5,
        value: Bytes::from(vec![0xff; 200]),
        lease: -1,
    };
    vec![
        full,
        KeyValue {
            key: Bytes::from_static(b"\0"),
            ..Default::default()
        },
        Default::default(),
    ]
}

fn encoded<M: Message>(messages: &[M]) -> Vec<Bytes> {
    messages
        .iter()
        .map(|message| message.encode_to_vec().into())
        .collect()
}

fn ranges() -> (wire::RangeResponse, plain::RangeResponse) {
    let (header, kvs) = (header(), key_values());
    let spliced = wire::RangeResponse {
        header,
        kvs: encoded(&kvs),
        more: true,
        count: 1 << 40,
    };
    (
        spliced,
        plain::RangeResponse {
            header,
            kvs,
            more: true,
            count: 1 << 40,
        },
    )
}

fn puts() -> (wire::PutResponse, plain::PutResponse) {
    let previous = key_values().swap_remove(0);
    let prev_kv = Some(previous.encode_to_vec().into());
    let spliced = wire::PutResponse {
        header: header(),
        prev_kv,
    };
    (
        spliced,
        plain::PutResponse {
            header: header(),
            prev_kv: Some(previous),
        },
    )
}

fn deletes() -> (wire::DeleteRangeResponse, plain::DeleteRangeResponse) {
    let (header, kvs) = (header(), key_values());
    let prev_kvs = encoded(&kvs);
    let spliced = wire::DeleteRangeResponse {
        header,
        deleted: 3,
        prev_kvs,
    };
    (
        spliced,
        plain::DeleteRangeResponse {
            header,
            deleted: 3,
            prev_kvs: kvs,
        },
    )
}

/// Holds every kind of answer, and `inner` as the nested one.
fn txns(inner: (wire::TxnResponse, plain::TxnResponse)) -> (wire::TxnResponse, plain::TxnResponse) {
    use plain::response_op::Response as P;
    use wire::response_op::Response as W;
    let (range, put, delete) = (ranges(), puts(), deletes());
    let spliced = [
        Some(W::ResponseRange(range.0)),
        Some(W::ResponsePut(put.0)),
        Some(W::ResponseDeleteRange(delete.0)),
        Some(W::ResponseTxn(inner.0)),
        None,
    ];
    let message = [
        Some(P::ResponseRange(range.1)),
        Some(P::ResponsePut(put.1)),
        Some(P::ResponseDeleteRange(delete.1)),
        Some(P::ResponseTxn(inner.1)),
        None,
    ];
    let (header, succeeded) = (header(), true);
    let responses = spliced.map(|response| wire::ResponseOp { response }).into();
    let spliced = wire::TxnResponse {
        header,
        succeeded,
        responses,
    };
    let responses = message
        .map(|response| plain::ResponseOp { response })
        .into();
    (
        spliced,
        plain::TxnResponse {
            header,
            succeeded,
            responses,
        },
    )
}

#[test]
fn range_put_and_delete_responses_are_the_same_bytes() {
    let (spliced, message) = ranges();
    check(
        &wire::RangeStreamResponse {
            range_response: Some(spliced.clone()),
        },
        &plain::RangeStreamResponse {
            range_response: Some(message.clone()),
        },
    );
    check(&spliced, &message);
    let (spliced, message) = puts();
    check(&spliced, &message);
    let (spliced, message) = deletes();
    check(&spliced, &message);
}

#[test]
fn nested_txn_responses_are_the_same_bytes() {
    let (spliced, message) = txns(txns(Default::default()));
    check(&spliced, &message);
}

#[test]
fn watch_responses_are_the_same_bytes() {
    let events: Vec<_> = key_values()
        .into_iter()
        .enumerate()
        .map(|(at, kv)| Event {
            r#type: at as i32 % 2,
            kv: Some(kv.clone()),
            prev_kv: Some(kv),
        })
        .collect();
    let cancel_reason = String::from("because");
    check(
        &wire::WatchResponse {
            header: header(),
            watch_id: -1,
            created: true,
            canceled: true,
            compact_revision: 9,
            cancel_reason: cancel_reason.clone(),
            fragment: true,
            events: encoded(&events),
        },
        &plain::WatchResponse {
            header: header(),
            watch_id: -1,
            created: true,
            canceled: true,
            compact_revision: 9,
            cancel_reason,
            fragment: true,
            events,
        },
    );
}

#[test]
fn empty_responses_are_empty() {
    check(
        &wire::RangeResponse::default(),
        &plain::RangeResponse::default(),
    );
    check(
        &wire::RangeStreamResponse::default(),
        &plain::RangeStreamResponse::default(),
    );
    check(
        &wire::PutResponse::default(),
        &plain::PutResponse::default(),
    );
    check(
        &wire::DeleteRangeResponse::default(),
        &plain::DeleteRangeResponse::default(),
    );
    check(&wire::ResponseOp::default(), &plain::ResponseOp::default());
    check(
        &wire::TxnResponse::default(),
        &plain::TxnResponse::default(),
    );
    check(
        &wire::WatchResponse::default(),
        &plain::WatchResponse::default(),
    );
}
