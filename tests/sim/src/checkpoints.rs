//! Checkpoints of leases: a new leader counts from what they say is left, not from the full time.
//! And renewals while one is on its way into the log, which take no longer than that by chance.

use std::collections::BTreeMap;

use rand::Rng;
use trilith_proto::etcdserverpb as pb;
use trilith_proto::raftpb;
use trilith_server::lease::TimeToLive;

use crate::model::decode;
use crate::world::{Check, Event, World};

/// What the log says is left of leases.
#[derive(Default)]
pub(crate) struct Checkpoints {
    /// Whether the cluster has a version that keeps them: before, they count for nothing.
    are_kept: bool,
    /// Of each lease: the entry, and the seconds left.
    said: BTreeMap<i64, Vec<(u64, i64)>>,
    /// The last entry of one that was seen on its way.
    sent: u64,
    /// How many a new leader had to count from.
    pub(crate) counted: u64,
}

impl Checkpoints {
    pub(crate) fn learn(&mut self, index: u64, request: &pb::InternalRaftRequest) {
        self.are_kept |= request.cluster_version_set.is_some();
        let Some(said) = &request.lease_checkpoint else {
            return;
        };
        for checkpoint in &said.checkpoints {
            // Not what is left, but that all of it is counts in any version.
            if !self.are_kept && checkpoint.remaining_ttl > 0 {
                continue;
            }
            let of_lease = self.said.entry(checkpoint.id).or_default();
            of_lease.push((index, checkpoint.remaining_ttl));
        }
    }

    /// The last one that whoever has applied `applied` knows, if it says that less is left.
    fn left(&self, applied: u64) -> impl Iterator<Item = (i64, i64)> {
        self.said.iter().filter_map(move |(id, said)| {
            let known = said.iter().rfind(|(index, _)| *index <= applied);
            known
                .map(|(_, left)| (*id, *left))
                .filter(|(_, left)| *left > 0)
        })
    }
}

impl World {
    /// While a checkpoint is on its way into the log, somebody renews one of its leases at the
    /// leader, who may crash soon afterwards.
    pub(crate) fn tempt(&mut self, at: usize, message: &raftpb::Message) {
        if !self.settings.is_long || self.is_settling {
            return;
        }
        for entry in &message.entries {
            if entry.index <= self.checkpoints.sent {
                continue;
            }
            let said = decode(&entry.data).and_then(|request| request.lease_checkpoint);
            let Some(said) = said.filter(|said| said.checkpoints[0].remaining_ttl > 0) else {
                continue;
            };
            self.checkpoints.sent = entry.index;
            let lease = said.checkpoints[self.rng.random_range(0..said.checkpoints.len())].id;
            let latency = self.rng.random_range(1..self.settings.latency);
            self.schedule(latency, Event::Renew(at, lease));
            if self.rng.random_bool(0.3) {
                let later = self.rng.random_range(0..3_000_000);
                let crash = Event::Crash(at, self.nodes[at].start, false);
                self.schedule(latency + later, crash);
            }
        }
    }

    /// A member that begins to keep deadlines gives each lease what its checkpoint says is left,
    /// or its full time without one, and on top of that what the election may have taken.
    pub(crate) fn check_promotion(&mut self, at: usize) -> Check {
        let extension = self.settings.election_timeout();
        let least = (extension / 1_000_000).cast_signed();
        let most = extension.div_ceil(1_000_000).cast_signed();
        let node = &mut self.nodes[at];
        let id = node.id;
        let Some(running) = &mut node.running else {
            return Ok(());
        };
        let lessor = &running.primary.lessor;
        let begins = lessor.is_primary() && !running.was_primary;
        running.was_primary = lessor.is_primary();
        if !begins {
            return Ok(());
        }
        let applied = running.store.applied().0.get();
        let known: BTreeMap<_, _> = self.checkpoints.left(applied).collect();
        // Only there the clock is the member's.
        let given = running.run(node.clock.local(self.now), |running| {
            let lessor = &running.primary.lessor;
            let of = |lease| Some((lease, lessor.time_to_live(lease)?));
            lessor
                .leases()
                .into_iter()
                .filter_map(of)
                .collect::<Vec<_>>()
        });
        for (lease, TimeToLive { granted, remaining }) in given {
            let Some(given) = remaining else {
                continue;
            };
            let said = known.get(&lease.get()).copied();
            self.checkpoints.counted += u64::from(said.is_some());
            let left = said.unwrap_or(granted);
            if !(left + least..=left + most).contains(&given) {
                return Err(format!(
                    "{id}, at entry {applied}, gives lease {lease} of {granted} s {given} s: {:?}",
                    self.checkpoints.said.get(&lease.get())
                ));
            }
        }
        Ok(())
    }
}
