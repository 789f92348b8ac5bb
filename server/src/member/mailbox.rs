//! What waits for the raft thread, and what waits for the log thread.
//!
//! Whoever takes, takes all at once. A thread is woken only for what it would act upon: a proposal
//! that would have to wait for the disk anyway wakes nobody.

use std::collections::VecDeque;
use std::time::Instant;

use bytes::Bytes;
use crossbeam_channel::Sender;
use parking_lot::{Condvar, Mutex};
use raft::eraftpb::{Message, MessageType};

use super::entry::entry_bytes;
use super::{ConfChange, ConfState, NumberedWrite, Progress, Proposal};
use crate::ids::{Index, MemberId};

/// The raft thread's mailbox.
#[derive(Default)]
pub(crate) struct Mailbox {
    inbox: Mutex<Inbox>,
    arrived: Condvar,
}

#[derive(Default)]
struct Inbox {
    proposals: VecDeque<Proposal>,
    /// Invariant: the bytes of `proposals`.
    proposal_bytes: usize,
    requests: Vec<Request>,
    /// Invariant: the bytes of the messages among `requests`.
    message_bytes: usize,
    persisted: Option<u64>,
    compact: Option<Index>,
    applied: bool,
    stop: bool,
    sleep: Sleep,
}

/// Whether the raft thread sleeps, and whether a proposal is worth waking it.
#[derive(Clone, Copy, Default, PartialEq)]
enum Sleep {
    #[default]
    Awake,
    ForAll,
    NotForProposals,
}

/// What was taken.
#[derive(Default)]
pub(crate) struct Mail {
    pub(crate) proposals: Vec<Proposal>,
    pub(crate) requests: Vec<Request>,
    /// The last write that is durable.
    pub(crate) persisted: Option<u64>,
    /// The last index that was asked to be compacted to.
    pub(crate) compact: Option<Index>,
    pub(crate) stop: bool,
}

/// What is asked of the raft thread besides proposals.
#[derive(Debug)]
pub(crate) enum Request {
    Message(Message),
    ProposeConfChange(Bytes),
    ReadIndex(u64),
    TransferLeader(MemberId),
    /// Time that is taken for passed.
    AdvanceTicks(usize),
    /// A message to this peer was lost.
    Unreachable(MemberId),
    /// A snapshot has come to this peer, or not.
    SnapshotSent(MemberId, bool),
    /// A peer has a snapshot; whoever asks waits for whether its state is needed.
    SnapshotOffered(Box<Message>, Sender<bool>),
    /// How far another member's log is; whoever asks waits for the answer.
    Progress(MemberId, Sender<Progress>),
    /// From the apply thread, which waits for the answer.
    ApplyConfChange(Option<ConfChange>, Sender<Result<ConfState, String>>),
}

/// Why something was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProposeRefused {
    /// So much waits that this would have to wait too long. It was not proposed.
    #[error("the queue of proposals is full")]
    QueueFull,
    /// The member stops. It was not proposed.
    #[error("the member stops")]
    Stopped,
}

impl Request {
    /// Whether a peer has forwarded it for the log.
    pub(crate) fn is_proposal(&self) -> bool {
        let Self::Message(message) = self else {
            return false;
        };
        message.get_msg_type() == MessageType::MsgPropose
    }

    /// What it holds of memory, beside itself.
    fn bytes(&self) -> usize {
        match self {
            Self::Message(message) => message.entries.iter().map(entry_bytes).sum(),
            _ => 0,
        }
    }
}

impl Mailbox {
    pub(crate) fn propose(&self, proposal: Proposal) -> Result<(), ProposeRefused> {
        let mut inbox = self.inbox.lock();
        if inbox.stop {
            return Err(ProposeRefused::Stopped);
        }
        let bytes = inbox.proposal_bytes + proposal.data.len();
        let full = inbox.proposals.len() >= PROPOSALS_MAX || bytes > PROPOSAL_BYTES_MAX;
        // One alone always fits: it was checked against the limit of requests.
        if full && !inbox.proposals.is_empty() {
            return Err(ProposeRefused::QueueFull);
        }
        inbox.proposal_bytes = bytes;
        inbox.proposals.push_back(proposal);
        if inbox.sleep == Sleep::ForAll {
            inbox.sleep = Sleep::Awake;
            drop(inbox);
            self.arrived.notify_one();
        }
        Ok(())
    }

    pub(crate) fn request(&self, request: Request) -> Result<(), ProposeRefused> {
        let mut inbox = self.inbox.lock();
        if inbox.stop {
            return Err(ProposeRefused::Stopped);
        }
        // Apply and raft wait for these.
        let awaited = matches!(
            request,
            Request::ApplyConfChange(..) | Request::SnapshotSent(..)
        );
        let message_bytes = inbox.message_bytes + request.bytes();
        let full = inbox.requests.len() >= REQUESTS_MAX || message_bytes > MESSAGE_BYTES_MAX;
        // One alone always fits: it was checked against the limit of messages.
        if full && !inbox.requests.is_empty() && !awaited {
            return Err(ProposeRefused::QueueFull);
        }
        inbox.message_bytes = message_bytes;
        inbox.requests.push(request);
        self.wake(inbox);
        Ok(())
    }

    pub(crate) fn persisted(&self, number: u64) {
        let mut inbox = self.inbox.lock();
        inbox.persisted = inbox.persisted.max(Some(number));
        self.wake(inbox);
    }

    pub(crate) fn compact(&self, index: Index) {
        let mut inbox = self.inbox.lock();
        inbox.compact = inbox.compact.max(Some(index));
        self.wake(inbox);
    }

    /// Something was applied that the raft thread waits for.
    pub(crate) fn applied(&self) {
        let mut inbox = self.inbox.lock();
        inbox.applied = true;
        self.wake(inbox);
    }

    pub(crate) fn stop(&self) {
        let mut inbox = self.inbox.lock();
        inbox.stop = true;
        self.wake(inbox);
    }

    /// Waits until there is something or it is `deadline`, and takes it all; proposals only if
    /// wanted, and of them only as much as makes one write of bearable size.
    pub(crate) fn take(&self, deadline: Instant, proposals: bool) -> Mail {
        let mut inbox = self.inbox.lock();
        while !inbox.has_something(proposals) {
            inbox.sleep = if proposals {
                Sleep::ForAll
            } else {
                Sleep::NotForProposals
            };
            let timed_out = self.arrived.wait_until(&mut inbox, deadline).timed_out();
            inbox.sleep = Sleep::Awake;
            if timed_out {
                break;
            }
        }
        inbox.applied = false;
        inbox.message_bytes = 0;
        let mut mail = Mail {
            proposals: Vec::new(),
            requests: std::mem::take(&mut inbox.requests),
            persisted: inbox.persisted.take(),
            compact: inbox.compact.take(),
            stop: inbox.stop,
        };
        if proposals {
            mail.proposals = inbox.take_proposals();
        }
        mail
    }

    /// Whether the raft thread would be woken.
    #[cfg(feature = "simulation")]
    pub(crate) fn has_something(&self, proposals: bool) -> bool {
        self.inbox.lock().has_something(proposals)
    }

    fn wake(&self, mut inbox: parking_lot::MutexGuard<'_, Inbox>) {
        if inbox.sleep != Sleep::Awake {
            inbox.sleep = Sleep::Awake;
            drop(inbox);
            self.arrived.notify_one();
        }
    }
}

impl Inbox {
    fn has_something(&self, proposals: bool) -> bool {
        self.stop
            || self.applied
            || self.persisted.is_some()
            || self.compact.is_some()
            || !self.requests.is_empty()
            || (proposals && !self.proposals.is_empty())
    }

    fn take_proposals(&mut self) -> Vec<Proposal> {
        let mut bytes = 0;
        let fits = self.proposals.iter().take_while(|proposal| {
            let take = bytes < WRITE_BYTES_MAX;
            bytes += proposal.data.len();
            take
        });
        let count = fits.count();
        let taken: Vec<_> = self.proposals.drain(..count).collect();
        self.proposal_bytes -= taken
            .iter()
            .map(|proposal| proposal.data.len())
            .sum::<usize>();
        taken
    }
}

/// The log thread's queue. The raft thread bounds it: it takes no proposals while too many writes
/// are under way.
#[derive(Default)]
pub(crate) struct LogQueue {
    writes: Mutex<Waiting>,
    arrived: Condvar,
}

#[derive(Default)]
struct Waiting {
    writes: Vec<NumberedWrite>,
    sleeps: bool,
    stop: bool,
}

impl LogQueue {
    pub(crate) fn push(&self, writes: Vec<NumberedWrite>) {
        let mut waiting = self.writes.lock();
        waiting.writes.extend(writes);
        self.wake(waiting);
    }

    /// All that waits, which may be nothing.
    #[cfg(feature = "simulation")]
    pub(crate) fn take_now(&self) -> Vec<NumberedWrite> {
        std::mem::take(&mut self.writes.lock().writes)
    }

    /// All that waits; `None` when it is empty and stopped.
    pub(crate) fn take(&self) -> Option<Vec<NumberedWrite>> {
        let mut waiting = self.writes.lock();
        while waiting.writes.is_empty() {
            if waiting.stop {
                return None;
            }
            waiting.sleeps = true;
            self.arrived.wait(&mut waiting);
            waiting.sleeps = false;
        }
        Some(std::mem::take(&mut waiting.writes))
    }

    pub(crate) fn stop(&self) {
        let mut waiting = self.writes.lock();
        waiting.stop = true;
        self.wake(waiting);
    }

    fn wake(&self, mut waiting: parking_lot::MutexGuard<'_, Waiting>) {
        if waiting.sleeps {
            waiting.sleeps = false;
            drop(waiting);
            self.arrived.notify_one();
        }
    }
}

/// Proposals that wait for the raft thread; more than etcd lets be unapplied, so that this is hit
/// only when the disk stands still.
const PROPOSALS_MAX: usize = 16 * 1024;

/// Their bytes: 40 requests of the greatest default size, and little beside a server's memory.
const PROPOSAL_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Other requests that wait for the raft thread, peers' messages first of all: some hundred from
/// each of a handful.
const REQUESTS_MAX: usize = 4096;

/// Bytes of peers' messages that wait: so many that a follower is not slowed down by it, and few
/// beside what raft may have in flight, which a leader sends again when it is lost.
const MESSAGE_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Bytes of proposals that one round takes at most, so that one write does not keep the next
/// waiting for long.
const WRITE_BYTES_MAX: usize = 4 * 1024 * 1024;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::ids::RequestId;

    fn proposal(bytes: usize) -> Proposal {
        Proposal {
            id: RequestId::new(1),
            data: Bytes::from(vec![0; bytes]),
            decoded: None,
            only_in: None,
        }
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_millis(1)
    }

    #[test]
    fn proposals_are_refused_when_too_many_or_too_large_ones_wait() {
        let mailbox = Mailbox::default();
        for _ in 0..PROPOSALS_MAX {
            mailbox.propose(proposal(1)).unwrap();
        }
        assert_eq!(mailbox.propose(proposal(1)), Err(ProposeRefused::QueueFull));
        assert_eq!(mailbox.take(soon(), true).proposals.len(), PROPOSALS_MAX);

        mailbox.propose(proposal(PROPOSAL_BYTES_MAX + 1)).unwrap();
        assert_eq!(mailbox.propose(proposal(1)), Err(ProposeRefused::QueueFull));
        assert_eq!(mailbox.take(soon(), true).proposals.len(), 1);
        mailbox.propose(proposal(1)).unwrap();
    }

    #[test]
    fn a_round_takes_a_bounded_part_in_order() {
        let mailbox = Mailbox::default();
        for bytes in [WRITE_BYTES_MAX - 1, 1, 2, 3] {
            mailbox.propose(proposal(bytes)).unwrap();
        }
        let sizes = |mail: Mail| {
            mail.proposals
                .iter()
                .map(|p| p.data.len())
                .collect::<Vec<_>>()
        };
        assert_eq!(sizes(mailbox.take(soon(), true)), [WRITE_BYTES_MAX - 1, 1]);
        assert_eq!(sizes(mailbox.take(soon(), false)), [0usize; 0]);
        assert_eq!(sizes(mailbox.take(soon(), true)), [2, 3]);
    }

    #[test]
    fn a_stopped_mailbox_takes_nothing() {
        let mailbox = Mailbox::default();
        mailbox.stop();
        assert_eq!(mailbox.propose(proposal(1)), Err(ProposeRefused::Stopped));
        assert_eq!(
            mailbox.request(Request::ReadIndex(1)),
            Err(ProposeRefused::Stopped)
        );
        assert!(mailbox.take(soon(), true).stop);
    }

    #[test]
    fn other_requests_are_bounded_too() {
        let mailbox = Mailbox::default();
        for context in 0..REQUESTS_MAX as u64 {
            mailbox.request(Request::ReadIndex(context)).unwrap();
        }
        assert_eq!(
            mailbox.request(Request::ReadIndex(0)),
            Err(ProposeRefused::QueueFull)
        );
    }
}
