//! Single rules of the store.

use std::ops::ControlFlow;

use super::{TestStore, decoded, interval, put};
use crate::{
    ids::{Index, Revision, Term},
    mvcc::{
        NEVER_COMPACTED, RangeQuery, RevisionEvents, SortOrder, SortTarget, Store,
        round::PREVIOUS_BYTES_MAX,
    },
    storage::{Backend, BackendOptions, StorageError},
};

#[test]
fn an_empty_store_stands_at_revision_1() {
    let store = TestStore::new();
    let read = store.store.read();
    assert_eq!(read.revision(), Revision::new(1));
    assert_eq!(read.compact_revision(), NEVER_COMPACTED);
    assert_eq!(read.applied(), Index::new(0));
    let everything = RangeQuery::new(interval("\0", "\0"));
    assert_eq!(store.range(&everything).count, 0);
}

#[test]
fn a_second_round_goes_on_where_the_first_ended() {
    let mut store = TestStore::new();
    store.put("a", "1");
    store.put("a", "2");
    let kvs = decoded(&store.range(&RangeQuery::new(interval("a", ""))).kvs);
    assert_eq!((kvs[0].version, kvs[0].create_revision.get()), (2, 2));
    store.delete("a");
    store.put("a", "3");
    let kvs = decoded(&store.range(&RangeQuery::new(interval("a", ""))).kvs);
    assert_eq!((kvs[0].version, kvs[0].create_revision.get()), (1, 5));
}

#[test]
fn a_round_keeps_previous_values_for_watchers_up_to_a_bound() {
    let mut store = TestStore::new();
    let half = "v".repeat(PREVIOUS_BYTES_MAX / 2);
    for key in ["a", "b", "c"] {
        store.put(key, &half);
    }
    let kept = |events: &[RevisionEvents]| {
        let events = events.iter().flat_map(|revision| &revision.events);
        let previous = events.filter_map(|event| event.previous.as_ref());
        previous.map(bytes::Bytes::len).sum::<usize>()
    };
    let deleted = store.delete_all();
    assert!(kept(&deleted) > PREVIOUS_BYTES_MAX / 2 && kept(&deleted) <= PREVIOUS_BYTES_MAX);
    assert!(deleted[0].lacks_previous);
    store.put("d", "1");
    let deleted = store.delete_all();
    assert!(kept(&deleted) > 0 && !deleted[0].lacks_previous);
}

#[test]
fn a_sort_without_order_sees_only_the_first_keys_as_in_etcd() {
    let mut store = TestStore::new();
    for key in ["a", "b", "c"] {
        store.put(key, "");
    }
    store.put("a", "");
    store.put("a", "");
    store.put("b", "");
    let query = RangeQuery {
        limit: 1,
        target: SortTarget::Version,
        ..RangeQuery::new(interval("a", "z"))
    };
    // c has the lowest version, but only a and b were fetched.
    assert_eq!(decoded(&store.range(&query).kvs)[0].key, "b");
    let query = RangeQuery {
        order: SortOrder::Ascend,
        ..query
    };
    assert_eq!(decoded(&store.range(&query).kvs)[0].key, "c");
}

#[test]
fn a_round_that_is_dropped_leaves_no_trace() {
    let mut store = TestStore::new();
    store.put("a", "1");
    let mut round = store.store.begin_round();
    let mut txn = round.txn();
    put(&mut txn, "b", "1", 7);
    txn.end().expect("end");
    drop(round);
    assert_eq!(store.range(&RangeQuery::new(interval("a", "z"))).count, 1);
    let events = store.put("b", "2");
    assert_eq!(events[0].revision, Revision::new(3));
    assert_eq!(store.range(&RangeQuery::new(interval("a", "z"))).count, 2);
}

#[test]
fn entries_without_changes_move_only_the_index() {
    let store = TestStore::new();
    let round = store.store.begin_round();
    let events = round.commit(Index::new(9), Term::new(4)).expect("commit");
    assert!(events.is_empty());
    assert_eq!(store.store.applied(), (Index::new(9), Term::new(4)));
    assert_eq!(store.store.read().revision(), Revision::new(1));
    assert_eq!(
        store.store.persisted_applied().expect("read").0,
        Index::new(0)
    );
    store.store.backend().flush().expect("flush");
    assert_eq!(
        store.store.persisted_applied().expect("read").0,
        Index::new(9)
    );
}

#[test]
fn a_directory_of_something_else_or_of_the_future_is_not_touched() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    std::fs::write(dir.path().join("precious"), "data").expect("write");
    let open = |dir| Backend::open(dir, &BackendOptions::default()).expect_err("refused");
    assert!(matches!(open(dir.path()), StorageError::Foreign { .. }));
    std::fs::write(dir.path().join("FORMAT"), "trilith-state 2\n").expect("write");
    assert!(matches!(
        open(dir.path()),
        StorageError::FutureFormat {
            found: 2,
            known: 1,
            ..
        }
    ));
    let names = std::fs::read_dir(dir.path()).expect("list").count();
    assert_eq!(names, 2);
}

#[test]
fn a_view_outlives_the_handles_of_its_store() {
    let mut store = TestStore::new();
    store.put("a", "1");
    let read = store.store.read();
    let TestStore { store, dir, .. } = store;
    drop::<Store>(store);
    let found = read
        .range(&RangeQuery::new(interval("a", "")))
        .expect("range");
    assert_eq!(found.count, 1);
    drop(dir);
}

#[test]
fn a_failed_flush_closes_the_state_for_writing_with_its_first_reason() {
    let mut store = TestStore::new();
    store.put("a", "1");
    std::fs::remove_dir_all(store.dir.path().join("state")).expect("remove");
    let backend = store.store.backend();
    let first = backend.flush().expect_err("the directory is gone");
    let StorageError::Latched(reason) = first else {
        panic!("{first}")
    };
    for error in [
        backend.write(backend.batch()).expect_err("closed"),
        backend.flush().expect_err("closed"),
        backend.check().expect_err("closed"),
    ] {
        assert!(
            matches!(&error, StorageError::Latched(again) if *again == reason),
            "{error}"
        );
    }
    let found = store.range(&RangeQuery::new(interval("a", "")));
    assert_eq!(found.count, 1, "reads go on");
}

#[test]
fn sizes_grow_with_the_records_and_not_with_families() {
    let mut store = TestStore::new();
    let fresh = store.store.backend().sizes();
    assert!(fresh.total_bytes < 8 << 10, "{fresh:?}");
    store.put("a", &"x".repeat(100_000));
    let grown = store.store.backend().sizes();
    assert!((200_000..260_000).contains(&grown.total_bytes), "{grown:?}");
    store.store.backend().flush().expect("flush");
    let flushed = store.store.backend().sizes();
    assert!(flushed.in_use_bytes <= flushed.total_bytes, "{flushed:?}");
    assert_eq!(store.store.backend().unflushed().bytes, 0);
    assert_eq!(
        store.store.backend().total_bytes_estimate(),
        flushed.total_bytes
    );
}

#[test]
fn compaction_and_defragmentation_give_space_back() {
    let mut store = TestStore::new();
    for version in 0..5 {
        for key in 0..40 {
            // Text that compresses badly, so that what is removed shows in the files.
            let value: String = (0..5000_u32)
                .map(|at| noise(at + key * 5000 + version * 999_983))
                .collect();
            store.put(&format!("k{key}"), &value);
        }
    }
    store.store.backend().flush().expect("flush");
    let before = store.store.backend().sizes();
    store.compact(store.store.read().revision().get());
    let compacted = store.store.backend().sizes();
    assert!(
        compacted.in_use_bytes * 2 < before.in_use_bytes,
        "what is removed is in use no more, though it takes room still: {before:?} {compacted:?}"
    );
    let ended = store
        .store
        .defragment(&|| false)
        .expect("a stop is no failure");
    assert_eq!(ended, ControlFlow::Break(()));
    let ended = store.store.defragment(&|| true).expect("defragment");
    assert_eq!(ended, ControlFlow::Continue(()));
    let after = store.store.backend().sizes();
    assert!(
        after.total_bytes * 2 < before.total_bytes,
        "{before:?} {after:?}"
    );
    assert!(
        after.in_use_bytes * 2 < before.in_use_bytes,
        "{before:?} {after:?}"
    );
    assert_eq!(store.range(&RangeQuery::new(interval("k", "l"))).count, 40);
}

fn noise(number: u32) -> char {
    let mixed = number.wrapping_mul(2_654_435_761) ^ (number >> 7).wrapping_mul(40_503);
    char::from(b' ' + (mixed >> 16) as u8 % 90)
}
