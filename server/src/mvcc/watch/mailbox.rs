//! The bounded queue between the hub and one stream.
//!
//! The hub pushes under its own lock and never waits: what does not fit is refused, and the hub
//! turns the watchers concerned into a cursor. So a client that does not read costs what is queued
//! here and nothing more.

use std::{
    collections::VecDeque,
    task::{Context, Poll, Waker},
};

use parking_lot::Mutex;

use super::delivery::{Delivery, StreamEnd};

/// One stream's queue.
///
/// Locks: taken under the hub's lock or alone; nothing is locked while it is held.
pub(super) struct Mailbox {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    queue: VecDeque<Delivery>,
    /// Invariant: the sum of the costs of what is queued.
    cost: usize,
    /// The reader, when it waits.
    waker: Option<Waker>,
    /// The hub has history to deliver and wants to be told when there is room.
    room_wanted: bool,
    end: Option<StreamEnd>,
}

/// What a reader got.
#[derive(Debug)]
pub(super) struct Taken {
    pub(super) delivery: Delivery,
    /// The hub waits for the room that is there now, and has to be told.
    pub(super) room: bool,
}

impl Mailbox {
    pub(super) fn new() -> Self {
        Self {
            inner: Mutex::new(Inner::default()),
        }
    }

    /// Queues a delivery unless the queue is over its bound; answers whether it did. An empty
    /// queue takes anything, so that an event of any size gets through.
    #[must_use]
    pub(super) fn offer(&self, delivery: Delivery) -> bool {
        let mut inner = self.inner.lock();
        let cost = delivery.cost();
        if !inner.queue.is_empty() && inner.cost + cost > MAILBOX_BYTES_MAX {
            return false;
        }
        inner.put(delivery, cost);
        let waker = inner.waker.take();
        drop(inner);
        wake(waker);
        true
    }

    /// Queues a delivery in any case. For answers to the client, of which it gets no more than it
    /// asks for while it reads, and for the one batch of history that `ask_room` granted.
    pub(super) fn push(&self, delivery: Delivery) {
        let mut inner = self.inner.lock();
        let cost = delivery.cost();
        inner.put(delivery, cost);
        let waker = inner.waker.take();
        drop(inner);
        wake(waker);
    }

    /// Whether there is room for a batch of history; if not, the reader will report the room.
    pub(super) fn ask_room(&self) -> bool {
        let mut inner = self.inner.lock();
        inner.room_wanted = inner.cost > ROOM_BYTES;
        !inner.room_wanted
    }

    /// Ends the stream: the reader gets this in place of everything that is queued.
    pub(super) fn end(&self, end: StreamEnd) {
        let mut inner = self.inner.lock();
        inner.end.get_or_insert(end);
        let waker = inner.waker.take();
        drop(inner);
        wake(waker);
    }

    /// The next delivery, or the end. Remembers one reader, the last.
    pub(super) fn poll(&self, context: &mut Context<'_>) -> Poll<Result<Taken, StreamEnd>> {
        let mut inner = self.inner.lock();
        if let Some(end) = inner.end {
            return Poll::Ready(Err(end));
        }
        let Some(delivery) = inner.queue.pop_front() else {
            match &mut inner.waker {
                Some(waker) => waker.clone_from(context.waker()),
                none => *none = Some(context.waker().clone()),
            }
            return Poll::Pending;
        };
        inner.cost -= delivery.cost();
        let room = inner.room_wanted && inner.cost <= ROOM_BYTES;
        if room {
            inner.room_wanted = false;
        }
        Poll::Ready(Ok(Taken { delivery, room }))
    }
}

impl Inner {
    fn put(&mut self, delivery: Delivery, cost: usize) {
        self.cost += cost;
        self.queue.push_back(delivery);
    }
}

fn wake(waker: Option<Waker>) {
    if let Some(waker) = waker {
        waker.wake();
    }
}

/// Over this the mailbox refuses events. A client that reads drains it every few milliseconds; for
/// one that does not, this and as much again in the transport is all it may cost.
pub(super) const MAILBOX_BYTES_MAX: usize = 32 << 10;

/// At or below this there is room for a batch of history.
const ROOM_BYTES: usize = MAILBOX_BYTES_MAX / 2;

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;
    use futures::task::noop_waker;

    use super::*;
    use crate::{
        ids::{Revision, WatchId},
        mvcc::watch::delivery::{Recipients, WatchOptions},
    };

    fn events(bytes: usize) -> Delivery {
        Delivery::Events {
            watchers: Recipients::One(WatchId::new(0)),
            options: WatchOptions::default(),
            revision: Revision::new(2),
            events: Arc::new(vec![Bytes::from(vec![0; bytes])]),
        }
    }

    fn take(mailbox: &Mailbox) -> Poll<Result<Taken, StreamEnd>> {
        mailbox.poll(&mut Context::from_waker(&noop_waker()))
    }

    #[test]
    fn an_empty_mailbox_takes_an_event_of_any_size_and_then_refuses() {
        let mailbox = Mailbox::new();
        assert!(mailbox.offer(events(10 * MAILBOX_BYTES_MAX)));
        assert!(!mailbox.offer(events(1)));
        assert!(matches!(take(&mailbox), Poll::Ready(Ok(_))));
        assert!(mailbox.offer(events(1)));
    }

    #[test]
    fn room_is_reported_once_and_only_when_asked_for() {
        let mailbox = Mailbox::new();
        assert!(mailbox.ask_room());
        assert!(mailbox.offer(events(MAILBOX_BYTES_MAX / 2)));
        assert!(mailbox.offer(events(1)));
        assert!(!mailbox.ask_room());
        assert!(matches!(
            take(&mailbox),
            Poll::Ready(Ok(Taken { room: true, .. }))
        ));
        assert!(matches!(
            take(&mailbox),
            Poll::Ready(Ok(Taken { room: false, .. }))
        ));
        assert!(take(&mailbox).is_pending());
    }

    #[test]
    fn the_end_overtakes_what_is_queued() {
        let mailbox = Mailbox::new();
        assert!(mailbox.offer(events(1)));
        mailbox.end(StreamEnd::Stopped);
        assert!(matches!(
            take(&mailbox),
            Poll::Ready(Err(StreamEnd::Stopped))
        ));
    }
}
