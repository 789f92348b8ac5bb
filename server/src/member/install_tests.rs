//! Logs that a snapshot replaces, and logs that it leaves as they are.

use raft::eraftpb::Entry;

use super::super::entry::{EntryKind, entry};
use super::super::log::{Log, LogWrite, Recovered};
use super::*;

fn entries(range: std::ops::Range<u64>, term: u64) -> Vec<Entry> {
    let one = |index| {
        let mut one = entry(EntryKind::Normal(vec![7; 100].into()));
        (one.index, one.term) = (index, term);
        one
    };
    range.map(one).collect()
}

fn hard_state(term: u64, vote: u64, commit: u64) -> HardState {
    let mut state = HardState::default();
    (state.term, state.vote, state.commit) = (term, vote, commit);
    state
}

/// Entries 1 to 9 of term 2, voted in term 3, committed up to 5, started four times.
fn used_log(directory: &Path) -> MemberLog {
    let (log, _) = EngineLog::open(directory, true).expect("a new log");
    let write = LogWrite {
        entries: entries(1..10, 2),
        hard_state: Some(hard_state(3, 8, 5)),
        sync: true,
        ..LogWrite::default()
    };
    log.write(&write).expect("written");
    log.begin_epoch(4).expect("written");
    drop(log);
    MemberLog::open(directory, true).expect("our own log")
}

fn anew_behind(log: &MemberLog, index: u64, term: u64) -> Option<LogAnew> {
    let of = |index, term| (Index::new(index), Term::new(term));
    let anew = log.anew_behind(of(index, term), of(4, 2));
    anew.expect("log and state fit")
}

#[test]
fn what_a_log_has_needs_no_snapshot() {
    let directory = tempfile::tempdir().expect("a folder");
    let log = used_log(directory.path());
    for (index, term) in [(3, 2), (5, 2), (6, 2), (9, 2)] {
        assert_eq!(anew_behind(&log, index, term), None, "{index}");
    }
}

#[test]
fn a_snapshot_beyond_the_log_or_beside_it_keeps_the_vote_of_its_term() {
    let directory = tempfile::tempdir().expect("a folder");
    let log = used_log(directory.path());
    for (index, term, expected) in [
        (10, 2, (3, 8)),
        (20, 3, (3, 8)),
        (7, 3, (3, 8)),
        (10, 4, (4, 0)),
    ] {
        let anew = anew_behind(&log, index, term).expect("it is needed");
        let kept = (anew.hard_state.term, anew.hard_state.vote);
        assert_eq!((kept, anew.hard_state.commit), (expected, index));
        assert_eq!(anew.boot_epoch, 4);
    }
}

#[test]
fn a_state_that_the_log_does_not_fit_gets_no_snapshot() {
    let directory = tempfile::tempdir().expect("a folder");
    let log = used_log(directory.path());
    let of = |index, term| (Index::new(index), Term::new(term));
    let refused = log.anew_behind(of(20, 3), of(12, 2));
    assert!(matches!(refused, Err(StartError::Boot(_))));
}

#[test]
fn a_log_begun_anew_has_its_base_and_nothing_of_before() {
    let directory = tempfile::tempdir().expect("a folder");
    let log = used_log(directory.path());
    let anew = anew_behind(&log, 7, 3).expect("it is needed");
    let expected = Recovered {
        hard_state: hard_state(3, 8, 7),
        base: Base { index: 7, term: 3 },
        last: 7,
        boot_epoch: 4,
        joined: false,
    };
    log.begin_anew(&anew).expect("written");
    log.begin_anew(&anew).expect("it may be repeated");
    drop(log);
    for purge in [false, true, true] {
        let (log, found) = EngineLog::open(directory.path(), true).expect("our own log");
        assert_eq!(found, expected);
        if purge {
            log.purge().expect("purged");
        }
    }
    let (log, _) = EngineLog::open(directory.path(), true).expect("our own log");
    let write = LogWrite {
        entries: entries(8..12, 4),
        sync: true,
        ..LogWrite::default()
    };
    log.write(&write).expect("it goes on behind the base");
    drop(log);
    let (_, found) = EngineLog::open(directory.path(), true).expect("our own log");
    assert_eq!((found.base, found.last), (expected.base, 11));
}

/// More than the engine keeps, so that files of before go while the log is begun anew again and
/// again.
#[test]
fn logs_begun_anew_survive_what_the_engine_cleans_up() {
    let directory = tempfile::tempdir().expect("a folder");
    drop(used_log(directory.path()));
    let mut last = 9;
    for round in 0..4 {
        let (log, found) = EngineLog::open(directory.path(), true).expect("our own log");
        assert_eq!(found.last, last, "round {round}");
        let base = Base {
            index: last + 100,
            term: 5,
        };
        log.begin_anew(&base, &hard_state(5, 0, base.index), 4)
            .expect("written");
        let mut big = entry(EntryKind::Normal(vec![7; 1 << 20].into()));
        for index in base.index + 1..=base.index + 30 {
            (big.index, big.term) = (index, 5);
            let write = LogWrite {
                entries: vec![big.clone()],
                ..LogWrite::default()
            };
            log.write(&write).expect("written");
        }
        last = base.index + 30;
        log.purge().expect("purged");
        drop(log);
        let (_, found) = EngineLog::open(directory.path(), true).expect("our own log");
        assert_eq!((found.base, found.last, found.boot_epoch), (base, last, 4));
    }
}

#[test]
fn a_log_that_joins_is_empty_and_says_so() {
    let directory = tempfile::tempdir().expect("a folder");
    MemberLog::join(directory.path(), true).expect("a new log");
    let (log, found) = EngineLog::open(directory.path(), true).expect("our own log");
    let nobody = boot::first_conf_state(&found, &log).expect("it joins");
    assert!(nobody.voters.is_empty() && nobody.learners.is_empty());
    let lost = Recovered {
        joined: false,
        ..found
    };
    assert!(boot::first_conf_state(&lost, &log).is_err());
}
