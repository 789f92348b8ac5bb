//! The threads of a member: one steps raft, one writes the log, one gives files back.

#[cfg(feature = "simulation")]
pub(super) mod stepped;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use parking_lot::Mutex;
use trilith_proto::raftpb;

use super::driver::{CommittedSink, OfferRefused};
use super::fatal::FatalOnPanic;
use super::log::{EngineLog, Log, LogWrite};
use super::mailbox::{LogQueue, Mail, Mailbox, Request};
use super::status::{Pace, SharedStatus};
use super::*;

/// What the threads and all handles share.
pub(super) struct Shared {
    pub(super) mailbox: Mailbox,
    pub(super) log_queue: LogQueue,
    pub(super) status: SharedStatus,
    /// Whether the raft thread ticks in time.
    pub(super) pace: Pace,
    /// Whether the raft thread wants to be woken when something is applied.
    pub(super) wants_applied: AtomicBool,
    pub(super) threads: Mutex<Vec<JoinHandle<()>>>,
}

/// Starts the threads; they run until the mailbox says stop.
pub(super) fn spawn(
    member: Member,
    log: Arc<EngineLog>,
    heartbeat: Duration,
    applied: Index,
    sink: Arc<dyn CommittedSink>,
) -> std::io::Result<Arc<Shared>> {
    let shared = Shared::new(&member, heartbeat, applied, Instant::now());
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
    Ok(shared)
}

impl Shared {
    /// Asks the raft thread whether the state of a snapshot is needed.
    pub(super) fn offer(&self, message: raftpb::Message) -> Result<Receiver<bool>, OfferRefused> {
        let message = wire::snapshot_from_peer(message)?;
        let (sender, receiver) = bounded(1);
        let request = Request::SnapshotOffered(Box::new(message), sender);
        let asked = self.mailbox.request(request);
        asked.map_err(OfferRefused::NotNow)?;
        Ok(receiver)
    }

    fn new(member: &Member, heartbeat: Duration, applied: Index, now: Instant) -> Arc<Self> {
        let shared = Self {
            mailbox: Mailbox::default(),
            log_queue: LogQueue::default(),
            status: SharedStatus::default(),
            pace: Pace::new(heartbeat, member.election_ticks, now),
            wants_applied: AtomicBool::new(false),
            threads: Mutex::default(),
        };
        shared.status.set_applied(applied);
        shared.status.publish(&member.status(), None);
        Arc::new(shared)
    }
}

struct RaftThread {
    member: Member,
    log: Arc<dyn Log>,
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
                // After a pause of the whole process one tick is as good as many, and elects
                // nobody in a hurry.
                next_tick = (next_tick + self.heartbeat).max(now);
                self.shared.pace.tick(now);
            }
            self.round(mail, tick);
        }
        self.stop();
    }

    /// Takes what has come, and does all that follows from it.
    fn round(&mut self, mail: Mail, tick: bool) {
        let mut actions = Actions::default();
        if !mail.proposals.is_empty() || mail.requests.iter().any(Request::is_proposal) {
            self.member.expect_proposals();
        }
        if let Some(number) = mail.persisted {
            // A compaction alone is written under number 0.
            self.persisted = self.persisted.max(number);
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
            Request::AdvanceTicks(ticks) => Event::AdvanceTicks(ticks),
            Request::Unreachable(peer) => Event::Unreachable(peer),
            Request::SnapshotSent(peer, arrived) => Event::SnapshotSent(peer, arrived),
            Request::SnapshotOffered(message, answer) => {
                // Whoever asked may have stopped waiting.
                let _gone = answer.send(self.member.needs_snapshot(*message));
                return;
            }
            Request::Progress(id, answer) => {
                // Whoever asked may have stopped waiting.
                let _gone = answer.send(self.member.progress(id));
                return;
            }
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

    /// Proposals wait here while there is no leader to take them, and while the disk is far
    /// behind.
    fn takes_proposals(&self) -> bool {
        self.last_status.leader.is_some()
            && self.queued_until - self.persisted.min(self.queued_until) < WRITES_IN_FLIGHT_MAX
    }

    /// Asks to be woken by the apply thread, if that is what is missing; tells whether it has come
    /// already.
    fn wait_for_apply(&self) -> bool {
        if !self.member.waits_for_apply() {
            return false;
        }
        self.shared.wants_applied.store(true, Ordering::SeqCst);
        self.shared.status.applied() > self.applied
    }

    /// Ends with a log that knows what was committed, so that the next start has nothing to find
    /// out.
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

/// Writes under way above which no proposals are taken. Far more than a disk needs to be busy,
/// since the log thread takes all that wait at once.
const WRITES_IN_FLIGHT_MAX: u64 = 64;
