//! The store against a plain model in memory, and its rules one by one.

mod claims;
mod hashes;
mod loading;
mod model;
mod random;
mod rows;
mod together;
mod verifying;

use std::{num::NonZeroUsize, ops::ControlFlow};

use bytes::Bytes;

use crate::{
    ids::{Index, LeaseId, Revision, Term},
    mvcc::{
        Interval, KeyValue, RangeQuery, RangeResult, RevisionEvents, Store, WriteTxn,
        compaction::{self, CompactionOptions},
    },
    storage::{Backend, BackendOptions},
};

/// A store in a directory that goes away with it.
struct TestStore {
    store: Store,
    index: u64,
    dir: tempfile::TempDir,
}

impl TestStore {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let store = open(dir.path());
        Self {
            store,
            index: 0,
            dir,
        }
    }

    /// One entry in a round of its own.
    fn entry(&mut self, change: impl FnOnce(&mut WriteTxn<'_>)) -> Vec<RevisionEvents> {
        let mut round = self.store.begin_round();
        let mut txn = round.txn();
        change(&mut txn);
        txn.end().expect("end of txn");
        self.index += 1;
        round
            .commit(Index::new(self.index), Term::new(1))
            .expect("commit")
    }

    fn put(&mut self, key: &str, value: &str) -> Vec<RevisionEvents> {
        self.entry(|txn| {
            put(txn, key, value, 0);
        })
    }

    fn delete(&mut self, key: &str) -> Vec<RevisionEvents> {
        self.delete_in(Interval::single(Bytes::copy_from_slice(key.as_bytes())))
    }

    fn delete_all(&mut self) -> Vec<RevisionEvents> {
        self.delete_in(Interval::everything())
    }

    fn delete_in(&mut self, interval: Interval) -> Vec<RevisionEvents> {
        self.entry(|txn| {
            txn.delete_range(&interval, false).expect("delete");
        })
    }

    fn compact(&mut self, target: i64) {
        self.accept_compaction(target);
        self.run_compactions(true);
    }

    fn accept_compaction(&mut self, target: i64) {
        let mut round = self.store.begin_round();
        round
            .set_compact(Revision::new(target))
            .expect("a revision that may be compacted");
        self.index += 1;
        round
            .commit(Index::new(self.index), Term::new(1))
            .expect("commit");
    }

    fn run_compactions(&self, hash: bool) {
        let batch_rows = NonZeroUsize::new(3).expect("not zero");
        let options = CompactionOptions { batch_rows, hash };
        while let Some(target) = self.store.next_compaction() {
            compaction::run(&self.store, target, &options, &mut |_| {
                ControlFlow::Continue(())
            })
            .expect("compaction");
        }
    }

    fn range(&self, query: &RangeQuery) -> RangeResult {
        self.store.read().range(query).expect("range")
    }

    /// Goes on from the files as they lie on disk now, as after kill -9. (Closing would not do:
    /// RocksDB flushes when it closes.)
    fn crash(self) -> Self {
        let copy = tempfile::tempdir().expect("a temporary directory");
        self.store.backend().crash_image(&copy.path().join("state"));
        let store = open(copy.path());
        let index = store.applied().0.get();
        Self {
            store,
            index,
            dir: copy,
        }
    }
}

fn open(dir: &std::path::Path) -> Store {
    let backend = Backend::open(&dir.join("state"), &BackendOptions::default()).expect("open");
    Store::open(backend).expect("open the store")
}

fn put(txn: &mut WriteTxn<'_>, key: &str, value: &str, lease: i64) -> Option<Bytes> {
    let key = Bytes::copy_from_slice(key.as_bytes());
    txn.put(key, value.as_bytes(), LeaseId::new(lease))
        .expect("put")
}

fn interval(key: &str, range_end: &str) -> Interval {
    let bytes = |text: &str| Bytes::copy_from_slice(text.as_bytes());
    Interval::from_request(bytes(key), bytes(range_end))
}

fn decoded(kvs: &[Bytes]) -> Vec<KeyValue> {
    kvs.iter()
        .map(|kv| KeyValue::decode(kv).expect("a stored KeyValue"))
        .collect()
}
