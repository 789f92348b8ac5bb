//! Gives the member core its threads, disk and time: what others hold of a running member.
//!
//! In `threads.rs`, the raft thread owns the [`Member`]; the log thread writes what the raft
//! thread gives it, all that waits in one batch with one fsync; the purge thread gives files back.
//! A leader that is the only voter has nobody to talk to while its disk works, so the raft thread
//! then writes itself, which saves two wake-ups per batch; linearizable reads do not pass through
//! it (see [`MemberHandle::sole_voter_read_index`]).

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use crossbeam_channel::bounded;
use raft::eraftpb::{Entry, HardState};
use trilith_proto::raftpb;

use super::boot::{self, Applied, BootError};
use super::log::{EngineLog, Log, LogError, LogWrite, Recovered};
use super::mailbox::Request;
use super::threads::{self, Shared};
use super::wire::{self, WireError};
use super::*;

pub use super::mailbox::ProposeRefused;

/// Where the member's output goes. Called by the raft and log threads, which it must not keep for
/// long.
pub trait CommittedSink: Send + Sync + 'static {
    /// Entries to apply, in order. No more than [`ApplyWork::UNAPPLIED_MAX`] calls are not yet
    /// answered by [`MemberHandle::applied`], so a channel with that many places never blocks.
    fn committed(&self, work: ApplyWork);

    /// What a read with this context must see: a state that has applied `index`.
    fn read_state(&self, context: u64, index: Index);

    /// The leader, the term or this member's role has changed.
    fn leader_changed(&self, status: &MemberStatus);

    /// These proposals were not taken and will never be in the log.
    fn dropped(&self, ids: &[RequestId]);

    /// Messages to peers, each to its `to`; they may be lost. A snapshot message says only that its
    /// peer needs the state: what was sent must be told by [`MemberHandle::report_snapshot`].
    fn send(&self, messages: Vec<raftpb::Message>);
}

/// How a member runs.
#[derive(Clone, Debug)]
pub struct MemberOptions {
    /// Its id.
    pub id: MemberId,
    /// `--heartbeat-interval`.
    pub heartbeat: Duration,
    /// `--election-timeout` in heartbeats.
    pub election_ticks: usize,
    /// `--pre-vote`.
    pub pre_vote: bool,
    /// `--snapshot-catchup-entries`: entries kept behind the compacted ones.
    pub catch_up_entries: u64,
    /// Where the election timeouts are drawn from; different for each member.
    pub seed: u64,
    /// `--force-new-cluster`: everybody else is removed.
    pub force_new_cluster: bool,
}

impl MemberOptions {
    /// For a start with this number, on a state that has applied `applied` and knows who votes.
    pub(super) fn config(
        &self,
        boot_epoch: u64,
        applied: Index,
        conf_state: ConfState,
    ) -> MemberConfig {
        MemberConfig {
            id: self.id,
            boot_epoch,
            election_ticks: self.election_ticks,
            pre_vote: self.pre_vote,
            catch_up_entries: self.catch_up_entries,
            seed: self.seed ^ boot_epoch,
            applied,
            conf_state,
        }
    }
}

/// What the log of a new cluster begins with: one entry that adds each member, from index 1, in
/// term 1, committed.
pub(super) fn first_write(members: &[(MemberId, Bytes)]) -> LogWrite {
    let mut write = LogWrite {
        sync: true,
        ..LogWrite::default()
    };
    for (index, (member, context)) in (1..).zip(members) {
        let (kind, member, context) = (ConfChangeKind::AddNode, *member, context.clone());
        let change = ConfChange {
            id: 0,
            kind,
            member,
            context,
        };
        let mut entry: Entry = entry(EntryKind::ConfChange(change.encode()));
        (entry.index, entry.term) = (index, 1);
        write.entries.push(entry);
    }
    let mut hard_state = HardState::default();
    (hard_state.term, hard_state.commit) = (1, members.len() as u64);
    write.hard_state = Some(hard_state);
    write
}

/// A member's log, opened and not yet checked against its state.
pub struct MemberLog {
    pub(super) log: EngineLog,
    pub(super) recovered: Recovered,
    pub(super) directory: PathBuf,
}

impl MemberLog {
    /// Begins the log of a new cluster: one entry that adds each member, from index 1, in term 1,
    /// committed.
    ///
    /// # Errors
    ///
    /// When it cannot be written.
    pub fn bootstrap(
        directory: &Path,
        members: &[(MemberId, Bytes)],
        fsync: bool,
    ) -> Result<(), StartError> {
        let (log, _) = EngineLog::open(directory, fsync).map_err(StartError::log(directory))?;
        log.write(&first_write(members))
            .map_err(StartError::log(directory))
    }

    /// Whether `directory` holds the beginning of a log and nothing else, and no member was ever
    /// started on it: what is left of a first start that was cut off.
    pub fn is_unused(directory: &Path) -> bool {
        EngineLog::is_log(directory)
            && EngineLog::open(directory, true)
                .is_ok_and(|(_log, recovered)| recovered.boot_epoch == 0)
    }

    /// Opens a log that was begun. Writes nothing into it.
    ///
    /// # Errors
    ///
    /// When it cannot be read or is damaged.
    pub fn open(directory: &Path, fsync: bool) -> Result<Self, StartError> {
        let (log, recovered) =
            EngineLog::open(directory, fsync).map_err(StartError::log(directory))?;
        Ok(Self {
            log,
            recovered,
            directory: directory.to_path_buf(),
        })
    }

    /// Checks the log against a state that has applied `applied`, as a start would; gives the last
    /// entry. Writes nothing.
    ///
    /// # Errors
    ///
    /// [`StartError::Boot`] when they do not fit.
    pub fn check(self, applied: (Index, Term)) -> Result<Index, StartError> {
        let misfit = |misfit| BootError {
            log: self.directory.clone(),
            misfit,
        };
        let last = self.recovered.last;
        boot::check(self.recovered, &self.log, Applied::from(applied)).map_err(misfit)?;
        Ok(Index::new(last))
    }

    /// Checks the log against the state and starts the threads.
    ///
    /// `applied` is what the **durable** state has applied; `conf_state` is who voted at that
    /// index, as the state has it, or `None` while nothing is applied.
    ///
    /// # Errors
    ///
    /// [`StartError::Boot`] when they do not fit; then nothing was written.
    pub fn start(
        self,
        options: MemberOptions,
        applied: (Index, Term),
        conf_state: Option<ConfState>,
        sink: Arc<dyn CommittedSink>,
    ) -> Result<MemberHandle, StartError> {
        let Self {
            log,
            recovered,
            directory,
        } = self;
        let misfit = |misfit| BootError {
            log: directory.clone(),
            misfit,
        };
        let mut recovered = boot::check(recovered, &log, Applied::from(applied)).map_err(misfit)?;
        let conf_state = match conf_state {
            Some(conf_state) => conf_state,
            None => boot::first_conf_state(&recovered, &log).map_err(misfit)?,
        };
        let mut alone = None;
        if options.force_new_cluster {
            let applied = applied.0.get();
            let forced = force::alone(&mut recovered, &log, options.id, &conf_state, applied);
            alone = forced.map_err(misfit)?;
        }
        let boot_epoch = recovered.boot_epoch + 1;
        log.begin_epoch(boot_epoch)
            .map_err(StartError::log(&directory))?;
        if let Some(alone) = alone {
            log.write(&alone).map_err(StartError::log(&directory))?;
        }

        let log = Arc::new(log);
        let heartbeat = options.heartbeat;
        let config = options.config(boot_epoch, applied.0, conf_state);
        let member = Member::new(config, &recovered, log.clone())?;
        let shared = threads::spawn(member, log, heartbeat, applied.0, sink)?;
        Ok(MemberHandle { shared })
    }
}

/// Talks to a running member; cheap to clone. The member runs until [`Self::stop`].
#[derive(Clone)]
pub struct MemberHandle {
    shared: Arc<Shared>,
}

impl MemberHandle {
    #[cfg(feature = "simulation")]
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// Puts a request into the log. What becomes of it is told by [`CommittedSink::committed`] or
    /// [`CommittedSink::dropped`], or, when the leader is lost, by nobody.
    ///
    /// # Errors
    ///
    /// When the queue is full or the member stops; then it was not proposed.
    pub fn propose(&self, proposal: Proposal) -> Result<(), ProposeRefused> {
        self.shared.mailbox.propose(proposal)
    }

    /// Puts an encoded `raftpb.ConfChange`, in etcd's numbering, into the log.
    ///
    /// # Errors
    ///
    /// As [`Self::propose`].
    pub fn propose_conf_change(&self, change: &ConfChange) -> Result<(), ProposeRefused> {
        self.shared
            .mailbox
            .request(Request::ProposeConfChange(change.encode()))
    }

    /// Asks what a linearizable read must see; [`CommittedSink::read_state`] answers, unless
    /// leaders change.
    ///
    /// A context is used once: a retry needs a new one.
    ///
    /// # Errors
    ///
    /// As [`Self::propose`].
    pub fn read_index(&self, context: u64) -> Result<(), ProposeRefused> {
        self.shared.mailbox.request(Request::ReadIndex(context))
    }

    /// The index that a linearizable read must see, at once, while this member leads and is the
    /// only voter; then nobody else can commit, and there is nobody to ask. `None` otherwise: ask
    /// by [`Self::read_index`].
    pub fn sole_voter_read_index(&self) -> Option<Index> {
        self.shared.status.sole_voter_read_index()
    }

    /// Asks the leader to let another member lead.
    ///
    /// # Errors
    ///
    /// As [`Self::propose`].
    pub fn transfer_leader(&self, to: MemberId) -> Result<(), ProposeRefused> {
        self.shared.mailbox.request(Request::TransferLeader(to))
    }

    /// How far another member's log is. Waits for the raft thread.
    ///
    /// # Errors
    ///
    /// As [`Self::propose`].
    pub fn progress(&self, id: MemberId) -> Result<Progress, ProposeRefused> {
        let (sender, receiver) = bounded(1);
        self.shared.mailbox.request(Request::Progress(id, sender))?;
        receiver.recv().map_err(|_gone| ProposeRefused::Stopped)
    }

    /// Tells raft of a snapshot that a peer has, before it is taken: whether its state is needed.
    /// One that is not needed was answered. Waits for the raft thread.
    ///
    /// # Errors
    ///
    /// When it is none that a peer may send, or the member stops.
    pub fn offer_snapshot(&self, message: raftpb::Message) -> Result<bool, OfferRefused> {
        let receiver = self.shared.offer(message)?;
        let stopped = |_gone| OfferRefused::NotNow(ProposeRefused::Stopped);
        receiver.recv().map_err(stopped)
    }

    /// Takes a message from a peer.
    ///
    /// # Errors
    ///
    /// When it is not one that a peer may send.
    pub fn step(&self, message: raftpb::Message) -> Result<(), WireError> {
        let message = wire::from_peer(message)?;
        // Raft messages may be lost; a queue that is full loses some.
        let _lost = self.shared.mailbox.request(Request::Message(message));
        Ok(())
    }

    /// A message to this peer was lost: raft sends it less until it answers.
    pub fn report_unreachable(&self, peer: MemberId) {
        // A queue that is full has word of more important things.
        let _lost = self.shared.mailbox.request(Request::Unreachable(peer));
    }

    /// The snapshot that [`CommittedSink::send`] was given for this peer has arrived, or not. Raft
    /// sends the peer nothing else until it hears of it.
    pub fn report_snapshot(&self, peer: MemberId, arrived: bool) {
        let request = Request::SnapshotSent(peer, arrived);
        // Only a mailbox that is stopped refuses it.
        let _stopped = self.shared.mailbox.request(request);
    }

    /// Lets so many heartbeat intervals pass at once, unless a leader is known: the first election
    /// then comes sooner.
    pub fn advance_ticks(&self, ticks: usize) {
        // Only a mailbox that is full or stopped refuses it; the election then comes in its time.
        let _refused = self.shared.mailbox.request(Request::AdvanceTicks(ticks));
    }

    /// The member as it was last seen.
    pub fn status(&self) -> MemberStatus {
        self.shared.status.load()
    }

    /// Whether a leader may act on what it knows: raft has kept time lately, without which it may
    /// have been replaced unawares, and all that earlier leaders have decided is applied.
    pub fn is_steady(&self) -> bool {
        let now = tokio::time::Instant::now().into_std();
        self.shared.status.has_caught_up() && self.shared.pace.is_steady(now)
    }

    /// Whether a leader has applied all that earlier leaders have decided. Of no meaning on others.
    pub fn has_caught_up(&self) -> bool {
        self.shared.status.has_caught_up()
    }

    /// Entries up to this one are applied. Called by the apply thread, and costs it next to
    /// nothing.
    pub fn applied(&self, index: Index) {
        self.shared.status.set_applied(index);
        if self.shared.wants_applied.swap(false, Ordering::SeqCst) {
            self.shared.mailbox.applied();
        }
    }

    /// Tells raft that a committed configuration change takes effect, before the entry counts as
    /// applied; `None` for one that the rules of membership refused. Waits for the raft thread;
    /// returns who votes from then on, or `None` when the member stops: the entry must then not
    /// count as applied.
    ///
    /// # Errors
    ///
    /// When the change would leave no voter.
    pub fn apply_conf_change(
        &self,
        change: Option<ConfChange>,
    ) -> Result<Option<ConfState>, String> {
        let (sender, receiver) = bounded(1);
        let request = Request::ApplyConfChange(change, sender);
        // Only a mailbox that is stopped refuses it, and one that stops drops it unanswered.
        match self.shared.mailbox.request(request) {
            Ok(()) => receiver.recv().ok().transpose(),
            Err(_stopped) => Ok(None),
        }
    }

    /// The state is durable up to `durable`: lets entries before it go, but for those kept for
    /// catching up.
    pub fn compact_log(&self, durable: Index) {
        self.shared.mailbox.compact(durable);
    }

    /// Stops the member and waits until its log is closed. What was not proposed yet is refused.
    pub fn stop(&self) {
        self.shared.mailbox.stop();
        let threads = std::mem::take(&mut *self.shared.threads.lock());
        for thread in threads {
            if thread.join().is_err() {
                fatal("a thread of the member has panicked");
            }
        }
    }
}

impl ApplyWork {
    /// So many works are given out at most before one of them has to be applied.
    pub const UNAPPLIED_MAX: usize = ready::APPLY_WORKS_MAX;
}

/// Why raft was not asked about a snapshot.
#[derive(Debug, thiserror::Error)]
pub enum OfferRefused {
    /// It is none that a peer may send.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// Raft does not take questions.
    #[error(transparent)]
    NotNow(ProposeRefused),
}

/// Why a member did not start. The operator can fix each of them.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Log and state do not fit.
    #[error(transparent)]
    Boot(#[from] BootError),
    /// The log cannot be opened or written.
    #[error(
        "cannot use the raft log {}: {error}; if it is damaged, restore the whole data directory \
         from a backup, or remove it and let this member join anew", log.display()
    )]
    Log {
        /// Where it lies.
        log: PathBuf,
        /// What is wrong.
        error: LogError,
    },
    /// raft refuses its settings.
    #[error("cannot start raft: {0}")]
    Raft(String),
    /// No thread can be started.
    #[error("cannot start a thread: {0}")]
    Thread(#[from] std::io::Error),
}

impl StartError {
    pub(super) fn log(directory: &Path) -> impl FnOnce(LogError) -> Self {
        let log = directory.to_path_buf();
        move |error| Self::Log { log, error }
    }
}

impl From<raft::Error> for StartError {
    fn from(error: raft::Error) -> Self {
        Self::Raft(error.to_string())
    }
}

#[cfg(test)]
#[path = "driver_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "cluster_tests.rs"]
mod cluster_tests;
