//! Gives the member core its threads, disk and time.
//!
//! The raft thread owns the [`Member`]; the log thread writes what the raft thread gives it, all that waits in one
//! batch with one fsync; the purge thread gives files back. A leader that is the only voter has nobody to talk to
//! while its disk works, so the raft thread then writes itself, which saves two wake-ups per batch; linearizable
//! reads do not pass through it (see [`MemberHandle::sole_voter_read_index`]).

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use bytes::Bytes;
use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use parking_lot::Mutex;
use raft::eraftpb::{Entry, HardState};
use trilith_proto::raftpb;

use super::boot::{self, Applied, BootError};
use super::fatal::FatalOnPanic;
use super::log::{EngineLog, Log, LogError, LogWrite, Recovered};
use super::mailbox::{LogQueue, Mail, Mailbox, Request};
use super::status::SharedStatus;
use super::wire::{self, WireError};
use super::*;

pub use super::mailbox::ProposeRefused;

/// Where the member's output goes. Called by the raft and log threads, which it must not keep for long.
pub trait CommittedSink: Send + Sync + 'static {
    /// Entries to apply, in order. No more than [`ApplyWork::UNAPPLIED_MAX`] calls are not yet answered by
    /// [`MemberHandle::applied`], so a channel with that many places never blocks.
    fn committed(&self, work: ApplyWork);

    /// What a read with this context must see: a state that has applied `index`.
    fn read_state(&self, context: u64, index: Index);

    /// The leader, the term or this member's role has changed.
    fn leader_changed(&self, status: &MemberStatus);

    /// These proposals were not taken and will never be in the log.
    fn dropped(&self, ids: &[RequestId]);

    /// Messages to peers, each to its `to`; they may be lost.
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
}

/// A member's log, opened and not yet checked against its state.
pub struct MemberLog {
    log: EngineLog,
    recovered: Recovered,
    directory: PathBuf,
}

impl MemberLog {
    /// Begins the log of a new cluster: one entry that adds each member, from index 1, in term 1, committed.
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
        log.write(&write).map_err(StartError::log(directory))
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

    /// Checks the log against the state and starts the threads.
    ///
    /// `applied` is what the **durable** state has applied; `conf_state` is who voted at that index, as the
    /// state has it, or `None` while nothing is applied.
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
        let recovered = boot::check(recovered, &log, Applied::from(applied)).map_err(misfit)?;
        let conf_state = match conf_state {
            Some(conf_state) => conf_state,
            None => boot::first_conf_state(&recovered, &log).map_err(misfit)?,
        };
        let boot_epoch = recovered.boot_epoch + 1;
        log.begin_epoch(boot_epoch)
            .map_err(StartError::log(&directory))?;

        let log = Arc::new(log);
        let heartbeat = options.heartbeat;
        let config = MemberConfig {
            id: options.id,
            boot_epoch,
            election_ticks: options.election_ticks,
            pre_vote: options.pre_vote,
            catch_up_entries: options.catch_up_entries,
            seed: options.seed ^ boot_epoch,
            applied: applied.0,
            conf_state,
        };
        let member = Member::new(config, &recovered, log.clone())?;
        Ok(spawn(member, log, heartbeat, applied.0, sink)?)
    }
}

/// Talks to a running member; cheap to clone. The member runs until [`Self::stop`].
#[derive(Clone)]
pub struct MemberHandle {
    shared: Arc<Shared>,
}

struct Shared {
    mailbox: Mailbox,
    log_queue: LogQueue,
    status: SharedStatus,
    /// Whether the raft thread wants to be woken when something is applied.
    wants_applied: AtomicBool,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl MemberHandle {
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

    /// Asks what a linearizable read must see; [`CommittedSink::read_state`] answers, unless leaders change.
    ///
    /// A context is used once: a retry needs a new one.
    ///
    /// # Errors
    ///
    /// As [`Self::propose`].
    pub fn read_index(&self, context: u64) -> Result<(), ProposeRefused> {
        self.shared.mailbox.request(Request::ReadIndex(context))
    }

    /// The index that a linearizable read must see, at once, while this member leads and is the only voter; then
    /// nobody else can commit, and there is nobody to ask. `None` otherwise: ask by [`Self::read_index`].
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

    /// The member as it was last seen.
    pub fn status(&self) -> MemberStatus {
        self.shared.status.load()
    }

    /// Entries up to this one are applied. Called by the apply thread, and costs it next to nothing.
    pub fn applied(&self, index: Index) {
        self.shared.status.set_applied(index);
        if self.shared.wants_applied.swap(false, Ordering::SeqCst) {
            self.shared.mailbox.applied();
        }
    }

    /// Tells raft that a committed configuration change takes effect, before the entry counts as applied; `None` for
    /// one that the rules of membership refused. Waits for the raft thread; returns who votes from then on.
    ///
    /// # Errors
    ///
    /// When the change would leave no voter, or the member stops.
    pub fn apply_conf_change(&self, change: Option<ConfChange>) -> Result<ConfState, String> {
        let (sender, receiver) = bounded(1);
        let request = Request::ApplyConfChange(change, sender);
        self.shared
            .mailbox
            .request(request)
            .map_err(|refused| refused.to_string())?;
        receiver
            .recv()
            .map_err(|_| ProposeRefused::Stopped.to_string())?
    }

    /// The state is durable up to `durable`: lets entries before it go, but for those kept for catching up.
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

fn spawn(
    member: Member,
    log: Arc<EngineLog>,
    heartbeat: Duration,
    applied: Index,
    sink: Arc<dyn CommittedSink>,
) -> std::io::Result<MemberHandle> {
    let shared = Arc::new(Shared {
        mailbox: Mailbox::default(),
        log_queue: LogQueue::default(),
        status: SharedStatus::default(),
        wants_applied: AtomicBool::new(false),
        threads: Mutex::default(),
    });
    shared.status.set_applied(applied);
    shared.status.publish(&member.status(), None);
    let (purge, purges) = bounded(1);
    let log_thread = LogThread {
        log: log.clone(),
        shared: shared.clone(),
        sink: sink.clone(),
        purge: purge.clone(),
    };
    let raft_thread = RaftThread {
        last_status: member.status(),
        applied,
        member,
        log: log.clone(),
        shared: shared.clone(),
        sink,
        purge,
        heartbeat,
        queued_until: 0,
        persisted: 0,
    };
    let threads = [
        thread::Builder::new()
            .name("raft".into())
            .spawn(|| raft_thread.run())?,
        thread::Builder::new()
            .name("raft-log".into())
            .spawn(|| log_thread.run())?,
        thread::Builder::new()
            .name("raft-purge".into())
            .spawn(|| purge_files(log, purges))?,
    ];
    shared.threads.lock().extend(threads);
    Ok(MemberHandle { shared })
}

struct RaftThread {
    member: Member,
    log: Arc<EngineLog>,
    shared: Arc<Shared>,
    sink: Arc<dyn CommittedSink>,
    purge: Sender<()>,
    heartbeat: Duration,
    applied: Index,
    last_status: MemberStatus,
    /// Number of the last write that went to the log thread.
    queued_until: u64,
    /// Number of the last write that the log thread has made durable.
    persisted: u64,
}

impl RaftThread {
    fn run(mut self) {
        let _guard = FatalOnPanic("raft");
        let mut next_tick = Instant::now() + self.heartbeat;
        self.round(Mail::default(), false);
        loop {
            let wait_until = if self.wait_for_apply() {
                Instant::now()
            } else {
                next_tick
            };
            let mail = self.shared.mailbox.take(wait_until, self.takes_proposals());
            if mail.stop {
                break;
            }
            let now = Instant::now();
            let tick = now >= next_tick;
            if tick {
                // After a pause of the whole process one tick is as good as many, and elects nobody in a hurry.
                next_tick = (next_tick + self.heartbeat).max(now);
            }
            self.round(mail, tick);
        }
        self.stop();
    }

    /// Takes what has come, and does all that follows from it.
    fn round(&mut self, mail: Mail, tick: bool) {
        let mut actions = Actions::default();
        if let Some(number) = mail.persisted {
            self.persisted = number;
            self.member.on_event(Event::Persisted(number), &mut actions);
        }
        let applied = self.shared.status.applied();
        if applied > self.applied {
            self.applied = applied;
            self.member.on_event(Event::Applied(applied), &mut actions);
        }
        for request in mail.requests {
            self.on_request(request, &mut actions);
        }
        if let Some(index) = mail.compact {
            self.member.on_event(Event::CompactLog(index), &mut actions);
        }
        self.member
            .on_event(Event::Propose(mail.proposals), &mut actions);
        if tick {
            self.member.on_event(Event::Tick, &mut actions);
        }
        self.member.actions(&mut actions);
        self.act(actions);
    }

    fn on_request(&mut self, request: Request, actions: &mut Actions) {
        let event = match request {
            Request::Message(message) => Event::Message(message),
            Request::ProposeConfChange(data) => Event::ProposeConfChange(data),
            Request::ReadIndex(context) => Event::ReadIndex(context),
            Request::TransferLeader(to) => Event::TransferLeader(to),
            Request::ApplyConfChange(change, answer) => {
                let state = self.member.apply_conf_change(change.as_ref());
                // The apply thread waits for it, unless it is gone.
                let _gone = answer.send(state.map_err(|error| error.to_string()));
                return;
            }
        };
        self.member.on_event(event, actions);
    }

    fn act(&mut self, mut actions: Actions) {
        loop {
            self.publish();
            send(&*self.sink, std::mem::take(&mut actions.messages));
            for (context, index) in actions.read_states.drain(..) {
                self.sink.read_state(context, index);
            }
            if !actions.dropped.is_empty() {
                self.sink.dropped(&std::mem::take(&mut actions.dropped));
            }
            for work in actions.committed.drain(..) {
                self.sink.committed(work);
            }
            let writes = std::mem::take(&mut actions.writes);
            let Some(last) = writes.last().map(|last| last.number) else {
                return;
            };
            let log_thread_rests = self.persisted >= self.queued_until;
            if !(self.member.is_sole_voter() && log_thread_rests) {
                self.queued_until = self.queued_until.max(last);
                self.shared.log_queue.push(writes);
                return;
            }
            write_all(&*self.log, writes, &*self.sink, &self.purge);
            self.member.on_event(Event::Persisted(last), &mut actions);
            self.member.actions(&mut actions);
        }
    }

    fn publish(&mut self) {
        let status = self.member.status();
        self.shared
            .status
            .publish(&status, self.member.sole_voter_read_index());
        let last = &self.last_status;
        let same = (status.leader, status.term, status.role) == (last.leader, last.term, last.role);
        self.last_status = status;
        if !same {
            self.sink.leader_changed(&status);
        }
    }

    /// Proposals wait here while there is no leader to take them, and while the disk is far behind.
    fn takes_proposals(&self) -> bool {
        self.last_status.leader.is_some()
            && self.queued_until - self.persisted.min(self.queued_until) < WRITES_IN_FLIGHT_MAX
    }

    /// Asks to be woken by the apply thread, if that is what is missing; tells whether it has come already.
    fn wait_for_apply(&self) -> bool {
        if !self.member.waits_for_apply() {
            return false;
        }
        self.shared.wants_applied.store(true, Ordering::SeqCst);
        self.shared.status.applied() > self.applied
    }

    /// Ends with a log that knows what was committed, so that the next start has nothing to find out.
    fn stop(mut self) {
        self.shared.log_queue.stop();
        if let Some(write) = self.member.last_write() {
            write_all(&*self.log, vec![write], &*self.sink, &self.purge);
        }
    }
}

struct LogThread {
    log: Arc<EngineLog>,
    shared: Arc<Shared>,
    sink: Arc<dyn CommittedSink>,
    purge: Sender<()>,
}

impl LogThread {
    fn run(self) {
        let _guard = FatalOnPanic("raft log");
        while let Some(writes) = self.shared.log_queue.take() {
            let last = writes.last().map_or(0, |last| last.number);
            write_all(&*self.log, writes, &*self.sink, &self.purge);
            self.shared.mailbox.persisted(last);
        }
    }
}

/// Writes all in one batch with one fsync, then sends what had to wait for it.
fn write_all(
    log: &dyn Log,
    writes: Vec<NumberedWrite>,
    sink: &dyn CommittedSink,
    purge: &Sender<()>,
) {
    let mut merged = LogWrite::default();
    let mut messages = Vec::new();
    for write in writes {
        merged.absorb(write.write);
        messages.extend(write.messages);
    }
    if let Err(error) = log.write(&merged) {
        fatal(&format!("cannot write the raft log: {error}"));
    }
    send(sink, messages);
    if merged.base.is_some() {
        match purge.try_send(()) {
            // One that waits will see this compaction too.
            Ok(()) | Err(TrySendError::Full(())) | Err(TrySendError::Disconnected(())) => {}
        }
    }
}

fn send(sink: &dyn CommittedSink, messages: Vec<Message>) {
    if !messages.is_empty() {
        sink.send(messages.into_iter().map(wire::to_peer).collect());
    }
}

fn purge_files(log: Arc<EngineLog>, purges: Receiver<()>) {
    let _guard = FatalOnPanic("raft purge");
    while purges.recv().is_ok() {
        if let Err(error) = log.purge() {
            fatal(&format!("cannot rewrite the raft log: {error}"));
        }
    }
}

/// Writes under way above which no proposals are taken. Far more than a disk needs to be busy, since the log
/// thread takes all that wait at once.
const WRITES_IN_FLIGHT_MAX: u64 = 64;

impl ApplyWork {
    /// So many works are given out at most before one of them has to be applied.
    pub const UNAPPLIED_MAX: usize = ready::APPLY_WORKS_MAX;
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
    fn log(directory: &Path) -> impl FnOnce(LogError) -> Self {
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
