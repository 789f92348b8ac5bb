//! Nothing that stands in the log or in rows makes apply or a start panic: it is refused, or it
//! stops the member with a reason.

use bytes::Bytes;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use prost::Message;
use trilith_proto::etcdserverpb as pb;
use trilith_proto::etcdserverpb::InternalRaftRequest;
use trilith_proto::etcdserverpb::compare::TargetUnion;
use trilith_proto::etcdserverpb::request_op::Request;

use super::testing::Fixture;
use super::{Outcome, cluster, dispatch};
use crate::alarm::Alarms;
use crate::auth::AuthStore;
use crate::cluster::Membership;
use crate::lease::Lessor;
use crate::mutate;
use crate::mvcc::{Interval, RangeQuery, Store};
use crate::storage::{Family, schema::meta};

fn put(key: &'static str) -> pb::PutRequest {
    pb::PutRequest {
        key: Bytes::from(key),
        value: Bytes::from("v"),
        prev_kv: true,
        ..Default::default()
    }
}

fn delete(key: &'static str, range_end: &'static str) -> pb::DeleteRangeRequest {
    pb::DeleteRangeRequest {
        key: Bytes::from(key),
        range_end: Bytes::from(range_end),
        prev_kv: true,
    }
}

fn range(key: &'static str, range_end: &'static str) -> pb::RangeRequest {
    pb::RangeRequest {
        key: Bytes::from(key),
        range_end: Bytes::from(range_end),
        limit: 2,
        sort_order: 2,
        sort_target: 3,
        ..Default::default()
    }
}

fn txn(requests: Vec<Request>) -> pb::TxnRequest {
    let operations = requests.into_iter().map(|request| pb::RequestOp {
        request: Some(request),
    });
    let compare = pb::Compare {
        key: Bytes::from("a"),
        result: 3,
        target: 1,
        target_union: Some(TargetUnion::CreateRevision(1)),
        ..Default::default()
    };
    pb::TxnRequest {
        compare: vec![compare],
        success: operations.collect(),
        failure: Vec::new(),
    }
}

/// One entry of each kind that takes more than a name.
fn entries() -> Vec<Vec<u8>> {
    let inner = txn(vec![
        Request::RequestPut(put("b")),
        Request::RequestRange(range("a", "z")),
    ]);
    let outer = txn(vec![
        Request::RequestPut(put("a")),
        Request::RequestTxn(inner),
        Request::RequestDeleteRange(delete("c", "\0")),
    ]);
    let mut with_lease = put("l");
    with_lease.lease = 7;
    let checkpoint = pb::LeaseCheckpoint {
        id: 7,
        remaining_ttl: 5,
    };
    let checkpoints = vec![checkpoint];
    macro_rules! entry {
        ($field:ident: $request:expr) => {
            InternalRaftRequest {
                $field: Some($request),
                ..Default::default()
            }
            .encode_to_vec()
        };
    }
    let name = || "root".to_owned();
    let permission = trilith_proto::authpb::Permission {
        perm_type: 2,
        key: Bytes::from("a"),
        range_end: Bytes::from("z"),
    };
    let perm = Some(permission);
    vec![
        entry!(auth_user_add: Box::new(pb::AuthUserAddRequest {
            name: name(),
            hashed_password: "aGFzaA==".to_owned(),
            ..Default::default()
        })),
        entry!(auth_user_grant_role: Box::new(pb::AuthUserGrantRoleRequest {
            user: name(),
            role: name(),
        })),
        entry!(auth_role_add: Box::new(pb::AuthRoleAddRequest { name: name() })),
        entry!(auth_role_grant_permission: Box::new(pb::AuthRoleGrantPermissionRequest {
            name: name(),
            perm,
        })),
        entry!(auth_role_delete: Box::new(pb::AuthRoleDeleteRequest { role: name() })),
        entry!(auth_enable: Box::new(pb::AuthEnableRequest {})),
        entry!(put: put("a")),
        entry!(put: with_lease),
        entry!(txn: outer),
        entry!(delete_range: delete("a", "b")),
        entry!(compaction: pb::CompactionRequest { revision: 2, physical: true }),
        entry!(lease_grant: pb::LeaseGrantRequest { id: 7, ttl: 60 }),
        entry!(lease_revoke: pb::LeaseRevokeRequest { id: 7 }),
        entry!(lease_checkpoint: pb::LeaseCheckpointRequest { checkpoints }),
        entry!(alarm: pb::AlarmRequest { action: 1, member_id: 7, alarm: 1 }),
    ]
}

fn an_entry_is_applied_or_refused(fixture: &Fixture, bytes: &[u8]) {
    let mut round = fixture.state.store.begin_round();
    let mut applied = true;
    if let Ok(request) = InternalRaftRequest::decode(bytes) {
        let _refused = fixture.state.alarms.refuses(&request);
        let mut outcome = Outcome::default();
        let state = &fixture.state;
        let index = state.store.applied().0.next();
        applied = dispatch::dispatch(state, &mut round, index, &request, &mut outcome).is_ok();
    }
    // A member that has to stop leaves its round behind.
    if applied {
        let (index, term) = fixture.state.store.applied();
        round.commit(index.next(), term).expect("a sound disk");
    }
}

/// Applies a configuration change; the round is left behind.
fn a_change_is_applied_or_refused(fixture: &Fixture, kind: i32, node_id: u64, context: &[u8]) {
    let context = Bytes::copy_from_slice(context);
    let entry = trilith_proto::raftpb::ConfChange {
        id: 1,
        r#type: kind,
        node_id,
        context,
    };
    let mut round = fixture.state.store.begin_round();
    let _answer = cluster::conf_change(&fixture.state, &mut round, &entry.encode_to_vec().into());
}

/// Starts over a row that nobody wrote, and reads all keys and their number.
fn a_start_over_a_row(fixture: &Fixture, family: Family, key: &[u8], value: &[u8]) {
    let backend = fixture.state.store.backend().clone();
    let before = backend.get(family, key).expect("a sound disk");
    let mut batch = backend.batch();
    batch.put(family, key, value);
    backend.write(batch).expect("a sound disk");
    let view = backend.view();
    let _parts = (
        Lessor::load(&view, 2).map(|_| ()),
        Alarms::load(&view).map(|_| ()),
        AuthStore::load(&view).map(|_| ()),
        Membership::load(&view, 1).map(|_| ()),
    );
    if let Ok(store) = Store::open(backend.clone()) {
        let mut query = RangeQuery::new(Interval::everything());
        let _rows = store.read().range(&query).map(|_| ());
        query.count_only = true;
        let _count = store.read().range(&query).map(|_| ());
    }
    let mut batch = backend.batch();
    match before {
        Some(before) => batch.put(family, key, before),
        None => batch.delete(family, key),
    }
    backend.write(batch).expect("a sound disk");
}

/// Where a row may stand that something else than we has written, and a sound value.
fn rows() -> Vec<(Family, &'static [u8], &'static [u8])> {
    const ADDRESS: &[u8] = b"\0\0\0\0\0\0\0\x02\0\0\0\0\0\0\0\0";
    const ROW: &[u8] = b"\x00\x01\x0a\x01k\x10\x02\x18\x02\x20\x01\x2a\x02vv";
    const MEMBER: &[u8] = br#"{"id":1,"peerURLs":["http://a:1"],"name":"x"}"#;
    const JOB: &[u8] = br#"{"target-version":"3.6.0","enabled":true}"#;
    vec![
        (Family::Current, b"k", ROW),
        (Family::Revision, ADDRESS, &ROW[1..]),
        (Family::Count, b"", b"\0\0\0\x01"),
        (Family::Count, b"k", b"\0\0\0\x01"),
        (Family::Lease, b"\0\0\0\0\0\0\0\x07", b"\x08\x07\x10\x3c"),
        (Family::LeaseKey, b"\0\0\0\0\0\0\0\x07k", b""),
        (Family::Alarm, b"\x08\x07\x10\x01", b""),
        (Family::Auth, b"authEnabled", b"\x01"),
        (Family::Auth, b"authRevision", &ADDRESS[..8]),
        (
            Family::AuthUser,
            b"root",
            b"\x0a\x04root\x12\x01p\x1a\x04root\x22\x00",
        ),
        (
            Family::AuthRole,
            b"r",
            b"\x0a\x01r\x12\x06\x08\x02\x12\x01a\x1a\x00",
        ),
        (Family::Member, b"1", MEMBER),
        (Family::MemberRemoved, b"2", b"removed"),
        (Family::Cluster, b"clusterVersion", b"3.7.0"),
        (Family::Cluster, b"downgrade", JOB),
        (Family::Meta, meta::APPLIED, ADDRESS),
        (Family::Meta, meta::REVISION, &ADDRESS[..8]),
        (Family::Meta, meta::COMPACT_SCHEDULED, &ADDRESS[..8]),
        (Family::Meta, meta::COMPACT_FINISHED, &ADDRESS[..8]),
    ]
}

/// A key that is sound more often than not, with a value that is not.
fn row() -> impl Strategy<Value = (Family, Vec<u8>, Vec<u8>)> {
    select(rows()).prop_flat_map(|(family, key, value)| {
        let keys = prop_oneof![2 => Just(key.to_vec()), 1 => mutate::near_any(&[key])];
        (Just(family), keys, mutate::near_any(&[value]))
    })
}

fn context() -> impl Strategy<Value = Vec<u8>> {
    mutate::near_any(&[
        r#"{"id":7,"peerURLs":["http://a:1"],"isLearner":true,"isPromote":false}"#,
        r#"{"id":7,"peerURLs":null,"name":"seven","clientURLs":["http://a:2"],"isPromote":true}"#,
    ])
}

/// A state takes long to open: a thirty-second of the cases, with many steps each.
fn config() -> ProptestConfig {
    let config = ProptestConfig::default();
    ProptestConfig {
        cases: config.cases.div_ceil(32),
        // Each attempt opens a state.
        max_shrink_iters: 256,
        ..config
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn no_junk_in_entries_panics(entries in vec(mutate::near(select(entries())), 1..60)) {
        let fixture = Fixture::new();
        for entry in &entries {
            an_entry_is_applied_or_refused(&fixture, entry);
        }
    }

    #[test]
    fn no_junk_in_changes_panics(changes in vec((-1..5, 6..9_u64, context()), 1..60)) {
        let fixture = Fixture::new();
        for (kind, node_id, context) in &changes {
            a_change_is_applied_or_refused(&fixture, *kind, *node_id, context);
        }
    }

    #[test]
    fn no_junk_in_rows_panics(rows in vec(row(), 1..40)) {
        let fixture = Fixture::new();
        for (family, key, value) in &rows {
            a_start_over_a_row(&fixture, *family, key, value);
        }
    }
}
