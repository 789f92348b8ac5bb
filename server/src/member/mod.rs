//! The member core: raft as a machine that takes events and gives actions.
//!
//! [`Member`] does no I/O and reads no clock, no global and no random source but its seed; it does
//! not know what an entry means. The [`driver`] gives it threads, a disk and time; the simulation
//! gives it a fake of each. raft-rs, raft-engine and rust-protobuf are named in this module only.

mod boot;
mod cache;
mod conf_change;
mod driver;
mod entry;
#[cfg(any(test, feature = "simulation"))]
mod fake_disk;
mod fatal;
mod force;
mod gather;
mod handover;
mod install;
mod kept_log;
mod log;
mod log_damage;
mod log_file;
mod logging;
mod mailbox;
mod read_index;
mod ready;
#[cfg(test)]
mod sim;
mod status;
mod threads;
mod wire;

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use raft::eraftpb::{HardState, Message, MessageType};
use raft::{RawNode, SnapshotStatus, StateRole};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use trilith_proto::etcdserverpb::InternalRaftRequest;

use self::cache::CachedLog;
use self::entry::entry;
use self::log::{Base, LogReader, LogWrite, Recovered};
use crate::ids::{Index, MemberId, RequestId, Term};
use crate::planted::{Bug, is_planted};

pub use self::boot::{BootError, Misfit};
pub use self::conf_change::{ConfChange, ConfChangeError, ConfChangeKind, ConfState};
pub use self::driver::{
    CommittedSink, MemberHandle, MemberLog, MemberOptions, OfferRefused, ProposeRefused, StartError,
};
pub use self::entry::{ApplyWork, CommittedEntry, EntryKind, Proposal};
#[cfg(any(test, feature = "simulation"))]
pub use self::fake_disk::{FakeDisk, WrittenEntry};
pub use self::fatal::fatal;
pub use self::install::LogAnew;
pub use self::kept_log::{KeptLog, KeptLogError};
pub use self::log::LogError;
pub use self::status::{MemberStatus, Progress, Role};
#[cfg(feature = "simulation")]
pub use self::threads::stepped::SteppedMember;
pub use self::wire::WireError;

/// One member's raft, with what is needed to use it as etcd does.
pub(crate) struct Member {
    id: MemberId,
    boot_epoch: u64,
    node: RawNode<CachedLog>,
    rng: SmallRng,
    election_ticks: usize,
    catch_up_entries: u64,
    /// The timeout that was last drawn from our own seed.
    election_timeout: usize,
    /// Whether to campaign as soon as there is nothing left to apply.
    campaign: bool,
    /// Reads that came before there was somebody to answer them; at most [`HELD_READS_MAX`].
    held_reads: VecDeque<u64>,
    /// Proposals of others that came while nobody took any.
    held_proposals: handover::HeldProposals,
    gathered: gather::Gathered,
    /// Proposals with changes that wait until the one under way is applied.
    held_changes: VecDeque<Message>,
    writes: ready::Writes,
    applying: ready::Applying,
}

/// What a member is made of.
pub(crate) struct MemberConfig {
    pub(crate) id: MemberId,
    /// How often this log was started: makes ReadIndex contexts unique.
    pub(crate) boot_epoch: u64,
    /// The election timeout, in ticks; a heartbeat is one tick.
    pub(crate) election_ticks: usize,
    pub(crate) pre_vote: bool,
    /// Entries kept behind the compacted ones, for members that lag.
    pub(crate) catch_up_entries: u64,
    /// Where the election timeouts are drawn from.
    pub(crate) seed: u64,
    /// Index that the state has applied.
    pub(crate) applied: Index,
    /// Who votes at that index.
    pub(crate) conf_state: ConfState,
}

/// What happens to a member.
#[derive(Debug)]
pub(crate) enum Event {
    /// A heartbeat interval has passed.
    Tick,
    /// A message came from a peer.
    Message(Message),
    /// Requests to be put into the log, in this order.
    Propose(Vec<Proposal>),
    /// An encoded configuration change to be put into the log.
    ProposeConfChange(Bytes),
    /// Somebody wants to know what a linearizable read must see. The context is not used again.
    ReadIndex(u64),
    /// The write of this number is durable, and so are all before it.
    Persisted(u64),
    /// All entries up to this one are applied.
    Applied(Index),
    /// Another member shall lead.
    TransferLeader(MemberId),
    /// So many heartbeat intervals count as passed, unless somebody leads.
    AdvanceTicks(usize),
    /// A message to this peer was lost: it is sent less until it answers.
    Unreachable(MemberId),
    /// A snapshot has come to this peer, or not.
    SnapshotSent(MemberId, bool),
    /// The state is durable up to this index: older entries may go.
    CompactLog(Index),
}

/// What is to be done about it.
#[derive(Debug, Default)]
pub(crate) struct Actions {
    /// To be sent at once.
    pub(crate) messages: Vec<Message>,
    /// To be written, in this order.
    pub(crate) writes: Vec<NumberedWrite>,
    /// To be applied.
    pub(crate) committed: Vec<ApplyWork>,
    /// Answers to [`Event::ReadIndex`]: context and index.
    pub(crate) read_states: Vec<(u64, Index)>,
    /// Proposals that were not taken: they will never be in the log.
    pub(crate) dropped: Vec<RequestId>,
}

/// A write, and what may be said once it is durable.
#[derive(Debug, Default)]
pub(crate) struct NumberedWrite {
    /// For [`Event::Persisted`]; ascending.
    pub(crate) number: u64,
    /// May be empty: then only the order counts.
    pub(crate) write: LogWrite,
    /// To be sent after it is durable.
    pub(crate) messages: Vec<Message>,
}

impl Member {
    /// Continues from what was found in the log, which the boot checks have passed.
    pub(crate) fn new(
        config: MemberConfig,
        recovered: &Recovered,
        reader: Arc<dyn LogReader>,
    ) -> raft::Result<Self> {
        let raft_config = raft::Config {
            id: config.id.get(),
            election_tick: config.election_ticks,
            heartbeat_tick: 1,
            applied: config.applied.get(),
            max_size_per_msg: MESSAGE_BYTES_MAX,
            max_inflight_msgs: MESSAGES_IN_FLIGHT_MAX,
            check_quorum: true,
            pre_vote: config.pre_vote,
            // raft-rs draws from thread_rng. Out of a range so wide its draw is never one of ours,
            // so that each draw is noticed and replaced by one from our seed.
            max_election_tick: usize::MAX / 2,
            max_committed_size_per_ready: ready::APPLY_WORK_BYTES,
            ..raft::Config::default()
        };
        let conf_state = config.conf_state.for_raft();
        let log = CachedLog::new(reader, recovered, conf_state);
        let node = RawNode::new(&raft_config, log, &logging::logger())?;
        let applied = config.applied.get();
        let sole_voter = config.conf_state.voters == [config.id];
        let mut member = Self {
            id: config.id,
            boot_epoch: config.boot_epoch,
            node,
            rng: SmallRng::seed_from_u64(config.seed),
            election_ticks: config.election_ticks,
            catch_up_entries: config.catch_up_entries,
            election_timeout: 0,
            campaign: sole_voter,
            held_reads: VecDeque::new(),
            held_proposals: handover::HeldProposals::default(),
            gathered: gather::Gathered::default(),
            held_changes: VecDeque::new(),
            writes: ready::Writes::new(&recovered.hard_state),
            applying: ready::Applying::new(applied),
        };
        member.draw_election_timeout();
        Ok(member)
    }

    /// Takes an event. What is to be done about it comes with the next [`Self::actions`], so that
    /// several events can share one write.
    pub(crate) fn on_event(&mut self, event: Event, actions: &mut Actions) {
        match event {
            Event::Tick => self.on_tick(),
            Event::Message(message) => self.on_message(message),
            Event::Propose(proposals) => self.on_propose(proposals, actions),
            Event::ProposeConfChange(data) => self.on_propose_conf_change(data),
            Event::ReadIndex(context) => self.on_read_index(context, actions),
            Event::Persisted(number) => self.on_persisted(number),
            Event::Applied(index) => self.on_applied(index),
            Event::TransferLeader(to) => self.node.transfer_leader(to.get()),
            Event::AdvanceTicks(ticks) => self.on_advance_ticks(ticks),
            Event::Unreachable(peer) => self.node.report_unreachable(peer.get()),
            Event::SnapshotSent(peer, arrived) => self.on_snapshot_sent(peer, arrived),
            Event::CompactLog(durable) => self.on_compact_log(durable),
        }
        self.draw_election_timeout();
    }

    /// Tells raft that a committed configuration change was applied; `None` for one that the rules
    /// of membership refused. Returns who votes from then on.
    ///
    /// # Errors
    ///
    /// When it would leave no voter.
    pub(crate) fn apply_conf_change(
        &mut self,
        change: Option<&ConfChange>,
    ) -> raft::Result<ConfState> {
        let state = match change.and_then(ConfChange::for_raft) {
            Some(change) => self.node.apply_conf_change(&change)?,
            None => self.node.raft.prs().conf().to_conf_state(),
        };
        self.step_down_if_removed();
        self.draw_election_timeout();
        Ok(ConfState::from_raft(&state))
    }

    /// raft-rs lets a member lead on, or stand for election, that has removed itself, and then
    /// misses it among those whose progress it knows.
    ///
    /// What is committed was told to the others with their last message or is told now; as in
    /// etcd, those who miss it and cannot reach the removed member any more may be left without a
    /// majority.
    fn step_down_if_removed(&mut self) {
        let raft = &mut self.node.raft;
        if raft.state == StateRole::Follower || raft.prs().get(raft.id).is_some() {
            return;
        }
        if raft.state == StateRole::Leader {
            raft.bcast_append();
        }
        let term = raft.term;
        raft.become_follower(term, 0);
    }

    /// What others may know.
    pub(crate) fn status(&self) -> MemberStatus {
        let raft = &self.node.raft;
        MemberStatus {
            leader: Some(raft.leader_id)
                .filter(|id| *id != 0)
                .map(MemberId::new),
            term: Term::new(raft.term),
            committed: Index::new(raft.raft_log.committed),
            applied: Index::new(raft.raft_log.applied),
            last: Index::new(raft.raft_log.last_index()),
            role: match raft.state {
                StateRole::Follower => Role::Follower,
                StateRole::PreCandidate => Role::PreCandidate,
                StateRole::Candidate => Role::Candidate,
                StateRole::Leader => Role::Leader,
            },
            is_learner: raft.prs().conf().learners().contains(&self.id.get()),
        }
    }

    /// How far another member's log is.
    pub(crate) fn progress(&self, id: MemberId) -> Progress {
        let raft = &self.node.raft;
        if raft.state != StateRole::Leader {
            return Progress::NotLeader;
        }
        let matched = |id| {
            raft.prs()
                .get(id)
                .map(|progress| Index::new(progress.matched))
        };
        match (matched(id.get()), matched(raft.id)) {
            (Some(matched), Some(leader)) => Progress::Known { matched, leader },
            _ => Progress::Unknown,
        }
    }

    /// The index that a linearizable read must see, if this member alone decides: it leads, it is
    /// the only voter, and has committed in its term.
    pub(crate) fn sole_voter_read_index(&self) -> Option<Index> {
        let raft = &self.node.raft;
        let decides = raft.state == StateRole::Leader
            && raft.prs().is_singleton()
            && raft.commit_to_current_term();
        decides.then(|| Index::new(raft.raft_log.committed))
    }

    /// Whether this member leads and is the only voter, so that a write of its own is all it takes
    /// to commit.
    pub(crate) fn is_sole_voter(&self) -> bool {
        self.node.raft.state == StateRole::Leader && self.node.raft.prs().is_singleton()
    }

    fn on_tick(&mut self) {
        if !self.may_campaign() {
            return;
        }
        self.node.tick();
    }

    fn on_advance_ticks(&mut self, ticks: usize) {
        for _ in 0..ticks.min(self.election_ticks) {
            if self.node.raft.leader_id != 0 {
                return;
            }
            self.on_tick();
        }
    }

    /// A lone voter wins as soon as it campaigns, and raft-rs then asserts that its log is
    /// durable.
    fn may_campaign(&self) -> bool {
        let raft = &self.node.raft;
        raft.state == StateRole::Leader || !raft.prs().is_singleton() || self.writes.none()
    }

    fn on_message(&mut self, message: Message) {
        if message.get_msg_type() == MessageType::MsgTimeoutNow && !self.may_campaign() {
            return;
        }
        if message.get_msg_type() == MessageType::MsgPropose {
            return self.on_forwarded(message);
        }
        if let Err(error) = self.node.step(message) {
            tracing::debug!(%error, "a message was not taken");
        }
    }

    fn on_propose(&mut self, mut proposals: Vec<Proposal>, actions: &mut Actions) {
        let leads = self.node.raft.state == StateRole::Leader;
        let term = Term::new(self.node.raft.term);
        proposals.retain(|proposal| {
            let is_void = proposal.only_in.is_some_and(|only| !leads || only != term);
            if is_void {
                actions.dropped.push(proposal.id);
            }
            !is_void
        });
        let entries = proposals
            .iter()
            .map(|p| entry(EntryKind::Normal(p.data.clone())));
        let mut entries: Vec<_> = entries.collect();
        if leads && self.has_taker() {
            // Behind those of this member, which are found again by their place.
            entries.append(&mut self.take_gathered());
        }
        self.propose_gathered();
        if entries.is_empty() {
            return self.tell_commit(false);
        }
        let message = self.proposal_of(entries);
        let before = self.node.raft.raft_log.last_index();
        let taken = self.node.step(message);
        self.tell_commit(leads && taken.is_ok());
        if taken.is_err() {
            actions
                .dropped
                .extend(proposals.iter().map(|proposal| proposal.id));
            return;
        }
        if leads {
            let term = self.node.raft.term;
            for (index, proposal) in (before + 1..).zip(proposals) {
                self.applying.remember(index, term, proposal.decoded);
            }
        }
    }

    /// Whether the state of the snapshot that `message` names is needed here. If it is, raft has
    /// not heard of it: such a state is taken over while raft does not run. If it is not, because
    /// the log has all of it or its sender does not lead any more, raft answers.
    pub(crate) fn needs_snapshot(&mut self, message: Message) -> bool {
        let raft = &self.node.raft;
        let metadata = message.get_snapshot().get_metadata();
        let (index, term) = (metadata.index, metadata.term);
        let leads = raft.state == StateRole::Leader && message.term <= raft.term;
        let is_old = leads || message.term < raft.term;
        let committed = raft.raft_log.committed;
        let is_here = index < committed || raft.raft_log.match_term(index, term);
        let takes_any = is_planted(Bug::SnapshotTakenAnyway);
        if is_old || is_here && !takes_any {
            self.on_message(message);
            self.draw_election_timeout();
        }
        // One that contradicts what is committed here comes from no member.
        !is_old && (takes_any || !is_here && index > committed)
    }

    /// Raft goes on behind the snapshot, or tries again.
    fn on_snapshot_sent(&mut self, peer: MemberId, arrived: bool) {
        let status = if arrived {
            SnapshotStatus::Finish
        } else {
            SnapshotStatus::Failure
        };
        self.node.report_snapshot(peer.get(), status);
    }

    fn on_compact_log(&mut self, durable: Index) {
        let raft = &self.node.raft;
        let limit = durable
            .get()
            .min(raft.raft_log.applied)
            .min(raft.raft_log.persisted);
        // Entries are kept for members that lag. Alone there is none, and a member that joins
        // begins with a snapshot.
        let is_alone = raft.prs().iter().all(|(id, _)| *id == self.id.get());
        let kept = if is_alone { 0 } else { self.catch_up_entries };
        let index = limit.saturating_sub(kept);
        let log = self.node.mut_store();
        if index <= log.base().index {
            return;
        }
        match log.compact(index) {
            Ok(base) => {
                tracing::debug!("compact-index" = index, "compacted Raft logs");
                self.writes.compact(base);
            }
            Err(error) => tracing::warn!(%error, index, "the log was not compacted"),
        }
    }

    /// Replaces a timeout that raft-rs has drawn by one of our own.
    fn draw_election_timeout(&mut self) {
        if self.node.raft.randomized_election_timeout() == self.election_timeout {
            return;
        }
        self.election_timeout = self
            .rng
            .random_range(self.election_ticks..2 * self.election_ticks);
        self.node
            .raft
            .set_randomized_election_timeout(self.election_timeout);
    }
}

/// As etcd has it: an append message carries no more than this, unless one entry is larger.
const MESSAGE_BYTES_MAX: u64 = 1024 * 1024;

/// As etcd has it: so many append messages may be on their way to one follower.
const MESSAGES_IN_FLIGHT_MAX: usize = 512;

/// Reads held until there is a leader. Each reader that waits has one at a time; more are older
/// retries of it.
const HELD_READS_MAX: usize = 64;
