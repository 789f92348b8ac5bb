//! What the offline check passes, and what it notices.

use super::*;
use crate::{
    mvcc::{Verified, verify},
    progress::{Audience, Progress},
    storage::{Batch, Family, StorageError, schema},
};

fn verified(store: &Store) -> Result<Verified, StorageError> {
    let mut progress = Progress::new(Audience::Log, "reading the state", 1);
    verify(store.read().view(), &mut progress)
}

/// Keys with a past, deleted ones, one on a lease, and a compaction in between.
fn sample() -> TestStore {
    let mut test = TestStore::new();
    for number in 0..20 {
        test.put(&format!("key {:02}", number % 10), "value");
    }
    test.delete("key 03");
    test.compact(15);
    test.put("key 05", "again");
    test.entry(|txn| {
        put(txn, "leased", "value", 7);
    });
    test
}

#[test]
fn a_store_passes_whatever_was_done_to_it() {
    let empty = TestStore::new();
    assert_eq!(verified(&empty.store).expect("sound"), Verified::default());
    let test = sample();
    let found = verified(&test.store).expect("sound");
    assert_eq!((found.keys, found.lease_keys), (10, 1));
    let mut test = sample();
    test.delete_all();
    test.accept_compaction(25);
    assert_eq!(verified(&test.store).expect("sound").keys, 0);
    test.run_compactions(false);
    assert_eq!(verified(&test.store).expect("sound").revisions, 10);
}

#[test]
fn every_contradiction_between_two_families_is_noticed() {
    type Damage = fn(&mut Batch);
    let cases: [(Family, Damage); 7] = [
        (Family::Current, |batch| {
            batch.delete(Family::Revision, schema::revision_key(24, 0));
        }),
        (Family::Revision, |batch| {
            batch.delete(Family::Current, b"leased");
            batch.delete(Family::LeaseKey, schema::lease_key(7, b"leased"));
            batch.put(Family::Count, b"", 9_u32.to_be_bytes());
        }),
        (Family::Revision, |batch| {
            batch.delete(Family::Old, schema::old_key(b"key 05", 17, 0));
        }),
        (Family::Old, |batch| {
            batch.put(Family::Old, schema::old_key(b"key 05", 3, 0), []);
        }),
        (Family::Count, |batch| {
            batch.put(Family::Count, b"", 11_u32.to_be_bytes());
        }),
        (Family::LeaseKey, |batch| {
            batch.delete(Family::LeaseKey, schema::lease_key(7, b"leased"));
        }),
        (Family::LeaseKey, |batch| {
            batch.put(Family::LeaseKey, schema::lease_key(7, b"key 05"), []);
        }),
    ];
    for (number, (family, damage)) in cases.into_iter().enumerate() {
        let test = sample();
        let backend = test.store.backend();
        let mut batch = backend.batch();
        damage(&mut batch);
        backend.write(batch).expect("write");
        test.store.refresh().expect("refresh");
        let error = verified(&test.store).expect_err("a contradiction");
        let text = error.to_string();
        assert!(text.contains(family.name()), "case {number}: {text}");
    }
}
