//! Random schedules: whatever is put, compacted, created, cancelled, read slowly or raced, every
//! watcher sees exactly its events, in order, each revision whole.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use proptest::prelude::*;

use super::{
    core::WatchRequest,
    delivery::{Delivery, StreamId, WatchOptions},
    feed::Feed,
    mailbox::{MAILBOX_BYTES_MAX, Mailbox},
    test_rig::{Op, Rig, render},
};
use crate::{
    ids::{Revision, WatchId},
    mvcc::{Interval, RevisionEvents},
};

#[derive(Clone, Debug)]
enum Step {
    /// Apply transactions; the hub hears of them with the next `Notify`.
    Apply {
        ops: Vec<Op>,
        /// The hub hears of them without the pairs before.
        lacks_previous: bool,
    },
    Notify,
    Create {
        stream: usize,
        from: u8,
        to: Option<u8>,
        start: Start,
        options: u8,
    },
    Cancel {
        stream: usize,
        watcher: usize,
    },
    Reopen {
        stream: usize,
    },
    Progress {
        stream: usize,
    },
    Tick {
        stream: usize,
    },
    Read {
        stream: usize,
        deliveries: usize,
    },
    BeginPass,
    EndPass,
    /// So many revisions below the current one.
    Compact {
        below: i64,
    },
    Forget,
}

#[derive(Clone, Debug)]
enum Start {
    Now,
    Back(i64),
    Ahead(i64),
}

const STREAMS: usize = 3;

fn op() -> impl Strategy<Value = Op> {
    let key = (0u8..6).prop_map(|key| Bytes::from(vec![b'a' + key]));
    // Some values fill a mailbox at once.
    let size = prop_oneof![9 => 1usize..50, 1 => Just(MAILBOX_BYTES_MAX)];
    prop_oneof![
        3 => (key.clone(), size).prop_map(|(key, size)| Op::Put(key, vec![b'v'; size].into())),
        1 => key.prop_map(Op::Delete),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let stream = 0..STREAMS;
    let start = prop_oneof![
        Just(Start::Now),
        (0i64..30).prop_map(Start::Back),
        (1i64..5).prop_map(Start::Ahead)
    ];
    prop_oneof![
        8 => (proptest::collection::vec(op(), 1..4), proptest::bool::weighted(0.1))
            .prop_map(|(ops, lacks_previous)| Step::Apply { ops, lacks_previous }),
        8 => Just(Step::Notify),
        4 => (stream.clone(), 0u8..6, proptest::option::of(1u8..7), start, 0u8..8).prop_map(
            |(stream, from, to, start, options)| Step::Create { stream, from, to, start, options }
        ),
        2 => (stream.clone(), any::<usize>())
            .prop_map(|(stream, watcher)| Step::Cancel { stream, watcher }),
        1 => stream.clone().prop_map(|stream| Step::Reopen { stream }),
        2 => stream.clone().prop_map(|stream| Step::Progress { stream }),
        2 => stream.clone().prop_map(|stream| Step::Tick { stream }),
        8 => (stream, 1usize..5)
            .prop_map(|(stream, deliveries)| Step::Read { stream, deliveries }),
        8 => Just(Step::BeginPass),
        8 => Just(Step::EndPass),
        1 => (0i64..10).prop_map(|below| Step::Compact { below }),
        1 => Just(Step::Forget),
    ]
}

/// What a client believes of one of its watchers.
struct Watching {
    request: WatchRequest,
    /// First revision it has not seen.
    next: Revision,
    compacted: bool,
}

struct Client {
    stream: StreamId,
    mailbox: Arc<Mailbox>,
    /// Creates that are not answered yet, in order.
    asked: Vec<WatchRequest>,
    watching: BTreeMap<WatchId, Watching>,
}

struct World {
    rig: Rig,
    clients: Vec<Client>,
    unpublished: Vec<RevisionEvents>,
}

impl World {
    fn new() -> Self {
        let mut rig = Rig::new();
        rig.read_max = 3;
        let clients = (0..STREAMS).map(|_| Client::open(&mut rig)).collect();
        Self {
            rig,
            clients,
            unpublished: Vec::new(),
        }
    }

    fn apply(&mut self, ops: &[Op], lacks_previous: bool) {
        let mut events = self.rig.apply(ops);
        if let Some(events) = events.as_mut().filter(|_| lacks_previous) {
            events.lacks_previous = true;
            for event in &mut events.events {
                event.previous = None;
            }
        }
        self.unpublished.extend(events);
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Apply {
                ops,
                lacks_previous,
            } => self.apply(&ops, lacks_previous),
            Step::Notify => self.rig.core.notify(std::mem::take(&mut self.unpublished)),
            Step::Create {
                stream,
                from,
                to,
                start,
                options,
            } => {
                let request = self.request(from, to, &start, options);
                let client = &mut self.clients[stream];
                client.asked.push(request.clone());
                self.rig.core.create(client.stream, request);
            }
            Step::Cancel { stream, watcher } => {
                let client = &self.clients[stream];
                let count = client.watching.len().max(1);
                if let Some(id) = client.watching.keys().nth(watcher % count) {
                    self.rig.core.cancel(client.stream, *id);
                }
            }
            Step::Reopen { stream } => {
                self.rig.core.close(self.clients[stream].stream);
                self.clients[stream] = Client::open(&mut self.rig);
            }
            Step::Progress { stream } => {
                self.rig.core.stream_progress(self.clients[stream].stream);
            }
            Step::Tick { stream } => {
                let client = &self.clients[stream];
                self.rig
                    .core
                    .progress(client.stream, client.watching.keys().copied());
            }
            Step::Read { stream, deliveries } => {
                for _ in 0..deliveries {
                    self.clients[stream].read(&mut self.rig);
                }
            }
            Step::BeginPass => {
                if self.rig.running.is_none() {
                    self.rig.begin_pass();
                }
            }
            Step::EndPass => {
                if self.rig.running.is_some() {
                    self.rig.end_pass();
                }
            }
            Step::Compact { below } => {
                let target = Revision::new(self.rig.revision().get() - below);
                self.rig.compacted = self.rig.compacted.max(target);
            }
            Step::Forget => self.rig.core.recent.clear(),
        }
    }

    fn request(&self, from: u8, to: Option<u8>, start: &Start, options: u8) -> WatchRequest {
        let key = Bytes::from(vec![b'a' + from]);
        let interval = match to {
            None => Interval::single(key),
            Some(6) => Interval::from_request(key, Bytes::from_static(b"\0")),
            Some(to) => Interval::from_request(key, Bytes::from(vec![b'a' + to])),
        };
        let current = self.rig.revision().get();
        let start = match start {
            Start::Now => 0,
            Start::Back(by) => (current - by).max(1),
            Start::Ahead(by) => current + by,
        };
        let options = WatchOptions {
            prev_kv: options & 1 != 0,
            no_put: options & 2 != 0,
            no_delete: options & 4 != 0,
            ..WatchOptions::default()
        };
        WatchRequest {
            id: None,
            interval,
            start,
            options,
        }
    }

    /// Lets everything come to rest and checks that nobody is owed anything.
    fn settle(&mut self) {
        self.step(Step::Notify);
        self.step(Step::EndPass);
        loop {
            self.rig.catch_up();
            let mut quiet = true;
            for client in &mut self.clients {
                while client.read(&mut self.rig) {
                    quiet = false;
                }
            }
            if quiet && self.rig.core.due.is_empty() {
                break;
            }
        }
        for client in &self.clients {
            assert!(client.asked.is_empty());
            for (id, watching) in &client.watching {
                let owed = watching.owed(&self.rig.log, Revision::new(i64::MAX));
                assert!(
                    watching.compacted || owed.is_empty(),
                    "watcher {id} is owed {:?}",
                    revisions(&owed)
                );
            }
        }
    }
}

impl Client {
    fn open(rig: &mut Rig) -> Self {
        let (stream, mailbox) = rig.open();
        Self {
            stream,
            mailbox,
            asked: Vec::new(),
            watching: BTreeMap::new(),
        }
    }

    /// Reads one delivery and checks it.
    fn read(&mut self, rig: &mut Rig) -> bool {
        let Some(delivery) = rig.take(self.stream, &self.mailbox) else {
            return false;
        };
        let delivery = delivery.expect("nobody stops the hub");
        match &delivery {
            Delivery::Created { id, revision, .. } => {
                let request = self.asked.remove(0);
                let next = match request.start {
                    0 => revision.next(),
                    start => Revision::new(start),
                };
                let watching = Watching {
                    request,
                    next,
                    compacted: false,
                };
                assert!(
                    self.watching.insert(*id, watching).is_none(),
                    "{id} is in use"
                );
            }
            Delivery::Refused { .. } => {
                assert!(self.asked.remove(0).interval.is_empty());
            }
            Delivery::Canceled { id, .. } => {
                assert!(self.watching.remove(id).is_some(), "{id} was not there");
            }
            Delivery::Compacted {
                watchers,
                compact_revision,
            } => {
                for id in watchers.iter() {
                    let watching = self.watching(id);
                    assert!(watching.next < *compact_revision);
                    watching.compacted = true;
                }
            }
            Delivery::Progress { watchers, revision } => {
                for id in watchers.iter() {
                    self.watching(id).has_seen(&rig.log, *revision);
                }
            }
            Delivery::StreamProgress { revision } => {
                for watching in self.watching.values_mut() {
                    watching.has_seen(&rig.log, *revision);
                }
            }
            Delivery::Events {
                watchers,
                events,
                revision,
                options,
            } => {
                for id in watchers.iter() {
                    let watching = self.watching(id);
                    assert_eq!(watching.request.options, *options);
                    watching.gets(&rig.log, events, *revision, &render(&delivery));
                }
            }
        }
        true
    }

    fn watching(&mut self, id: WatchId) -> &mut Watching {
        let watching = self
            .watching
            .get_mut(&id)
            .expect("deliveries are for living watchers");
        assert!(!watching.compacted, "a compacted watcher gets nothing");
        watching
    }
}

impl Watching {
    /// What it has yet to see up to a revision.
    fn owed(&self, log: &[RevisionEvents], up_to: Revision) -> Vec<(Revision, Bytes)> {
        let mut owed = Vec::new();
        for events in log {
            if events.revision < self.next || events.revision > up_to {
                continue;
            }
            for event in Feed::new(events.clone()).events {
                if self.request.interval.contains(&event.key) {
                    let encoded = event.encoded(self.request.options);
                    owed.extend(encoded.map(|encoded| (events.revision, encoded)));
                }
            }
        }
        owed
    }

    fn gets(
        &mut self,
        log: &[RevisionEvents],
        events: &[Bytes],
        revision: Revision,
        rendered: &str,
    ) {
        let owed = self.owed(log, revision);
        assert!(
            !events.is_empty() && events.len() <= owed.len(),
            "unexpected: {rendered}"
        );
        for (event, (_, expected)) in events.iter().zip(&owed) {
            assert!(event == expected, "out of order or doubled: {rendered}");
        }
        let (last, _) = owed[events.len() - 1];
        let following = owed.get(events.len()).map(|(revision, _)| *revision);
        assert_ne!(
            following,
            Some(last),
            "revision {last} was split: {rendered}"
        );
        self.next = last.next();
    }

    fn has_seen(&mut self, log: &[RevisionEvents], revision: Revision) {
        let owed = self.owed(log, revision);
        assert!(
            owed.is_empty(),
            "progress to {revision} overtakes {:?}",
            revisions(&owed)
        );
        assert!(
            self.request.start <= revision.get(),
            "progress before the start"
        );
        self.next = self.next.max(revision.next());
    }
}

fn revisions(owed: &[(Revision, Bytes)]) -> Vec<Revision> {
    owed.iter().map(|(revision, _)| *revision).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn every_watcher_sees_exactly_its_events(steps in proptest::collection::vec(step(), 1..120)) {
        let mut world = World::new();
        for step in steps {
            world.step(step);
        }
        world.settle();
    }
}
