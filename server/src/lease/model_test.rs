//! The lease table against a model that remembers everything and searches it linearly.

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;

use super::queue::BUCKET;
use super::table::{LeaseTable, Renewal};
use crate::ids::LeaseId;

const MIN_TTL: i64 = 2;

#[derive(Clone, Debug)]
enum Step {
    Grant { id: i64, ttl: i64 },
    Revoke { id: i64 },
    Renew { id: i64 },
    Checkpoint { id: i64, remaining: i64 },
    Promote { extend_ms: u64 },
    Demote,
    Expire { limit: usize },
    Wait { ms: u64 },
}

fn step() -> impl Strategy<Value = Step> {
    let id = 0..8i64;
    prop_oneof![
        4 => (id.clone(), -1..12i64).prop_map(|(id, ttl)| Step::Grant { id, ttl }),
        2 => id.clone().prop_map(|id| Step::Revoke { id }),
        6 => id.clone().prop_map(|id| Step::Renew { id }),
        1 => (id, 0..9i64).prop_map(|(id, remaining)| Step::Checkpoint { id, remaining }),
        1 => (0..3000u64).prop_map(|extend_ms| Step::Promote { extend_ms }),
        1 => Just(Step::Demote),
        4 => (1..5usize).prop_map(|limit| Step::Expire { limit }),
        6 => (0..5000u64).prop_map(|ms| Step::Wait { ms }),
    ]
}

#[derive(Clone, Copy)]
struct ModelLease {
    ttl: i64,
    remaining: i64,
    deadline: Duration,
    /// Not offered for revoking before this moment.
    retry: Duration,
}

#[derive(Default)]
struct Model {
    leases: BTreeMap<i64, ModelLease>,
    primary: bool,
}

impl Model {
    fn renew(&mut self, id: i64, now: Duration) -> Renewal {
        if !self.primary {
            return Renewal::NotPrimary;
        }
        let Some(lease) = self.leases.get_mut(&id) else {
            return Renewal::Missing;
        };
        if lease.deadline <= now {
            return Renewal::Expired;
        }
        if lease.remaining > 0 {
            return Renewal::Checkpointed;
        }
        lease.deadline = now + Duration::from_secs(lease.ttl as u64);
        lease.retry = Duration::ZERO;
        Renewal::Renewed(lease.ttl)
    }

    fn promote(&mut self, now: Duration, extend: Duration) {
        self.primary = true;
        for lease in self.leases.values_mut() {
            let left = if lease.remaining > 0 {
                lease.remaining
            } else {
                lease.ttl
            };
            lease.deadline = now + extend + Duration::from_secs(left as u64);
            lease.retry = Duration::ZERO;
        }
    }

    /// Whoever is taken must be due, and whoever is overdue by a bucket must be taken if there is
    /// room.
    fn check_expired(&mut self, taken: &[LeaseId], limit: usize, now: Duration) {
        for id in taken {
            let lease = self
                .leases
                .get_mut(&id.get())
                .expect("a lease that exists was offered");
            assert!(self.primary);
            assert!(lease.deadline <= now, "offered {id} before its deadline");
            assert!(lease.retry <= now, "offered {id} again too early");
            lease.retry = now + Duration::from_secs(3);
        }
        if taken.len() < limit && self.primary {
            for (id, lease) in &self.leases {
                let late = lease.deadline.max(lease.retry) + BUCKET < now;
                assert!(!late, "lease {id} is overdue and was not offered");
            }
        }
    }
}

fn run(steps: Vec<Step>) {
    let mut table = LeaseTable::new(MIN_TTL);
    let mut model = Model::default();
    let mut now = Duration::from_secs(1);
    for step in steps {
        match step {
            Step::Grant { id, ttl } => {
                let granted = table.grant(LeaseId::new(id), ttl, now);
                let fresh = id != 0 && !model.leases.contains_key(&id);
                assert_eq!(granted.is_ok(), fresh);
                if let Ok(ttl) = granted {
                    let deadline = now + Duration::from_secs(ttl as u64);
                    let lease = ModelLease {
                        ttl,
                        remaining: 0,
                        deadline,
                        retry: Duration::ZERO,
                    };
                    model.leases.insert(id, lease);
                }
            }
            Step::Revoke { id } => {
                let existed = table.revoke(LeaseId::new(id));
                assert_eq!(existed, model.leases.remove(&id).is_some());
            }
            Step::Renew { id } => {
                assert_eq!(table.renew(LeaseId::new(id), now), model.renew(id, now));
            }
            Step::Checkpoint { id, remaining } => {
                let ttl = table.checkpoint(LeaseId::new(id), remaining, now);
                assert_eq!(ttl, model.leases.get(&id).map(|lease| lease.ttl));
                if let Some(lease) = model.leases.get_mut(&id) {
                    lease.remaining = remaining;
                    let is_offered = !lease.retry.is_zero();
                    if remaining == 0 && model.primary && !is_offered {
                        let full = now + Duration::from_secs(lease.ttl as u64);
                        lease.deadline = lease.deadline.max(full);
                    }
                }
            }
            Step::Promote { extend_ms } => {
                let extend = Duration::from_millis(extend_ms);
                table.promote(extend, now);
                model.promote(now, extend);
            }
            Step::Demote => {
                table.demote();
                model.primary = false;
            }
            Step::Expire { limit } => {
                let due = table.take_expired(limit, now);
                assert!(due.expired.len() <= limit);
                model.check_expired(&due.expired, limit, now);
            }
            Step::Wait { ms } => now += Duration::from_millis(ms),
        }
        check_same(&table, &model, now);
    }
}

fn check_same(table: &LeaseTable, model: &Model, now: Duration) {
    assert_eq!(table.len(), model.leases.len());
    assert_eq!(table.is_primary(), model.primary);
    for (id, lease) in &model.leases {
        let found = table
            .time_to_live(LeaseId::new(*id), now)
            .expect("the model has this lease");
        assert_eq!(found.granted, lease.ttl);
        let left = lease.deadline.as_micros() as i64 - now.as_micros() as i64;
        assert_eq!(found.remaining, model.primary.then_some(left / 1_000_000));
    }
}

proptest! {
    #[test]
    fn the_table_agrees_with_a_naive_model(steps in prop::collection::vec(step(), 1..200)) {
        run(steps);
    }
}
