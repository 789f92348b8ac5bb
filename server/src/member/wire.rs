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
    /// A snapshot comes with its file, and not among other messages.
    #[error("a snapshot without its file")]
    Snapshot,
    /// A message that names no state.
    #[error("the message names no snapshot")]
    NoSnapshot,
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

/// Checks and converts the message of a snapshot; of the state it keeps index and term.
pub(crate) fn snapshot_from_peer(message: raftpb::Message) -> Result<eraftpb::Message, WireError> {
    let metadata = message.snapshot.and_then(|snapshot| snapshot.metadata);
    let metadata = metadata.ok_or(WireError::NoSnapshot)?;
    let is_snapshot = message.r#type == raftpb::MessageType::MsgSnap as i32;
    let (index, term) = (metadata.index, metadata.term);
    if !is_snapshot || index == 0 || term == 0 || term > message.term {
        return Err(WireError::NoSnapshot);
    }
    let mut converted = eraftpb::Message {
        to: message.to,
        from: message.from,
        term: message.term,
        ..eraftpb::Message::default()
    };
    converted.set_msg_type(eraftpb::MessageType::MsgSnapshot);
    let of = converted.mut_snapshot().mut_metadata();
    (of.index, of.term) = (index, term);
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
        snapshot: message.snapshot.into_option().map(snapshot_to_peer),
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

/// Names a state; who votes in it is known to those who send it.
fn snapshot_to_peer(snapshot: eraftpb::Snapshot) -> raftpb::Snapshot {
    let metadata = snapshot.get_metadata();
    raftpb::Snapshot {
        metadata: Some(raftpb::SnapshotMetadata {
            index: metadata.index,
            term: metadata.term,
            conf_state: None,
        }),
        data: snapshot.data,
    }
}

/// Converts an entry that etcd has kept in its own log.
pub(super) fn entry_from_log(kept: raftpb::Entry) -> Result<eraftpb::Entry, WireError> {
    entry_from_peer(kept, false)
}

fn entry_to_peer(entry: eraftpb::Entry) -> raftpb::Entry {
    raftpb::Entry {
        r#type: entry.entry_type as i32,
        term: entry.term,
        index: entry.index,
        data: entry.data,
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;
    use prost::Message;

    use super::*;
    use crate::ids::MemberId;
    use crate::member::ConfChangeKind;
    use crate::mutate;

    fn entry(kind: i32, data: &[u8]) -> raftpb::Entry {
        raftpb::Entry {
            r#type: kind,
            term: 2,
            index: 3,
            data: Bytes::copy_from_slice(data),
        }
    }

    fn message(kind: i32, entries: Vec<raftpb::Entry>) -> raftpb::Message {
        raftpb::Message {
            r#type: kind,
            from: 1,
            to: 2,
            entries,
            ..Default::default()
        }
    }

    #[test]
    fn what_peers_send_to_each_other_comes_back_the_same() {
        for kind in [2, 3, 4, 5, 6, 8, 9, 13, 14, 15, 16, 17, 18] {
            let mut sent = message(kind, vec![entry(0, b"data")]);
            (sent.term, sent.log_term, sent.index, sent.commit) = (4, 5, 6, 7);
            (sent.reject, sent.reject_hint, sent.context) = (true, 8, Bytes::from_static(b"c"));
            assert_eq!(to_peer(from_peer(sent.clone()).unwrap()), sent);
        }
    }

    #[test]
    fn local_messages_snapshots_and_unknown_types_are_refused() {
        for kind in [0, 1, 10, 11, 12, 19, 20, 21, 22, 23, 24, -1] {
            assert_eq!(from_peer(message(kind, vec![])), Err(WireError::Type(kind)));
        }
        assert_eq!(from_peer(message(7, vec![])), Err(WireError::Snapshot));
        for kind in [2, 15, 16] {
            assert_eq!(
                from_peer(message(kind, vec![])),
                Err(WireError::Empty(kind))
            );
        }
        let joint = message(3, vec![entry(2, b"")]);
        assert_eq!(from_peer(joint), Err(WireError::EntryType(2)));
    }

    #[test]
    fn a_proposed_change_is_encoded_anew_and_one_in_a_log_is_not_touched() {
        let (kind, member) = (ConfChangeKind::AddNode, MemberId::new(9));
        let change = ConfChange {
            id: 1,
            kind,
            member,
            context: Bytes::new(),
        };
        // Go before 3.7 writes zeros; and a field that nobody knows.
        let odd = [0x08, 1, 0x10, 0, 0x18, 9, 0x7a, 1, b'x'];
        let data = |message: raftpb::Message| from_peer(message).unwrap().entries[0].data.clone();
        assert_eq!(data(message(2, vec![entry(1, &odd)])), change.encode());
        assert_eq!(data(message(3, vec![entry(1, &odd)])), &odd[..]);
        let broken = from_peer(message(2, vec![entry(1, b"\xff")]));
        assert!(matches!(broken, Err(WireError::ConfChange(_))));
    }

    fn what_is_taken_reads_back(bytes: &[u8]) {
        let Ok(message) = raftpb::Message::decode(bytes) else {
            return;
        };
        if let Ok(converted) = from_peer(message) {
            assert_eq!(from_peer(to_peer(converted.clone())), Ok(converted));
        }
    }

    fn sound() -> impl Strategy<Value = Vec<u8>> {
        let change = entry(1, b"\x08\x01\x10\x00\x18\x09\x22\x02{}");
        let entries = vec![change, entry(0, b"data")];
        (0..20).prop_map(move |kind| message(kind, entries.clone()).encode_to_vec())
    }

    proptest! {
        #[test]
        fn no_junk_of_a_peer_panics(bytes in mutate::near(sound())) {
            what_is_taken_reads_back(&bytes);
        }
    }
}
