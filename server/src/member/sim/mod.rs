//! Many members with fake disks and a bad network, all moved by one seed.
//!
//! Messages are lost, doubled and reordered; writes wait in queues; members crash and lose what
//! was not synced, and their state falls back to its last flush. After each step it must hold that
//! no term has two leaders, that entries with the same index and term are the same everywhere,
//! that all members apply the same entries, and that a read sees what was acknowledged before it.
//! In the end all that was ever acknowledged is applied by everybody.

mod node;
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use rand::seq::IndexedRandom;

use self::node::Node;
use super::log::Log;
use super::*;

/// What may go wrong in a run.
#[derive(Clone, Copy)]
struct Faults {
    crashes: bool,
    losses: bool,
    /// Disks say that they have synced and have not: the checks must find it.
    lying_disks: bool,
}

/// The members, and what is between them.
struct World {
    rng: SmallRng,
    faults: Faults,
    members: Vec<Node>,
    messages: Vec<Message>,
    proposals: u64,
    /// Who led which term.
    leaders: BTreeMap<u64, MemberId>,
    /// What each entry that was sent holds, by index and term.
    entries: BTreeMap<(u64, u64), Bytes>,
    /// What is applied at each index, and with which term.
    applied: BTreeMap<u64, (u64, EntryKind)>,
    /// Who was ever in the cluster, and who is out of it.
    joined: BTreeSet<MemberId>,
    removed: BTreeSet<MemberId>,
    /// A member has learned that it is out: if it is the one who decided so, with a leader's
    /// voice, those who did not hear of it may wait for it forever.
    abdicated: bool,
    /// The greatest index that a client was told of.
    acknowledged: u64,
    /// All that has happened, to compare runs.
    trace: u64,
}

type Check = Result<(), String>;

impl World {
    /// `voters` begin the cluster; `spares` wait to be added.
    fn new(seed: u64, voters: u64, spares: u64, faults: Faults) -> Self {
        let ids: Vec<_> = (1..=voters).map(MemberId::new).collect();
        let mut rng = SmallRng::seed_from_u64(seed);
        let all = (1..=voters + spares).map(MemberId::new);
        let nodes = all.map(|id| Node::new(id, &ids, faults.lying_disks, &mut rng));
        Self {
            members: nodes.collect(),
            rng,
            faults,
            messages: Vec::new(),
            proposals: 0,
            leaders: BTreeMap::new(),
            entries: BTreeMap::new(),
            applied: BTreeMap::new(),
            joined: ids.into_iter().collect(),
            removed: BTreeSet::new(),
            abdicated: false,
            acknowledged: 0,
            trace: 0,
        }
    }

    /// Lets something happen.
    fn step(&mut self) -> Check {
        let at = self.rng.random_range(0..self.members.len());
        let what = self.rng.random_range(0..100);
        self.note(&[at as u64, what]);
        match what {
            0..10 => self.event(at, Event::Tick)?,
            10..50 => self.deliver()?,
            50..65 => self.write(at)?,
            65..80 => self.apply(at)?,
            80..88 => self.propose(at)?,
            88..92 => self.ask(at)?,
            92..95 => self.flush(at)?,
            95..96 => self.transfer(at)?,
            96..97 if self.faults.crashes => self.crash(at)?,
            97..99 => self.reconfigure(at)?,
            _ => {}
        }
        Ok(())
    }

    /// Without further faults, until all is done: whatever was acknowledged is applied by
    /// everybody.
    fn settle(&mut self) -> Check {
        self.faults = Faults {
            crashes: false,
            losses: false,
            ..self.faults
        };
        let wanted = self.acknowledged;
        for round in 0.. {
            for at in 0..self.members.len() {
                self.event(at, Event::Tick)?;
                while !self.members[at].writes.is_empty() {
                    self.write(at)?;
                }
                self.apply(at)?;
            }
            for _ in 0..self.messages.len() {
                self.deliver()?;
            }
            let behind = self.members.iter().any(|node| {
                let gone = self.removed.contains(&node.id) || !self.joined.contains(&node.id);
                !gone && node.state.index < wanted
            });
            if !behind && round > 100 || self.abdicated && round > 500 {
                return Ok(());
            }
            if round > 3000 {
                let states: Vec<_> = self.members.iter().map(|node| node.state.index).collect();
                return Err(format!("acknowledged {wanted}, but applied {states:?}"));
            }
        }
        Ok(())
    }

    fn event(&mut self, at: usize, event: Event) -> Check {
        let mut actions = Actions::default();
        self.members[at].member.on_event(event, &mut actions);
        self.act(at, actions)
    }

    fn act(&mut self, at: usize, mut actions: Actions) -> Check {
        let node = &mut self.members[at];
        node.member.actions(&mut actions);
        let node = &mut self.members[at];
        node.writes.extend(actions.writes);
        node.work
            .extend(actions.committed.into_iter().flat_map(|work| work.entries));
        for (context, index) in actions.read_states {
            // A message that was doubled gives two answers.
            let Some(needed) = node.asked.remove(&context) else {
                continue;
            };
            if index.get() < needed {
                return Err(format!(
                    "a read sees {index} after {needed} was acknowledged"
                ));
            }
        }
        let status = node.member.status();
        if status.is_leader() {
            let leader = *self.leaders.entry(status.term.get()).or_insert(node.id);
            if leader != node.id {
                return Err(format!(
                    "{leader} and {} lead term {}",
                    node.id, status.term
                ));
            }
        }
        let (id, sole_voter) = (node.id, node.member.sole_voter_read_index());
        if let Some(index) = sole_voter.filter(|index| index.get() < self.acknowledged) {
            return Err(format!(
                "{id} alone reads {index} after {}",
                self.acknowledged
            ));
        }
        self.note(&[status.term.get(), status.committed.get(), status.last.get()]);
        self.send(actions.messages)
    }

    /// What leaves a member must be the same wherever it comes from, also from one that leads a
    /// term again because it forgot that it did.
    fn send(&mut self, messages: Vec<Message>) -> Check {
        for entry in messages.iter().flat_map(|message| &message.entries) {
            if entry.index == 0 {
                continue;
            }
            let known = self.entries.entry((entry.index, entry.term));
            if *known.or_insert(entry.data.clone()) != entry.data {
                return Err(format!(
                    "two entries {} of term {}",
                    entry.index, entry.term
                ));
            }
        }
        self.messages.extend(messages);
        Ok(())
    }

    fn deliver(&mut self) -> Check {
        if self.messages.is_empty() {
            return Ok(());
        }
        // Mostly in order, as a connection has it.
        let first = self.rng.random_bool(0.8);
        let which = if first {
            0
        } else {
            self.rng.random_range(0..self.messages.len())
        };
        let message = self.messages.remove(which);
        if self.faults.losses && self.rng.random_bool(0.05) {
            return Ok(());
        }
        if self.faults.losses && self.rng.random_bool(0.02) {
            self.messages.push(message.clone());
        }
        let Some(at) = self
            .members
            .iter()
            .position(|node| node.id.get() == message.to)
        else {
            return Ok(());
        };
        // Over the wire and back, as between processes.
        match wire::from_peer(wire::to_peer(message)) {
            Ok(message) => self.event(at, Event::Message(message)),
            Err(WireError::Snapshot) => Ok(()),
            Err(error) => Err(error.to_string()),
        }
    }

    /// The log thread takes some of what waits.
    fn write(&mut self, at: usize) -> Check {
        let node = &mut self.members[at];
        let Some(most) = node.writes.len().checked_sub(1) else {
            return Ok(());
        };
        let count = self.rng.random_range(0..=most) + 1;
        let mut merged = LogWrite::default();
        let mut last = 0;
        let mut messages = Vec::new();
        for write in node.writes.drain(..count) {
            merged.absorb(write.write);
            messages.extend(write.messages);
            last = write.number;
        }
        node.disk.write(&merged).expect("a fake disk takes all");
        self.send(messages)?;
        self.event(at, Event::Persisted(last))
    }

    /// The apply thread takes some of what waits. A client of the leader hears of it.
    fn apply(&mut self, at: usize) -> Check {
        let count = self.rng.random_range(0..=self.members[at].work.len());
        for _ in 0..count {
            let node = &mut self.members[at];
            let Some(entry) = node.work.pop_front() else {
                break;
            };
            let (index, term) = (entry.index.get(), entry.term.get());
            if index != node.state.index + 1 {
                return Err(format!(
                    "{} applies {index} after {}",
                    node.id, node.state.index
                ));
            }
            let known = self
                .applied
                .entry(index)
                .or_insert((term, entry.kind.clone()));
            if *known != (term, entry.kind.clone()) {
                return Err(format!(
                    "{} applies another entry {index} than others",
                    node.id
                ));
            }
            (node.state.index, node.state.term) = (index, term);
            if let EntryKind::ConfChange(data) = &entry.kind {
                let change = ConfChange::decode(data).expect("a change of ours");
                node.change(&change)?;
                self.abdicated |= node.state.removed.contains(&node.id);
                let conf_state = node.state.conf_state.iter();
                let members = conf_state.flat_map(|s| s.voters.iter().chain(&s.learners));
                self.joined.extend(members);
                self.removed.extend(&node.state.removed);
            }
            self.acknowledged = self.acknowledged.max(index);
        }
        let applied = Index::new(self.members[at].state.index);
        self.event(at, Event::Applied(applied))
    }

    fn propose(&mut self, at: usize) -> Check {
        self.proposals += 1;
        let data = Bytes::from(format!("proposal {}", self.proposals));
        let proposal = Proposal {
            id: RequestId::new(self.proposals),
            data,
            decoded: None,
            only_in: None,
        };
        self.event(at, Event::Propose(vec![proposal]))
    }

    fn ask(&mut self, at: usize) -> Check {
        let node = &mut self.members[at];
        node.reads += 1;
        node.asked.insert(node.reads, self.acknowledged);
        let context = node.reads;
        self.event(at, Event::ReadIndex(context))
    }

    /// The state becomes durable, and the log may forget what nobody needs any more.
    fn flush(&mut self, at: usize) -> Check {
        let node = &mut self.members[at];
        node.flushed = node.state.clone();
        // A member that is behind would need a snapshot.
        let everywhere = self
            .members
            .iter()
            .map(|node| node.flushed.index)
            .min()
            .unwrap_or(0);
        self.event(at, Event::CompactLog(Index::new(everywhere)))
    }

    fn transfer(&mut self, at: usize) -> Check {
        let ids: Vec<_> = self.members.iter().map(|node| node.id).collect();
        let to = *ids.choose(&mut self.rng).expect("there are members");
        self.event(at, Event::TransferLeader(to))
    }

    /// Somebody is to be added, promoted or removed; the rules of membership come when it is
    /// applied.
    fn reconfigure(&mut self, at: usize) -> Check {
        let ids: Vec<_> = self.members.iter().map(|node| node.id).collect();
        let member = *ids.choose(&mut self.rng).expect("there are members");
        let kinds = [
            ConfChangeKind::AddNode,
            ConfChangeKind::AddLearnerNode,
            ConfChangeKind::AddLearnerNode,
            ConfChangeKind::UpdateNode,
            ConfChangeKind::RemoveNode,
        ];
        let kind = *kinds.choose(&mut self.rng).expect("there are kinds");
        let change = ConfChange {
            id: 0,
            kind,
            member,
            context: Bytes::new(),
        };
        self.event(at, Event::ProposeConfChange(change.encode()))
    }

    fn crash(&mut self, at: usize) -> Check {
        let node = &mut self.members[at];
        // The log thread may have been anywhere.
        for write in node.writes.drain(..) {
            if self.rng.random_bool(0.5) {
                break;
            }
            let unsynced = LogWrite {
                sync: false,
                ..write.write
            };
            node.disk.write(&unsynced).expect("a fake disk takes all");
        }
        node.disk.crash(&mut self.rng);
        node.restart(&mut self.rng)?;
        self.act(at, Actions::default())
    }

    fn note(&mut self, what: &[u64]) {
        for number in what {
            self.trace = self.trace.rotate_left(5) ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        }
    }
}
