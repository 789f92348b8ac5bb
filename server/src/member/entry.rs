//! What goes into the log and what comes out of it, without a word about what it means.

use std::sync::Arc;

use bytes::Bytes;
use raft::eraftpb;
use trilith_proto::etcdserverpb::InternalRaftRequest;

use crate::ids::{Index, RequestId, Term};

/// A request on its way into the log.
#[derive(Clone, Debug)]
pub struct Proposal {
    /// Names the request across the cluster.
    pub id: RequestId,
    /// The encoded request: the entry's bytes.
    pub data: Bytes,
    /// The same request decoded; kept beside the entry, so that apply need not decode it again.
    pub decoded: Option<Arc<InternalRaftRequest>>,
    /// It means something only from a member that leads this term: raft drops it otherwise, rather
    /// than pass it on to the leader. `None` for a request that anybody may make.
    pub only_in: Option<Term>,
}

/// Committed entries in order, to be applied by the one apply thread.
#[derive(Clone, Debug, Default)]
pub struct ApplyWork {
    /// At least one; each index one more than the one before, also across works.
    pub entries: Vec<CommittedEntry>,
}

impl ApplyWork {
    /// Bytes of the entries.
    pub fn bytes(&self) -> usize {
        self.entries.iter().map(CommittedEntry::bytes).sum()
    }
}

/// One committed entry.
#[derive(Clone, Debug)]
pub struct CommittedEntry {
    /// Its place in the log.
    pub index: Index,
    /// The term of the leader that proposed it.
    pub term: Term,
    /// What it carries.
    pub kind: EntryKind,
    /// The decoded request, when it was proposed here since the last start.
    pub decoded: Option<Arc<InternalRaftRequest>>,
}

impl CommittedEntry {
    /// Bytes it carries.
    pub fn bytes(&self) -> usize {
        match &self.kind {
            EntryKind::Normal(data) | EntryKind::ConfChange(data) => data.len(),
        }
    }
}

/// What an entry carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EntryKind {
    /// An encoded `InternalRaftRequest`; empty for the entry that a new leader begins with.
    Normal(Bytes),
    /// An encoded `raftpb.ConfChange`, in etcd's numbering.
    ConfChange(Bytes),
}

/// An entry without data: the leader's first of its term.
pub(crate) fn entry(kind: EntryKind) -> eraftpb::Entry {
    let mut entry = eraftpb::Entry::default();
    match kind {
        EntryKind::Normal(data) => entry.data = data,
        EntryKind::ConfChange(data) => {
            entry.set_entry_type(eraftpb::EntryType::EntryConfChange);
            entry.data = data;
        }
    }
    entry
}

/// Bytes that an entry takes in memory and on its way, about.
pub(crate) fn entry_bytes(entry: &eraftpb::Entry) -> usize {
    const OVERHEAD: usize = 24;
    entry.data.len() + OVERHEAD
}
