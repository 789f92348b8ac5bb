//! Takes a snapshot that another member sends: checks it, and makes a state of it beside the one
//! that is served meanwhile. The next start, which follows at once, puts it in its place.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use tokio::runtime::Handle;
use tokio::sync::{Semaphore, mpsc, watch};
use trilith_proto::raftpb;

use super::boot::Opened;
use super::disk::Disks;
use crate::cluster::incoming::Incoming;
use crate::ids::{Index, MemberId, Term};
use crate::import::ComingSnapshot;
use crate::member::MemberHandle;
use crate::peer::{Piece, Received};
use crate::quiet;

/// Where snapshots come in.
#[derive(Clone)]
pub(super) struct SnapshotReceiver {
    parts: Arc<Parts>,
}

struct Parts {
    own: MemberId,
    incoming: Incoming,
    disks: Disks,
    runtime: Handle,
    slot: Semaphore,
    /// Turns true when a state waits to be put in place.
    arrived: watch::Sender<bool>,
}

impl SnapshotReceiver {
    /// For a member that was opened; its work is done by blocking threads of `runtime`.
    pub(super) fn new(opened: &Opened, runtime: Handle, arrived: watch::Sender<bool>) -> Self {
        Self {
            parts: Arc::new(Parts {
                own: opened.identity.member_id,
                incoming: opened.kept.data_dir.incoming(),
                disks: opened.disks.clone(),
                runtime,
                slot: Semaphore::new(SNAPSHOTS_MAX),
                arrived,
            }),
        }
    }

    /// Whether a state waits to be put in place.
    pub(super) fn has_arrived(&self) -> bool {
        *self.parts.arrived.borrow()
    }

    /// Takes one snapshot at a time, and no more once there is one.
    pub(super) fn receive(
        &self,
        member: MemberHandle,
        message: raftpb::Message,
        file: mpsc::Receiver<Piece>,
    ) -> Received {
        let parts = self.parts.clone();
        let receiving = self.parts.runtime.spawn_blocking(move || {
            let slot = parts.slot.try_acquire();
            let slot = slot.map_err(|_taken| "another snapshot is being taken".to_owned())?;
            // A member that takes a snapshot still votes, and may answer clients.
            let receive = || parts.receive(&member, &message, file);
            let arrived =
                quiet::wait_for("snapshot", receive).map_err(|error| error.to_string())??;
            if arrived {
                // The next start has a slot of its own.
                slot.forget();
                parts.arrived.send_replace(true);
            }
            Ok(())
        });
        Box::pin(async move {
            let received = receiving.await;
            received.unwrap_or_else(|_canceled| Err("the server stops".to_owned()))
        })
    }
}

impl Parts {
    /// Tells whether a state waits to be put in place. If not, nothing is left of what came.
    fn receive(
        &self,
        member: &MemberHandle,
        message: &raftpb::Message,
        mut file: mpsc::Receiver<Piece>,
    ) -> Result<bool, String> {
        if !is_needed(member, message)? {
            tracing::info!("ignored a snapshot of what is here already");
            // Whoever answers in the middle of a request may not be heard.
            while let Some(Piece::Bytes(_)) = file.blocking_recv() {}
            return Ok(false);
        }
        let metadata = message.snapshot.as_ref().and_then(|s| s.metadata.as_ref());
        let named = metadata.map_or((0, 0), |named| (named.index, named.term));
        let named = (Index::new(named.0), Term::new(named.1));
        tracing::info!(
            "remote-snapshot-sender-id" = %MemberId::new(message.from),
            "incoming-snapshot-index" = named.0.get(),
            "receiving database snapshot"
        );
        let begun = Instant::now();
        let bytes = self.make_state(named, file).inspect_err(|_| self.clear())?;
        // Appends of another leader may have filled the gap meanwhile.
        if !is_needed(member, message).inspect_err(|_| self.clear())? {
            self.clear();
            return Ok(false);
        }
        let whole = self.incoming.whole(named.0, named.1);
        whole.map_err(|error| {
            self.clear();
            error.to_string()
        })?;
        tracing::info!(
            "remote-snapshot-sender-id" = %MemberId::new(message.from),
            "incoming-snapshot-index" = named.0.get(),
            "incoming-snapshot-size-bytes" = bytes,
            took = ?begun.elapsed(),
            "received and saved database snapshot"
        );
        Ok(true)
    }

    /// Takes the file, checks it and makes a state of it. Tells how large it was.
    fn make_state(
        &self,
        named: (Index, Term),
        pieces: mpsc::Receiver<Piece>,
    ) -> Result<u64, String> {
        let file = self.incoming.begin().map_err(|error| error.to_string())?;
        let (path, state) = (self.incoming.file(), self.incoming.state());
        let mut coming = ComingSnapshot::new(file, path.clone(), state);
        self.take(&mut coming, pieces)?;
        let bytes = coming.bytes();
        let received = coming.whole(named, self.own);
        let received = received.map_err(|error| error.to_string())?;
        if !self.disks.have_room_for(received.bytes_to_write()) {
            return Err(NO_ROOM.to_owned());
        }
        received.fill().map_err(|error| error.to_string())?;
        remove(&path)?;
        Ok(bytes)
    }

    fn take(
        &self,
        coming: &mut ComingSnapshot,
        mut pieces: mpsc::Receiver<Piece>,
    ) -> Result<(), String> {
        let mut looked_at = 0;
        loop {
            match pieces.blocking_recv() {
                Some(Piece::Bytes(piece)) => {
                    if coming.bytes() - looked_at >= LOOK_BYTES {
                        looked_at = coming.bytes();
                        if !self.disks.have_room_for(0) {
                            return Err(NO_ROOM.to_owned());
                        }
                    }
                    coming.push(&piece).map_err(|error| error.to_string())?;
                }
                // What is made of it is made durable, not the file.
                Some(Piece::End) => return Ok(()),
                None => return Err("it was cut off".to_owned()),
            }
        }
    }

    /// Litter that cannot be removed counts for nothing, and the next snapshot tries again.
    fn clear(&self) {
        if let Err(error) = self.incoming.clear() {
            tracing::warn!(%error, "cannot remove what came of a snapshot");
        }
    }
}

fn is_needed(member: &MemberHandle, message: &raftpb::Message) -> Result<bool, String> {
    let offered = member.offer_snapshot(message.clone());
    offered.map_err(|error| error.to_string())
}

fn remove(path: &Path) -> Result<(), String> {
    fs::remove_file(path).map_err(|error| format!("cannot remove {}: {error}", path.display()))
}

/// Each fills the disk with a state, and the newest wins.
const SNAPSHOTS_MAX: usize = 1;

/// Bytes between two looks at the room on the disk: a fraction of what still counts as full.
const LOOK_BYTES: u64 = 4 << 20;

const NO_ROOM: &str = "the disk of the data directory has no room for it";
