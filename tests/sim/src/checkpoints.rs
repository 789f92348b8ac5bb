//! Checkpoints of leases: a new leader counts from what they say is left, not from the full time.

use std::collections::BTreeMap;

use trilith_proto::etcdserverpb as pb;
use trilith_server::ids::LeaseId;
use trilith_server::lease::TimeToLive;

use crate::world::{Check, World};

/// What the log says is left of leases.
#[derive(Default)]
pub(crate) struct Checkpoints {
    /// Whether the log has made them durable: the cluster has a version that keeps them.
    are_kept: bool,
    /// Of each lease: the entry, and the seconds left.
    said: BTreeMap<i64, Vec<(u64, i64)>>,
    /// How many a new leader had to count from.
    pub(crate) counted: u64,
}

impl Checkpoints {
    pub(crate) fn learn(&mut self, index: u64, request: &pb::InternalRaftRequest) {
        self.are_kept |= request.cluster_version_set.is_some();
        let Some(said) = request.lease_checkpoint.as_ref().filter(|_| self.are_kept) else {
            return;
        };
        for checkpoint in &said.checkpoints {
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
    /// A member that begins to keep deadlines gives no lease more than what its checkpoint says and
    /// the election may have taken.
    pub(crate) fn check_promotion(&mut self, at: usize) -> Check {
        let extension = self.settings.election_timeout().div_ceil(1_000_000);
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
        let known: Vec<_> = self.checkpoints.left(applied).collect();
        // Only there the clock is the member's.
        let given = running.run(node.clock.local(self.now), |running| {
            let of = |(lease, _): &(i64, i64)| {
                let lessor = &running.primary.lessor;
                lessor.time_to_live(LeaseId::new(*lease))
            };
            known.iter().map(of).collect::<Vec<_>>()
        });
        for ((lease, left), given) in known.into_iter().zip(given) {
            let Some(TimeToLive {
                remaining: Some(given),
                granted,
            }) = given
            else {
                continue;
            };
            self.checkpoints.counted += 1;
            if given > left + extension.cast_signed() {
                return Err(format!(
                    "{id}, at entry {applied}, gives lease {lease} of {granted} s {given} s: {:?}",
                    self.checkpoints.said.get(&lease)
                ));
            }
        }
        Ok(())
    }
}
