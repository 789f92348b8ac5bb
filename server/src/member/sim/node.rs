//! One member of the simulation: its core, its disk, its state and what waits for its threads.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::Check;
use crate::member::boot::{self, Applied};
use crate::member::fake_disk::FakeDisk;
use crate::member::log::Log;
use crate::member::*;

/// One member with its disk and its state.
pub(super) struct Node {
    pub(super) id: MemberId,
    pub(super) member: Member,
    pub(super) disk: FakeDisk,
    pub(super) writes: VecDeque<NumberedWrite>,
    pub(super) work: VecDeque<CommittedEntry>,
    pub(super) state: State,
    /// The state as the last flush left it.
    pub(super) flushed: State,
    pub(super) reads: u64,
    /// Reads of this start: what they must see at least.
    pub(super) asked: BTreeMap<u64, u64>,
}

#[derive(Clone, Default)]
pub(super) struct State {
    pub(super) index: u64,
    pub(super) term: u64,
    pub(super) conf_state: Option<ConfState>,
    /// Members that were removed never come back.
    pub(super) removed: BTreeSet<MemberId>,
}

impl Node {
    pub(super) fn new(id: MemberId, voters: &[MemberId], lies: bool, rng: &mut SmallRng) -> Self {
        let disk = FakeDisk::default();
        let mut state = State::default();
        if voters.contains(&id) {
            begin_log(&disk, voters);
        } else {
            // Whoever joins learns from the leader who votes.
            state.conf_state = Some(ConfState::default());
        }
        disk.set_lies(lies);
        let member = start(id, &disk, &state, rng).expect("a new log fits");
        Self {
            id,
            member,
            disk,
            writes: VecDeque::new(),
            work: VecDeque::new(),
            state: state.clone(),
            flushed: state,
            reads: 0,
            asked: BTreeMap::new(),
        }
    }

    /// The rules of membership, as far as raft needs them, and then the change.
    pub(super) fn change(&mut self, change: &ConfChange) -> Check {
        let State {
            conf_state,
            removed,
            ..
        } = &self.state;
        let now = conf_state.clone().unwrap_or_default();
        let allowed = !removed.contains(&change.member)
            && match change.kind {
                ConfChangeKind::AddNode | ConfChangeKind::UpdateNode => true,
                ConfChangeKind::AddLearnerNode => !now.voters.contains(&change.member),
                ConfChangeKind::RemoveNode => now.voters.iter().any(|id| *id != change.member),
            };
        let state = self
            .member
            .apply_conf_change(Some(change).filter(|_| allowed));
        self.state.conf_state = Some(state.map_err(|error| error.to_string())?);
        if allowed && change.kind == ConfChangeKind::RemoveNode {
            self.state.removed.insert(change.member);
        }
        Ok(())
    }

    pub(super) fn restart(&mut self, rng: &mut SmallRng) -> Check {
        self.member = start(self.id, &self.disk, &self.flushed, rng)?;
        self.state = self.flushed.clone();
        self.writes.clear();
        self.work.clear();
        self.asked.clear();
        Ok(())
    }
}

pub(super) fn start(
    id: MemberId,
    disk: &FakeDisk,
    state: &State,
    rng: &mut SmallRng,
) -> Result<Member, String> {
    let recovered = disk.open();
    let applied = Applied {
        index: state.index,
        term: state.term,
    };
    let checked = boot::check(recovered, disk, applied).map_err(|misfit| misfit.to_string())?;
    let conf_state = match &state.conf_state {
        Some(conf_state) => conf_state.clone(),
        None => boot::first_conf_state(&checked, disk).map_err(|misfit| misfit.to_string())?,
    };
    let config = MemberConfig {
        id,
        boot_epoch: checked.boot_epoch,
        election_ticks: 10,
        pre_vote: true,
        catch_up_entries: 3,
        seed: rng.random(),
        applied: Index::new(state.index),
        conf_state,
    };
    let reader: Arc<dyn LogReader> = Arc::new(disk.clone());
    Member::new(config, &checked, reader).map_err(|error| error.to_string())
}

fn begin_log(disk: &FakeDisk, voters: &[MemberId]) {
    let mut first = LogWrite {
        sync: true,
        ..LogWrite::default()
    };
    for (index, voter) in (1..).zip(voters) {
        let (kind, context) = (ConfChangeKind::AddNode, Bytes::from_static(b"{}"));
        let change = ConfChange {
            id: 0,
            kind,
            member: *voter,
            context,
        };
        let mut entry = entry(EntryKind::ConfChange(change.encode()));
        (entry.index, entry.term) = (index, 1);
        first.entries.push(entry);
    }
    let commit = voters.len() as u64;
    first.hard_state = Some(HardState {
        term: 1,
        commit,
        ..HardState::default()
    });
    disk.write(&first).expect("a fake disk takes all");
}
