//! The lease table by examples: what etcd does with times, expiry and promotion.

use super::*;

const MIN_TTL: i64 = 2;

fn at(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds)
}

fn leader() -> LeaseTable {
    let mut table = LeaseTable::new(MIN_TTL);
    table.promote(Duration::ZERO, at(0.0));
    table
}

#[test]
fn a_short_zero_or_negative_time_becomes_the_minimum() {
    let mut table = leader();
    for (id, ttl) in [(1, 1), (2, 0), (3, -7)] {
        assert_eq!(table.grant(LeaseId::new(id), ttl, at(0.0)), Ok(MIN_TTL));
    }
}

#[test]
fn grants_are_refused_as_etcd_refuses_them() {
    let mut table = leader();
    let id = LeaseId::new(1);
    let too_large = table.grant(id, MAX_LEASE_TTL + 1, at(0.0));
    assert_eq!(too_large, Err(RequestError::LeaseTtlTooLarge));
    assert_eq!(table.grant(id, MAX_LEASE_TTL, at(0.0)), Ok(MAX_LEASE_TTL));
    assert_eq!(table.grant(id, 5, at(0.0)), Err(RequestError::LeaseExist));
    assert_eq!(
        table.grant(LeaseId::new(0), 5, at(0.0)),
        Err(RequestError::LeaseNotFound)
    );
}

#[test]
fn remaining_time_is_cut_to_whole_seconds() {
    let mut table = leader();
    table
        .grant(LeaseId::new(1), 5, at(0.0))
        .expect("a fresh id");
    let left = |now| {
        table
            .time_to_live(LeaseId::new(1), at(now))
            .expect("it exists")
            .remaining
    };
    assert_eq!(left(0.0), Some(5));
    assert_eq!(left(0.001), Some(4));
    assert_eq!(left(5.5), Some(0));
    assert_eq!(left(7.5), Some(-2));
}

#[test]
fn an_expired_lease_stays_until_its_revoke_and_is_offered_every_three_seconds() {
    let mut table = leader();
    let id = LeaseId::new(9);
    table.grant(id, 2, at(0.0)).expect("a fresh id");
    assert!(table.take_expired(10, at(1.9)).expired.is_empty());
    assert_eq!(table.take_expired(10, at(2.25)).expired, [id]);
    assert_eq!(table.renew(id, at(2.5)), Renewal::Expired);
    assert!(table.take_expired(10, at(5.0)).expired.is_empty());
    assert_eq!(table.take_expired(10, at(5.5)).expired, [id]);
    assert!(table.revoke(id));
    assert_eq!(table.renew(id, at(5.6)), Renewal::Missing);
    assert!(table.take_expired(10, at(60.0)).expired.is_empty());
}

#[test]
fn renewals_add_nothing_to_the_queue() {
    let mut table = leader();
    let id = LeaseId::new(1);
    table.grant(id, 10, at(0.0)).expect("a fresh id");
    for n in 1..1000 {
        assert_eq!(
            table.renew(id, at(f64::from(n) * 0.01)),
            Renewal::Renewed(10)
        );
    }
    assert_eq!(table.queue.len(), 1);
    assert!(table.take_expired(10, at(19.9)).expired.is_empty());
    assert_eq!(table.queue.len(), 1);
    assert_eq!(table.take_expired(10, at(20.25)).expired, [id]);
}

#[test]
fn leases_granted_for_years_and_revoked_at_once_leave_a_bounded_queue() {
    let mut table = leader();
    for n in 1..10 * STALE_ENTRIES_MIN as i64 {
        table
            .grant(LeaseId::new(n), MAX_LEASE_TTL, at(0.0))
            .expect("a fresh id");
        table.revoke(LeaseId::new(n));
    }
    assert!(table.queue.len() <= STALE_ENTRIES_MIN);
}

#[test]
fn a_new_leader_gives_every_lease_its_full_time_and_the_extension() {
    let mut table = LeaseTable::new(MIN_TTL);
    table.restore(LeaseId::new(1), 30, 0);
    table.restore(LeaseId::new(2), 30, 10);
    assert_eq!(table.renew(LeaseId::new(1), at(0.0)), Renewal::NotPrimary);
    let follower = table.time_to_live(LeaseId::new(1), at(0.0));
    assert_eq!(
        follower,
        Some(TimeToLive {
            granted: 30,
            remaining: None
        })
    );
    table.promote(at(1.0), at(100.0));
    let left = |id| {
        table
            .time_to_live(LeaseId::new(id), at(100.0))
            .and_then(|t| t.remaining)
    };
    assert_eq!(left(1), Some(31));
    assert_eq!(left(2), Some(11), "a checkpoint says what was left");
}

#[test]
fn a_checkpointed_lease_is_renewed_once_the_checkpoint_is_taken_back() {
    let mut table = leader();
    let id = LeaseId::new(1);
    table.grant(id, 30, at(0.0)).expect("a fresh id");
    assert_eq!(table.checkpoint(id, 10, at(1.0)), Some(30));
    assert_eq!(table.renew(id, at(1.0)), Renewal::Checkpointed);
    assert_eq!(table.checkpoint(id, 0, at(1.0)), Some(30));
    assert_eq!(table.renew(id, at(1.0)), Renewal::Renewed(30));
    assert_eq!(table.checkpoint(LeaseId::new(5), 10, at(1.0)), None);
}

#[test]
fn a_new_leader_that_comes_to_know_of_a_renewal_gives_the_full_time() {
    let mut table = LeaseTable::new(MIN_TTL);
    let id = LeaseId::new(1);
    table.restore(id, 30, 10);
    table.promote(Duration::ZERO, at(100.0));
    // The leader before has renewed it, and its entry is applied only now.
    table.checkpoint(id, 0, at(101.0));
    assert_eq!(table.take_expired(10, at(112.0)).expired, []);
    assert_eq!(table.take_expired(10, at(132.0)).expired, [id]);
    // One that is about to be revoked stays so.
    table.checkpoint(id, 0, at(132.0));
    assert_eq!(table.renew(id, at(133.0)), Renewal::Expired);
}

#[test]
fn promotion_spreads_expiries_that_would_fall_together() {
    let mut table = LeaseTable::new(MIN_TTL);
    let count = 3 * SPREAD_PER_SECOND;
    for n in 1..=count as i64 {
        table.restore(LeaseId::new(n), 10, 0);
    }
    table.promote(Duration::ZERO, at(0.0));
    let mut expired_by = |seconds: f64| -> usize {
        let mut total = 0;
        loop {
            let due = table.take_expired(1000, at(seconds));
            total += due.expired.len();
            for id in &due.expired {
                table.revoke(*id);
            }
            if !due.more {
                return total;
            }
        }
    };
    for second in [11.0, 12.0] {
        let now = expired_by(second);
        let bucket = SPREAD_PER_SECOND / 4;
        assert!(
            now.abs_diff(SPREAD_PER_SECOND) <= bucket,
            "{now} expired in a second"
        );
    }
    expired_by(14.0);
    assert!(table.is_empty());
}

#[test]
fn one_look_is_bounded_and_says_that_there_is_more() {
    let mut table = leader();
    for n in 1..=5 {
        table
            .grant(LeaseId::new(n), 2, at(0.0))
            .expect("a fresh id");
    }
    let first = table.take_expired(3, at(9.0));
    assert_eq!((first.expired.len(), first.more), (3, true));
    let second = table.take_expired(3, at(9.0));
    assert_eq!((second.expired.len(), second.more), (2, false));
}

#[test]
fn a_lease_takes_less_than_a_hundred_bytes() {
    // A slot of the map is at least 7/16 full after growth; a queue entry's vector at least
    // half.
    let slot = size_of::<(LeaseId, Lease)>() + 1;
    assert!(slot * 16 / 7 + 2 * size_of::<LeaseId>() <= 100);
}

#[test]
fn a_long_lease_is_checkpointed_every_five_minutes_until_little_is_left() {
    let mut table = LeaseTable::new(MIN_TTL);
    table.enable_checkpoints();
    table.promote(Duration::ZERO, at(0.0));
    let (long, short) = (LeaseId::new(1), LeaseId::new(2));
    table.grant(long, 700, at(0.0)).expect("a fresh id");
    table.grant(short, 300, at(0.0)).expect("a fresh id");
    assert_eq!(table.take_checkpoints(10, at(299.0)), []);
    for (now, left) in [(300.25, 400), (600.5, 100)] {
        let due = table.take_checkpoints(10, at(now));
        assert_eq!(due, [(long, left)]);
        table.checkpoint(long, left, at(now));
        assert_eq!(table.take_checkpoints(10, at(now)), []);
    }
    assert_eq!(table.take_checkpoints(10, at(901.0)), [], "100 s were left");
    table.promote(at(1.0), at(1000.0));
    let left = table
        .time_to_live(long, at(1000.0))
        .and_then(|t| t.remaining);
    assert_eq!(left, Some(101));
}

#[test]
fn a_renewal_waits_for_a_checkpoint_that_is_on_its_way() {
    let mut table = LeaseTable::new(MIN_TTL);
    table.enable_checkpoints();
    table.promote(Duration::ZERO, at(0.0));
    let id = LeaseId::new(1);
    table.grant(id, 700, at(0.0)).expect("a fresh id");
    assert_eq!(table.take_checkpoints(10, at(300.25)), [(id, 400)]);
    assert_eq!(table.renew(id, at(301.0)), Renewal::Checkpointed);
    // An entry that takes it back counts only behind it.
    for remaining in [0, 400, 0] {
        assert_eq!(table.renew(id, at(302.0)), Renewal::Checkpointed);
        table.checkpoint(id, remaining, at(302.0));
    }
    assert_eq!(table.renew(id, at(303.0)), Renewal::Renewed(700));
    // One that never comes into the log does not count for long, nor for the next leadership.
    assert_eq!(table.take_checkpoints(10, at(601.0)), [(id, 402)]);
    table.pass_checkpoint_over(id);
    assert_eq!(table.renew(id, at(601.5)), Renewal::Renewed(700));
    assert_eq!(table.take_checkpoints(10, at(902.0)), [(id, 400)]);
    table.demote();
    table.promote(Duration::ZERO, at(602.0));
    assert_eq!(table.renew(id, at(603.0)), Renewal::Renewed(700));
}

#[test]
fn checkpoints_are_made_only_where_they_are_enabled_and_by_the_leader() {
    let mut table = leader();
    table
        .grant(LeaseId::new(1), 700, at(0.0))
        .expect("a fresh id");
    assert_eq!(table.take_checkpoints(10, at(400.0)), []);
    table.enable_checkpoints();
    table.promote(Duration::ZERO, at(400.0));
    table.demote();
    assert_eq!(table.take_checkpoints(10, at(800.0)), []);
}

#[test]
fn an_id_granted_and_revoked_again_and_again_leaves_a_bounded_schedule() {
    let mut table = LeaseTable::new(MIN_TTL);
    table.enable_checkpoints();
    table.promote(Duration::ZERO, at(0.0));
    for _ in 0..3 * STALE_ENTRIES_MIN {
        table
            .grant(LeaseId::new(1), 700, at(0.0))
            .expect("it was revoked");
        table.revoke(LeaseId::new(1));
    }
    table
        .grant(LeaseId::new(1), 700, at(0.0))
        .expect("it was revoked");
    let due = table.take_checkpoints(usize::MAX, at(301.0));
    assert!(due.len() <= STALE_ENTRIES_MIN + 2);
}
