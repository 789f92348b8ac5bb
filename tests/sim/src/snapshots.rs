//! The state on its way to a member that is too far behind for the log, and into its place there:
//! the file that members send each other, and the steps of an install, without the sockets and the
//! directories.

use std::ops::ControlFlow;
use std::sync::Arc;

use rand::Rng;
use rand::rngs::SmallRng;
use trilith_proto::raftpb;
use trilith_server::cluster::incoming::{Arrived, Install};
use trilith_server::ids::{Index, MemberId, Term};
use trilith_server::import::ComingSnapshot;
use trilith_server::member::LogAnew;
use trilith_server::mvcc;
use trilith_server::node::install::{self, Site};
use trilith_server::snapshot::{self, Export};
use trilith_server::storage::{Backend, MemoryDisk, View};

use crate::node::Node;
use crate::world::{Check, Event, World};

/// What became of snapshots.
#[derive(Debug, Default)]
pub(crate) struct Snapshots {
    /// Transfers that were begun.
    pub(crate) sent: u64,
    /// States that took the place of others.
    pub(crate) installed: u64,
    /// Installs that were cut off in the middle.
    pub(crate) cut_off: u64,
}

/// A snapshot on its way.
#[derive(Clone, Debug)]
pub(crate) struct Transfer {
    pub(crate) from: usize,
    /// The start of its sender that sends it.
    from_start: u64,
    pub(crate) to: usize,
    message: raftpb::Message,
    /// The state, and the file made of it.
    state: Arc<(View, Export)>,
    /// It has come a second time, of which its sender does not know.
    is_double: bool,
}

/// A snapshot on the disk of its receiver; all of it is durable.
#[derive(Default)]
pub(crate) struct OnDisk {
    state: Option<MemoryDisk>,
    whole: Option<(Index, Term)>,
    install: Option<Install>,
}

impl World {
    /// Sends the state as it is now, in place of the one that `message` names.
    pub(crate) fn send_snapshot(&mut self, message: raftpb::Message) {
        let Some((from, to)) = self.find(message.from).zip(self.find(message.to)) else {
            return;
        };
        let peer = MemberId::new(message.to);
        let node = &mut self.nodes[from];
        let from_start = node.start;
        let Some(running) = &node.running else {
            return;
        };
        let view = running.store.read().view().clone();
        node.sending += 1;
        let has_slot = node.sending <= SENT_AT_ONCE;
        let described = snapshot::describe(&view, message);
        let Some(message) = described.ok().filter(|_| has_slot) else {
            let told = Event::SnapshotTold(from, from_start, peer, false);
            return self.schedule(RETRY_AFTER, told);
        };
        let export = Export::measure(view.clone(), &mut |_| ControlFlow::Continue(()));
        let export = export.expect("a state in memory can be read");
        let transfer = Transfer {
            from,
            from_start,
            to,
            message,
            state: Arc::new((view, export)),
            is_double: false,
        };
        self.snapshots.sent += 1;
        let latency = self.rng.random_range(1..=self.settings.latency);
        if self.rng.random_bool(0.15) {
            let double = Transfer {
                is_double: true,
                ..transfer.clone()
            };
            let later = self.rng.random_range(1..3_000_000);
            self.schedule(latency + later, Event::SnapshotOffered(Box::new(double)));
        }
        self.schedule(latency, Event::SnapshotOffered(Box::new(transfer)));
    }

    /// What is due of a snapshot on its way; nothing of anything else.
    pub(crate) fn carry_snapshot(&mut self, event: Event) -> Check {
        match event {
            Event::SnapshotOffered(transfer) => self.snapshot_offered(transfer),
            Event::SnapshotComes(transfer, start) => self.snapshot_comes(transfer, start),
            Event::SnapshotTold(at, start, peer, arrived) => {
                self.snapshot_told((at, start), peer, arrived)
            }
            _ => Ok(()),
        }
    }

    /// Tells the sender what became of it.
    fn answer(&mut self, transfer: &Transfer, arrived: bool) {
        if transfer.is_double {
            return;
        }
        let after = if arrived { 1_000 } else { RETRY_AFTER };
        let peer = self.nodes[transfer.to].id;
        let told = Event::SnapshotTold(transfer.from, transfer.from_start, peer, arrived);
        self.schedule(after, told);
    }

    /// One at a time is taken, and no more once there is one.
    fn snapshot_offered(&mut self, transfer: Box<Transfer>) -> Check {
        let node = &self.nodes[transfer.to];
        let is_taken = node.is_receiving || node.has_arrived;
        if !node.is_up() || is_taken || self.is_cut_off(&transfer) {
            self.answer(&transfer, false);
            return Ok(());
        }
        let start = node.start;
        match self.is_needed(&transfer)? {
            true => {
                self.nodes[transfer.to].is_receiving = true;
                let slow = [1_000, 100_000, 4_000_000][self.rng.random_range(0..3)];
                let takes = self.rng.random_range(1..slow);
                self.schedule(takes, Event::SnapshotComes(transfer, start));
            }
            // It is answered like one that was taken.
            false => self.answer(&transfer, true),
        }
        Ok(())
    }

    fn is_cut_off(&self, transfer: &Transfer) -> bool {
        let sender = &self.nodes[transfer.from];
        let (from, to) = (sender.id.get(), self.nodes[transfer.to].id.get());
        let is_sending = sender.is_up() && sender.start == transfer.from_start;
        !(is_sending || transfer.is_double) || self.network.is_cut(from, to)
    }

    /// Raft is asked, which answers what it does not need.
    fn is_needed(&mut self, transfer: &Transfer) -> Result<bool, String> {
        let mut needed = Ok(false);
        self.with(transfer.to, |running| {
            let mut member = running.member.lock();
            needed = member.offer_snapshot(transfer.message.clone());
        })?;
        needed.map_err(|error| format!("a snapshot of a member is refused: {error}"))
    }

    /// All of it has come, unless something went wrong: a state is made of it.
    fn snapshot_comes(&mut self, transfer: Box<Transfer>, start: u64) -> Check {
        let node = &mut self.nodes[transfer.to];
        if node.start != start || !node.is_up() {
            self.answer(&transfer, false);
            return Ok(());
        }
        node.is_receiving = false;
        if self.is_cut_off(&transfer) || self.rng.random_bool(0.1) {
            self.answer(&transfer, false);
            return Ok(());
        }
        let own = self.nodes[transfer.to].id;
        let (state, named) = transfer
            .fill(own)
            .map_err(|error| format!("{own} makes no state of a snapshot: {error}"))?;
        // Appends of another leader may have filled the gap meanwhile.
        let needed = self.is_needed(&transfer)?;
        self.answer(&transfer, true);
        if !needed {
            return Ok(());
        }
        let node = &mut self.nodes[transfer.to];
        node.incoming = OnDisk {
            state: Some(state),
            whole: Some(named),
            install: None,
        };
        node.has_arrived = true;
        let stops = self.rng.random_range(1..200_000);
        self.schedule(stops, Event::Install(transfer.to, start));
        Ok(())
    }

    fn snapshot_told(&mut self, (at, start): (usize, u64), peer: MemberId, arrived: bool) -> Check {
        let node = &mut self.nodes[at];
        if node.start != start || !node.is_up() {
            return Ok(());
        }
        node.sending -= 1;
        if arrived {
            node.log_held_until = self.now + self.settings.log_held;
        }
        self.with(at, |running| running.handle.report_snapshot(peer, arrived))
    }

    /// While somebody is on the way from a snapshot to the log behind it, that log is not cut.
    pub(crate) fn is_log_held(&self, at: usize) -> bool {
        let node = &self.nodes[at];
        node.sending > 0 || self.now < node.log_held_until
    }

    /// Before a start: puts a snapshot that has arrived in its place. False when the machine
    /// crashes over it; it then starts again later.
    pub(crate) fn resume_install(&mut self, at: usize) -> Result<bool, String> {
        let node = &mut self.nodes[at];
        let id = node.id;
        let mut machine = Machine {
            node,
            rng: &mut self.rng,
        };
        match install::resume(&mut machine) {
            Ok(installed) => {
                self.snapshots.installed += u64::from(installed.is_some());
                Ok(true)
            }
            Err(Cut::Crash) => {
                self.snapshots.cut_off += 1;
                let after = self.rng.random_range(1_000..1_000_000);
                self.schedule(after, Event::Boot(at));
                Ok(false)
            }
            Err(Cut::Misfit(error)) => Err(format!("{id} does not install: {error}")),
        }
    }
}

impl Transfer {
    /// A state made of the file, and which it is.
    fn fill(&self, own: MemberId) -> Result<(MemoryDisk, (Index, Term)), String> {
        let (view, export) = &*self.state;
        let named = mvcc::applied(view).map_err(|error| error.to_string())?;
        let text = |error: std::io::Error| error.to_string();
        let path = tempfile::NamedTempFile::new().map_err(text)?;
        let file = path.as_file().try_clone().map_err(text)?;
        let bytes = export
            .write(Vec::new())
            .map_err(|error| error.to_string())?;
        let disk = MemoryDisk::default();
        let state = Backend::open_in_memory(&disk);
        let mut coming = ComingSnapshot::into_open(file, path.path().to_owned(), state);
        let take = || {
            bytes
                .chunks(PIECE_BYTES)
                .try_for_each(|piece| coming.push(piece))?;
            coming.whole(named, own)?.fill()
        };
        take().map_err(|error| error.to_string())?;
        match disk.continues(view) {
            true => Ok((disk, named)),
            false => Err("it is not the state that was sent".to_owned()),
        }
    }
}

/// A machine whose member does not run, and that may crash at any step.
struct Machine<'a> {
    node: &'a mut Node,
    rng: &'a mut SmallRng,
}

/// Why an install did not come to its end.
enum Cut {
    Crash,
    Misfit(String),
}

impl Machine<'_> {
    /// Each step is durable when it is done.
    fn step(&mut self, act: impl FnOnce(&mut Node)) -> Result<(), Cut> {
        if self.rng.random_bool(0.1) {
            return Err(Cut::Crash);
        }
        act(self.node);
        Ok(())
    }
}

impl Site for Machine<'_> {
    type Error = Cut;

    fn arrived(&self) -> Result<Arrived, Cut> {
        let incoming = &self.node.incoming;
        Ok(match (incoming.install, incoming.whole) {
            (Some(install), _) => Arrived::Install(install),
            (None, Some((index, term))) => Arrived::Whole(index, term),
            (None, None) => Arrived::Nothing,
        })
    }

    fn anew_behind(&self, snapshot: (Index, Term)) -> Result<Option<LogAnew>, Cut> {
        let state = Backend::open_in_memory(&self.node.state);
        let applied = mvcc::applied(&state.view());
        let applied = applied.map_err(|error| Cut::Misfit(error.to_string()))?;
        let anew = self.node.log.anew_behind(snapshot, applied);
        anew.map_err(Cut::Misfit)
    }

    fn decide(&mut self, install: &Install) -> Result<(), Cut> {
        self.step(|node| node.incoming.install = Some(*install))
    }

    fn replace_state(&mut self) -> Result<(), Cut> {
        self.step(|node| {
            if let Some(state) = node.incoming.state.take() {
                node.state = state;
            }
        })
    }

    fn begin_anew(&mut self, anew: &LogAnew) -> Result<(), Cut> {
        self.step(|node| node.log.begin_anew(anew))
    }

    fn clear(&mut self) -> Result<(), Cut> {
        let incoming = &self.node.incoming;
        if incoming.whole.is_none() && incoming.install.is_none() {
            return Ok(());
        }
        self.step(|node| node.incoming.whole = None)?;
        self.step(|node| node.incoming.install = None)?;
        self.step(|node| node.incoming = OnDisk::default())
    }
}

/// As in the server.
const SENT_AT_ONCE: usize = 2;

/// As in the server.
const RETRY_AFTER: u64 = 1_000_000;

/// As the server's.
const PIECE_BYTES: usize = 64 * 1024;
