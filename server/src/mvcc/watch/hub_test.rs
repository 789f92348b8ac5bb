//! The hub over a real store.

use std::{future::poll_fn, sync::Arc, thread};

use bytes::Bytes;
use prost::Message;
use trilith_proto::mvccpb;

use super::{
    Delivery, StreamEnd, WatchOptions, WatchRequest, WatchStream,
    test_store::{TestStore, delete, put},
};
use crate::{
    ids::{Revision, WatchId},
    mvcc::{Interval, round::PREVIOUS_BYTES_MAX},
};

fn everything(start: i64, prev_kv: bool) -> WatchRequest {
    let options = WatchOptions {
        prev_kv,
        ..WatchOptions::default()
    };
    WatchRequest {
        id: None,
        interval: Interval::everything(),
        start,
        options,
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .build()
        .expect("a runtime")
}

fn next(stream: &WatchStream) -> Result<Delivery, StreamEnd> {
    runtime().block_on(poll_fn(|context| stream.poll_next(context)))
}

/// Reads until the events of a revision have come.
fn events_until(stream: &WatchStream, last: i64) -> Vec<Bytes> {
    let mut all = Vec::new();
    loop {
        if let Delivery::Events { events, .. } = next(stream).expect("nobody stops the hub") {
            all.extend(events.iter().cloned());
            if mod_revision(all.last().expect("never empty")) >= last {
                return all;
            }
        }
    }
}

fn mod_revision(event: &Bytes) -> i64 {
    let event = mvccpb::Event::decode(event.clone()).expect("our own encoding");
    event.kv.map_or(0, |kv| kv.mod_revision)
}

#[test]
fn history_reads_as_it_was_seen_live() {
    let mut store = TestStore::new();
    let live = store.hub.open();
    live.create(everything(0, false));
    live.create(everything(0, true));
    store.put("a", "1");
    store.put("a", "2");
    store.delete("a");
    store.txn(|txn| {
        put(txn, "a", "3");
        put(txn, "b", "4");
    });
    store.txn(|txn| {
        put(txn, "a", "5");
        delete(txn, "a");
        put(txn, "a", "6");
        put(txn, "c", "7");
        delete(txn, "c");
        delete(txn, "b");
    });
    store.put("b", "8");
    let last = store.store.read().revision().get();
    // Without watchers the hub forgets, so that what follows comes from the disk.
    let mut seen: [Vec<Bytes>; 2] = Default::default();
    while seen
        .iter()
        .any(|events| events.last().map_or(0, mod_revision) < last)
    {
        if let Delivery::Events {
            options, events, ..
        } = next(&live).expect("live")
        {
            seen[usize::from(options.prev_kv)].extend(events.iter().cloned());
        }
    }
    drop(live);
    for (prev_kv, seen) in seen.iter().enumerate() {
        let stream = store.hub.open();
        stream.create(everything(1, prev_kv == 1));
        assert_eq!(&events_until(&stream, last), seen);
    }
}

/// A delete of more than memory holds must neither stop apply nor cost watchers their previous
/// pairs.
#[test]
fn a_delete_keeps_little_of_what_it_deletes_and_watchers_read_it_from_history() {
    const KEYS: usize = 20;
    let value = "v".repeat(2 * PREVIOUS_BYTES_MAX / KEYS);
    let mut store = TestStore::new();
    for key in 0..KEYS {
        store.put(&format!("k{key:02}"), &value);
    }
    let mut round = store.store.begin_round();
    let mut txn = round.txn();
    let deleted = txn
        .delete_range(&Interval::everything(), false)
        .expect("a healthy disk");
    assert_eq!((deleted.keys, deleted.previous.len()), (KEYS, 0));
    let last = txn.end().expect("a healthy disk");
    assert!(round.bytes() < 8 << 10, "rows are keys: {}", round.bytes());
    drop(round);

    let stream = store.hub.open();
    for prev_kv in [false, true] {
        stream.create(everything(0, prev_kv));
    }
    store.txn(|txn| {
        let deleted = txn.delete_range(&Interval::everything(), false);
        assert_eq!(deleted.expect("a healthy disk").keys, KEYS);
    });
    store.put("after", "");
    let mut seen: [Vec<mvccpb::Event>; 2] = Default::default();
    while seen.iter().any(|events| events.len() <= KEYS) {
        if let Delivery::Events {
            options, events, ..
        } = next(&stream).expect("nobody stops the hub")
        {
            let events = events.iter().cloned().map(mvccpb::Event::decode);
            seen[usize::from(options.prev_kv)].extend(events.map(|event| event.expect("sound")));
        }
    }
    for (prev_kv, seen) in seen.iter().enumerate() {
        let (after, deleted) = seen.split_last().expect("seen above");
        assert_eq!(after.kv.as_ref().map(|kv| &kv.key[..]), Some(&b"after"[..]));
        for (number, event) in deleted.iter().enumerate() {
            let kv = event.kv.as_ref().expect("an event has a key");
            assert_eq!(kv.key, format!("k{number:02}"));
            assert_eq!(kv.mod_revision, last.get());
            let previous = event.prev_kv.as_ref().map(|kv| kv.value.len());
            assert_eq!(previous, (prev_kv == 1).then_some(value.len()));
        }
    }
}

#[test]
fn the_previous_pair_is_absent_when_it_is_compacted() {
    let mut store = TestStore::new();
    store.put("a", "1");
    store.put("a", "2");
    store.put("a", "3");
    store.compact(3);
    let stream = store.hub.open();
    stream.create(everything(3, true));
    let previous: Vec<Option<i64>> = events_until(&stream, 4)
        .into_iter()
        .map(|event| mvccpb::Event::decode(event).expect("our own encoding"))
        .map(|event| event.prev_kv.map(|kv| kv.mod_revision))
        .collect();
    assert_eq!(previous, [None, Some(3)]);
}

#[test]
fn a_start_before_the_compaction_is_answered_after_created() {
    let mut store = TestStore::new();
    store.put("a", "1");
    store.put("a", "2");
    store.compact(3);
    let stream = store.hub.open();
    stream.create(everything(2, false));
    assert!(matches!(next(&stream), Ok(Delivery::Created { .. })));
    let compacted = next(&stream);
    assert!(matches!(
        compacted,
        Ok(Delivery::Compacted { compact_revision, .. }) if compact_revision == Revision::new(3)
    ));
}

#[test]
fn a_stopped_hub_ends_its_streams() {
    let store = TestStore::new();
    let stream = store.hub.open();
    stream.create(everything(0, false));
    store.hub.stop();
    assert_eq!(next(&stream), Err(StreamEnd::Stopped));
    assert_eq!(next(&store.hub.open()), Err(StreamEnd::Stopped));
}

/// Real threads: one publishes, others watch from all over the past and from now on, reading at
/// their own pace, so that they fall behind and join while revisions keep coming.
#[test]
fn watchers_that_come_and_fall_behind_while_revisions_are_published_miss_nothing() {
    const REVISIONS: i64 = 3000;
    let mut store = TestStore::new();
    let hub = store.hub.clone();
    let value = "v".repeat(300);
    let first_half = REVISIONS / 2;
    for number in 2..=first_half {
        store.put(&format!("k{}", number % 7), &value);
    }
    let threads: Vec<_> = (0..4)
        .map(|number: i64| {
            let hub = hub.clone();
            thread::spawn(move || {
                let streams: Vec<WatchStream> = (0..8).map(|_| hub.open()).collect();
                for (index, stream) in (0..).zip(&streams) {
                    stream.create(everything(1 + (number * 8 + index) * 40, false));
                }
                for (index, stream) in (0..).zip(&streams) {
                    let start = 1 + (number * 8 + index) * 40;
                    let seen = events_until(stream, REVISIONS);
                    let seen: Vec<i64> = seen.iter().map(mod_revision).collect();
                    let expected: Vec<i64> = (start.max(2)..=REVISIONS).collect();
                    assert!(seen == expected, "from {start}: {} seen", seen.len());
                }
            })
        })
        .collect();
    for number in first_half + 1..=REVISIONS {
        store.put(&format!("k{}", number % 7), &value);
    }
    for thread in threads {
        thread.join().expect("every watcher saw everything");
    }
}

#[test]
fn a_thousand_watchers_of_one_range_share_a_delivery() {
    let mut store = TestStore::new();
    let stream = store.hub.open();
    for _ in 0..1000 {
        stream.create(everything(0, false));
    }
    store.put("a", "1");
    for _ in 0..1000 {
        assert!(matches!(next(&stream), Ok(Delivery::Created { .. })));
    }
    let Ok(Delivery::Events {
        watchers, events, ..
    }) = next(&stream)
    else {
        panic!("events")
    };
    let ids: Vec<WatchId> = watchers.iter().collect();
    assert_eq!(ids, (0..1000).map(WatchId::new).collect::<Vec<_>>());
    assert_eq!(Arc::strong_count(&events), 1);
}
