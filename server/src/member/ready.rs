//! Turns what raft-rs has ready into actions, and keeps count of writes and entries under way.

use super::*;
use crate::planted::{Bug, is_planted};
use raft::Ready;
use raft::eraftpb::{Entry, EntryType};

/// Writes that are under way, and what goes along with the next one.
#[derive(Default)]
pub(super) struct Writes {
    /// Numbers of the writes that are not durable yet, ascending.
    in_flight: VecDeque<u64>,
    /// The last one among them that carries a new term or vote.
    term_write: Option<u64>,
    /// Term and vote of the last hard state that was written or is being written.
    term_and_vote: (u64, u64),
    /// A hard state that differs from the stored one only in what is committed. It need not be
    /// durable, since a start finds out again what is committed; it goes along with the next
    /// write.
    hard_state: Option<HardState>,
    /// What was compacted since the last write.
    base: Option<Base>,
}

/// Committed entries on their way to apply.
pub(super) struct Applying {
    /// The last entry that was handed out.
    handed_out: u64,
    /// The last entry that raft-rs has given as committed; those after `handed_out` are read again
    /// when there is room.
    committed: u64,
    /// What was handed out and is not applied: last index and bytes of each work.
    works: VecDeque<(u64, usize)>,
    work_bytes: usize,
    /// Decoded requests of entries that were proposed here: index, term, request.
    proposed: VecDeque<(u64, u64, Option<Arc<InternalRaftRequest>>)>,
}

impl Writes {
    pub(super) fn new(stored: &HardState) -> Self {
        Self {
            term_and_vote: (stored.term, stored.vote),
            ..Self::default()
        }
    }

    /// Notes a changed hard state; tells whether its term or vote is new.
    fn note(&mut self, hard_state: &HardState) -> bool {
        let term_and_vote = (hard_state.term, hard_state.vote);
        let is_new = term_and_vote != self.term_and_vote;
        self.term_and_vote = term_and_vote;
        self.hard_state = Some(hard_state.clone());
        is_new
    }

    /// Whether all that was written is durable.
    pub(super) fn none(&self) -> bool {
        self.in_flight.is_empty()
    }

    pub(super) fn compact(&mut self, base: Base) {
        self.base = Some(base);
    }
}

impl Applying {
    pub(super) fn new(applied: u64) -> Self {
        Self {
            handed_out: applied,
            committed: applied,
            works: VecDeque::new(),
            work_bytes: 0,
            proposed: VecDeque::new(),
        }
    }

    /// Keeps a decoded request until its entry is committed.
    pub(super) fn remember(
        &mut self,
        index: u64,
        term: u64,
        decoded: Option<Arc<InternalRaftRequest>>,
    ) {
        // What stood at this index and behind it was lost with an earlier leadership.
        while self
            .proposed
            .pop_back_if(|(last, _, _)| *last >= index)
            .is_some()
        {}
        self.proposed.push_back((index, term, decoded));
    }

    fn has_room(&self) -> bool {
        self.works.len() < APPLY_WORKS_MAX && self.work_bytes < APPLY_BACKLOG_BYTES
    }

    fn hand_out(&mut self, entries: Vec<Entry>, actions: &mut Actions) {
        let Some(last) = entries.last().map(|last| last.index) else {
            return;
        };
        assert_eq!(
            entries[0].index,
            self.handed_out + 1,
            "entries are applied without gaps"
        );
        let work = ApplyWork {
            entries: entries
                .into_iter()
                .map(|entry| self.committed_entry(entry))
                .collect(),
        };
        let bytes = work.bytes();
        self.handed_out = last;
        self.works.push_back((last, bytes));
        self.work_bytes += bytes;
        actions.committed.push(work);
    }

    fn committed_entry(&mut self, entry: Entry) -> CommittedEntry {
        let mut decoded = None;
        while let Some((index, term, request)) = self
            .proposed
            .pop_front_if(|(index, _, _)| *index <= entry.index)
        {
            if (index, term) == (entry.index, entry.term) {
                decoded = request;
            }
        }
        let kind = match entry.get_entry_type() {
            EntryType::EntryNormal => EntryKind::Normal(entry.data),
            EntryType::EntryConfChange => EntryKind::ConfChange(entry.data),
            EntryType::EntryConfChangeV2 => {
                fatal("the log holds a change of joint consensus, which etcd never writes")
            }
        };
        CommittedEntry {
            index: Index::new(entry.index),
            term: Term::new(entry.term),
            kind,
            decoded,
        }
    }

    fn applied(&mut self, index: u64) {
        while let Some((_, bytes)) = self.works.pop_front_if(|(last, _)| *last <= index) {
            self.work_bytes -= bytes;
        }
    }
}

impl Member {
    /// All that is to be done about the events since the last call.
    pub(crate) fn actions(&mut self, actions: &mut Actions) {
        self.campaign_when_all_is_applied();
        self.release_held_reads();
        self.release_held_proposals();
        self.propose_gathered();
        while self.node.has_ready() {
            let ready = self.node.ready();
            self.handle_ready(ready, actions);
            // A leader that has just committed in its term can answer.
            self.release_held_reads();
        }
        self.hand_out_backlog(actions);
        self.write_base(actions);
        self.evict();
        self.draw_election_timeout();
    }

    /// The order is the one of crash-safe raft: see what becomes durable before what is said.
    fn handle_ready(&mut self, mut ready: Ready, actions: &mut Actions) {
        assert!(
            ready.snapshot().is_empty(),
            "a snapshot message is refused before it is stepped"
        );
        for state in ready.take_read_states() {
            if let Some(context) = self.decode_context(&state.request_ctx) {
                actions.read_states.push((context, Index::new(state.index)));
            }
        }

        // 1. What is written, and what has to wait for it.
        let number = ready.number();
        let mut write = NumberedWrite {
            number,
            ..NumberedWrite::default()
        };
        write.write.entries = ready.take_entries();
        write.write.sync = ready.must_sync();
        let new_term = ready
            .hs()
            .is_some_and(|hard_state| self.writes.note(hard_state));
        write.messages = ready.take_persisted_messages();
        if is_planted(Bug::AnswerBeforeSync) {
            actions.messages.append(&mut write.messages);
        }

        // 2. A leader may send before its own write is durable, but not in a term that is not:
        //    after a crash it would lead that term a second time, with other entries. (raft-rs sees
        //    to that where it takes votes of others to win; a lone voter with learners needs none.)
        let term_is_durable = self.writes.term_write.is_none() && !new_term;
        let messages = read_index::last_heartbeats(ready.take_messages());
        if term_is_durable {
            actions.messages.extend(messages);
        } else {
            write.messages.extend(messages);
        }

        // 3. Entries can be read as soon as they are on their way.
        let committed = ready.take_committed_entries();
        self.node.mut_store().append(&write.write.entries);
        self.node.advance_append_async(ready);
        self.put_write(write, new_term, actions);

        // 4. Committed entries, which are durable here, go to apply.
        if let Some(last) = committed.last() {
            self.applying.committed = last.index;
            let next = committed[0].index == self.applying.handed_out + 1;
            if next && self.applying.has_room() {
                self.applying.hand_out(committed, actions);
            }
        }
    }

    fn put_write(&mut self, mut write: NumberedWrite, new_term: bool, actions: &mut Actions) {
        if write.write.sync {
            write.write.hard_state = self.writes.hard_state.take();
            write.write.base = self.writes.base.take();
        } else if self.writes.none() {
            // Nothing to write, nothing to wait for.
            actions.messages.append(&mut write.messages);
            self.node.on_persist_ready(write.number);
            return;
        } else if write.messages.is_empty() {
            // Counts as durable together with the last write before it.
            return;
        }
        if new_term {
            self.writes.term_write = Some(write.number);
        }
        if is_planted(Bug::ApplyBeforeSync) {
            self.node.on_persist_ready(write.number);
        }
        self.writes.in_flight.push_back(write.number);
        if is_planted(Bug::HardStateApart) {
            let write = LogWrite {
                hard_state: write.write.hard_state.take(),
                sync: true,
                ..LogWrite::default()
            };
            // Number 0 confirms nothing; what is said waits for the entries.
            actions.writes.push(NumberedWrite {
                write,
                ..NumberedWrite::default()
            });
        }
        actions.writes.push(write);
    }

    /// Lets a compaction become known to the log when no entries come along. It has to be durable:
    /// the engine then deletes files with entries before the base, and a log that begins with
    /// neither them nor the base is refused.
    fn write_base(&mut self, actions: &mut Actions) {
        if self.writes.base.is_none() || !self.writes.none() {
            return;
        }
        let write = LogWrite {
            base: self.writes.base.take(),
            hard_state: self.writes.hard_state.take(),
            sync: true,
            ..LogWrite::default()
        };
        // Number 0 comes before all: it confirms nothing.
        actions.writes.push(NumberedWrite {
            number: 0,
            write,
            messages: Vec::new(),
        });
    }

    pub(super) fn on_persisted(&mut self, number: u64) {
        while self
            .writes
            .in_flight
            .pop_front_if(|front| *front <= number)
            .is_some()
        {}
        if self
            .writes
            .term_write
            .is_some_and(|term_write| term_write <= number)
        {
            self.writes.term_write = None;
        }
        // Numbers between two writes had nothing to write.
        let durable = match self.writes.in_flight.front() {
            Some(next) => next - 1,
            None => u64::MAX,
        };
        self.node.on_persist_ready(durable);
    }

    pub(super) fn on_applied(&mut self, index: Index) {
        let index = index.get();
        assert!(
            index <= self.applying.handed_out,
            "applied {index}, but handed out only up to {}",
            self.applying.handed_out
        );
        self.applying.applied(index);
        if index > self.node.raft.raft_log.applied {
            self.node.advance_apply_to(index);
            self.release_held_changes();
        }
    }

    /// Hands out what had to wait until apply had room.
    fn hand_out_backlog(&mut self, actions: &mut Actions) {
        while self.applying.handed_out < self.applying.committed && self.applying.has_room() {
            let (low, high) = (self.applying.handed_out + 1, self.applying.committed + 1);
            match self.node.store().read(low, high, APPLY_WORK_BYTES) {
                Ok(entries) => self.applying.hand_out(entries, actions),
                Err(error) => fatal(&format!("cannot read entry {low} of the raft log: {error}")),
            }
        }
    }

    /// Whether committed entries wait until some of those handed out are applied.
    pub(crate) fn waits_for_apply(&self) -> bool {
        self.campaign || self.applying.handed_out < self.applying.committed
    }

    /// A lone voter need not wait for an election timeout. raft-rs refuses to campaign while
    /// configuration changes are not applied.
    fn campaign_when_all_is_applied(&mut self) {
        let log = &self.node.raft.raft_log;
        if !self.campaign || log.applied < log.committed || !self.writes.none() {
            return;
        }
        self.campaign = false;
        // The entries that were applied since the start may have changed who votes.
        if !(self.node.raft.promotable() && self.node.raft.prs().is_singleton()) {
            return;
        }
        if let Err(error) = self.node.campaign() {
            tracing::warn!(%error, "cannot campaign");
        }
    }

    /// At a stop: what was committed since the last write, if all before it is durable.
    pub(crate) fn last_write(&mut self) -> Option<NumberedWrite> {
        let hard_state = self
            .writes
            .hard_state
            .take()
            .filter(|_| self.writes.none())?;
        let write = LogWrite {
            hard_state: Some(hard_state),
            sync: true,
            ..LogWrite::default()
        };
        Some(NumberedWrite {
            write,
            ..NumberedWrite::default()
        })
    }

    /// Frees entries that nobody will read: durable, handed out, and for other voters beyond a
    /// bounded rest.
    fn evict(&mut self) {
        let raft = &self.node.raft;
        let index = raft.raft_log.persisted.min(self.applying.handed_out);
        let alone = raft.prs().is_singleton() && raft.prs().conf().learners().is_empty();
        let keep = if alone { 0 } else { CACHE_BYTES };
        self.node.mut_store().evict_before(index, keep);
    }
}

/// Bytes of entries in one work: what apply takes in one go.
pub(super) const APPLY_WORK_BYTES: u64 = 4 * 1024 * 1024;

/// Works that are handed out and not applied. A channel with this many places never blocks the
/// raft thread.
pub(crate) const APPLY_WORKS_MAX: usize = 256;

/// Bytes that are handed out and not applied, above which entries wait on disk.
const APPLY_BACKLOG_BYTES: usize = 16 * 1024 * 1024;

/// Bytes of durable and applied entries kept in memory for members that lag a little.
const CACHE_BYTES: usize = 8 * 1024 * 1024;
