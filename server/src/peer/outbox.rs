//! Messages that wait for a connection to take them: a bounded queue with one taker.

use std::collections::VecDeque;
use std::task::{Context, Poll};

use futures::task::AtomicWaker;
use parking_lot::Mutex;
use trilith_proto::raftpb::Message;

/// What one stream still has to send.
#[derive(Default)]
pub(super) struct Outbox {
    waiting: Mutex<Waiting>,
    arrived: AtomicWaker,
}

#[derive(Default)]
struct Waiting {
    messages: VecDeque<Message>,
    /// Invariant: the bytes of `messages`.
    bytes: usize,
    closed: bool,
}

/// Why a message was not taken.
#[derive(Debug)]
pub(super) enum NotTaken {
    /// The stream is gone; the message may go another way.
    Closed(Box<Message>),
    /// The other end takes less than is sent; the message is lost.
    Full,
}

impl Outbox {
    pub(super) fn push(&self, message: Message) -> Result<(), NotTaken> {
        let mut waiting = self.waiting.lock();
        if waiting.closed {
            return Err(NotTaken::Closed(Box::new(message)));
        }
        let bytes = waiting.bytes + message_bytes(&message);
        // One alone always fits: an entry may be as large as requests are allowed to be.
        let full = waiting.messages.len() >= MESSAGES_MAX || bytes > BYTES_MAX;
        if full && !waiting.messages.is_empty() {
            return Err(NotTaken::Full);
        }
        waiting.bytes = bytes;
        waiting.messages.push_back(message);
        drop(waiting);
        self.arrived.wake();
        Ok(())
    }

    /// Some messages for one write, as soon as there are any; `None` once it is closed.
    pub(super) fn poll_take(&self, cx: &mut Context<'_>) -> Poll<Option<Vec<Message>>> {
        self.arrived.register(cx.waker());
        let mut waiting = self.waiting.lock();
        if waiting.closed {
            return Poll::Ready(None);
        }
        if waiting.messages.is_empty() {
            return Poll::Pending;
        }
        let mut bytes = 0;
        let fits = waiting.messages.iter().take_while(|message| {
            let take = bytes < WRITE_BYTES;
            bytes += message_bytes(message);
            take
        });
        let count = fits.count();
        let taken: Vec<_> = waiting.messages.drain(..count).collect();
        waiting.bytes -= taken.iter().map(message_bytes).sum::<usize>();
        Poll::Ready(Some(taken))
    }

    /// Takes no more; what waits is lost.
    pub(super) fn close(&self) {
        let mut waiting = self.waiting.lock();
        waiting.closed = true;
        waiting.bytes = 0;
        waiting.messages = VecDeque::new();
        drop(waiting);
        self.arrived.wake();
    }
}

/// About what a message takes, on the wire and in memory.
pub(super) fn message_bytes(message: &Message) -> usize {
    let entries = message.entries.iter().map(|entry| entry.data.len() + 64);
    64 + message.context.len() + entries.sum::<usize>()
}

/// etcd's number: what raft may have in flight to one follower, several times over.
const MESSAGES_MAX: usize = 4096;

/// Bytes that wait for one stream. Entries are shared with the log's cache, so most of them are
/// held anyway.
const BYTES_MAX: usize = 64 * 1024 * 1024;

/// Bytes that are encoded for one write: a socket takes about as much at once.
const WRITE_BYTES: usize = 256 * 1024;

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use futures::task::noop_waker;
    use trilith_proto::raftpb::Entry;

    use super::*;

    fn message(bytes: usize) -> Message {
        let entry = Entry {
            data: Bytes::from(vec![0; bytes]),
            ..Entry::default()
        };
        Message {
            entries: vec![entry],
            ..Message::default()
        }
    }

    fn take(outbox: &Outbox) -> Poll<Option<usize>> {
        let taken = outbox.poll_take(&mut Context::from_waker(&noop_waker()));
        taken.map(|taken| taken.map(|messages| messages.len()))
    }

    #[test]
    fn messages_come_out_in_writes_of_bounded_size() {
        let outbox = Outbox::default();
        assert_eq!(take(&outbox), Poll::Pending);
        for bytes in [10, WRITE_BYTES, 10] {
            outbox.push(message(bytes)).expect("room");
        }
        assert_eq!(take(&outbox), Poll::Ready(Some(2)));
        assert_eq!(take(&outbox), Poll::Ready(Some(1)));
        assert_eq!(take(&outbox), Poll::Pending);
    }

    #[test]
    fn too_many_or_too_large_ones_are_refused_but_one_alone_always_fits() {
        let outbox = Outbox::default();
        outbox.push(message(BYTES_MAX + 1)).expect("one alone");
        assert!(matches!(outbox.push(message(0)), Err(NotTaken::Full)));
        assert_eq!(take(&outbox), Poll::Ready(Some(1)));
        for _ in 0..MESSAGES_MAX {
            outbox.push(message(0)).expect("room");
        }
        assert!(matches!(outbox.push(message(0)), Err(NotTaken::Full)));
    }

    #[test]
    fn a_closed_one_gives_the_message_back() {
        let outbox = Outbox::default();
        outbox.push(message(0)).expect("room");
        outbox.close();
        assert!(matches!(outbox.push(message(0)), Err(NotTaken::Closed(_))));
        assert_eq!(take(&outbox), Poll::Ready(None));
    }
}
