//! The end of a run: no more faults, and everybody has to agree.

use std::collections::BTreeMap;

use crate::client;
use crate::clients::CLIENT_TIMEOUT;
use crate::world::{Check, World};

impl World {
    /// Without further faults, until all members have applied the same.
    pub(crate) fn settle(&mut self) -> Check {
        self.is_settling = true;
        self.network.heal_all();
        self.settings.lost = 0;
        self.sync.fill(self.settings.sync.min(5_000));
        for at in 0..self.nodes.len() {
            self.nodes[at].paused_until = 0;
            self.boot(at)?;
        }
        let within = SETTLES_WITHIN * self.settings.stretch();
        let end = self.now + within;
        let quiet = self.now + CLIENT_TIMEOUT;
        let mut anew = self.now + within / 2;
        while self.now < quiet || !self.has_settled() {
            if self.now > anew {
                // Whoever leads may wait for a snapshot that never comes.
                anew = end;
                for at in 0..self.nodes.len() {
                    self.crash(at, false);
                }
            }
            if self.now > end && self.nodes.iter().any(|node| node.is_removed) {
                // As in etcd, those who have not heard of the removal may lack its vote for ever.
                return self.history.check_refused(&self.model);
            }
            if self.now > end {
                return Err(format!("no agreement in the end: {:?}", self.applied()));
            }
            self.step()?;
        }
        self.history.check_refused(&self.model)?;
        self.end_watches()?;
        self.compare_states()
    }

    /// Watchers that are served without a break have soon seen everything.
    fn end_watches(&mut self) -> Check {
        let member = (0..self.nodes.len()).find(|at| self.is_member(*at));
        let member = member.expect("somebody is left");
        for watcher in &mut self.watchers {
            // The one that it was connected to may be no member any more.
            let at = member;
            let node = &mut self.nodes[at];
            let current = node.start;
            let running = node.running.as_mut().expect("all are up");
            for _ in 0..WATCHES_END_WITHIN {
                if !watcher.is_connected() || watcher.at != (at, current) {
                    watcher.connect((at, current), running);
                }
                while running.catch_up.step() {}
                watcher.take(100, &self.model)?;
            }
            watcher.check_complete(&self.model)?;
        }
        Ok(())
    }

    /// What each member has applied; `None` for one that is down.
    fn applied(&self) -> Vec<Option<u64>> {
        let members = (0..self.nodes.len()).filter(|at| self.is_member(*at));
        let applied = members.map(|at| {
            let running = self.nodes[at].running.as_ref();
            running.map(|running| running.store.applied().0.get())
        });
        applied.collect()
    }

    fn has_settled(&self) -> bool {
        let last = self.model.index();
        self.applied().iter().all(|applied| *applied == Some(last))
    }

    /// How many machines have joined that did not begin the cluster.
    pub(crate) fn joined(&self) -> u64 {
        let joins = |at: &usize| !self.nodes[*at].is_founder && self.is_member(*at);
        (0..self.nodes.len()).filter(joins).count() as u64
    }

    /// In the end all members answer alike, and as the model says.
    fn compare_states(&mut self) -> Check {
        let revision = self.model.revision();
        let members: Vec<_> = (0..self.nodes.len())
            .filter(|at| self.is_member(*at))
            .collect();
        for at in &members {
            // Without any key that lives, etcd's hash counts what compactions have left undone.
            let running = self.nodes[*at].running.as_mut().expect("all are up");
            while running.compact(1000, 1000)? {}
        }
        let wanted = self.model.range(b"k", b"l", revision);
        let mut hashes = BTreeMap::new();
        for node in members.iter().map(|at| &self.nodes[*at]) {
            let Some(running) = &node.running else {
                continue;
            };
            let kvs = client::all(&running.store);
            if kvs != wanted {
                return Err(format!("{} ends with {kvs:?}, not {wanted:?}", node.id));
            }
            let hash = running
                .store
                .hash_kv(trilith_server::ids::Revision::new(revision));
            let hash = hash.map_err(|error| error.to_string())?;
            // Who has compacted at this very revision since its start keeps the hash of that, which
            // counts from the compaction before: only hashes from the same one compare, as in etcd.
            let (known, other) = *hashes
                .entry(hash.compact_revision)
                .or_insert((hash.hash, node.id));
            if known != hash.hash {
                let id = node.id;
                return Err(format!("{id} and {other} end with different hashes"));
            }
        }
        Ok(())
    }
}

/// So many times a watcher is served in the end; a compaction costs it one of them.
const WATCHES_END_WITHIN: usize = 100;

/// A cluster without faults agrees in this time.
const SETTLES_WITHIN: u64 = 120_000_000;
