//! The connections to the other members, by etcd's own peer protocol over HTTP/1.1.
//!
//! Whoever *receives* messages dials: each member asks each other one for two streams, and the
//! answers are bodies without an end. [`Peers::send`] puts a message into the queue of such a
//! stream, whose connection encodes all that waits into one write; what has no stream goes as a
//! request of its own (the pipeline). Messages may be lost on every way, which raft is told where
//! it helps it ([`RaftPort::report_unreachable`]).
//!
//! The listener serves these paths, and hands all others to [`Endpoints`]. Everything here runs on
//! a runtime of its own, so that no load of clients keeps a heartbeat waiting.

mod ask;
mod dial;
mod framing;
mod headers;
mod incoming;
mod link;
mod listener;
mod outbox;
mod outgoing;
mod pipeline;
mod probe;
mod receive;
mod routes;
mod snapshot;
mod status;

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::RwLock;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use trilith_proto::raftpb::{Message, MessageType};

use self::headers::Introduction;
use self::link::{Kinship, Peer};
use crate::ids::{ClusterId, MemberId};
use crate::metrics::Network;

pub use self::headers::CLUSTER_ID;
pub use self::listener::serve;
pub use self::receive::{Piece, Received};
pub use self::routes::{Endpoints, Handler, error};
pub use ask::{AskError, get};

/// What the connections to peers need of the member that they belong to.
pub trait RaftPort: Send + Sync + 'static {
    /// Takes a message of a peer; it may be lost.
    ///
    /// # Errors
    ///
    /// Why it is none that a peer may send.
    fn step(&self, message: Message) -> Result<(), String>;

    /// Takes a snapshot: the message that names a state, and its file as it comes. Resolves once
    /// the state is durable here, or turns out not to be needed.
    fn receive_snapshot(&self, message: Message, file: mpsc::Receiver<Piece>) -> Received;

    /// Was there a member of this id once, and is there none now?
    fn is_removed(&self, id: MemberId) -> bool;

    /// A message to this peer was lost.
    fn report_unreachable(&self, id: MemberId);

    /// A peer says that this member is none any more.
    fn removed(&self);
}

/// How long members wait for each other.
#[derive(Clone, Copy, Debug)]
pub struct PeerTimeouts {
    /// For a connection to be there.
    pub dial: Duration,
    /// `--raft-read-timeout`: for the next bytes of a stream.
    pub read: Duration,
    /// `--raft-write-timeout`: for the other end to take what was sent.
    pub write: Duration,
}

/// Who this member is to its peers, and how it deals with them.
#[derive(Clone, Debug)]
pub struct PeerOptions {
    /// This member.
    pub id: MemberId,
    /// Its cluster.
    pub cluster_id: ClusterId,
    /// Its advertised peer URLs.
    pub urls: Vec<String>,
    /// How long it waits.
    pub timeouts: PeerTimeouts,
    /// `--max-request-bytes`: an entry may be as large.
    pub request_bytes_max: usize,
    /// Where it counts what goes to them and comes from them.
    pub network: Network,
}

/// The other members as this one talks to them; clones share it.
#[derive(Clone)]
pub struct Peers {
    shared: Arc<Shared>,
}

struct Shared {
    own: Introduction,
    timeouts: PeerTimeouts,
    /// Bytes of one message from a peer.
    message_bytes_max: usize,
    runtime: Handle,
    raft: Arc<dyn RaftPort>,
    known: RwLock<Known>,
    idle: ask::Idle,
    network: Network,
}

#[derive(Default)]
struct Known {
    members: BTreeMap<MemberId, Arc<Peer>>,
    /// Invariant: no id that is among `members`; at most [`REMOTES_MAX`].
    remotes: BTreeMap<MemberId, Arc<Peer>>,
    stopped: bool,
}

/// Why a message of a peer was not taken.
#[derive(Debug, PartialEq, Eq)]
enum Refused {
    /// Its sender was removed from the cluster.
    RemovedSender,
    /// It is for another member, or not from whom it seems to be.
    Mismatch,
    /// Raft cannot take it.
    Raft(String),
}

impl Peers {
    /// Knows nobody yet. The tasks of all peers run on `runtime`.
    pub fn new(options: &PeerOptions, runtime: Handle, raft: Arc<dyn RaftPort>) -> Self {
        let message_bytes_max = MESSAGE_BYTES_MIN
            .max(options.request_bytes_max.saturating_mul(2))
            .min(MESSAGE_BYTES_MAX);
        Self {
            shared: Arc::new(Shared {
                own: Introduction::new(options.id, options.cluster_id, &options.urls),
                timeouts: options.timeouts,
                message_bytes_max,
                runtime,
                raft,
                known: RwLock::default(),
                idle: ask::Idle::default(),
                network: options.network.clone(),
            }),
        }
    }

    /// Brings the peers into line with the membership: new members are talked to, moved ones
    /// under their new URLs, and those that are gone no more. This member itself is passed over.
    pub fn set_members(&self, members: impl IntoIterator<Item = (MemberId, Vec<String>)>) {
        let mut known = self.shared.known.write();
        if known.stopped {
            return;
        }
        let mut gone = std::mem::take(&mut known.members);
        for (id, urls) in members {
            if id == self.shared.own.id {
                continue;
            }
            if let Some(remote) = known.remotes.remove(&id) {
                remote.stop();
            }
            let peer = match gone.remove(&id) {
                Some(peer) => {
                    peer.update(urls);
                    peer
                }
                None => Peer::start(&self.shared, id, urls, Kinship::Member),
            };
            known.members.insert(id, peer);
        }
        drop(known);
        for peer in gone.values() {
            peer.stop();
        }
    }

    /// Knows where to reach a member that the membership here does not have yet.
    pub fn add_remote(&self, id: MemberId, urls: Vec<String>) {
        let shared = &self.shared;
        let mut known = shared.known.write();
        let is_known = id == shared.own.id
            || known.members.contains_key(&id)
            || known.remotes.contains_key(&id);
        if is_known || known.stopped || known.remotes.len() >= REMOTES_MAX {
            return;
        }
        let remote = Peer::start(shared, id, urls, Kinship::Remote);
        known.remotes.insert(id, remote);
    }

    /// Sends each message to its `to`. Those to nobody who is known are dropped.
    pub fn send(&self, messages: Vec<Message>) {
        for message in messages {
            let to = MemberId::new(message.to);
            match self.find(to) {
                Some(peer) => peer.send(message),
                None => tracing::debug!(%to, "dropped a raft message to an unknown member"),
            }
        }
    }

    /// Sends a snapshot: its message, then the `size` bytes of the file as they come through
    /// `pieces`, of which an error ends it. Returns once the peer has taken all of it.
    ///
    /// # Errors
    ///
    /// Why it did not, as a text for the log.
    pub async fn send_snapshot(
        &self,
        message: Message,
        size: u64,
        pieces: mpsc::Receiver<io::Result<Bytes>>,
    ) -> Result<(), String> {
        let to = MemberId::new(message.to);
        let peer = self.find(to).ok_or("the member is not known")?;
        let sending = async move {
            let sending = snapshot::send(&peer, &message, size, pieces);
            let sent = peer.metrics.snapshot_sent.count(sending).await;
            match &sent {
                Ok(bytes) => peer.metrics.sent_bytes.inc_by(*bytes),
                Err(_) => peer.metrics.sent_failures.inc(),
            }
            sent.map(drop)
        };
        let sent = self.shared.runtime.spawn(sending).await;
        sent.map_err(|_canceled| "the server stops".to_owned())?
    }

    /// Since when a peer is reachable without a break; `None` while it is not.
    pub fn active_since(&self, id: MemberId) -> Option<Instant> {
        self.member(id)?.active_since()
    }

    /// How many of the other members have been reachable without a break since before `instant`,
    /// and how many there are.
    pub fn reachable_since(&self, instant: Instant) -> (usize, usize) {
        let known = self.shared.known.read();
        let since = known.members.values().map(|peer| peer.active_since());
        let reachable = since.filter(|since| since.is_some_and(|since| since < instant));
        (reachable.count(), known.members.len())
    }

    /// Ends all connections; nobody is known from then on.
    pub fn stop(&self) {
        let known = std::mem::take(&mut *self.shared.known.write());
        self.shared.known.write().stopped = true;
        for peer in known.members.values().chain(known.remotes.values()) {
            peer.stop();
        }
    }

    fn member(&self, id: MemberId) -> Option<Arc<Peer>> {
        self.shared.known.read().members.get(&id).cloned()
    }

    fn find(&self, id: MemberId) -> Option<Arc<Peer>> {
        let known = self.shared.known.read();
        let found = known.members.get(&id).or_else(|| known.remotes.get(&id));
        found.cloned()
    }
}

impl Shared {
    /// Takes a message that came from `peer`.
    fn take(&self, peer: MemberId, message: Message) -> Result<(), Refused> {
        self.check(peer, &message)?;
        self.raft.step(message).map_err(Refused::Raft)
    }

    /// Whether a message is from `peer`, which is no removed member, and for this one.
    fn check(&self, peer: MemberId, message: &Message) -> Result<(), Refused> {
        // Who passes on that a leader shall go names the one that shall come.
        let passed_on = message.r#type == MessageType::MsgTransferLeader as i32;
        if message.from != peer.get() && !passed_on {
            return Err(Refused::Mismatch);
        }
        if self.raft.is_removed(MemberId::new(message.from)) {
            return Err(Refused::RemovedSender);
        }
        if message.to != self.own.id.get() {
            return Err(Refused::Mismatch);
        }
        Ok(())
    }
}

const RAFT_PATH: &str = "/raft";
const PROBING_PATH: &str = "/raft/probing";
const SNAPSHOT_PATH: &str = "/raft/snapshot";
const STREAM_PATH: &str = "/raft/stream/";

/// Bytes of one message: raft's own bound of 1 MiB for an append of several entries, and what a
/// follower forwards of proposals in one go, with room to spare.
const MESSAGE_BYTES_MIN: usize = 64 * 1024 * 1024;

/// etcd's bound on a message, whatever `--max-request-bytes` says.
const MESSAGE_BYTES_MAX: usize = 512 * 1024 * 1024;

/// Members that are not in the membership yet: more than are ever added at once.
const REMOTES_MAX: usize = 16;

#[cfg(test)]
mod tests;
