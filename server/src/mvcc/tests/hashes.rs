//! Hashes that a running etcd 3.7.3 gave for the same operations.

use std::{num::NonZeroUsize, ops::ControlFlow};

use super::{TestStore, interval, put};
use crate::{
    ids::Revision,
    mvcc::{
        KvHash, MvccError,
        compaction::{self, CompactionOptions},
        hash_view,
    },
};

/// Compact revision, revision and hash.
type Expected = (i64, i64, u32);

fn check(store: &TestStore, asked: i64, expected: Expected) {
    let found: KvHash = store.store.hash_kv(Revision::new(asked)).expect("hash");
    let found = (
        found.compact_revision.get(),
        found.revision.get(),
        found.hash,
    );
    assert_eq!(found, expected, "hash of revision {asked}");
}

#[test]
fn hash_kv_of_a_new_store_and_of_a_deleted_key() {
    let mut store = TestStore::new();
    check(&store, 0, (-1, 1, 1084519789));
    store.put("a", "b");
    store.delete("a");
    check(&store, 0, (-1, 3, 2765545382));
}

#[test]
fn hash_kv_through_compactions() {
    let mut store = TestStore::new();
    store.put("a", "1");
    store.put("b", "1");
    store.put("a", "2");
    store.delete("b");
    check(&store, 0, (-1, 5, 1416966122));
    check(&store, 4, (-1, 4, 3086679940));
    store.entry(|txn| {
        put(txn, "c", "1", 0);
        put(txn, "d", "1", 0);
        txn.delete_range(&interval("a", ""), false).expect("delete");
    });
    check(&store, 0, (-1, 6, 1926564804));
    store.compact(5);
    check(&store, 0, (5, 6, 2088290988));
    check(&store, 5, (-1, 5, 1416966122));
    check(&store, 6, (5, 6, 2088290988));
    store.put("c", "2");
    store.put("b", "9");
    store.delete("c");
    check(&store, 0, (5, 9, 2929963652));
    check(&store, 7, (5, 7, 1651068941));
    check(&store, 8, (5, 8, 2635968677));
    store.compact(9);
    check(&store, 0, (9, 9, 4146193692));
    check(&store, 5, (-1, 5, 1416966122));
    check(&store, 9, (5, 9, 2929963652));
    store.entry(|txn| {
        txn.delete_range(&interval("\0", "\0"), false)
            .expect("delete");
    });
    check(&store, 0, (9, 10, 2162015328));
    store.compact(10);
    check(&store, 0, (10, 10, 1084519789));
    check(&store, 10, (9, 10, 1777574236));
    check(&store, 9, (5, 9, 2929963652));
    store.put("z", "1");
    store.delete("z");
    check(&store, 0, (10, 12, 1756052931));
    check(&store, 11, (10, 11, 974378710));
    store.compact(11);
    check(&store, 12, (11, 12, 1756052931));
    check(&store, 11, (10, 11, 974378710));
    store.compact(12);
    check(&store, 0, (12, 12, 1084519789));
    store.put("q", "1");
    check(&store, 0, (12, 13, 861092120));
    check(&store, 12, (11, 12, 1352746506));
    let compacted = store.store.hash_kv(Revision::new(8));
    assert!(
        matches!(compacted, Err(MvccError::Compacted { .. })),
        "{compacted:?}"
    );
}

#[test]
fn a_compaction_that_overtook_another_keeps_no_hash() {
    let mut store = TestStore::new();
    for value in ["1", "2", "3", "4"] {
        store.put("a", value);
    }
    store.accept_compaction(2);
    store.accept_compaction(3);
    store.run_compactions(true);
    let kept: Vec<i64> = store
        .store
        .kept_hashes()
        .iter()
        .map(|hash| hash.revision.get())
        .collect();
    assert_eq!(kept, [2]);
    for target in [4, 5] {
        store.compact(target);
    }
    assert_eq!(store.store.kept_hashes().len(), 3);
}

#[test]
fn a_compaction_that_a_crash_has_cut_in_two_keeps_no_hash_and_the_next_one_does() {
    let mut store = TestStore::new();
    for value in 1..=20 {
        store.put("a", &value.to_string());
    }
    store.accept_compaction(15);
    let batch_rows = NonZeroUsize::new(3).expect("not zero");
    let options = CompactionOptions {
        batch_rows,
        hash: true,
    };
    let cut = compaction::run(&store.store, Revision::new(15), &options, &mut |_| {
        ControlFlow::Break(())
    });
    assert!(matches!(cut, Err(MvccError::Stopped)), "{cut:?}");
    store.store.backend().flush().expect("a flush");
    let mut store = store.crash();
    store.run_compactions(true);
    assert_eq!(store.store.kept_hashes(), []);
    let kept = store.store.hash_kv(Revision::new(18)).expect("a hash");
    store.compact(18);
    assert_eq!(store.store.kept_hashes(), [kept_as(kept, 18)]);
}

#[test]
fn a_compaction_that_goes_on_after_a_break_keeps_the_hash_of_its_begin() {
    let mut store = TestStore::new();
    for value in 1..=20 {
        store.put("a", &value.to_string());
    }
    let whole = store.store.hash_kv(Revision::new(15)).expect("a hash");
    store.accept_compaction(15);
    let options = CompactionOptions {
        batch_rows: NonZeroUsize::new(3).expect("not zero"),
        hash: true,
    };
    let target = Revision::new(15);
    let cut = compaction::run(&store.store, target, &options, &mut |_| {
        ControlFlow::Break(())
    });
    assert!(matches!(cut, Err(MvccError::Stopped)), "{cut:?}");
    store.run_compactions(true);
    assert_eq!(store.store.next_compaction(), None);
    let kept = store.store.kept_hashes();
    assert_eq!(kept.len(), 1);
    assert_eq!((kept[0].hash, kept[0].revision), (whole.hash, target));
}

/// What a compaction keeps has the current revision of its own moment.
fn kept_as(hash: KvHash, current: i64) -> KvHash {
    KvHash {
        current_revision: Revision::new(current),
        ..hash
    }
}

#[test]
fn the_hashes_of_the_last_ten_compactions_are_kept() {
    let mut store = TestStore::new();
    for target in 2..=14 {
        store.put("a", &target.to_string());
        store.compact(target);
    }
    let kept = store.store.kept_hashes();
    let revisions: Vec<i64> = kept.iter().map(|hash| hash.revision.get()).collect();
    assert_eq!(revisions, (5..=14).collect::<Vec<i64>>());
    let compacted: Vec<i64> = kept
        .iter()
        .map(|hash| hash.compact_revision.get())
        .collect();
    assert_eq!(compacted, (4..=13).collect::<Vec<i64>>());
}

#[test]
fn a_view_has_the_hash_of_its_store() {
    let mut store = TestStore::new();
    for value in ["1", "2", "3", "4"] {
        store.put("a", value);
    }
    store.accept_compaction(3);
    store.run_compactions(false);
    let view = store.store.backend().view();
    for revision in [0, 2, 3, 4, 5, 6] {
        let revision = Revision::new(revision);
        let (of_view, of_store) = (hash_view(&view, revision), store.store.hash_kv(revision));
        match (of_view, of_store) {
            (Ok(of_view), Ok(of_store)) => assert_eq!(of_view, of_store),
            (Err(of_view), Err(of_store)) => assert_eq!(of_view.to_string(), of_store.to_string()),
            (of_view, of_store) => panic!("{revision}: {of_view:?} and {of_store:?}"),
        }
    }
}
