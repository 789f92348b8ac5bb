//! ReadIndex: asks the leader to confirm that it leads, and what a linearizable read must see.
//!
//! raft-rs ignores a context that it has seen and keeps the older index for it. So a context on
//! the wire is made of the member, the count of its starts, and the caller's number, which is not
//! used twice within one start.

use std::collections::HashSet;

use raft::eraftpb::MessageType;

use super::*;
use crate::planted::{Bug, is_planted};

const CONTEXT_BYTES: usize = 24;

impl Member {
    pub(super) fn on_read_index(&mut self, context: u64, actions: &mut Actions) {
        if is_planted(Bug::UnconfirmedRead) && self.node.raft.state == StateRole::Leader {
            let committed = Index::new(self.node.raft.raft_log.committed);
            actions.read_states.push((context, committed));
            return;
        }
        if self.can_ask() {
            self.node.read_index(self.encode_context(context));
            return;
        }
        // raft-rs would drop it without a word.
        if self.held_reads.len() == HELD_READS_MAX {
            self.held_reads.pop_front();
        }
        self.held_reads.push_back(context);
    }

    /// Asks what could not be asked before.
    pub(super) fn release_held_reads(&mut self) {
        if self.held_reads.is_empty() || !self.can_ask() {
            return;
        }
        while let Some(context) = self.held_reads.pop_front() {
            self.node.read_index(self.encode_context(context));
        }
    }

    /// The caller's number, if the context is one of ours since the last start.
    pub(super) fn decode_context(&self, context: &[u8]) -> Option<u64> {
        let (ours, number) = context.split_at_checked(CONTEXT_BYTES - 8)?;
        if ours != &self.encode_context(0)[..CONTEXT_BYTES - 8] {
            return None;
        }
        Some(u64::from_be_bytes(number.try_into().ok()?))
    }

    /// Whether somebody is there to answer: ourselves, once we have committed in our term, or
    /// another leader.
    fn can_ask(&self) -> bool {
        let raft = &self.node.raft;
        match raft.state {
            StateRole::Leader => raft.commit_to_current_term(),
            _ => raft.leader_id != 0,
        }
    }

    fn encode_context(&self, number: u64) -> Vec<u8> {
        let parts = [self.id.get(), self.boot_epoch, number];
        parts.iter().flat_map(|part| part.to_be_bytes()).collect()
    }
}

/// Leaves out heartbeats that are followed by another one to the same member. raft-rs sends one for
/// each read; the answer to the last one confirms all reads that came before it, too.
pub(super) fn last_heartbeats(mut messages: Vec<Message>) -> Vec<Message> {
    let mut told = HashSet::new();
    messages.reverse();
    messages.retain(|message| {
        message.get_msg_type() != MessageType::MsgHeartbeat || told.insert(message.to)
    });
    messages.reverse();
    messages
}
