//! What others may know about the member, published by the raft thread and read without a lock.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::ids::{Index, MemberId, Term};

/// What a member does in its term.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Role {
    /// Takes entries from the leader.
    Follower = 0,
    /// Asks whether it would be elected.
    PreCandidate = 1,
    /// Stands for election.
    Candidate = 2,
    /// Leads.
    Leader = 3,
}

/// The member as the raft thread last saw it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemberStatus {
    /// Who leads, as far as is known.
    pub leader: Option<MemberId>,
    /// The current term.
    pub term: Term,
    /// The last entry that is known to be committed.
    pub committed: Index,
    /// The last entry that is applied.
    pub applied: Index,
    /// The last entry in the log, durable or not.
    pub last: Index,
    /// What this member does.
    pub role: Role,
    /// Whether it has no vote.
    pub is_learner: bool,
}

impl MemberStatus {
    /// Who leads, as far as is known.
    pub fn leader(&self) -> Option<MemberId> {
        self.leader
    }

    /// The current term.
    pub fn term(&self) -> Term {
        self.term
    }

    /// The last entry that is known to be committed.
    pub fn committed(&self) -> Index {
        self.committed
    }

    /// The last entry that is applied.
    pub fn applied(&self) -> Index {
        self.applied
    }

    /// Whether this member leads.
    pub fn is_leader(&self) -> bool {
        self.role == Role::Leader
    }
}

/// The published status. Its fields are stored one by one: a reader may see some of a change
/// before the rest.
#[derive(Debug, Default)]
pub(crate) struct SharedStatus {
    leader: AtomicU64,
    term: AtomicU64,
    committed: AtomicU64,
    /// Written by the apply thread.
    applied: AtomicU64,
    last: AtomicU64,
    role: AtomicU8,
    is_learner: AtomicBool,
    /// See [`super::Member::sole_voter_read_index`]; 0 for none.
    sole_voter_read_index: AtomicU64,
    /// The first entry of this member's last leadership, before which whatever earlier leaders have
    /// decided stands.
    led_from: AtomicU64,
}

impl SharedStatus {
    /// Publishes all but what is applied. The raft thread does so before it hands committed
    /// entries out, so that whoever hears that a write took effect finds it in the read index.
    pub(crate) fn publish(&self, status: &MemberStatus, sole_voter_read_index: Option<Index>) {
        if status.is_leader() && !self.leads_in(status.term) {
            // It puts an entry of its own in before anybody else's.
            self.led_from.store(status.last.get(), Ordering::Relaxed);
        }
        self.leader
            .store(status.leader.map_or(0, MemberId::get), Ordering::Relaxed);
        self.term.store(status.term.get(), Ordering::Relaxed);
        self.committed
            .store(status.committed.get(), Ordering::Relaxed);
        self.last.store(status.last.get(), Ordering::Relaxed);
        self.role.store(status.role as u8, Ordering::Relaxed);
        self.is_learner.store(status.is_learner, Ordering::Relaxed);
        let index = sole_voter_read_index.map_or(0, Index::get);
        self.sole_voter_read_index.store(index, Ordering::Release);
    }

    fn leads_in(&self, term: Term) -> bool {
        let leads = self.role.load(Ordering::Relaxed) == Role::Leader as u8;
        leads && self.term.load(Ordering::Relaxed) == term.get()
    }

    /// Whether a leader knows all that earlier leaders have decided. Of no meaning on others.
    pub(crate) fn has_caught_up(&self) -> bool {
        self.applied().get() >= self.led_from.load(Ordering::Relaxed)
    }

    pub(crate) fn set_applied(&self, index: Index) {
        self.applied.store(index.get(), Ordering::Release);
    }

    pub(crate) fn applied(&self) -> Index {
        Index::new(self.applied.load(Ordering::Acquire))
    }

    pub(crate) fn sole_voter_read_index(&self) -> Option<Index> {
        let index = self.sole_voter_read_index.load(Ordering::Acquire);
        (index != 0).then(|| Index::new(index))
    }

    pub(crate) fn load(&self) -> MemberStatus {
        let leader = self.leader.load(Ordering::Relaxed);
        MemberStatus {
            leader: (leader != 0).then(|| MemberId::new(leader)),
            term: Term::new(self.term.load(Ordering::Relaxed)),
            // Loaded before what is committed, which is thus never behind it.
            applied: self.applied(),
            committed: Index::new(self.committed.load(Ordering::Relaxed)),
            last: Index::new(self.last.load(Ordering::Relaxed)),
            role: match self.role.load(Ordering::Relaxed) {
                0 => Role::Follower,
                1 => Role::PreCandidate,
                2 => Role::Candidate,
                _ => Role::Leader,
            },
            is_learner: self.is_learner.load(Ordering::Relaxed),
        }
    }
}

/// Whether the raft thread keeps time: only then does a leader that was cut off find out in time
/// that it leads no longer.
#[derive(Debug)]
pub(crate) struct Pace {
    /// A tick that comes later than this means that raft has stood still.
    slack: Duration,
    /// How long it takes a leader, at most, to see that it has lost its majority.
    settles_after: Duration,
    ticks: Mutex<Ticks>,
}

#[derive(Debug)]
struct Ticks {
    last: Instant,
    /// The first tick since raft has last stood still; `None` before that.
    resumed: Option<Instant>,
}

impl Pace {
    /// Three ticks may be missing, as in etcd's `isActive`. Leaders look for their majority once
    /// in an election timeout, and at what was heard since the last look.
    pub(crate) fn new(heartbeat: Duration, election_ticks: usize, now: Instant) -> Self {
        let election_ticks = u32::try_from(election_ticks).unwrap_or(u32::MAX);
        Self {
            slack: heartbeat * 3,
            settles_after: heartbeat.saturating_mul(election_ticks).saturating_mul(2),
            ticks: Mutex::new(Ticks {
                last: now,
                resumed: None,
            }),
        }
    }

    pub(crate) fn tick(&self, now: Instant) {
        let mut ticks = self.ticks.lock();
        if now.duration_since(ticks.last) > self.slack {
            ticks.resumed = Some(now);
        }
        ticks.last = now;
    }

    /// Whether raft has ticked in time for long enough, up to now.
    pub(crate) fn is_steady(&self, now: Instant) -> bool {
        let ticks = self.ticks.lock();
        let is_late = now.duration_since(ticks.last) > self.slack;
        let is_settled = |resumed| now.duration_since(resumed) > self.settles_after;
        !is_late && ticks.resumed.is_none_or(is_settled)
    }
}

/// How far the log of a member is, as the leader knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// The member that was asked does not lead.
    NotLeader,
    /// There is no such member.
    Unknown,
    /// Both logs agree up to `matched`; the leader's ends, durably, at `leader`.
    Known {
        /// The last entry that the member is known to have.
        matched: Index,
        /// The last one of the leader's own.
        leader: Index,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leader_has_caught_up_once_the_first_entry_of_its_term_is_applied() {
        let shared = SharedStatus::default();
        let leads = |last| MemberStatus {
            leader: Some(MemberId::new(1)),
            term: Term::new(2),
            committed: Index::new(5),
            applied: Index::new(0),
            last: Index::new(last),
            role: Role::Leader,
            is_learner: false,
        };
        shared.set_applied(Index::new(6));
        shared.publish(&leads(7), None);
        assert!(!shared.has_caught_up());
        shared.set_applied(Index::new(7));
        assert!(shared.has_caught_up());
        shared.publish(&leads(9), None);
        assert!(shared.has_caught_up(), "these are its own");
    }

    #[test]
    fn raft_is_steady_unless_it_stands_still_or_has_done_so_lately() {
        let begin = Instant::now();
        let at = |millis| begin + Duration::from_millis(millis);
        let pace = Pace::new(Duration::from_millis(100), 10, begin);
        assert!(pace.is_steady(at(300)));
        assert!(!pace.is_steady(at(301)), "three ticks are missing");
        pace.tick(at(250));
        assert!(pace.is_steady(at(550)));
        pace.tick(at(1000));
        assert!(!pace.is_steady(at(1000)), "it has just resumed");
        for millis in (1100..=3000).step_by(100) {
            pace.tick(at(millis));
        }
        assert!(!pace.is_steady(at(3000)));
        assert!(pace.is_steady(at(3001)), "two election timeouts later");
    }
}
