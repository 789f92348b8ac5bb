//! Sends the whole state to a member that is too far behind for the log.

use std::io::{self, Write};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, mpsc};
use trilith_proto::raftpb;

use super::peers::ToMember;
use crate::ids::MemberId;
use crate::mvcc::Store;
use crate::peer::Peers;
use crate::quiet;
use crate::snapshot::{self, Export};

/// Takes raft's snapshot messages, which name the state without holding it.
#[derive(Clone)]
pub(super) struct SnapshotSender {
    store: Store,
    peers: Peers,
    to_member: Arc<ToMember>,
    runtime: Handle,
    /// Says when the log must not be cut.
    pub(super) hold: LogHold,
    slots: Arc<Semaphore>,
}

/// While somebody is on the way from a snapshot to the log behind it, that log must not be cut.
#[derive(Clone, Debug, Default)]
pub(super) struct LogHold {
    holders: Arc<AtomicUsize>,
}

/// Holds the log until it is dropped.
struct Held(LogHold);

impl LogHold {
    pub(super) fn is_held(&self) -> bool {
        self.holders.load(Ordering::SeqCst) > 0
    }

    fn hold(&self) -> Held {
        self.holders.fetch_add(1, Ordering::SeqCst);
        Held(self.clone())
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.holders.fetch_sub(1, Ordering::SeqCst);
    }
}

impl SnapshotSender {
    pub(super) fn new(
        store: &Store,
        peers: &Peers,
        to_member: &Arc<ToMember>,
        runtime: Handle,
    ) -> Self {
        Self {
            store: store.clone(),
            peers: peers.clone(),
            to_member: to_member.clone(),
            runtime,
            hold: LogHold::default(),
            slots: Arc::new(Semaphore::new(SNAPSHOTS_MAX)),
        }
    }

    /// Sends the state as it is now, in place of the one that `message` names, and tells raft what
    /// became of it. Returns at once.
    pub(super) fn send(&self, message: raftpb::Message) {
        // Before anything else: the log behind the state must still be there when it has arrived.
        let held = self.hold.hold();
        let this = self.clone();
        self.runtime.spawn(async move {
            let to = MemberId::new(message.to);
            let sent = this.send_now(message).await;
            if let Err(error) = &sent {
                tracing::warn!("remote-peer-id" = %to, error, "failed to send database snapshot");
                // Raft tries again with the next heartbeat that is answered.
                tokio::time::sleep(RETRY_AFTER).await;
            }
            if let Some(member) = this.to_member.member.get() {
                member.report_snapshot(to, sent.is_ok());
            }
            if sent.is_ok() {
                tokio::time::sleep(HELD_AFTERWARDS).await;
            }
            drop(held);
        });
    }

    async fn send_now(&self, message: raftpb::Message) -> Result<(), String> {
        let slot = self.slots.clone().try_acquire_owned();
        let _slot = slot.map_err(|_none_left| "other snapshots are being sent".to_owned())?;
        let to = MemberId::new(message.to);
        let view = self.store.read().view().clone();
        let message = snapshot::describe(&view, message)?;
        let measure = move || Export::measure(view, &mut |_| ControlFlow::Continue(()));
        let export = quiet::run("snapshot", measure).await;
        let export = export.ok_or("it could not be measured")?;
        let export = export.map_err(|error| error.to_string())?;
        let snapshot = message.snapshot.as_ref();
        let index = snapshot.and_then(|snapshot| Some(snapshot.metadata.as_ref()?.index));
        let total = export.size();
        tracing::info!(
            "snapshot-index" = index,
            "remote-peer-id" = %to,
            bytes = total,
            "sending database snapshot"
        );
        let (pieces, body) = mpsc::channel(PIECES_IN_FLIGHT_MAX);
        quiet::spawn("snapshot", move || write(&export, pieces))
            .map_err(|error| error.to_string())?;
        self.peers.send_snapshot(message, total, body).await?;
        tracing::info!(
            "snapshot-index" = index,
            "remote-peer-id" = %to,
            bytes = total,
            "sent database snapshot"
        );
        Ok(())
    }
}

/// Writes the file into the pipe; what goes wrong ends it in the middle, so that nobody takes it
/// for whole.
fn write(export: &Export, pieces: mpsc::Sender<io::Result<Bytes>>) {
    let pipe = Pipe {
        pieces: pieces.clone(),
        piece: Vec::with_capacity(PIECE_BYTES),
    };
    let written = export.write(pipe).map_err(|error| error.to_string());
    let flushed = written.and_then(|mut pipe| pipe.flush().map_err(|error| error.to_string()));
    if let Err(error) = flushed {
        // The other end may be what is gone.
        let _gone = pieces.blocking_send(Err(io::Error::other(error)));
    }
}

/// Hands bytes on in pieces, and waits when the other end is slow.
struct Pipe {
    pieces: mpsc::Sender<io::Result<Bytes>>,
    piece: Vec<u8>,
}

impl Write for Pipe {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.piece.len() + bytes.len() > PIECE_BYTES {
            self.flush()?;
        }
        self.piece.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.piece.is_empty() {
            return Ok(());
        }
        let piece = std::mem::replace(&mut self.piece, Vec::with_capacity(PIECE_BYTES));
        let sent = self.pieces.blocking_send(Ok(Bytes::from(piece)));
        sent.map_err(|_closed| io::ErrorKind::BrokenPipe.into())
    }
}

/// Snapshots sent at once: each reads the whole state and fills a connection.
const SNAPSHOTS_MAX: usize = 2;

/// Bytes of a piece; one that is written at once may be larger.
const PIECE_BYTES: usize = 64 * 1024;

/// Pieces between the state and the socket.
const PIECES_IN_FLIGHT_MAX: usize = 16;

/// Pause after a snapshot that did not arrive: making one reads the whole state.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// How long the log stays for a member that has a snapshot: etcd's time.
const HELD_AFTERWARDS: Duration = Duration::from_secs(30);
