//! Proposals that other members forward, and what is committed, wait for the end of a round of the
//! raft thread: all that a round appends then goes out in one message to each follower.

use raft::StateRole;
use raft::eraftpb::{Entry, Message, MessageType};

use super::Member;
use super::conf_change::is_change;
use super::entry::entry_bytes;

/// What waits for the next [`super::Event::Propose`], or the next actions.
#[derive(Default)]
pub(super) struct Gathered {
    entries: Vec<Entry>,
    /// Invariant: the bytes of `entries`.
    bytes: usize,
    /// What the followers have been told of, while no commit is told by a message of its own.
    told: Option<u64>,
}

impl Member {
    /// Proposals follow upon the next events: what is committed is told along with them.
    pub(crate) fn expect_proposals(&mut self) {
        self.gathered.told = Some(self.node.raft.raft_log.committed);
        self.node.skip_bcast_commit(true);
    }

    /// Takes a proposal that a peer has forwarded.
    pub(super) fn on_forwarded(&mut self, message: Message) {
        let Some(message) = self.hold_proposal(message) else {
            return;
        };
        let leads = self.node.raft.state == StateRole::Leader;
        if !leads || message.entries.iter().any(is_change) {
            return self.propose(message);
        }
        let gathered = &mut self.gathered;
        gathered.bytes += message.entries.iter().map(entry_bytes).sum::<usize>();
        gathered.entries.extend(message.entries);
        if gathered.bytes >= GATHERED_BYTES_MAX {
            self.propose_gathered();
        }
    }

    /// Appends what was gathered, or whatever else becomes of proposals now.
    pub(super) fn propose_gathered(&mut self) {
        let entries = self.take_gathered();
        if entries.is_empty() {
            return;
        }
        let message = self.proposal_of(entries);
        if let Some(message) = self.hold_unless_taken(message) {
            self.propose(message);
        }
    }

    pub(super) fn take_gathered(&mut self) -> Vec<Entry> {
        self.gathered.bytes = 0;
        std::mem::take(&mut self.gathered.entries)
    }

    /// A proposal of this member.
    pub(super) fn proposal_of(&self, entries: Vec<Entry>) -> Message {
        let mut message = Message::default();
        message.set_msg_type(MessageType::MsgPropose);
        message.from = self.id.get();
        message.entries = entries.into();
        message
    }

    /// No more proposals follow; `appended` if those that did have gone out.
    pub(super) fn tell_commit(&mut self, appended: bool) {
        let Some(told) = self.gathered.told.take() else {
            return;
        };
        self.node.skip_bcast_commit(false);
        let raft = &mut self.node.raft;
        if !appended && raft.state == StateRole::Leader && raft.raft_log.committed > told {
            raft.bcast_append();
        }
    }
}

/// Bytes that are not kept waiting for more: raft cuts what it sends at once at a mebibyte, and
/// sends the rest when that has arrived.
const GATHERED_BYTES_MAX: usize = 256 * 1024;
