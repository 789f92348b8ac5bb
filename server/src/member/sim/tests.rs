//! Runs of the simulation, and scenarios in it.

use std::panic::catch_unwind;

use super::node::start;
use super::*;

/// Runs per size; `TRILITH_SIM_SEEDS` asks for more.
fn seeds() -> u64 {
    let asked = std::env::var("TRILITH_SIM_SEEDS");
    asked.ok().and_then(|text| text.parse().ok()).unwrap_or(20)
}

const ALL: Faults = Faults {
    crashes: true,
    losses: true,
    lying_disks: false,
};

fn run(seed: u64, members: u64, steps: u64, faults: Faults) -> Result<World, String> {
    run_with_spares(seed, members, 0, steps, faults)
}

fn run_with_spares(
    seed: u64,
    members: u64,
    spares: u64,
    steps: u64,
    faults: Faults,
) -> Result<World, String> {
    let mut world = World::new(seed, members, spares, faults);
    for step in 0..steps {
        world
            .step()
            .map_err(|error| format!("seed {seed}, step {step}: {error}"))?;
    }
    world
        .settle()
        .map_err(|error| format!("seed {seed}, in the end: {error}"))?;
    Ok(world)
}

#[test]
fn acknowledged_entries_survive_all_faults_in_clusters_of_every_size() {
    for members in [1, 2, 3, 5] {
        let mut acknowledged = 0;
        for seed in 0..seeds() {
            eprintln!("{members} members, seed {seed}");
            let world = run(seed, members, 4000, ALL).unwrap();
            acknowledged += world.acknowledged;
        }
        assert!(
            acknowledged > 250,
            "{members} members acknowledged only {acknowledged}"
        );
    }
}

#[test]
fn members_come_and_go_and_nothing_is_lost() {
    for voters in [1, 3] {
        let (mut joined, mut removed) = (0, 0);
        for seed in 0..seeds() {
            eprintln!("{voters} voters and 3 spares, seed {seed}");
            let world = run_with_spares(seed, voters, 3, 8000, ALL).unwrap();
            joined += world.joined.len() as u64 - voters;
            removed += world.removed.len();
        }
        assert!(
            joined > 10 && removed > 5,
            "only {joined} joined, {removed} were removed"
        );
    }
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let trace = |seed| run(seed, 3, 3000, ALL).unwrap().trace;
    assert_eq!(trace(7), trace(7));
    assert_ne!(trace(7), trace(8));
}

/// The checks would be worth nothing if they passed a disk that does not sync.
#[test]
fn a_disk_that_lies_about_syncing_is_found_out() {
    let faults = Faults {
        lying_disks: true,
        ..ALL
    };
    for members in [1, 3] {
        let found = (0..20).filter(|seed| {
            // raft-rs has checks of its own, which panic.
            let error = catch_unwind(|| run(*seed, members, 4000, faults).err());
            error.is_err() || error.is_ok_and(|error| error.is_some())
        });
        let found = found.count();
        assert!(
            found > 10,
            "{members} members: only {found} of 20 runs found it"
        );
    }
}

/// Otherwise a crash would let it lead the same term again, and send a learner other entries under
/// the same name.
#[test]
fn a_lone_voter_says_nothing_in_a_new_term_before_that_term_is_durable() {
    let mut world = World::new(1, 1, 1, ALL);
    let learner = MemberId::new(2);
    world.lead_alone();
    let kind = ConfChangeKind::AddLearnerNode;
    let change = ConfChange {
        id: 0,
        kind,
        member: learner,
        context: Bytes::new(),
    };
    world
        .event(0, Event::ProposeConfChange(change.encode()))
        .unwrap();
    world.work_off(0);
    assert_eq!(
        world.members[0].state.conf_state.as_ref().unwrap().learners,
        [learner]
    );
    world.flush(0).unwrap();
    let disk = world.members[0].disk.clone();
    disk.crash(&mut world.rng);
    world.messages.clear();
    let Node { member, state, .. } = &mut world.members[0];
    *member = start(MemberId::new(1), &disk, state, &mut world.rng).unwrap();

    world.act(0, Actions::default()).unwrap();
    assert!(world.members[0].member.status().is_leader());
    assert_eq!(world.messages, []);
    world.work_off(0);
    assert!(
        world
            .messages
            .iter()
            .all(|message| message.to == learner.get())
    );
    assert!(!world.messages.is_empty());
}

/// A read asked of a member without a leader is answered once it leads, and then without the disk.
#[test]
fn a_lone_voter_answers_reads_while_its_disk_works() {
    let mut world = World::new(1, 1, 0, ALL);
    world.members[0].asked.insert(1, 0);
    world.event(0, Event::ReadIndex(1)).unwrap();
    assert_eq!(world.members[0].asked.len(), 1);
    world.lead_alone();
    assert_eq!(world.members[0].asked.len(), 0);

    world.propose(0).unwrap();
    assert!(
        !world.members[0].writes.is_empty(),
        "the proposal is not durable"
    );
    world.ask(0).unwrap();
    assert_eq!(
        world.members[0].asked.len(),
        0,
        "and yet the read was answered"
    );
    let index = world.members[0].member.sole_voter_read_index().unwrap();
    assert_eq!(
        index.get(),
        world.acknowledged,
        "not with what is not committed"
    );
}

/// Each read of raft-rs asks all members again; those that come together ask them once.
#[test]
fn reads_that_come_together_are_confirmed_by_one_heartbeat_to_each_member() {
    let mut world = World::new(1, 3, 0, ALL);
    world.settle().unwrap();
    let at = world
        .members
        .iter()
        .position(|node| node.member.status().is_leader())
        .expect("a leader");
    world.messages.clear();
    let node = &mut world.members[at];
    for context in 1..=3 {
        node.asked.insert(context, world.acknowledged);
        let mut none = Actions::default();
        node.member.on_event(Event::ReadIndex(context), &mut none);
    }
    world.act(at, Actions::default()).unwrap();
    assert_eq!(world.messages.len(), 2, "{:?}", world.messages);
    assert_eq!(world.members[at].asked.len(), 3);
    while !world.messages.is_empty() {
        world.deliver().unwrap();
    }
    assert_eq!(world.members[at].asked.len(), 0);
}

impl World {
    /// Lets the first member do all there is to do.
    fn work_off(&mut self, at: usize) {
        for _ in 0..1000 {
            if self.members[at].writes.is_empty() && self.members[at].work.is_empty() {
                return;
            }
            self.write(at).unwrap();
            self.apply(at).unwrap();
        }
        panic!("there is no end of work");
    }

    /// Lets the first member apply what it begins with, and lead.
    fn lead_alone(&mut self) {
        self.act(0, Actions::default()).unwrap();
        self.work_off(0);
        assert!(self.members[0].member.sole_voter_read_index().is_some());
    }
}

/// What is committed faster than it is applied waits on disk, and nothing is left out or doubled.
#[test]
fn apply_is_never_given_more_than_it_has_room_for() {
    let mut world = World::new(1, 1, 0, ALL);
    world.lead_alone();
    for _ in 0..3 * ApplyWork::UNAPPLIED_MAX {
        world.propose(0).unwrap();
        while !world.members[0].writes.is_empty() {
            world.write(0).unwrap();
        }
    }
    // Each round of the loop above has made one work of one entry.
    assert_eq!(world.members[0].work.len(), ApplyWork::UNAPPLIED_MAX);
    assert!(world.members[0].member.waits_for_apply());
    let committed = world.members[0].member.status().committed;
    world.work_off(0);
    assert_eq!(world.members[0].state.index, committed.get());
    assert!(!world.members[0].member.waits_for_apply());
}

/// A later leader has a view of its own of what this was about.
#[test]
fn what_a_member_proposes_as_the_leader_is_dropped_in_any_other_term() {
    let mut world = World::new(1, 1, 0, ALL);
    world.lead_alone();
    let member = &mut world.members[0].member;
    let (term, last) = (member.status().term.get(), member.status().last.get());
    let in_term = |id, term| Proposal {
        id: RequestId::new(id),
        data: Bytes::from_static(b"by the leader"),
        decoded: None,
        only_in: Some(Term::new(term)),
    };
    let proposals = vec![in_term(1, term - 1), in_term(2, term), in_term(3, term + 1)];
    let mut actions = Actions::default();
    member.on_event(Event::Propose(proposals), &mut actions);
    assert_eq!(actions.dropped, [1, 3].map(RequestId::new));
    assert_eq!(member.status().last.get(), last + 1);
}

impl World {
    /// The appends that `node` sends over a round with these messages and then one proposal: to
    /// whom, how many entries, what is committed.
    fn appends_of_a_round(&mut self, at: usize, messages: Vec<Message>) -> Vec<(u64, usize, u64)> {
        let member = &mut self.members[at].member;
        let mut actions = Actions::default();
        member.expect_proposals();
        for message in messages {
            member.on_event(Event::Message(message), &mut actions);
        }
        let proposal = Proposal {
            id: RequestId::new(0),
            data: Bytes::from_static(b"proposed here"),
            decoded: None,
            only_in: None,
        };
        member.on_event(Event::Propose(vec![proposal]), &mut actions);
        member.actions(&mut actions);
        let appends = actions.messages.iter();
        let appends = appends.filter(|it| it.get_msg_type() == MessageType::MsgAppend);
        let mut appends: Vec<_> = appends
            .map(|it| (it.to, it.entries.len(), it.commit))
            .collect();
        appends.sort_unstable();
        appends
    }
}

/// Otherwise each proposal and each commit would be a message, a write and an answer of its own.
#[test]
fn followers_get_one_message_for_all_that_happens_in_a_round() {
    let none = Faults {
        crashes: false,
        losses: false,
        lying_disks: false,
    };
    let mut world = World::new(1, 3, 0, none);
    world.settle().unwrap();
    let leads = |node: &Node| node.member.status().role == Role::Leader;
    let at = world.members.iter().position(leads).expect("settled");
    let status = world.members[at].member.status();
    let own = world.members[at].id.get();
    let others = [1, 2, 3].into_iter().filter(|id| *id != own);
    let message = |from, kind| {
        let mut message = Message::default();
        message.set_msg_type(kind);
        (message.from, message.to) = (from, own);
        message
    };
    let forwarded = others.clone().map(|from| {
        let mut message = message(from, MessageType::MsgPropose);
        message.entries = vec![entry(EntryKind::Normal("forwarded".into()))].into();
        message
    });
    let appends = world.appends_of_a_round(at, forwarded.collect());
    let committed = status.committed.get();
    let expected = others.clone().map(|to| (to, 3, committed));
    assert_eq!(appends, expected.collect::<Vec<_>>());

    let last = world.members[at].member.status().last.get();
    assert_eq!(last, status.last.get() + 3);
    let answers = others.clone().map(|from| {
        let mut message = message(from, MessageType::MsgAppendResponse);
        (message.term, message.index) = (status.term.get(), last);
        message
    });
    let appends = world.appends_of_a_round(at, answers.collect());
    let expected = others.map(|to| (to, 1, last));
    assert_eq!(appends, expected.collect::<Vec<_>>());
}
