//! Proposals that other members forward while the leadership changes hands.
//!
//! raft-rs drops them without a word, and whoever made them would wait until their time is over.
//! They are passed on to the next leader instead, as if the network had taken longer.

use std::collections::VecDeque;

use raft::StateRole;
use raft::eraftpb::Message;

use super::Member;
use super::entry::entry_bytes;

/// Proposals that wait for the next leader, oldest first.
#[derive(Default)]
pub(super) struct HeldProposals {
    messages: VecDeque<Message>,
    /// Invariant: the bytes of the entries of `messages`.
    bytes: usize,
}

impl HeldProposals {
    /// Keeps `message`, unless there are too many: it is lost then, as any message may be.
    fn hold(&mut self, message: Message) {
        let bytes = message.entries.iter().map(entry_bytes).sum::<usize>();
        let is_full = self.messages.len() >= HELD_MAX || self.bytes + bytes > HELD_BYTES_MAX;
        if !is_full {
            self.bytes += bytes;
            self.messages.push_back(message);
        }
    }
}

impl Member {
    /// Keeps a forwarded proposal for later if nobody takes it now; gives it back otherwise.
    pub(super) fn hold_proposal(&mut self, message: Message) -> Option<Message> {
        if message.from == self.id.get() {
            return Some(message);
        }
        self.hold_unless_taken(message)
    }

    /// As [`Self::hold_proposal`], wherever it comes from.
    pub(super) fn hold_unless_taken(&mut self, message: Message) -> Option<Message> {
        if self.has_taker() {
            return Some(message);
        }
        self.held_proposals.hold(message);
        None
    }

    /// Takes or passes on what was held, once somebody leads.
    pub(super) fn release_held_proposals(&mut self) {
        if self.held_proposals.messages.is_empty() || !self.has_taker() {
            return;
        }
        for mut message in std::mem::take(&mut self.held_proposals).messages {
            // The next member takes messages only from those who send them.
            (message.from, message.to) = (self.id.get(), 0);
            self.propose(message);
        }
    }

    /// Whether there is a leader that is not about to hand over, as far as this member knows.
    pub(super) fn has_taker(&self) -> bool {
        let raft = &self.node.raft;
        match raft.state {
            StateRole::Leader => raft.lead_transferee.is_none(),
            _ => raft.leader_id != 0,
        }
    }
}

/// Messages held at most.
const HELD_MAX: usize = 1024;

/// Bytes of their entries at most.
const HELD_BYTES_MAX: usize = 16 * 1024 * 1024;

#[cfg(test)]
mod tests {
    use raft::eraftpb::Entry;

    use super::*;

    fn message(bytes: usize) -> Message {
        let entry = Entry {
            data: vec![0; bytes].into(),
            ..Entry::default()
        };
        let mut message = Message::default();
        message.set_entries(vec![entry].into());
        message
    }

    #[test]
    fn what_is_held_has_a_bound_in_number_and_in_bytes() {
        let mut held = HeldProposals::default();
        for _ in 0..=HELD_MAX {
            held.hold(message(1));
        }
        assert_eq!(held.messages.len(), HELD_MAX);
        let mut held = HeldProposals::default();
        held.hold(message(HELD_BYTES_MAX));
        assert!(held.messages.is_empty(), "its overhead is too much");
        held.hold(message(HELD_BYTES_MAX / 2));
        held.hold(message(HELD_BYTES_MAX / 2));
        assert_eq!(held.messages.len(), 1);
    }
}
