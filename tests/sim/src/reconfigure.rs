//! Changes of the membership: members come as learners or voters, are promoted, and go.

use rand::Rng;
use trilith_proto::{etcdserverpb as pb, membershippb};
use trilith_server::cluster::{Change, Member};
use trilith_server::ids::MemberId;
use trilith_server::reconfigure::conf_change;

use crate::client::Outcome;
use crate::world::{Check, Event, World};

impl World {
    /// Asks some member for a change, which may come to nothing.
    pub(crate) fn reconfigure(&mut self) -> Check {
        let up: Vec<_> = (0..self.nodes.len())
            .filter(|at| self.nodes[*at].is_up() && self.is_member(*at))
            .collect();
        let subject = self.rng.random_range(0..self.nodes.len());
        let asked = self.rng.random_range(0..up.len().max(1));
        let Some(asked) = up.get(asked).copied() else {
            return Ok(());
        };
        let change = self.draw_change(subject);
        if matches!(change, Change::Add(_) | Change::AddLearner(_)) {
            let after = self.rng.random_range(0..2_000_000);
            self.schedule(after, Event::Boot(subject));
        }
        let change = conf_change(&change);
        self.with(asked, |running| {
            let proposer = running.proposer.clone();
            running.spawn(NOBODYS, async move {
                // Whether it takes effect is seen in the log.
                let _told = proposer.change_members(change).await;
                Outcome::Lost
            });
        })
    }

    /// Some member raises the version of the cluster, as the leader does in the server.
    pub(crate) fn agree_on_version(&mut self) -> Check {
        let asked = self.rng.random_range(0..self.nodes.len());
        let request = pb::InternalRaftRequest {
            cluster_version_set: Some(Box::new(membershippb::ClusterVersionSetRequest {
                ver: "3.7.0".to_owned(),
            })),
            ..Default::default()
        };
        self.with(asked, |running| {
            let proposer = running.proposer.clone();
            running.spawn(NOBODYS, async move {
                // Whether it takes effect is seen in the log.
                let _told = proposer.propose(request).await;
                Outcome::Lost
            });
        })
    }

    fn draw_change(&mut self, subject: usize) -> Change {
        let id = self.nodes[subject].id;
        if self.is_member(subject) {
            return match self.rng.random_range(0..3) {
                0 if self.removals == 0 && self.settings.voters > 2 => {
                    self.removals += 1;
                    Change::Remove(id)
                }
                1 => Change::Update(member(id, self.rng.random_range(0..100), false)),
                _ => Change::Promote(id),
            };
        }
        let is_learner = self.rng.random_bool(0.7);
        let member = member(id, 0, is_learner);
        match is_learner {
            true => Change::AddLearner(member),
            false => Change::Add(member),
        }
    }

    /// Whether a machine is one of the cluster, as whoever is up and ahead knows; with nobody up,
    /// each may be one.
    pub(crate) fn is_member(&self, at: usize) -> bool {
        let node = &self.nodes[at];
        let up = self.nodes.iter().filter_map(|node| node.running.as_ref());
        let ahead = up.max_by_key(|running| running.store.applied().0);
        let known = ahead.is_none_or(|running| {
            let table = running.membership.table();
            table.members().next().is_none() || table.member(node.id).is_some()
        });
        known && !node.is_removed
    }
}

fn member(id: MemberId, port: u16, is_learner: bool) -> Member {
    Member {
        id: id.get(),
        peer_urls: Some(vec![format!("http://10.1.{port}.{}:2380", id.get() % 256)]),
        is_learner,
        ..Member::default()
    }
}

/// Requests of no client.
pub(crate) const NOBODYS: u64 = u64::MAX;
