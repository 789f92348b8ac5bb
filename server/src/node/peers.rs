//! Joins the connections to other members with the member core and the membership.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use tokio::runtime::{Handle, Runtime};
use tokio::sync::{mpsc, watch};
use trilith_proto::raftpb;

use super::receive::SnapshotReceiver;
use crate::cluster::identity::Identity;
use crate::cluster::{MemberTable, Membership};
use crate::config::Config;
use crate::ids::MemberId;
use crate::member::MemberHandle;
use crate::metrics::Network;
use crate::peer::{PeerOptions, PeerTimeouts, Peers, Piece, RaftPort, Received};

/// The thread of the connections to peers, which shares nothing with those to clients.
pub(super) struct PeerRuntime {
    /// `None` once it is given up.
    runtime: Option<Runtime>,
}

impl PeerRuntime {
    pub(super) fn start() -> std::io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("peer")
            .enable_all()
            .build()?;
        Ok(Self {
            runtime: Some(runtime),
        })
    }

    pub(super) fn handle(&self) -> &Handle {
        let runtime = self.runtime.as_ref();
        runtime.expect("it is given up only when dropped").handle()
    }

    /// Ends all that runs on it. Blocks: not for async threads.
    pub(super) fn end(mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(END_TIME_MAX);
        }
    }
}

impl Drop for PeerRuntime {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // Waiting is not allowed here, and raft can lose any message.
            runtime.shutdown_background();
        }
    }
}

/// What peers say goes to the member.
pub(super) struct ToMember {
    /// Set once the member has started; what comes before is lost.
    pub(super) member: OnceLock<MemberHandle>,
    membership: Membership,
    receiver: SnapshotReceiver,
    removed: watch::Sender<bool>,
}

impl ToMember {
    /// `removed` turns true when this member finds that it is none any more.
    pub(super) fn new(
        membership: Membership,
        receiver: SnapshotReceiver,
        removed: watch::Sender<bool>,
    ) -> Self {
        Self {
            member: OnceLock::new(),
            membership,
            receiver,
            removed,
        }
    }
}

impl RaftPort for ToMember {
    fn step(&self, message: raftpb::Message) -> Result<(), String> {
        if self.receiver.has_arrived() {
            // The answer would be about the log that makes way for the snapshot, and the leader
            // would send another one.
            return Ok(());
        }
        match self.member.get() {
            Some(member) => member.step(message).map_err(|error| error.to_string()),
            None => Ok(()),
        }
    }

    fn receive_snapshot(&self, message: raftpb::Message, file: mpsc::Receiver<Piece>) -> Received {
        match self.member.get() {
            Some(member) => self.receiver.receive(member.clone(), message, file),
            None => Box::pin(async { Err("the member is starting".to_owned()) }),
        }
    }

    fn is_removed(&self, id: MemberId) -> bool {
        self.membership.table().is_removed(id)
    }

    fn report_unreachable(&self, id: MemberId) {
        if let Some(member) = self.member.get() {
            member.report_unreachable(id);
        }
    }

    fn removed(&self) {
        if !self.removed.send_replace(true) {
            let error = "the member has been permanently removed from the cluster";
            tracing::warn!(error, "server error");
            tracing::warn!("data-dir used by this member must be removed");
        }
    }
}

/// Tasks end at their next step, and nothing on this runtime blocks.
const END_TIME_MAX: Duration = Duration::from_secs(10);

/// Shortens the first election timeout as soon as the others can be reached: a leader among them
/// would be heard by then. Gives up after etcd's time, when there is nobody to be heard.
pub(super) async fn hasten_election(peers: Peers, member: MemberHandle, ticks: usize) {
    let give_up = Instant::now() + HASTEN_WITHIN;
    while Instant::now() < give_up {
        tokio::time::sleep(HASTEN_LOOK).await;
        let (reachable, _) = peers.reachable_since(Instant::now());
        if reachable > 1 {
            member.advance_ticks(ticks);
            return;
        }
    }
}

/// How often it is looked whether others can be reached, and for how long, as in etcd.
const HASTEN_LOOK: Duration = Duration::from_millis(50);
const HASTEN_WITHIN: Duration = Duration::from_secs(5);

/// The members that `table` has, and where they are.
pub(super) fn urls(table: &MemberTable) -> impl Iterator<Item = (MemberId, Vec<String>)> {
    table
        .members()
        .map(|member| (member.id(), member.peer_urls().to_vec()))
}

/// Talks to the members, and to `others` as long as the membership does not know them.
pub(super) fn meet(peers: &Peers, membership: &Membership, others: Vec<(MemberId, Vec<String>)>) {
    peers.set_members(urls(&membership.table()));
    for (other, urls) in others {
        peers.add_remote(other, urls);
    }
}

/// Knows nobody yet.
pub(super) fn connect(
    config: &Config,
    identity: &Identity,
    runtime: &PeerRuntime,
    network: Network,
    port: Arc<ToMember>,
) -> Peers {
    let advertised = config.initial_advertise_peer_urls.iter();
    let options = PeerOptions {
        id: identity.member_id,
        cluster_id: identity.cluster_id,
        urls: advertised.map(ToString::to_string).collect(),
        timeouts: PeerTimeouts {
            // etcd's: a second in a queue, and what a leader may be silent for.
            dial: Duration::from_secs(1) + config.election_timeout,
            read: config.raft_read_timeout,
            write: config.raft_write_timeout,
        },
        request_bytes_max: config.max_request_bytes,
        network,
    };
    Peers::new(&options, runtime.handle().clone(), port)
}
