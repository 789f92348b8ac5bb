//! Log entries survive encoding, and no bytes make decoding panic.
//!
//! proptest prints the seed of a failing case as a `cc` line and keeps it beside this file.

use std::fmt::Debug;

use bytes::Bytes;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::Index;
use prost::Message;
use trilith_proto::authpb::Permission;
use trilith_proto::etcdserverpb::compare::TargetUnion;
use trilith_proto::etcdserverpb::request_op::Request;
use trilith_proto::etcdserverpb::*;
use trilith_proto::membershippb::{Attributes, ClusterMemberAttrSetRequest};
use trilith_proto::raftpb;

fn data() -> impl Strategy<Value = Bytes> {
    vec(any::<u8>(), 0..40).prop_map(Bytes::from)
}

fn range() -> impl Strategy<Value = RangeRequest> {
    (
        data(),
        data(),
        any::<[i64; 6]>(),
        any::<[i32; 2]>(),
        any::<[bool; 3]>(),
    )
        .prop_map(|(key, range_end, numbers, sort, flags)| RangeRequest {
            key,
            range_end,
            limit: numbers[0],
            revision: numbers[1],
            sort_order: sort[0],
            sort_target: sort[1],
            serializable: flags[0],
            keys_only: flags[1],
            count_only: flags[2],
            min_mod_revision: numbers[2],
            max_mod_revision: numbers[3],
            min_create_revision: numbers[4],
            max_create_revision: numbers[5],
        })
}

fn put() -> impl Strategy<Value = PutRequest> {
    (data(), data(), any::<i64>(), any::<[bool; 3]>()).prop_map(|(key, value, lease, flags)| {
        let [prev_kv, ignore_value, ignore_lease] = flags;
        PutRequest {
            key,
            value,
            lease,
            prev_kv,
            ignore_value,
            ignore_lease,
        }
    })
}

fn delete() -> impl Strategy<Value = DeleteRangeRequest> {
    (data(), data(), any::<bool>()).prop_map(|(key, range_end, prev_kv)| DeleteRangeRequest {
        key,
        range_end,
        prev_kv,
    })
}

fn compare() -> impl Strategy<Value = Compare> {
    let against = prop_oneof![
        any::<i64>().prop_map(TargetUnion::Version),
        any::<i64>().prop_map(TargetUnion::CreateRevision),
        any::<i64>().prop_map(TargetUnion::ModRevision),
        data().prop_map(TargetUnion::Value),
        any::<i64>().prop_map(TargetUnion::Lease),
    ];
    (
        any::<i32>(),
        any::<i32>(),
        data(),
        option::of(against),
        data(),
    )
        .prop_map(|(result, target, key, target_union, range_end)| Compare {
            result,
            target,
            key,
            range_end,
            target_union,
        })
}

fn txn() -> impl Strategy<Value = TxnRequest> {
    let leaf = Just(TxnRequest::default());
    leaf.prop_recursive(3, 24, 4, |inner| {
        let request = prop_oneof![
            range().prop_map(Request::RequestRange),
            put().prop_map(Request::RequestPut),
            delete().prop_map(Request::RequestDeleteRange),
            inner.prop_map(Request::RequestTxn),
        ];
        let op = option::of(request)
            .prop_map(|request| RequestOp { request })
            .boxed();
        (vec(compare(), 0..3), vec(op.clone(), 0..4), vec(op, 0..4)).prop_map(
            |(compare, success, failure)| TxnRequest {
                compare,
                success,
                failure,
            },
        )
    })
}

fn body() -> impl Strategy<Value = InternalRaftRequest> {
    let none = InternalRaftRequest::default;
    prop_oneof![
        range().prop_map(move |v| InternalRaftRequest {
            range: Some(v),
            ..none()
        }),
        put().prop_map(move |v| InternalRaftRequest {
            put: Some(v),
            ..none()
        }),
        delete().prop_map(move |v| InternalRaftRequest {
            delete_range: Some(v),
            ..none()
        }),
        txn().prop_map(move |v| InternalRaftRequest {
            txn: Some(v),
            ..none()
        }),
        (any::<i64>(), any::<i64>()).prop_map(move |(id, ttl)| InternalRaftRequest {
            lease_grant: Some(LeaseGrantRequest { id, ttl }),
            lease_revoke: Some(LeaseRevokeRequest { id }),
            ..none()
        }),
        (".{0,9}", data(), data(), any::<i32>()).prop_map(
            move |(name, key, range_end, perm_type)| {
                let perm = Some(Permission {
                    perm_type,
                    key,
                    range_end,
                });
                let request = AuthRoleGrantPermissionRequest { name, perm };
                InternalRaftRequest {
                    auth_role_grant_permission: Some(Box::new(request)),
                    ..none()
                }
            }
        ),
        (any::<u64>(), vec(".{0,9}", 0..3)).prop_map(move |(member_id, client_urls)| {
            let member_attributes = Some(Attributes {
                name: String::from("a"),
                client_urls,
            });
            let request = ClusterMemberAttrSetRequest {
                member_id,
                member_attributes,
            };
            InternalRaftRequest {
                cluster_member_attr_set: Some(Box::new(request)),
                ..none()
            }
        }),
    ]
}

fn entry() -> impl Strategy<Value = InternalRaftRequest> {
    let header =
        (any::<u64>(), ".{0,9}", any::<u64>()).prop_map(|(id, username, auth_revision)| {
            RequestHeader {
                id,
                username,
                auth_revision,
            }
        });
    (option::of(header), body())
        .prop_map(|(header, request)| InternalRaftRequest { header, ..request })
}

/// Decodes as every message that comes from outside; what decodes must survive a second round.
fn check_bytes(bytes: Bytes) -> Result<(), TestCaseError> {
    fn check<M: Message + Default + PartialEq + Debug>(bytes: &Bytes) -> Result<(), TestCaseError> {
        if let Ok(message) = M::decode(bytes.clone()) {
            let again = M::decode(message.encode_to_vec().as_slice());
            prop_assert_eq!(again, Ok(message));
        }
        Ok(())
    }
    check::<InternalRaftRequest>(&bytes)?;
    check::<TxnRequest>(&bytes)?;
    check::<WatchRequest>(&bytes)?;
    check::<raftpb::Message>(&bytes)
}

proptest! {
    #[test]
    fn an_entry_reads_back_as_written(entry in entry()) {
        let bytes = entry.encode_to_vec();
        prop_assert_eq!(bytes.len(), entry.encoded_len());
        prop_assert_eq!(InternalRaftRequest::decode(Bytes::from(bytes)), Ok(entry));
    }

    #[test]
    fn a_cut_entry_does_not_panic(entry in entry(), cut in any::<Index>()) {
        let mut bytes = entry.encode_to_vec();
        bytes.truncate(cut.index(bytes.len() + 1));
        check_bytes(bytes.into())?;
    }

    #[test]
    fn a_damaged_entry_does_not_panic(
        entry in entry(),
        damage in vec((any::<Index>(), any::<u8>()), 1..4),
    ) {
        let mut bytes = entry.encode_to_vec();
        for (at, with) in damage {
            if !bytes.is_empty() {
                let at = at.index(bytes.len());
                bytes[at] = with;
            }
        }
        check_bytes(bytes.into())?;
    }

    #[test]
    fn random_bytes_do_not_panic(bytes in vec(any::<u8>(), 0..200)) {
        check_bytes(bytes.into())?;
    }
}

/// A txn in a txn, `depth` times.
fn nested(depth: usize) -> Bytes {
    let mut txn = TxnRequest::default();
    for _ in 0..depth {
        let request = Some(Request::RequestTxn(txn));
        txn = TxnRequest {
            success: vec![RequestOp { request }],
            ..Default::default()
        };
    }
    txn.encode_to_vec().into()
}

#[test]
fn deep_nesting_is_refused_before_the_stack_ends() {
    assert!(TxnRequest::decode(nested(40)).is_ok());
    assert!(TxnRequest::decode(nested(2_000)).is_err());
}

#[test]
fn a_length_beyond_the_end_allocates_nothing() {
    // Field 4 (put), with a length of 2^62.
    let bytes = [0x22, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x40];
    assert!(InternalRaftRequest::decode(&bytes[..]).is_err());
}

/// Entries wait in queues between propose and apply; a member that is rare belongs into a box.
#[test]
fn an_entry_is_of_moderate_size() {
    let size = size_of::<InternalRaftRequest>();
    assert!(size <= 1024, "{size} bytes");
}
