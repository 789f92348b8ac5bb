//! A store loaded from the records of another is like that other.

use crate::{
    ids::Revision,
    mvcc::{
        Address, Fields, Kind, LoadedRevisions, Loader, NEVER_COMPACTED, ReadTxn, Row, Store,
        tests::{TestStore, interval, put},
    },
    storage::{Backend, BackendOptions, Family, schema},
};

/// Copies the records, as an import from etcd would read them.
fn load(store: &Store, dir: &std::path::Path) -> Store {
    let backend = Backend::open(dir, &BackendOptions::default()).expect("open");
    let mut loader = Loader::new(backend.clone()).expect("an empty backend");
    let read = store.read();
    let mut rows = read.view().scan(Family::Revision, &[], None);
    while let Some((key, value)) = rows.next().expect("scan") {
        let (main, sub) = schema::parse_revision_key(key).expect("own key");
        let row = Row::parse(value).expect("own row");
        let is_deletion = row.kind == Kind::Tombstone;
        loader
            .record(Address { main, sub }, is_deletion, row.kv)
            .expect("record");
    }
    let some = |revision: Revision| (revision != NEVER_COMPACTED).then_some(revision);
    let revisions = LoadedRevisions {
        current: read.revision(),
        compact_scheduled: some(read.compact_revision()),
        compact_finished: some(store.finished_compaction().expect("read")),
    };
    loader.finish(revisions, backend.batch()).expect("finish");
    Store::open(backend).expect("open the store")
}

fn filled() -> TestStore {
    let mut store = TestStore::new();
    for number in 0..700 {
        store.entry(|txn| {
            put(txn, &format!("k{number}"), "1", number % 3);
            put(txn, &format!("l{}", number % 7), "2", 0);
        });
    }
    store.delete("k5");
    store.put("k5", "again");
    store.entry(|txn| {
        txn.delete_range(&interval("k60", "k61"), false)
            .expect("delete");
    });
    store
}

fn rows(read: &ReadTxn, family: Family) -> Vec<(Vec<u8>, Vec<u8>)> {
    super::rows::rows(read, family)
}

#[test]
fn a_loaded_store_has_the_same_rows() {
    let store = filled();
    let dir = tempfile::tempdir().expect("a temporary directory");
    let loaded = load(&store.store, &dir.path().join("state"));
    let (left, right) = (store.store.read(), loaded.read());
    for family in [
        Family::Revision,
        Family::Current,
        Family::Old,
        Family::LeaseKey,
    ] {
        assert_eq!(
            rows(&left, family),
            rows(&right, family),
            "{}",
            family.name()
        );
    }
    let total = |read: &ReadTxn| -> u32 {
        let counts = rows(read, Family::Count);
        counts
            .iter()
            .map(|(_, v)| u32::from_be_bytes(v[..].try_into().expect("4 bytes")))
            .sum()
    };
    assert_eq!(total(&left), total(&right));
    assert_eq!(left.revision(), right.revision());
}

#[test]
fn a_store_loaded_after_a_compaction_goes_on_like_the_other() {
    let mut store = filled();
    store.compact(600);
    let dir = tempfile::tempdir().expect("a temporary directory");
    let mut loaded = TestStore {
        store: load(&store.store, &dir.path().join("state")),
        index: 0,
        dir,
    };
    let hash = |store: &TestStore, revision| {
        store
            .store
            .hash_kv(Revision::new(revision))
            .expect("hash")
            .hash
    };
    for revision in [601, 650, 0] {
        assert_eq!(hash(&store, revision), hash(&loaded, revision));
    }
    for target in [650, 703, 704] {
        store.compact(target);
        loaded.compact(target);
        for both in [&mut store, &mut loaded] {
            both.put("l1", "3");
            both.delete("k9");
        }
        assert_eq!(hash(&store, 0), hash(&loaded, 0));
        for family in [Family::Current, Family::Old, Family::LeaseKey] {
            let left = rows(&store.store.read(), family);
            assert_eq!(
                left.len(),
                rows(&loaded.store.read(), family).len(),
                "{}",
                family.name()
            );
        }
    }
}

#[test]
fn records_out_of_order_and_revisions_that_do_not_fit_are_refused() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let open = |name| Backend::open(&dir.path().join(name), &BackendOptions::default());
    let backend = open("order").expect("open");
    let kv = Fields {
        key: b"a",
        version: 1,
        ..Fields::default()
    }
    .encode();
    let mut loader = Loader::new(backend.clone()).expect("empty");
    loader
        .record(Address { main: 5, sub: 0 }, false, &kv)
        .expect("record");
    assert!(
        loader
            .record(Address { main: 5, sub: 0 }, false, &kv)
            .is_err()
    );
    assert!(
        loader
            .record(Address { main: 4, sub: 3 }, false, &kv)
            .is_err()
    );
    let current = Revision::new(4);
    let revisions = LoadedRevisions {
        current,
        compact_scheduled: None,
        compact_finished: None,
    };
    assert!(loader.finish(revisions, backend.batch()).is_err());
    let backend = open("full").expect("open");
    Store::open(backend.clone()).expect("a new store");
    assert!(Loader::new(backend).is_err());
}

#[test]
fn a_create_of_a_key_that_lives_is_refused() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    // In the end the key is there once, or not at all.
    for ends_deleted in [false, true] {
        let state = dir.path().join(format!("{ends_deleted}"));
        let backend = Backend::open(&state, &BackendOptions::default()).expect("open");
        let mut loader = Loader::new(backend.clone()).expect("empty");
        for main in [2, 3] {
            let create = Fields {
                key: b"a",
                create_revision: main,
                mod_revision: main,
                version: 1,
                ..Fields::default()
            };
            let address = Address { main, sub: 0 };
            loader
                .record(address, false, &create.encode())
                .expect("record");
        }
        if ends_deleted {
            let key = Fields {
                key: b"a",
                ..Fields::default()
            };
            let address = Address { main: 4, sub: 0 };
            loader.record(address, true, &key.encode()).expect("record");
        }
        let revisions = LoadedRevisions {
            current: Revision::new(4),
            compact_scheduled: None,
            compact_finished: None,
        };
        let refused = loader.finish(revisions, backend.batch());
        let text = refused.expect_err("refused").to_string();
        assert!(text.contains("version 1"), "{text}");
    }
}
