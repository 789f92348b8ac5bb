//! A store with a hub on it, written to as the apply thread does.

use bytes::Bytes;

use super::hub::WatchHub;
use crate::{
    ids::{Index, LeaseId, Revision, Term},
    mvcc::{Interval, Round, Store, WriteTxn},
    storage::{Backend, BackendOptions},
};

/// A hub over a store in a directory that goes away with it.
pub(crate) struct TestStore {
    pub(crate) store: Store,
    pub(crate) hub: WatchHub,
    index: u64,
    _dir: tempfile::TempDir,
}

impl TestStore {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let options = BackendOptions::default();
        let backend = Backend::open(dir.path(), &options).expect("an empty directory");
        let store = Store::open(backend).expect("an empty store");
        let hub = WatchHub::new(store.clone()).expect("a thread");
        Self {
            store,
            hub,
            index: 0,
            _dir: dir,
        }
    }

    /// One round: committed, published, fanned out.
    pub(crate) fn round(&mut self, write: impl FnOnce(&mut Round)) {
        let mut round = self.store.begin_round();
        write(&mut round);
        self.index += 1;
        let events = round
            .commit(Index::new(self.index), Term::new(1))
            .expect("a healthy disk");
        self.hub.notify(events);
    }

    /// A round of one transaction.
    pub(crate) fn txn(&mut self, write: impl FnOnce(&mut WriteTxn<'_>)) {
        self.round(|round| {
            let mut txn = round.txn();
            write(&mut txn);
            txn.end().expect("a healthy disk");
        });
    }

    pub(crate) fn put(&mut self, key: &str, value: &str) {
        self.txn(|txn| put(txn, key, value));
    }

    pub(crate) fn delete(&mut self, key: &str) {
        self.txn(|txn| delete(txn, key));
    }

    pub(crate) fn compact(&mut self, revision: i64) {
        self.round(|round| {
            round
                .set_compact(Revision::new(revision))
                .expect("within bounds")
        });
    }
}

pub(crate) fn put(txn: &mut WriteTxn<'_>, key: &str, value: &str) {
    let key = Bytes::from(key.to_owned());
    txn.put(key, value.as_bytes(), LeaseId::new(0))
        .expect("a healthy disk");
}

pub(crate) fn delete(txn: &mut WriteTxn<'_>, key: &str) {
    let interval = Interval::single(Bytes::from(key.to_owned()));
    txn.delete_range(&interval, false).expect("a healthy disk");
}
