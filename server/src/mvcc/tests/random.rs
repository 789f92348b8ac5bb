//! Random histories: whatever the store answers, the model must answer too.

use std::{num::NonZeroUsize, ops::ControlFlow};

use bytes::Bytes;
use rand::{Rng, SeedableRng, rngs::StdRng};

use super::{
    TestStore,
    model::{Model, ModelError, ModelRange},
    rows::{check_rows, model_kv},
};
use crate::{
    ids::{Index, LeaseId, Revision, Term},
    mvcc::{
        End, Interval, KeyValue, MvccError, RangeQuery, RangeResult, Round, SortOrder, SortTarget,
        compaction::{self, CompactionOptions},
    },
};

#[test]
fn random_histories_agree_with_the_model() {
    for seed in seeds(6) {
        eprintln!("seed {seed}");
        let mut run = Run::new(seed, 40);
        for _ in 0..60 {
            run.step();
        }
    }
}

#[test]
fn random_histories_with_many_keys_agree_with_the_model() {
    for seed in seeds(1) {
        eprintln!("seed {seed}");
        let mut run = Run::new(seed, 4000);
        run.fill(3000);
        for _ in 0..40 {
            run.step();
        }
        run.check_counts(200);
    }
}

fn seeds(count: u64) -> Vec<u64> {
    match std::env::var("TRILITH_SEED") {
        Ok(seed) => vec![seed.parse().expect("TRILITH_SEED is a number")],
        Err(_) => {
            let first = rand::rng().random_range(0..u64::MAX - count);
            (first..first + count).collect()
        }
    }
}

struct Run {
    rng: StdRng,
    keys: u32,
    store: Option<TestStore>,
    model: Model,
    /// The model as of the last flush: what a crash must leave.
    flushed: (Model, u64),
}

impl Run {
    fn new(seed: u64, keys: u32) -> Self {
        let store = Some(TestStore::new());
        let model = Model::new();
        Self {
            rng: StdRng::seed_from_u64(seed),
            keys,
            store,
            flushed: (model.clone(), 0),
            model,
        }
    }

    fn store(&mut self) -> &mut TestStore {
        self.store
            .as_mut()
            .expect("only a crash takes it, and puts it back")
    }

    fn fill(&mut self, count: u32) {
        for part in 0..count / 1000 {
            let mut round = self.store().store.begin_round();
            for _ in 0..1000 {
                let key = self.key();
                let mut txn = round.txn();
                self.model.begin();
                txn.put(Bytes::from(key.clone()), b"fill", LeaseId::new(0))
                    .expect("put");
                self.model.put(&key, b"fill", 0);
                self.model.end();
                txn.end().expect("end");
            }
            let index = self.store().index + u64::from(part) + 1000;
            self.commit(round, index);
        }
    }

    fn step(&mut self) {
        match self.rng.random_range(0..100) {
            0..70 => self.round(),
            70..78 => {
                self.store().store.backend().flush().expect("flush");
                let index = self.store().index;
                self.flushed = (self.model.clone(), index);
            }
            78..82 => self.crash(),
            82..92 => self.run_compactions(),
            _ => self.reads(),
        }
        self.reads();
    }

    fn crash(&mut self) {
        let store = self.store.take().expect("a store");
        let store = store.crash();
        let index = store.store.applied().0.get();
        // RocksDB may have flushed more than we asked for only if memory filled, which it did not.
        assert_eq!(index, self.flushed.1, "a crash leaves the last flush");
        assert_eq!(
            store.store.persisted_applied().expect("persisted").0.get(),
            index
        );
        self.model = self.flushed.0.clone();
        self.store = Some(store);
    }

    fn round(&mut self) {
        let mut round = self.store().store.begin_round();
        for _ in 0..self.rng.random_range(1..5) {
            self.txn(&mut round);
            if self.rng.random_bool(0.1) {
                self.compact(&mut round);
            }
        }
        let index = self.store().index + 1;
        self.commit(round, index);
    }

    fn commit(&mut self, round: Round, index: u64) {
        let revisions = round
            .commit(Index::new(index), Term::new(2))
            .expect("commit");
        self.store().index = index;
        for events in &revisions {
            let main = events.revision.get();
            for (sub, event) in (0..).zip(&events.events) {
                let changes = &self.model.keys[&event.key[..]];
                let place = changes.iter().position(|(m, s, _)| (*m, *s) == (main, sub));
                let place = place.expect("the model has the change");
                let kv = KeyValue::decode(&event.kv).expect("event");
                assert_eq!(kv.mod_revision.get(), main);
                match &changes[place].2 {
                    Some(expected) => assert_eq!(model_kv(&event.kv), *expected),
                    None => assert_eq!(kv.create_revision.get(), 0),
                }
                let before = place
                    .checked_sub(1)
                    .and_then(|before| changes[before].2.clone());
                assert_eq!(event.previous.as_ref().map(model_kv), before);
            }
        }
        let revision = self.store().store.read().revision().get();
        assert_eq!(revision, self.model.revision);
    }

    fn txn(&mut self, round: &mut Round) {
        let before = self.model.clone();
        let mut txn = round.txn();
        self.model.begin();
        for _ in 0..self.rng.random_range(0..5) {
            match self.rng.random_range(0..10) {
                0..5 => {
                    let (key, value) = (self.key(), vec![b'v'; self.rng.random_range(0..4)]);
                    let lease = self.rng.random_range(0..3);
                    let expected = self.model.at(&key, self.model.now());
                    let lease_id = LeaseId::new(lease);
                    let previous = txn
                        .put(Bytes::from(key.clone()), &value, lease_id)
                        .expect("put");
                    assert_eq!(previous.map(|kv| model_kv(&kv)), expected);
                    self.model.put(&key, &value, lease);
                }
                5..7 => {
                    let interval = self.interval();
                    let wants_previous = self.rng.random_bool(0.5);
                    let deleted = txn.delete_range(&interval, wants_previous).expect("delete");
                    let expected = self.model.delete(&interval);
                    assert_eq!(deleted.keys, expected.len());
                    let previous = deleted.previous.iter().map(model_kv);
                    let wanted = expected.into_iter().filter(|_| wants_previous);
                    assert!(previous.eq(wanted), "previous of {interval:?}");
                }
                7 => {
                    let key = self.key();
                    let found = txn.get(&key).expect("get").map(|kv| model_kv(&kv.encode()));
                    assert_eq!(found, self.model.at(&key, self.model.now()));
                }
                _ => {
                    let query = self.query();
                    compare(&query, txn.range(&query), self.model.range(&query));
                }
            }
            assert_eq!(txn.revision().get(), self.model.now());
        }
        if self.rng.random_bool(0.1) {
            drop(txn);
            self.model = before;
            return;
        }
        txn.end().expect("end");
        self.model.end();
        let lease = self.rng.random_range(1..3);
        let keys = round
            .txn()
            .lease_keys(LeaseId::new(lease))
            .expect("lease keys");
        assert_eq!(keys, self.model.lease_keys(lease));
    }

    fn compact(&mut self, round: &mut Round) {
        let revision = self.rng.random_range(-1..=self.model.revision + 1);
        let result = round.set_compact(Revision::new(revision));
        if revision <= self.model.compacted {
            assert!(
                matches!(result, Err(MvccError::Compacted { .. })),
                "{revision} {result:?}"
            );
        } else if revision > self.model.revision {
            assert!(
                matches!(result, Err(MvccError::FutureRevision { .. })),
                "{revision}"
            );
        } else {
            result.expect("a revision that may be compacted");
            self.model.compacted = revision;
        }
    }

    /// Runs what was accepted, at times only in part.
    fn run_compactions(&mut self) {
        let batch_rows = NonZeroUsize::new(self.rng.random_range(1..8)).expect("not zero");
        let options = CompactionOptions {
            batch_rows,
            hash: self.rng.random_bool(0.5),
        };
        let mut batches = self.rng.random_range(0..40);
        let store = self.store().store.clone();
        while let Some(target) = store.next_compaction() {
            let result = compaction::run(&store, target, &options, &mut |_| {
                batches -= 1;
                if batches > 0 {
                    ControlFlow::Continue(())
                } else {
                    ControlFlow::Break(())
                }
            });
            match result {
                Ok(_) => assert_eq!(store.finished_compaction().expect("read"), target),
                Err(MvccError::Stopped) => return,
                Err(error) => panic!("{error}"),
            }
        }
        check_rows(&store.read(), &self.model);
    }

    fn reads(&mut self) {
        for _ in 0..10 {
            let query = self.query();
            let found = self.store().store.read().range(&query);
            compare(&query, found, self.model.range(&query));
        }
    }

    fn check_counts(&mut self, times: usize) {
        for _ in 0..times {
            let query = RangeQuery {
                count_only: true,
                ..RangeQuery::new(self.interval())
            };
            let found = self.store().store.read().range(&query);
            compare(&query, found, self.model.range(&query));
        }
    }

    fn key(&mut self) -> Vec<u8> {
        let number = self.rng.random_range(0..self.keys);
        // Zero bytes, prefixes of each other, and 0xff: what an ordered escape can get wrong.
        match number % 4 {
            0 => format!("k{number:04}").into_bytes(),
            1 => [format!("k{:04}", number - 1).as_bytes(), b"\0"].concat(),
            2 => [format!("k{:04}", number - 2).as_bytes(), b"\0\xff"].concat(),
            _ => [&number.to_be_bytes()[2..], b"\xff\0"].concat(),
        }
    }

    fn interval(&mut self) -> Interval {
        let key = Bytes::from(self.key());
        let end = match self.rng.random_range(0..12) {
            0 => End::From,
            1..6 => End::Before(Bytes::from(self.key())),
            _ => End::Single,
        };
        Interval { key, end }
    }

    fn query(&mut self) -> RangeQuery {
        let rng = &mut self.rng;
        let near = self.model.revision;
        let revision = match rng.random_range(0..4) {
            0 | 1 => 0,
            2 => rng.random_range(-1..=near + 2),
            _ => rng.random_range((near - 20).max(0)..=near),
        };
        let order = [SortOrder::None, SortOrder::Ascend, SortOrder::Descend];
        let target = [
            SortTarget::Key,
            SortTarget::Version,
            SortTarget::Create,
            SortTarget::Mod,
            SortTarget::Value,
        ];
        let plain = rng.random_bool(0.5);
        let mut bound = || {
            if rng.random_bool(0.15) {
                rng.random_range(1..=near + 1)
            } else {
                0
            }
        };
        let bounds = [bound(), bound(), bound(), bound()];
        let mut query = RangeQuery {
            revision,
            limit: if rng.random_bool(0.5) {
                rng.random_range(-1..10)
            } else {
                0
            },
            keys_only: rng.random_bool(0.2),
            count_only: rng.random_bool(0.2),
            ..RangeQuery::new(Interval::everything())
        };
        if !plain {
            query.order = order[rng.random_range(0..order.len())];
            query.target = target[rng.random_range(0..target.len())];
            [
                query.min_mod,
                query.max_mod,
                query.min_create,
                query.max_create,
            ] = bounds;
        }
        query.interval = self.interval();
        query
    }
}

fn compare(
    query: &RangeQuery,
    found: Result<RangeResult, MvccError>,
    expected: Result<ModelRange, ModelError>,
) {
    match (found, expected) {
        (Ok(found), Ok(expected)) => {
            let kvs = found.kvs.iter().map(model_kv).collect();
            let found = ModelRange {
                kvs,
                count: found.count,
                more: found.more,
            };
            assert_eq!(found, expected, "{query:?}");
        }
        (Err(MvccError::Compacted { .. }), Err(ModelError::Compacted))
        | (Err(MvccError::FutureRevision { .. }), Err(ModelError::Future)) => {}
        (found, expected) => panic!("{query:?}: {found:?}, expected {expected:?}"),
    }
}
