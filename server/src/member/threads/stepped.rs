//! A member whose threads take a step when they are told to, for the simulation.

use std::time::Instant;

use super::*;
use crate::member::boot::{self, Applied};
use crate::member::driver::{MemberOptions, StartError, first_write};
use crate::member::fake_disk::FakeDisk;

/// A member that does nothing by itself.
pub struct SteppedMember {
    raft: RaftThread,
    /// What its log thread has under way.
    writing: Vec<NumberedWrite>,
    _purges: Receiver<()>,
}

impl FakeDisk {
    /// Begins the log of a new cluster, as the log on disk is begun.
    pub fn bootstrap(&self, members: &[(MemberId, Bytes)]) {
        self.write(&first_write(members))
            .expect("a fake disk takes all");
    }
}

impl SteppedMember {
    /// Starts on what `disk` holds, as the threads do. A member that
    /// joins has no log yet, and an empty `conf_state`.
    ///
    /// # Errors
    ///
    /// When log and state do not fit.
    pub fn start(
        options: &MemberOptions,
        disk: &FakeDisk,
        applied: (Index, Term),
        conf_state: Option<ConfState>,
        sink: Arc<dyn CommittedSink>,
        now: Instant,
    ) -> Result<(Self, MemberHandle), String> {
        let misfit = |misfit: Misfit| misfit.to_string();
        let recovered = boot::check(disk.open(), disk, Applied::from(applied)).map_err(misfit)?;
        let conf_state = match conf_state {
            Some(conf_state) => conf_state,
            None => boot::first_conf_state(&recovered, disk).map_err(misfit)?,
        };
        let config = options.config(recovered.boot_epoch, applied.0, conf_state);
        let member = Member::new(config, &recovered, Arc::new(disk.clone()))
            .map_err(|error| StartError::from(error).to_string())?;
        let shared = Shared::new(&member, options.heartbeat, applied.0, now);
        let (purge, purges) = bounded(1);
        let log = Arc::new(disk.clone());
        let mut raft = RaftThread {
            last_status: member.status(),
            applied: applied.0,
            member,
            log,
            shared: shared.clone(),
            sink,
            purge,
            heartbeat: options.heartbeat,
            queued_until: 0,
            persisted: 0,
        };
        raft.round(Mail::default(), false);
        let stepped = Self {
            raft,
            writing: Vec::new(),
            _purges: purges,
        };
        Ok((stepped, MemberHandle::new(shared)))
    }

    /// One round of the raft thread: takes what waits for it; `tick` says that a heartbeat interval
    /// has passed.
    pub fn round(&mut self, tick: Option<Instant>) {
        if let Some(now) = tick {
            self.raft.shared.pace.tick(now);
        }
        // There is no waiting for what has not come: the deadline has passed.
        let past = Instant::now();
        let mail = self
            .raft
            .shared
            .mailbox
            .take(past, self.raft.takes_proposals());
        self.raft.round(mail, tick.is_some());
        self.raft.wait_for_apply();
    }

    /// Whether the raft thread would wake up for what waits for it.
    pub fn has_mail(&self) -> bool {
        let proposals = self.raft.takes_proposals();
        self.raft.shared.mailbox.has_something(proposals)
    }

    /// The log thread takes all that waits and writes it, without a word yet of it being durable.
    /// False if there is nothing, or it has not said of the last one that it is durable.
    pub fn begin_write(&mut self) -> bool {
        if !self.writing.is_empty() {
            return false;
        }
        self.writing = self.raft.shared.log_queue.take_now();
        !self.writing.is_empty()
    }

    /// Whether the log thread has a write under way.
    pub fn is_writing(&self) -> bool {
        !self.writing.is_empty()
    }

    /// What the log thread has under way reaches the disk, and is not synced when the crash comes.
    pub fn tear_write(&mut self) {
        for write in self.writing.drain(..) {
            let unsynced = LogWrite {
                sync: false,
                ..write.write
            };
            let written = self.raft.log.write(&unsynced);
            written.expect("a fake disk takes all");
        }
    }

    /// What the log thread has under way is durable: it says so.
    pub fn end_write(&mut self) {
        let writes = std::mem::take(&mut self.writing);
        let last = writes.last().map_or(0, |last| last.number);
        write_all(&*self.raft.log, writes, &*self.raft.sink, &self.raft.purge);
        self.raft.shared.mailbox.persisted(last);
    }

    /// As [`MemberHandle::apply_conf_change`], without waiting for a thread.
    ///
    /// # Errors
    ///
    /// When the change would leave no voter.
    pub fn apply_conf_change(&mut self, change: Option<&ConfChange>) -> Result<ConfState, String> {
        let state = self.raft.member.apply_conf_change(change);
        state.map_err(|error| error.to_string())
    }

    /// As [`MemberHandle::offer_snapshot`], without waiting for a thread.
    ///
    /// # Errors
    ///
    /// When it is none that a peer may send, or the queue is full.
    pub fn offer_snapshot(&mut self, message: raftpb::Message) -> Result<bool, OfferRefused> {
        let answer = self.raft.shared.offer(message)?;
        self.round(None);
        Ok(answer.try_recv().expect("the round takes all requests"))
    }

    /// How far another member's log is.
    pub fn progress(&self, id: MemberId) -> Progress {
        self.raft.member.progress(id)
    }

    /// The member as it is, not as it was last published.
    pub fn status(&self) -> MemberStatus {
        self.raft.member.status()
    }

    /// The last entry that is compacted away.
    pub fn base(&self) -> Index {
        Index::new(self.raft.member.node.store().base().index)
    }

    /// The term of an entry, durable or not, that is not compacted away.
    pub fn term(&self, index: Index) -> Option<Term> {
        if index < self.base() || index > self.status().last {
            return None;
        }
        let term = self.raft.member.node.raft.raft_log.term(index.get());
        term.ok().map(Term::new)
    }
}
