//! What the tests drive the core with: a small key-value model in place of the store.

use std::{
    collections::BTreeMap,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use futures::task::noop_waker;
use prost::Message;
use trilith_proto::mvccpb::{self, KeyValue};

use super::{
    core::Core,
    cursor::{History, Pass},
    delivery::{Delivery, StreamEnd, StreamId},
    mailbox::Mailbox,
};
use crate::{
    ids::Revision,
    mvcc::{Event, EventKind, RevisionEvents},
};

/// One change of a transaction.
#[derive(Clone)]
pub(super) enum Op {
    Put(Bytes, Bytes),
    Delete(Bytes),
}

/// Without the value: some fill a mailbox.
impl std::fmt::Debug for Op {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Put(key, value) => write!(f, "Put({key:?}, {} bytes)", value.len()),
            Self::Delete(key) => write!(f, "Delete({key:?})"),
        }
    }
}

/// A core, and the store around it.
pub(super) struct Rig {
    pub(super) core: Core,
    pub(super) pairs: BTreeMap<Bytes, KeyValue>,
    /// Every revision from 2 on.
    pub(super) log: Vec<RevisionEvents>,
    pub(super) compacted: Revision,
    /// How many revisions one read of history looks at.
    pub(super) read_max: usize,
    pub(super) running: Option<Pass>,
}

impl Rig {
    pub(super) fn new() -> Self {
        let mut core = Core::new();
        core.restart_at(Revision::new(1));
        Self {
            core,
            pairs: BTreeMap::new(),
            log: Vec::new(),
            compacted: Revision::default(),
            read_max: 1000,
            running: None,
        }
    }

    /// The store's revision, which the hub may not have heard of yet.
    pub(super) fn revision(&self) -> Revision {
        Revision::new(1 + i64::try_from(self.log.len()).expect("a short test"))
    }

    /// Applies a transaction; `None` when it changes nothing.
    pub(super) fn apply(&mut self, ops: &[Op]) -> Option<RevisionEvents> {
        let revision = self.revision().next();
        let events: Vec<Event> = ops
            .iter()
            .filter_map(|op| self.apply_op(op, revision))
            .collect();
        if events.is_empty() {
            return None;
        }
        let events = RevisionEvents {
            revision,
            events,
            lacks_previous: false,
        };
        self.log.push(events.clone());
        Some(events)
    }

    fn apply_op(&mut self, op: &Op, revision: Revision) -> Option<Event> {
        let mod_revision = revision.get();
        match op {
            Op::Put(key, value) => {
                let old = self.pairs.get(key);
                let pair = KeyValue {
                    key: key.clone(),
                    value: value.clone(),
                    create_revision: old.map_or(mod_revision, |old| old.create_revision),
                    mod_revision,
                    version: old.map_or(1, |old| old.version + 1),
                    lease: 0,
                };
                let old = self.pairs.insert(key.clone(), pair.clone());
                Some(event(EventKind::Put, &pair, old))
            }
            Op::Delete(key) => {
                let old = self.pairs.remove(key)?;
                let pair = KeyValue {
                    key: key.clone(),
                    mod_revision,
                    ..KeyValue::default()
                };
                Some(event(EventKind::Delete, &pair, Some(old)))
            }
        }
    }

    /// Begins the passes that are due; those that need no disk are over with that. Leaves a disk
    /// pass in `running`.
    pub(super) fn begin_pass(&mut self) -> bool {
        assert!(self.running.is_none(), "one pass at a time in this rig");
        if self.core.due.is_empty() {
            return false;
        }
        let stream = self.core.due.remove(0);
        self.running = self.core.begin_pass(stream, self.compacted);
        true
    }

    /// Reads for the pass in `running` and ends it.
    pub(super) fn end_pass(&mut self) {
        let pass = self.running.take().expect("a pass is running");
        let history = self.read(&pass);
        self.core.end_pass(pass, history);
    }

    /// Runs passes until none is due.
    pub(super) fn catch_up(&mut self) {
        while self.begin_pass() {
            if self.running.is_some() {
                self.end_pass();
            }
        }
    }

    fn read(&self, pass: &Pass) -> History {
        if pass.from < self.compacted {
            return History::Compacted(self.compacted);
        }
        let read_max = i64::try_from(self.read_max).expect("small");
        let next = pass.to.min(Revision::new(pass.from.get() + read_max));
        let wanted =
            |revision: &&RevisionEvents| pass.from <= revision.revision && revision.revision < next;
        let mut events: Vec<RevisionEvents> = self.log.iter().filter(wanted).cloned().collect();
        for revision in &mut events {
            revision
                .events
                .retain(|event| pass.cohort.contains(&event.key));
        }
        events.retain(|revision| !revision.events.is_empty());
        History::Read { events, next }
    }

    pub(super) fn open(&mut self) -> (StreamId, Arc<Mailbox>) {
        self.core.open()
    }

    /// Takes one delivery; passes on the word of room as a stream does.
    pub(super) fn take(
        &mut self,
        stream: StreamId,
        mailbox: &Mailbox,
    ) -> Option<Result<Delivery, StreamEnd>> {
        match mailbox.poll(&mut Context::from_waker(&noop_waker())) {
            Poll::Pending => None,
            Poll::Ready(Err(end)) => Some(Err(end)),
            Poll::Ready(Ok(taken)) => {
                if taken.room {
                    self.core.schedule(stream);
                }
                Some(Ok(taken.delivery))
            }
        }
    }
}

fn event(kind: EventKind, pair: &KeyValue, previous: Option<KeyValue>) -> Event {
    Event {
        kind,
        key: pair.key.clone(),
        kv: pair.encode_to_vec().into(),
        previous: previous.map(|pair| pair.encode_to_vec().into()),
    }
}

/// A delivery as one line of a transcript.
pub(super) fn render(delivery: &Delivery) -> String {
    match delivery {
        Delivery::Created { id, revision, .. } => format!("created {id} at {revision}"),
        Delivery::Refused { reason, revision } => format!("refused {reason:?} at {revision}"),
        Delivery::Canceled { id, revision } => format!("canceled {id} at {revision}"),
        Delivery::Compacted {
            watchers,
            compact_revision,
        } => {
            format!("compacted {} at {compact_revision}", ids(watchers))
        }
        Delivery::Progress { watchers, revision } => {
            format!("progress {} at {revision}", ids(watchers))
        }
        Delivery::StreamProgress { revision } => format!("progress of all at {revision}"),
        Delivery::Events {
            watchers,
            revision,
            events,
            ..
        } => {
            let events: Vec<String> = events.iter().map(render_event).collect();
            format!(
                "events {} at {revision}: {}",
                ids(watchers),
                events.join(", ")
            )
        }
    }
}

fn ids(watchers: &super::delivery::Recipients) -> String {
    let ids: Vec<String> = watchers.iter().map(|id| id.to_string()).collect();
    ids.join("+")
}

fn render_event(encoded: &Bytes) -> String {
    let event = mvccpb::Event::decode(encoded.clone()).expect("our own encoding");
    let kv = event.kv.unwrap_or_default();
    let key = String::from_utf8_lossy(&kv.key).into_owned();
    let was = event.prev_kv.map_or(String::new(), |previous| {
        format!(" was {}@{}", text(&previous.value), previous.mod_revision)
    });
    match event.r#type {
        0 => format!("{key}={}@{}{was}", text(&kv.value), kv.mod_revision),
        _ => format!("-{key}@{}{was}", kv.mod_revision),
    }
}

fn text(value: &Bytes) -> String {
    if value.len() > 20 {
        return format!("({} bytes)", value.len());
    }
    String::from_utf8_lossy(value).into_owned()
}
