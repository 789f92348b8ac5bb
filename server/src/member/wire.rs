//! Messages between members: etcd's on the wire, raft-rs's within this module.
//!
//! Bytes from peers are decoded with prost and checked here. rust-protobuf, which raft-rs brings
//! along, never sees what a peer has encoded: a configuration change that a peer forwards is
//! decoded and encoded anew.

use raft::eraftpb;
use trilith_proto::raftpb;

use super::conf_change::{ConfChange, ConfChangeError};
use super::entry::{EntryKind, entry};

/// Why a peer's message is not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// A type that members do not send to each other.
    #[error("message type {0} is not for peers")]
    Type(i32),
    /// An entry that etcd never writes.
    #[error("entry type {0} is not known")]
    EntryType(i32),
    /// A configuration change that cannot be read.
    #[error("configuration change: {0}")]
    ConfChange(#[from] ConfChangeError),
    /// Snapshots cannot be taken from peers.
    #[error("this version takes no snapshots from peers")]
    Snapshot,
    /// A proposal or a question without content.
    #[error("a message of type {0} has no entries")]
    Empty(i32),
}

/// Checks and converts a message that came from a peer.
pub(crate) fn from_peer(message: raftpb::Message) -> Result<eraftpb::Message, WireError> {
    use eraftpb::MessageType as Raft;
    let kind = match message.r#type {
        2 => Raft::MsgPropose,
        3 => Raft::MsgAppend,
        4 => Raft::MsgAppendResponse,
        5 => Raft::MsgRequestVote,
        6 => Raft::MsgRequestVoteResponse,
        7 => return Err(WireError::Snapshot),
        8 => Raft::MsgHeartbeat,
        9 => Raft::MsgHeartbeatResponse,
        13 => Raft::MsgTransferLeader,
        14 => Raft::MsgTimeoutNow,
        15 => Raft::MsgReadIndex,
        16 => Raft::MsgReadIndexResp,
        17 => Raft::MsgRequestPreVote,
        18 => Raft::MsgRequestPreVoteResponse,
        other => return Err(WireError::Type(other)),
    };
    let asks = matches!(
        kind,
        Raft::MsgPropose | Raft::MsgReadIndex | Raft::MsgReadIndexResp
    );
    if asks && message.entries.is_empty() {
        return Err(WireError::Empty(message.r#type));
    }
    let proposed = kind == Raft::MsgPropose;
    let entries = message
        .entries
        .into_iter()
        .map(|entry| entry_from_peer(entry, proposed));
    let mut converted = eraftpb::Message {
        entries: entries.collect::<Result<Vec<_>, _>>()?.into(),
        to: message.to,
        from: message.from,
        term: message.term,
        log_term: message.log_term,
        index: message.index,
        commit: message.commit,
        reject: message.reject,
        reject_hint: message.reject_hint,
        context: message.context,
        ..eraftpb::Message::default()
    };
    converted.set_msg_type(kind);
    Ok(converted)
}

/// Converts a message of ours.
pub(crate) fn to_peer(message: eraftpb::Message) -> raftpb::Message {
    raftpb::Message {
        r#type: message.msg_type as i32,
        to: message.to,
        from: message.from,
        term: message.term,
        log_term: message.log_term,
        index: message.index,
        entries: message.entries.into_iter().map(entry_to_peer).collect(),
        commit: message.commit,
        snapshot: None,
        reject: message.reject,
        reject_hint: message.reject_hint,
        context: message.context,
        vote: 0,
        responses: Vec::new(),
    }
}

/// Entries of a log keep their bytes; raft-rs looks into none but proposed changes.
fn entry_from_peer(peer: raftpb::Entry, proposed: bool) -> Result<eraftpb::Entry, WireError> {
    let kind = match peer.r#type {
        0 => EntryKind::Normal(peer.data),
        1 if proposed => EntryKind::ConfChange(ConfChange::decode(&peer.data)?.encode()),
        1 => EntryKind::ConfChange(peer.data),
        other => return Err(WireError::EntryType(other)),
    };
    let mut converted = entry(kind);
    (converted.term, converted.index) = (peer.term, peer.index);
    Ok(converted)
}

fn entry_to_peer(entry: eraftpb::Entry) -> raftpb::Entry {
    raftpb::Entry {
        r#type: entry.entry_type as i32,
        term: entry.term,
        index: entry.index,
        data: entry.data,
    }
}
