//! Configuration changes: etcd's numbering in entries and on the wire, raft-rs's only to apply
//! them.
//!
//! raft-rs has no `UpdateNode` and gives its number, 2, to learners. So the bytes of an entry stay
//! as etcd writes them, and the type is mapped at the moment of applying; an update never reaches
//! raft-rs.

use bytes::Bytes;
use prost::Message;
use raft::{StateRole, eraftpb};
use trilith_proto::raftpb;

use super::Member;
use super::entry::{EntryKind, entry};
use crate::ids::MemberId;

/// What a configuration change does, in etcd's numbering.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum ConfChangeKind {
    /// Adds a voter, or makes one of a learner.
    AddNode = 0,
    /// Removes a voter or learner.
    RemoveNode = 1,
    /// Changes only what is written about a member: nothing for raft.
    UpdateNode = 2,
    /// Adds a learner.
    AddLearnerNode = 3,
}

/// A configuration change as an entry carries it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfChange {
    /// The proposer's request id, by which its waiter is found.
    pub id: u64,
    /// What it does.
    pub kind: ConfChangeKind,
    /// Whom it is about.
    pub member: MemberId,
    /// etcd's JSON of the member, or nothing for a removal.
    pub context: Bytes,
}

impl ConfChange {
    /// The entry's bytes.
    pub fn encode(&self) -> Bytes {
        let message = raftpb::ConfChange {
            id: self.id,
            r#type: self.kind as i32,
            node_id: self.member.get(),
            context: self.context.clone(),
        };
        Bytes::from(message.encode_to_vec())
    }

    /// Reads an entry's bytes.
    ///
    /// # Errors
    ///
    /// When they are not a change of a known kind.
    pub fn decode(bytes: &Bytes) -> Result<Self, ConfChangeError> {
        let message = raftpb::ConfChange::decode(bytes.clone())?;
        let kind = match message.r#type {
            0 => ConfChangeKind::AddNode,
            1 => ConfChangeKind::RemoveNode,
            2 => ConfChangeKind::UpdateNode,
            3 => ConfChangeKind::AddLearnerNode,
            other => return Err(ConfChangeError::UnknownKind(other)),
        };
        Ok(Self {
            id: message.id,
            kind,
            member: MemberId::new(message.node_id),
            context: message.context,
        })
    }

    /// The change for raft-rs; `None` when it is nothing to raft.
    pub(crate) fn for_raft(&self) -> Option<eraftpb::ConfChange> {
        let kind = match self.kind {
            ConfChangeKind::AddNode => eraftpb::ConfChangeType::AddNode,
            ConfChangeKind::RemoveNode => eraftpb::ConfChangeType::RemoveNode,
            ConfChangeKind::AddLearnerNode => eraftpb::ConfChangeType::AddLearnerNode,
            ConfChangeKind::UpdateNode => return None,
        };
        let mut change = eraftpb::ConfChange::default();
        change.set_change_type(kind);
        change.node_id = self.member.get();
        Some(change)
    }
}

/// Who votes and who learns. Stored with the state, in the same batch as the applied index.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConfState {
    /// Voters, ascending.
    pub voters: Vec<MemberId>,
    /// Learners, ascending.
    pub learners: Vec<MemberId>,
}

impl ConfState {
    /// The bytes to store: an encoded `raftpb.ConfState`.
    pub fn encode(&self) -> Bytes {
        let message = raftpb::ConfState {
            voters: self.voters.iter().map(|id| id.get()).collect(),
            learners: self.learners.iter().map(|id| id.get()).collect(),
            ..raftpb::ConfState::default()
        };
        Bytes::from(message.encode_to_vec())
    }

    /// Reads stored bytes.
    ///
    /// # Errors
    ///
    /// When they are damaged, or come from joint consensus, which is never used.
    pub fn decode(bytes: &[u8]) -> Result<Self, ConfChangeError> {
        let message = raftpb::ConfState::decode(bytes)?;
        if !message.voters_outgoing.is_empty() || !message.learners_next.is_empty() {
            return Err(ConfChangeError::Joint);
        }
        Ok(Self::new(message.voters, message.learners))
    }

    /// Whether a member is a learner.
    pub fn is_learner(&self, id: MemberId) -> bool {
        self.learners.contains(&id)
    }

    pub(crate) fn from_raft(state: &eraftpb::ConfState) -> Self {
        Self::new(state.voters.clone(), state.learners.clone())
    }

    pub(crate) fn for_raft(&self) -> eraftpb::ConfState {
        let raw = |ids: &[MemberId]| ids.iter().map(|id| id.get()).collect::<Vec<_>>();
        eraftpb::ConfState::from((raw(&self.voters), raw(&self.learners)))
    }

    fn new(mut voters: Vec<u64>, mut learners: Vec<u64>) -> Self {
        // raft-rs keeps them in hash sets.
        voters.sort_unstable();
        learners.sort_unstable();
        let ids = |raw: Vec<u64>| raw.into_iter().map(MemberId::new).collect();
        Self {
            voters: ids(voters),
            learners: ids(learners),
        }
    }
}

impl Member {
    pub(super) fn on_propose_conf_change(&mut self, data: Bytes) {
        let mut message = eraftpb::Message::default();
        message.set_msg_type(eraftpb::MessageType::MsgPropose);
        message.from = self.id.get();
        message.entries = vec![entry(EntryKind::ConfChange(data))].into();
        self.propose(message);
    }

    /// Takes a proposal that may hold changes, of ours or forwarded by a peer.
    pub(super) fn propose(&mut self, message: eraftpb::Message) {
        let holds_change = message.entries.iter().any(is_change);
        if holds_change && self.node.raft.state == StateRole::Leader && message.term == 0 {
            self.append_with_changes(message);
        } else if let Err(error) = self.node.step(message) {
            tracing::info!(%error, "a proposal was not taken");
        }
    }

    /// What raft-rs does with proposals to a leader, without a look into the changes: one at a
    /// time is under way, and another one becomes an empty entry.
    fn append_with_changes(&mut self, mut message: eraftpb::Message) {
        let raft = &mut self.node.raft;
        if raft.prs().get(raft.id).is_none() || raft.lead_transferee.is_some() {
            tracing::info!("a configuration change was not taken");
            return;
        }
        // Whoever heard that the one before is applied, be it from a member that was quicker, may
        // ask for the next: an empty entry would let them wait for nothing.
        if raft.has_pending_conf() && self.held_changes.len() < HELD_CHANGES_MAX {
            self.held_changes.push_back(message);
            return;
        }
        let mut entries = message.take_entries().into_vec();
        for (index, entry) in (raft.raft_log.last_index() + 1..).zip(&mut entries) {
            if !is_change(entry) {
                continue;
            }
            if raft.has_pending_conf() {
                tracing::info!("a configuration change is not taken while another is under way");
                *entry = eraftpb::Entry::default();
            } else {
                raft.pending_conf_index = index;
            }
        }
        if raft.append_entry(&mut entries) {
            raft.bcast_append();
        }
    }

    /// Takes changes that waited for the one before them, once that is applied. Those of a member
    /// that does not lead any more are dropped, as is what is proposed while leaders change.
    pub(super) fn release_held_changes(&mut self) {
        if self.node.raft.state != StateRole::Leader {
            self.held_changes.clear();
        }
        while !self.node.raft.has_pending_conf() {
            let Some(message) = self.held_changes.pop_front() else {
                return;
            };
            self.propose(message);
        }
    }
}

/// Changes that wait for the one before them; beyond it they become empty entries, as in etcd.
const HELD_CHANGES_MAX: usize = 16;

pub(super) fn is_change(entry: &eraftpb::Entry) -> bool {
    entry.get_entry_type() == eraftpb::EntryType::EntryConfChange
}

/// Why bytes are no configuration change or state that this program takes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfChangeError {
    /// Not protobuf.
    #[error("cannot decode it: {0}")]
    Decode(#[from] prost::DecodeError),
    /// A number beyond etcd's four.
    #[error("its type {0} is not known")]
    UnknownKind(i32),
    /// It stems from joint consensus.
    #[error("it uses joint consensus")]
    Joint,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::mutate;

    fn change(kind: ConfChangeKind) -> ConfChange {
        let context = Bytes::from_static(b"{}");
        ConfChange {
            id: 5,
            kind,
            member: MemberId::new(9),
            context,
        }
    }

    #[test]
    fn entry_bytes_keep_the_numbers_of_etcd() {
        let bytes = change(ConfChangeKind::AddLearnerNode).encode();
        assert_eq!(&bytes[..], [0x08, 5, 0x10, 3, 0x18, 9, 0x22, 2, b'{', b'}']);
        for kind in [
            ConfChangeKind::AddNode,
            ConfChangeKind::RemoveNode,
            ConfChangeKind::UpdateNode,
            ConfChangeKind::AddLearnerNode,
        ] {
            let change = change(kind);
            assert_eq!(ConfChange::decode(&change.encode()), Ok(change));
        }
    }

    #[test]
    fn raft_gets_its_own_numbers_and_no_updates() {
        let number = |kind| {
            change(kind)
                .for_raft()
                .map(|raft| raft.get_change_type() as i32)
        };
        assert_eq!(number(ConfChangeKind::AddNode), Some(0));
        assert_eq!(number(ConfChangeKind::RemoveNode), Some(1));
        assert_eq!(number(ConfChangeKind::AddLearnerNode), Some(2));
        assert_eq!(number(ConfChangeKind::UpdateNode), None);
    }

    #[test]
    fn unknown_kinds_are_refused() {
        let unknown = Bytes::from_static(&[0x10, 4]);
        assert_eq!(
            ConfChange::decode(&unknown),
            Err(ConfChangeError::UnknownKind(4))
        );
        assert!(ConfChange::decode(&Bytes::from_static(b"\xff")).is_err());
    }

    #[test]
    fn the_state_survives_storing_in_one_order() {
        let state = ConfState::new(vec![3, 1, 2], vec![5, 4]);
        assert_eq!(ConfState::decode(&state.encode()), Ok(state.clone()));
        assert_eq!(ConfState::from_raft(&state.for_raft()), state);
        assert_eq!(state.voters[0], MemberId::new(1));
        let joint = raftpb::ConfState {
            voters_outgoing: vec![1],
            ..Default::default()
        };
        assert_eq!(
            ConfState::decode(&joint.encode_to_vec()),
            Err(ConfChangeError::Joint)
        );
    }

    fn a_change_or_state_reads_back(bytes: &[u8]) {
        if let Ok(change) = ConfChange::decode(&Bytes::copy_from_slice(bytes)) {
            assert_eq!(ConfChange::decode(&change.encode()), Ok(change.clone()));
            let _what_raft_gets = change.for_raft();
        }
        if let Ok(state) = ConfState::decode(bytes) {
            assert_eq!(ConfState::decode(&state.encode()), Ok(state.clone()));
            assert_eq!(ConfState::from_raft(&state.for_raft()), state);
        }
    }

    proptest! {
        #[test]
        fn no_junk_for_a_change_or_state_panics(bytes in mutate::near_any::<[u8]>(&[
            b"\x08\x05\x10\x03\x18\x09\x22\x02{}",
            b"\x08\x01\x08\x02\x08\x03\x10\x04\x10\x05\x28\x00",
            b"\x0a\x03\x01\x02\x03\x12\x01\x04",
        ])) {
            a_change_or_state_reads_back(&bytes);
        }
    }
}
