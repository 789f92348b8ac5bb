//! Readers, the writer and a compaction at the same time.

use std::{
    num::NonZeroUsize,
    ops::ControlFlow,
    sync::atomic::{AtomicBool, Ordering},
};

use super::{TestStore, decoded, interval, put};
use crate::{
    ids::Revision,
    mvcc::{
        RangeQuery, Store,
        compaction::{self, CompactionOptions},
    },
};

/// Entry `n` puts key `n % KEYS` and deletes its neighbor, so at any revision the keys that live
/// can be told from the revision alone.
const KEYS: i64 = 50;
const ENTRIES: i64 = 600;

#[test]
fn readers_see_whole_revisions_while_others_are_written_and_removed() {
    let mut store = TestStore::new();
    let done = AtomicBool::new(false);
    let shared = store.store.clone();
    std::thread::scope(|scope| {
        let readers = [(); 2].map(|()| scope.spawn(|| read_until(&shared, &done)));
        let compactor = scope.spawn(|| compact_until(&shared, &done));
        for entry in 0..ENTRIES {
            store.entry(|txn| {
                put(txn, &key(entry), &entry.to_string(), 0);
                txn.delete_range(&interval(&key(entry + 1), ""), false)
                    .expect("delete");
            });
            if entry % 20 == 19 {
                store.accept_compaction(entry - 5);
            }
        }
        done.store(true, Ordering::Release);
        compactor.join().expect("the compactor");
        let reads: usize = readers
            .into_iter()
            .map(|reader| reader.join().expect("a reader"))
            .sum();
        assert!(reads > 0);
    });
    store.run_compactions(false);
    check(&store.store);
}

fn key(entry: i64) -> String {
    format!("k{:02}", entry.rem_euclid(KEYS))
}

fn read_until(store: &Store, done: &AtomicBool) -> usize {
    let mut reads = 0;
    while !done.load(Ordering::Acquire) || reads == 0 {
        check(store);
        reads += 1;
    }
    reads
}

fn compact_until(store: &Store, done: &AtomicBool) {
    let batch_rows = NonZeroUsize::new(7).expect("not zero");
    let options = CompactionOptions {
        batch_rows,
        hash: true,
    };
    while !done.load(Ordering::Acquire) {
        if let Some(target) = store.next_compaction() {
            let mut pause = |_| ControlFlow::Continue(());
            compaction::run(store, target, &options, &mut pause).expect("compaction");
        }
        std::thread::yield_now();
    }
}

/// Every revision that can be read has the keys that it must have.
fn check(store: &Store) {
    let read = store.read();
    let first = read.compact_revision().max(Revision::new(1)).get();
    let last = read.revision().get();
    for revision in [first, (first + last) / 2, last - 1, last] {
        if revision < first || revision < 1 {
            continue;
        }
        let query = RangeQuery {
            revision,
            ..RangeQuery::new(interval("k", "l"))
        };
        let found = read.range(&query).expect("range");
        let count = read
            .range(&RangeQuery {
                count_only: true,
                ..query
            })
            .expect("count")
            .count;
        assert_eq!(found.count, count);
        let found: Vec<String> = decoded(&found.kvs)
            .iter()
            .map(|kv| String::from_utf8_lossy(&kv.value).into_owned())
            .collect();
        let mut expected: Vec<i64> = living_at(revision);
        expected.sort_by_key(|&entry| key(entry));
        let expected: Vec<String> = expected.iter().map(ToString::to_string).collect();
        assert_eq!(found, expected, "at {revision}");
    }
}

/// The entries whose key lives at `revision`, which entry `revision - 2` made.
fn living_at(revision: i64) -> Vec<i64> {
    let newest = revision - 2;
    // The key after the newest one is deleted; the others were put within the last turn.
    (0..=newest)
        .rev()
        .take(usize::try_from(KEYS).expect("small") - 1)
        .collect()
}
