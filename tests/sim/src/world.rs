//! The run: time, what is due when, and what each event does.

use std::collections::BTreeMap;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use trilith_proto::raftpb;
use trilith_server::apply::{Entry, Payload};
use trilith_server::cluster::bootstrap::{Bootstrap, NewMember};
use trilith_server::ids::MemberId;
use trilith_server::lease::min_ttl;

use crate::checkpoints::Checkpoints;
use crate::client::Outcome;
use crate::history::History;
use crate::leases::Leases;
use crate::model::{Model, decode};
use crate::network::Network;
use crate::node::{Node, entries};
use crate::raft_checks::RaftChecks;
use crate::settings::Settings;
use crate::snapshots::{Snapshots, Transfer};
use crate::watch::Watcher;

/// What is due.
#[derive(Debug)]
pub(crate) enum Event {
    /// A heartbeat interval of this start of a member has passed.
    Tick(usize, u64),
    /// The raft thread wakes up.
    Round(usize, u64),
    /// A sync is done.
    Written(usize, u64),
    /// The apply thread takes what waits.
    Apply(usize, u64),
    /// The state may be flushed, the log cut, and what was compacted removed.
    Tidy(usize, u64),
    /// A message arrives.
    Deliver(Box<raftpb::Message>),
    /// A client makes its next request.
    Client(usize),
    /// A request arrives at a member.
    Request(usize, u64),
    /// An answer arrives at its client.
    Response(u64, Box<Outcome>),
    /// A client has waited for too long.
    GiveUp(u64),
    /// Somebody renews a lease at a member.
    Renew(usize, i64),
    /// A client looks after what it watches.
    Watch(usize),
    /// A member starts.
    Boot(usize),
    /// A snapshot begins to arrive.
    SnapshotOffered(Box<Transfer>),
    /// It has arrived at this start of its receiver, or is cut off.
    SnapshotComes(Box<Transfer>, u64),
    /// Its sender hears what became of it.
    SnapshotTold(usize, u64, MemberId, bool),
    /// A member stops for the snapshot that it has.
    Install(usize, u64),
    /// A member finishes its compactions, and crashes.
    CrashCompacted(usize, u64),
    /// A member is killed, or loses its power.
    Crash(usize, u64, bool),
    /// A fault is over.
    Heal(u64),
}

/// A cluster, its clients, and everything that is known about them.
pub(crate) struct World {
    pub(crate) settings: Settings,
    pub(crate) rng: SmallRng,
    pub(crate) now: u64,
    queue: BTreeMap<(u64, u64), Event>,
    queued: u64,
    pub(crate) nodes: Vec<Node>,
    pub(crate) network: Network,
    pub(crate) model: Model,
    pub(crate) history: History,
    pub(crate) leases: Leases,
    pub(crate) watchers: Vec<Watcher>,
    pub(crate) checks: RaftChecks,
    /// What is applied at each index from 1 on.
    log: Vec<(u64, Payload)>,
    /// Requests made so far.
    pub(crate) made: u64,
    /// Requests after which a fault comes, the next one last.
    pub(crate) fault_after: Vec<u64>,
    pub(crate) faults: u64,
    /// Removals asked for.
    pub(crate) removals: u64,
    /// How long a sync of each member takes at most.
    pub(crate) sync: Vec<u64>,
    pub(crate) is_settling: bool,
    pub(crate) snapshots: Snapshots,
    pub(crate) checkpoints: Checkpoints,
    /// All that has happened, to compare runs.
    pub(crate) trace: u64,
}

pub(crate) type Check = Result<(), String>;

impl World {
    pub(crate) fn new(seed: u64, settings: Settings) -> Self {
        let mut rng = SmallRng::seed_from_u64(seed);
        let bootstrap = bootstrap(settings.voters);
        let mut nodes = Vec::new();
        for (id, _) in bootstrap.contexts() {
            let drift = rng.random_range(-settings.drift..=settings.drift);
            let node = Node::new(id, true, drift);
            node.log.bootstrap(&bootstrap.contexts());
            nodes.push(node);
        }
        for number in 0..settings.spares as u64 {
            let drift = rng.random_range(-settings.drift..=settings.drift);
            nodes.push(Node::new(MemberId::new(1001 + number), false, drift));
        }
        let operations = settings.operations as u64;
        let mut fault_after: Vec<_> = (0..settings.faults)
            .map(|_| rng.random_range(operations / 50..operations * 19 / 20))
            .collect();
        fault_after.sort_unstable_by(|a, b| b.cmp(a));
        let ticks = u32::try_from(settings.election_ticks).expect("few ticks");
        let heartbeat = std::time::Duration::from_micros(settings.heartbeat);
        let mut world = Self {
            rng,
            now: 1_000_000,
            queue: BTreeMap::new(),
            queued: 0,
            sync: vec![settings.sync; nodes.len()],
            nodes,
            network: Network::default(),
            model: Model::new(),
            history: History::default(),
            leases: Leases::new(settings.drift, min_ttl(ticks, heartbeat)),
            watchers: Vec::new(),
            checks: RaftChecks::default(),
            log: Vec::new(),
            made: 0,
            fault_after,
            faults: 0,
            removals: 0,
            is_settling: false,
            snapshots: Snapshots::default(),
            checkpoints: Checkpoints::default(),
            trace: seed,
            settings,
        };
        for at in 0..world.settings.voters {
            world.schedule(at as u64, Event::Boot(at));
        }
        for number in 0..world.settings.watchers {
            let watcher = Watcher::draw(&mut world.rng, world.settings.keys);
            world.watchers.push(watcher);
            let begin = world.rng.random_range(0..3_000_000);
            world.schedule(begin, Event::Watch(number));
        }
        for client in 0..world.settings.clients {
            world.schedule(1_000 + client as u64, Event::Client(client));
        }
        world
    }

    /// Runs until all requests are made and all faults are over, then until the members agree.
    pub(crate) fn run(&mut self) -> Check {
        while self.made < self.settings.operations as u64 {
            self.step()?;
        }
        self.settle()
    }

    pub(crate) fn schedule(&mut self, after: u64, event: Event) {
        self.queued += 1;
        self.queue.insert((self.now + after, self.queued), event);
    }

    /// Postpones what is meant for a member that stands still.
    fn paused(&self, event: &Event) -> Option<u64> {
        let at = match event {
            Event::Tick(at, _)
            | Event::Round(at, _)
            | Event::Written(at, _)
            | Event::Apply(at, _)
            | Event::Tidy(at, _)
            | Event::Request(at, _)
            | Event::SnapshotTold(at, ..)
            | Event::CrashCompacted(at, _)
            | Event::Install(at, _) => *at,
            Event::SnapshotOffered(transfer) | Event::SnapshotComes(transfer, _) => transfer.to,
            Event::Deliver(message) => self.find(message.to)?,
            _ => return None,
        };
        let until = self.nodes[at].paused_until;
        (until > self.now).then_some(until)
    }

    pub(crate) fn step(&mut self) -> Check {
        let ((time, _), event) = self.queue.pop_first().expect("clocks tick for ever");
        self.now = time;
        if let Some(until) = self.paused(&event) {
            // Its own threads need not be the first to go on: what waits at its sockets may be.
            let late = match event {
                Event::Tick(..) => self.rng.random_range(0..2_000),
                _ => 0,
            };
            self.schedule(until - self.now + late, event);
            return Ok(());
        }
        let is_current = |nodes: &[Node], at: usize, start| {
            let node = &nodes[at];
            node.start == start && node.is_up()
        };
        match event {
            Event::Tick(at, start) if is_current(&self.nodes, at, start) => self.tick(at),
            Event::Round(at, start) if is_current(&self.nodes, at, start) => {
                self.with(at, |running| {
                    running.round_due = false;
                    running.round(false);
                })
            }
            Event::Written(at, start) if is_current(&self.nodes, at, start) => {
                self.with(at, |running| {
                    running.write_due = false;
                    running.member.lock().end_write();
                })
            }
            Event::Apply(at, start) if is_current(&self.nodes, at, start) => self.apply(at),
            Event::Tidy(at, start) if is_current(&self.nodes, at, start) => self.tidy(at),
            Event::Deliver(message) => self.deliver(*message),
            Event::Client(client) => self.request(client),
            Event::Request(at, tag) => self.serve(at, tag),
            Event::Response(tag, outcome) => self.respond(tag, *outcome),
            Event::GiveUp(tag) => self.respond(tag, Outcome::Lost),
            Event::Renew(at, lease) => self.renew(at, lease),
            Event::Watch(number) => self.watch(number),
            Event::Boot(at) => self.boot(at),
            Event::Heal(number) => {
                self.network.heal(number);
                Ok(())
            }
            Event::CrashCompacted(at, start) if is_current(&self.nodes, at, start) => {
                self.crash_compacted(at)
            }
            Event::Crash(at, start, power) if is_current(&self.nodes, at, start) => {
                self.crash(at, power);
                Ok(())
            }
            Event::Install(at, start) if is_current(&self.nodes, at, start) => {
                let power = self.rng.random_bool(0.2);
                self.crash(at, power);
                Ok(())
            }
            event => self.carry_snapshot(event),
        }
    }

    /// Lets a member do something, and passes on what comes of it.
    pub(crate) fn with(&mut self, at: usize, act: impl FnOnce(&mut crate::node::Running)) -> Check {
        let node = &mut self.nodes[at];
        let local = node.clock.local(self.now);
        let Some(running) = &mut node.running else {
            return Ok(());
        };
        running.run(local, act);
        let outbox = running.take_outbox();
        running.to_apply.extend(outbox.works);
        for message in outbox.messages {
            self.checks.check_vote(&message)?;
            self.tempt(at, &message);
            self.send(message);
        }
        for (tag, outcome) in outbox.done {
            self.note(tag);
            let latency = self.latency();
            self.schedule(latency, Event::Response(tag, Box::new(outcome)));
        }
        self.wake(at);
        let node = &mut self.nodes[at];
        self.checks.check(node)?;
        self.check_promotion(at)?;
        let Some(running) = &self.nodes[at].running else {
            return Ok(());
        };
        let status = running.status();
        self.note(status.term.get() << 32 ^ status.committed.get() << 16 ^ status.last.get());
        Ok(())
    }

    /// Sees to it that the threads of a member that have something to do will do it.
    fn wake(&mut self, at: usize) {
        let now = self.now;
        let node = &mut self.nodes[at];
        let start = node.start;
        let Some(running) = &mut node.running else {
            return;
        };
        let mut due = Vec::new();
        if !running.round_due && running.member.lock().has_mail() {
            running.round_due = true;
            due.push((self.rng.random_range(1..50), Event::Round(at, start)));
        }
        if !running.write_due && running.member.lock().begin_write() {
            running.write_due = true;
            let took = self.rng.random_range(self.sync[at] / 10..=self.sync[at]);
            due.push((took + 1, Event::Written(at, start)));
            if node.tears && self.rng.random_bool(0.3) {
                node.tears = false;
                due.push((took / 2 + 1, Event::Crash(at, start, true)));
            }
        }
        if !running.apply_due && !running.to_apply.is_empty() {
            running.apply_due = true;
            due.push((self.rng.random_range(1..300), Event::Apply(at, start)));
        }
        for (after, event) in due {
            self.queued += 1;
            self.queue.insert((now + after, self.queued), event);
        }
    }

    fn tick(&mut self, at: usize) -> Check {
        let node = &self.nodes[at];
        let (start, interval) = (node.start, node.clock.lasts(self.settings.heartbeat));
        self.schedule(interval, Event::Tick(at, start));
        self.with(at, |running| running.round(true))
    }

    pub(crate) fn boot(&mut self, at: usize) -> Check {
        let node = &mut self.nodes[at];
        if node.is_up() || node.is_removed {
            return Ok(());
        }
        let id = node.id;
        if !self.resume_install(at)? {
            return Ok(());
        }
        let node = &mut self.nodes[at];
        self.checks.check_start(node)?;
        node.boot(self.now, &self.settings, &mut self.rng)
            .map_err(|error| format!("{id} does not start: {error}"))?;
        node.tears = node.start > 1 && self.rng.random_bool(0.1);
        let (start, interval) = (node.start, node.clock.lasts(self.settings.heartbeat));
        let first = self.rng.random_range(0..interval);
        self.schedule(first, Event::Tick(at, start));
        let tidy = self.rng.random_range(0..self.settings.flush_every);
        self.schedule(tidy, Event::Tidy(at, start));
        self.with(at, |_| ())
    }

    fn apply(&mut self, at: usize) -> Check {
        let most = self.rng.random_range(1..=self.settings.apply_works);
        let node = &mut self.nodes[at];
        let id = node.id;
        let running = node.running.as_mut().expect("it is up");
        running.apply_due = false;
        let count = most.min(running.to_apply.len());
        let works = running.to_apply.drain(..count);
        let batch: Vec<Entry> = works.flat_map(entries).collect();
        for entry in &batch {
            self.learn(entry)
                .map_err(|error| format!("{id}: {error}"))?;
        }
        let Some(last) = batch.last().map(|entry| entry.index.get()) else {
            return Ok(());
        };
        let mut result = Ok(false);
        self.with(at, |running| result = running.apply(&batch))?;
        result.map_err(|error| format!("{id} cannot apply entry {last}: {error}"))?;
        let node = &mut self.nodes[at];
        node.applied_max = node.applied_max.max(last);
        let running = node.running.as_ref().expect("it is up");
        let digest = running.store.backend().digest();
        let table = running.membership.table();
        self.checks.check_state(last, digest, id)?;
        for node in &mut self.nodes {
            node.is_removed |= table.is_removed(node.id);
        }
        self.with(at, |_| ())
    }

    /// A member applies an entry: the first one to do so shows what it is.
    fn learn(&mut self, entry: &Entry) -> Check {
        let (index, term) = (entry.index.get(), entry.term.get());
        let at = usize::try_from(index - 1).expect("an index fits");
        if let Some((known, payload)) = self.log.get(at) {
            return match *known == term && is_same(payload, &entry.payload) {
                true => Ok(()),
                false => Err(format!("applies another entry {index} than others")),
            };
        }
        if self.log.len() != at {
            let last = self.log.len();
            return Err(format!("applies {index}, where nobody has applied {last}"));
        }
        let request = match &entry.payload {
            Payload::Request(data, _) => decode(data),
            Payload::ConfChange(_) => None,
        };
        if let Some(revoke) = request.as_ref().and_then(|it| it.lease_revoke.as_ref()) {
            let is_clients = request.as_ref().is_some_and(|it| {
                let header = it.header.as_ref();
                header.is_some_and(|header| !header.username.is_empty())
            });
            if !is_clients && self.model.has_lease(revoke.id) {
                self.leases.ended(revoke.id, self.now)?;
            }
        }
        if let Some(request) = &request {
            self.checkpoints.learn(index, request);
        }
        let payload = match &entry.payload {
            Payload::Request(data, _) => Payload::Request(data.clone(), None),
            change => change.clone(),
        };
        self.log.push((term, payload));
        self.model.apply(request.as_ref())
    }

    fn send(&mut self, message: raftpb::Message) {
        if message.r#type == raftpb::MessageType::MsgSnap as i32 {
            return self.send_snapshot(message);
        }
        let arrivals = self
            .network
            .send(&message, self.now, &self.settings, &mut self.rng);
        if arrivals.is_empty()
            && self.rng.random_bool(0.5)
            && let Some(at) = self.find(message.from)
            && let Some(running) = &self.nodes[at].running
        {
            running.handle.report_unreachable(MemberId::new(message.to));
        }
        for arrival in arrivals {
            let after = arrival.saturating_sub(self.now);
            self.schedule(after, Event::Deliver(Box::new(message.clone())));
        }
    }

    fn deliver(&mut self, message: raftpb::Message) -> Check {
        let Some(at) = self.find(message.to) else {
            return Ok(());
        };
        if self.network.is_cut(message.from, message.to) {
            return Ok(());
        }
        let node = &self.nodes[at];
        let Some(running) = &node.running else {
            return Ok(());
        };
        if node.has_arrived {
            // As in the server: the answer would be about the log that makes way.
            return Ok(());
        }
        // What cannot be taken is lost.
        let _refused = running.handle.step(message);
        self.wake(at);
        Ok(())
    }

    pub(crate) fn find(&self, id: u64) -> Option<usize> {
        self.nodes.iter().position(|node| node.id.get() == id)
    }

    pub(crate) fn note(&mut self, number: u64) {
        let now = self.now;
        for number in [now, number] {
            self.trace = self.trace.rotate_left(5) ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        }
    }
}

fn is_same(one: &Payload, other: &Payload) -> bool {
    match (one, other) {
        (Payload::Request(one, _), Payload::Request(other, _)) => one == other,
        (Payload::ConfChange(one), Payload::ConfChange(other)) => one == other,
        _ => false,
    }
}

fn bootstrap(voters: usize) -> Bootstrap {
    let members: Vec<_> = (1..=voters)
        .map(|number| NewMember {
            name: format!("m{number}"),
            peer_urls: vec![format!("http://10.0.0.{number}:2380")],
        })
        .collect();
    Bootstrap::new(&members, "sim").expect("their URLs differ")
}
