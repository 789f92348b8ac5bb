//! What goes wrong in a run.

use std::collections::BTreeSet;

use bytes::Bytes;
use rand::Rng;
use rand::seq::SliceRandom;
use trilith_proto::etcdserverpb as pb;
use trilith_server::apply::Reply;
use trilith_server::ids::MemberId;

use crate::client::Outcome;
use crate::node::Running;
use crate::reconfigure::NOBODYS;
use crate::world::{Check, Event, World};

impl World {
    /// Lets something go wrong, most often with the leader.
    pub(crate) fn fault(&mut self) -> Check {
        self.faults += 1;
        let at = self.victim();
        // A leader that stands still misses what becomes of leases meanwhile.
        let pauses = self.settings.leases && self.rng.random_bool(0.3);
        let what = if pauses { 5..6 } else { 0..13 };
        match self.rng.random_range(what) {
            0..4 => {
                let power = self.rng.random_bool(0.6);
                self.crash(at, power);
            }
            4 => {
                for at in 0..self.nodes.len() {
                    self.crash(at, true);
                }
            }
            5 => {
                let pause = self.rng.random_range(200_000..6_000_000) * self.settings.stretch();
                self.nodes[at].paused_until = self.now + pause;
            }
            6..9 => self.partition(at),
            9 => {
                self.sync[at] = self.rng.random_range(50_000..400_000);
                let other = self.rng.random_range(0..self.nodes.len());
                self.sync[other] = self.settings.sync;
            }
            10 => self.network.storm = [0, 200][self.rng.random_range(0..2)],
            11 => self.transfer(at)?,
            _ => self.delete_and_compact(at)?,
        }
        Ok(())
    }

    fn victim(&mut self) -> usize {
        let leads = |node: &crate::node::Node| {
            let running = node.running.as_ref();
            running.is_some_and(|running| running.status().is_leader())
        };
        let leader = self.nodes.iter().position(leads);
        match leader {
            Some(at) if self.rng.random_bool(0.5) => at,
            _ => self.rng.random_range(0..self.nodes.len()),
        }
    }

    /// A member crashes, and starts again some time later.
    pub(crate) fn crash(&mut self, at: usize, power: bool) {
        let node = &mut self.nodes[at];
        node.crash(power, &mut self.rng);
        node.paused_until = 0;
        for tag in std::mem::take(&mut node.serving) {
            if self.history.is_open(tag) {
                self.schedule(1_000, Event::Response(tag, Box::new(Outcome::Lost)));
            }
        }
        let after = self.rng.random_range(1_000..3_000_000) * self.settings.stretch();
        self.schedule(after, Event::Boot(at));
    }

    /// Cuts the network in two, both ways or one, or one member off.
    fn partition(&mut self, at: usize) {
        let mut ids: Vec<_> = self.nodes.iter().map(|node| node.id.get()).collect();
        let victim = ids[at];
        let (one, other): (Vec<_>, Vec<_>) = if self.rng.random_bool(0.5) {
            ids.iter().partition(|id| **id == victim)
        } else {
            ids.shuffle(&mut self.rng);
            let size = self.rng.random_range(0..=ids.len());
            let other = ids.split_off(size);
            (ids, other)
        };
        let direction = self.rng.random_range(0..3);
        let mut ways = BTreeSet::new();
        for (from, to) in one.iter().flat_map(|a| other.iter().map(move |b| (*a, *b))) {
            if direction != 0 {
                ways.insert((from, to));
            }
            if direction != 1 {
                ways.insert((to, from));
            }
        }
        let number = self.faults;
        self.network.cut(number, ways);
        let lasts = self.rng.random_range(100_000..8_000_000) * self.settings.stretch();
        self.schedule(lasts, Event::Heal(number));
    }

    /// A member deletes, and compacts at that very revision; soon afterwards it crashes.
    fn delete_and_compact(&mut self, at: usize) -> Check {
        let key = Bytes::from(format!(
            "k{:02}",
            self.rng.random_range(0..self.settings.keys)
        ));
        let (put, delete) = (pb::PutRequest::default(), pb::DeleteRangeRequest::default());
        let requests = [
            pb::InternalRaftRequest {
                put: Some(pb::PutRequest {
                    key: key.clone(),
                    ..put
                }),
                ..Default::default()
            },
            pb::InternalRaftRequest {
                delete_range: Some(pb::DeleteRangeRequest { key, ..delete }),
                ..Default::default()
            },
        ];
        let crash = Event::CrashCompacted(at, self.nodes[at].start);
        let after = self.rng.random_range(1_000..200_000);
        self.schedule(after, crash);
        self.with(at, |running| {
            let proposer = running.proposer.clone();
            running.spawn(NOBODYS, async move {
                let mut revision = 0;
                for request in requests {
                    if let Ok(Reply::DeleteRange(reply)) = proposer.propose(request).await {
                        revision = reply.header.map_or(0, |header| header.revision);
                    }
                }
                if revision == 0 {
                    return Outcome::Lost;
                }
                let compaction = pb::InternalRaftRequest {
                    compaction: Some(pb::CompactionRequest {
                        revision,
                        physical: false,
                    }),
                    ..Default::default()
                };
                // What becomes of it is seen in the log.
                let _told = proposer.propose(compaction).await;
                Outcome::Lost
            });
        })
    }

    /// Finishes what is to be compacted, flushes, and crashes.
    pub(crate) fn crash_compacted(&mut self, at: usize) -> Check {
        let mut done = Ok(());
        self.with(at, |running| done = finish(running))?;
        self.crash(at, true);
        done
    }

    fn transfer(&mut self, at: usize) -> Check {
        let to = self.rng.random_range(0..self.nodes.len());
        let to = MemberId::new(self.nodes[to].id.get());
        self.with(at, |running| {
            // A full queue or a member that stops has no time for it.
            let _refused = running.handle.transfer_leader(to);
        })
    }
}

/// Compacts all that is to be compacted, and flushes.
fn finish(running: &mut Running) -> Check {
    while running.compact(1000, 1000)? {}
    running.flush()
}
