//! Watches: clients that follow a range, on whichever member is there, and resume where they were.
//!
//! What a watcher is given is compared with the changes of the log, one revision after the other
//! from its cursor on: so it is in order, without a gap or a double, and each revision is whole.

use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use prost::Message;
use rand::Rng;
use rand::rngs::SmallRng;
use trilith_proto::mvccpb;
use trilith_server::mvcc::Interval;
use trilith_server::mvcc::watch::{Delivery, WatchOptions, WatchRequest, WatchStream};

use crate::model::{Change, Model};
use crate::node::Running;

/// A client that watches a range.
pub(crate) struct Watcher {
    key: Bytes,
    end: Bytes,
    options: WatchOptions,
    stream: Option<WatchStream>,
    /// The member that it is connected to, and which start of it.
    pub(crate) at: (usize, u64),
    /// The first revision it has not been told of; 0 before it is told from where it watches.
    next: i64,
    /// How many events it was given.
    pub(crate) events: u64,
    /// How often it resumed.
    pub(crate) resumed: u64,
}

impl Watcher {
    pub(crate) fn draw(rng: &mut SmallRng, keys: usize) -> Self {
        let key = |number: usize| Bytes::from(format!("k{number:02}"));
        let (key, end) = match rng.random_range(0..3) {
            0 => (key(rng.random_range(0..keys)), Bytes::new()),
            1 => {
                let first = rng.random_range(0..keys);
                (key(first), key(rng.random_range(first..keys) + 1))
            }
            _ => (Bytes::from_static(b"k"), Bytes::from_static(b"l")),
        };
        Self {
            key,
            end,
            options: WatchOptions {
                prev_kv: rng.random_bool(0.5),
                ..WatchOptions::default()
            },
            stream: None,
            at: (0, 0),
            next: rng.random_range(0..2),
            events: 0,
            resumed: 0,
        }
    }

    pub(crate) fn is_connected(&self) -> bool {
        self.stream.is_some()
    }

    /// The connection is gone.
    pub(crate) fn disconnect(&mut self) {
        self.stream = None;
    }

    /// Watches on this member from where it was.
    pub(crate) fn connect(&mut self, at: (usize, u64), running: &Running) {
        let stream = running.hub.open();
        stream.create(WatchRequest {
            id: None,
            interval: Interval::from_request(self.key.clone(), self.end.clone()),
            start: self.next,
            options: self.options,
        });
        self.stream = Some(stream);
        self.at = at;
        self.resumed += 1;
    }

    pub(crate) fn ask_progress(&self) {
        if let Some(stream) = &self.stream {
            stream.request_progress();
        }
    }

    /// Takes up to `most` of what the member has for it. Tells whether there was as much.
    ///
    /// # Errors
    ///
    /// When it is given what it must not be given.
    pub(crate) fn take(&mut self, most: usize, model: &Model) -> Result<bool, String> {
        for _ in 0..most {
            let Some(stream) = &self.stream else {
                return Ok(false);
            };
            match stream.poll_next(&mut Context::from_waker(Waker::noop())) {
                Poll::Pending => return Ok(false),
                Poll::Ready(Err(end)) => return Err(format!("a watch stream ends: {end:?}")),
                Poll::Ready(Ok(delivery)) => {
                    let next = self.next;
                    self.check(delivery, model).map_err(|error| {
                        let (key, end) = (&self.key, &self.end);
                        format!("a watcher of {key:?} to {end:?} from {next}: {error}")
                    })?;
                }
            }
        }
        Ok(true)
    }

    fn check(&mut self, delivery: Delivery, model: &Model) -> Result<(), String> {
        match delivery {
            Delivery::Created { revision, .. } if self.next == 0 => {
                self.next = revision.get() + 1;
                Ok(())
            }
            Delivery::Created { .. } | Delivery::Canceled { .. } => Ok(()),
            Delivery::Refused { reason, .. } => Err(format!("it is refused: {reason:?}")),
            Delivery::Compacted {
                compact_revision, ..
            } => {
                let compacted = compact_revision.get();
                if self.next >= compacted || compacted > model.compacted() {
                    return Err(format!("it is told that {compacted} is compacted"));
                }
                self.next = compacted;
                self.stream = None;
                Ok(())
            }
            Delivery::Progress { revision, .. } | Delivery::StreamProgress { revision } => {
                self.pass(revision.get(), model)
            }
            Delivery::Events {
                events, revision, ..
            } => self.events(&events, revision.get(), model),
        }
    }

    /// It is told that it has seen everything up to `revision`.
    fn pass(&mut self, revision: i64, model: &Model) -> Result<(), String> {
        if revision > model.revision() {
            return Err(format!(
                "it is told of revision {revision}, which is not there"
            ));
        }
        for passed in self.next..=revision {
            if self.concerns(passed, model).next().is_some() {
                return Err(format!("it is told {revision}, but not of {passed}"));
            }
        }
        self.next = self.next.max(revision + 1);
        Ok(())
    }

    fn concerns<'a>(&'a self, revision: i64, model: &'a Model) -> impl Iterator<Item = &'a Change> {
        let changes = model.changes(revision).iter();
        changes.filter(|change| {
            let key = &change.key;
            match &self.end[..] {
                [] => *key == self.key,
                end => *key >= self.key && key[..] < *end,
            }
        })
    }

    fn events(&mut self, events: &[Bytes], upto: i64, model: &Model) -> Result<(), String> {
        let decoded = events
            .iter()
            .map(|event| mvccpb::Event::decode(event.clone()).map_err(|error| error.to_string()));
        let decoded: Vec<_> = decoded.collect::<Result<_, _>>()?;
        let mod_revision =
            |event: &mvccpb::Event| event.kv.as_ref().map_or(0, |pair| pair.mod_revision);
        for revision in decoded.chunk_by(|a, b| mod_revision(a) == mod_revision(b)) {
            let number = mod_revision(&revision[0]);
            if number < self.next || number > upto {
                return Err(format!("it is given events of {number} up to {upto}"));
            }
            self.pass(number - 1, model)?;
            let wanted: Vec<_> = self.concerns(number, model).collect();
            let is_same = |(event, change): (&mvccpb::Event, &&Change)| {
                is_event_of(event, change, number, self.options.prev_kv, model)
            };
            if wanted.len() != revision.len() || !revision.iter().zip(&wanted).all(is_same) {
                return Err(format!("it is given {revision:?} for {wanted:?}"));
            }
            self.events += revision.len() as u64;
            self.next = number + 1;
        }
        Ok(())
    }

    /// In the end it has to have been told of everything.
    ///
    /// # Errors
    ///
    /// What is missing.
    pub(crate) fn check_complete(&mut self, model: &Model) -> Result<(), String> {
        if self.next == 0 {
            return Err("a watcher was never created".into());
        }
        self.pass(model.revision(), model)
    }
}

fn is_event_of(
    event: &mvccpb::Event,
    change: &Change,
    revision: i64,
    prev_kv: bool,
    model: &Model,
) -> bool {
    let Some(pair) = &event.kv else { return false };
    let is_delete = event.r#type == mvccpb::event::EventType::Delete as i32;
    let is_same = match &change.pair {
        Some(wanted) => !is_delete && pair == wanted,
        None => is_delete && pair.key == change.key,
    };
    // Several changes of one key in one revision are left to the comparison of the states.
    let once = model
        .changes(revision)
        .iter()
        .filter(|other| other.key == change.key)
        .count()
        == 1;
    let before = model.range(&change.key, b"", revision - 1).pop();
    let previous_fits = match (&event.prev_kv, before) {
        (None, None) => true,
        // What is compacted cannot be told any more.
        (None, Some(_)) => !prev_kv || model.compacted() >= revision - 1,
        (Some(found), before) => prev_kv && Some(found) == before.as_ref(),
    };
    is_same && (previous_fits || !once)
}
