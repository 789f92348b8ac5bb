//! Where the member core's output goes: apply, readers, lessor, and those who wait for a leader.

use std::time::Instant;

use crossbeam_channel::Sender;
use trilith_proto::raftpb;

use super::fatal::fatal;
use super::heartbeats::Heartbeats;
use super::peers::urls;
use super::snapshots::SnapshotSender;
use crate::apply::{ConfChanger, Entry, Payload};
use crate::cluster::Membership;
use crate::ids::{Index, RequestId};
use crate::leadership::Leadership;
use crate::member::{ApplyWork, CommittedSink, ConfChange, EntryKind, MemberHandle, MemberStatus};
use crate::metrics::Server;
use crate::peer::Peers;

/// Passes on what the raft and log threads give.
pub(super) struct Sink {
    /// To the apply thread; it has as many places as the member hands out works.
    pub(super) committed: Sender<Vec<Entry>>,
    /// What follows from who leads.
    pub(super) leadership: Leadership,
    /// The other members.
    pub(super) peers: Peers,
    /// To those who are too far behind.
    pub(super) snapshots: SnapshotSender,
    /// Whether this member leads in time.
    pub(super) heartbeats: Heartbeats,
    /// Counts leaders.
    pub(super) server: Server,
}

impl CommittedSink for Sink {
    fn committed(&self, work: ApplyWork) {
        let entries = work.entries.into_iter().map(|entry| Entry {
            index: entry.index,
            term: entry.term,
            payload: match entry.kind {
                EntryKind::Normal(data) => Payload::Request(data, entry.decoded),
                EntryKind::ConfChange(data) => Payload::ConfChange(data),
            },
        });
        // Closed only when the apply thread has ended, which it does after this one, or fatally.
        let _closed = self.committed.send(entries.collect());
    }

    fn read_state(&self, context: u64, index: Index) {
        self.leadership.confirmed(context, index);
    }

    fn leader_changed(&self, status: &MemberStatus) {
        self.heartbeats.reset();
        if self.leadership.changed(status) {
            if status.leader.is_some() {
                self.server.leader_changes.inc();
            }
            let leader = status.leader.map(|id| id.to_string());
            tracing::info!(leader, term = status.term.get(), "raft leader changed");
        }
    }

    fn dropped(&self, ids: &[RequestId]) {
        self.leadership.dropped(ids);
    }

    fn send(&self, messages: Vec<raftpb::Message>) {
        let is_snapshot =
            |message: &raftpb::Message| message.r#type == raftpb::MessageType::MsgSnap as i32;
        let (snapshots, messages): (Vec<_>, Vec<_>) = messages.into_iter().partition(is_snapshot);
        self.heartbeats.sending(&messages, Instant::now());
        self.peers.send(messages);
        for snapshot in snapshots {
            self.snapshots.send(snapshot);
        }
    }
}

/// Takes membership changes from apply to the raft core, then to the connections.
pub(super) struct ToRaft {
    pub(super) member: MemberHandle,
    /// Where the change is made already when it comes here.
    pub(super) membership: Membership,
    pub(super) peers: Peers,
}

impl ConfChanger for ToRaft {
    fn change(&mut self, index: Index, accepted: Option<&bytes::Bytes>) -> Option<bytes::Bytes> {
        let change = accepted.map(|data| match ConfChange::decode(data) {
            Ok(change) => change,
            Err(error) => fatal(
                &format!("cannot read the membership change at {index}"),
                &error,
            ),
        });
        match self.member.apply_conf_change(change) {
            Ok(conf_state) => {
                self.peers.set_members(urls(&self.membership.table()));
                conf_state.map(|conf_state| conf_state.encode())
            }
            Err(error) => fatal(
                &format!("cannot apply the membership change at {index}"),
                &std::io::Error::other(error),
            ),
        }
    }
}
