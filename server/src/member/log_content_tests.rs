//! The log on disk: what survives, what is cut, what is refused.

use std::fs::{self, File};

use super::*;
use crate::member::boot::{self, Applied, Misfit};
use crate::member::log_damage::has_whole_batch;

fn entries(range: std::ops::RangeInclusive<u64>, term: u64) -> Vec<Entry> {
    let data = || vec![b'x'; 100].into();
    range
        .map(|index| Entry {
            index,
            term,
            data: data(),
            ..Entry::default()
        })
        .collect()
}

fn write(entries: Vec<Entry>, term: u64, commit: u64) -> LogWrite {
    let hard_state = HardState {
        term,
        commit,
        ..HardState::default()
    };
    LogWrite {
        entries,
        hard_state: Some(hard_state),
        base: None,
        sync: true,
    }
}

fn open(directory: &Path) -> (EngineLog, Recovered) {
    EngineLog::open(directory, true).unwrap()
}

fn indexes(log: &EngineLog, low: u64, high: u64) -> Vec<(u64, u64)> {
    let entries = log.entries(low, high, u64::MAX).unwrap();
    entries
        .iter()
        .map(|entry| (entry.index, entry.term))
        .collect()
}

/// The file that is being written.
fn active_file(directory: &Path) -> std::path::PathBuf {
    let files = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    files
        .filter(|path| path.extension().is_some_and(|ext| ext == "raftlog"))
        .max()
        .unwrap()
}

/// What a crash leaves: a copy of an open log.
fn killed(directory: &Path) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(directory).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), copy.path().join(entry.file_name())).unwrap();
    }
    copy
}

#[test]
fn what_was_written_is_there_after_a_kill_and_after_a_clean_end() {
    let root = tempfile::tempdir().unwrap();
    let (log, fresh) = open(root.path());
    assert_eq!(fresh, Recovered::default());
    log.begin_epoch(3).unwrap();
    log.write(&write(entries(1..=5, 1), 1, 4)).unwrap();
    let copy = killed(root.path());
    drop(log);
    for directory in [copy.path(), root.path()] {
        let (log, found) = open(directory);
        assert_eq!((found.last, found.boot_epoch), (5, 3));
        assert_eq!((found.hard_state.term, found.hard_state.commit), (1, 4));
        assert_eq!(indexes(&log, 1, 6).len(), 5);
    }
}

#[test]
fn later_entries_replace_those_in_their_place() {
    let root = tempfile::tempdir().unwrap();
    let (log, _) = open(root.path());
    log.write(&write(entries(1..=5, 1), 1, 2)).unwrap();
    log.write(&write(entries(4..=4, 2), 2, 2)).unwrap();
    assert_eq!(indexes(&log, 3, 5), [(3, 1), (4, 2)]);
    drop(log);
    let (_, found) = open(root.path());
    assert_eq!(found.last, 4);
}

#[test]
fn several_writes_make_one_that_says_the_same() {
    let mut merged = write(entries(1..=5, 1), 1, 1);
    merged.absorb(write(entries(4..=6, 2), 2, 3));
    merged.absorb(LogWrite {
        base: Some(Base { index: 2, term: 1 }),
        ..LogWrite::default()
    });
    let found: Vec<_> = merged
        .entries
        .iter()
        .map(|entry| (entry.index, entry.term))
        .collect();
    assert_eq!(found, [(1, 1), (2, 1), (3, 1), (4, 2), (5, 2), (6, 2)]);
    assert_eq!(merged.hard_state.unwrap().commit, 3);
    assert_eq!(merged.base, Some(Base { index: 2, term: 1 }));
    assert!(merged.sync);
}

#[test]
fn the_base_remembers_what_was_compacted() {
    let root = tempfile::tempdir().unwrap();
    let (log, _) = open(root.path());
    log.write(&write(entries(1..=9, 4), 4, 9)).unwrap();
    let base = Some(Base { index: 6, term: 4 });
    log.write(&LogWrite {
        base,
        sync: true,
        ..LogWrite::default()
    })
    .unwrap();
    assert!(log.entries(6, 7, u64::MAX).is_err());
    drop(log);
    let (log, found) = open(root.path());
    assert_eq!((found.base, found.last), (Base { index: 6, term: 4 }, 9));
    assert_eq!(indexes(&log, 7, 10), [(7, 4), (8, 4), (9, 4)]);
}

#[test]
fn files_of_compacted_entries_are_recycled_and_the_log_stays_bounded() {
    let root = tempfile::tempdir().unwrap();
    let (log, _) = open(root.path());
    let mut index = 0;
    let data: bytes::Bytes = vec![7; 1024 * 1024].into();
    // Four times what is kept.
    for _ in 0..4 * (PURGE_BYTES + PURGE_BYTES / 2) / data.len() as u64 {
        index += 1;
        let entry = Entry {
            index,
            term: 1,
            data: data.clone(),
            ..Entry::default()
        };
        let base = Some(Base {
            index: index - 1,
            term: 1,
        });
        let hard_state = HardState {
            term: 1,
            commit: index,
            ..HardState::default()
        };
        let hard_state = Some(hard_state);
        log.write(&LogWrite {
            entries: vec![entry],
            hard_state,
            base,
            sync: false,
        })
        .unwrap();
        log.purge().unwrap();
    }
    let files = fs::read_dir(root.path()).unwrap();
    let bytes: u64 = files
        .map(|entry| entry.unwrap().metadata().unwrap().len())
        .sum();
    assert!(bytes <= PURGE_BYTES * 2, "{bytes} bytes on disk");
    drop(log);
    assert_eq!(open(root.path()).1.last, index);
}

/// A tail that is torn anywhere is cut at the last whole write, and no byte of it is changed
/// before the log is written.
#[test]
fn a_torn_tail_is_cut_and_lies_as_it_was_until_the_next_write() {
    let root = tempfile::tempdir().unwrap();
    let (log, _) = open(root.path());
    log.write(&write(entries(1..=3, 1), 1, 1)).unwrap();
    drop(log);
    let whole = fs::metadata(active_file(root.path())).unwrap().len();
    let (log, _) = open(root.path());
    log.write(&write(entries(4..=6, 1), 1, 3)).unwrap();
    drop(log);
    let end = fs::metadata(active_file(root.path())).unwrap().len();
    for cut in (whole + 1..end).step_by(37) {
        let copy = killed(root.path());
        let file = active_file(copy.path());
        File::options()
            .write(true)
            .open(&file)
            .unwrap()
            .set_len(cut)
            .unwrap();
        let before = fs::read(&file).unwrap();
        let (log, found) = open(copy.path());
        assert_eq!(found.last, 3, "cut at {cut}");
        assert!(
            fs::read(&file).unwrap() == before,
            "cut at {cut}: the file was changed"
        );
        log.write(&write(entries(4..=4, 2), 2, 3)).unwrap();
        drop(log);
        let (log, found) = open(copy.path());
        assert_eq!((found.last, found.hard_state.term), (4, 2), "cut at {cut}");
        assert_eq!(indexes(&log, 4, 5), [(4, 2)]);
    }
}

#[test]
fn a_log_that_was_cut_below_what_is_applied_is_refused_untouched() {
    let root = tempfile::tempdir().unwrap();
    let (log, _) = open(root.path());
    log.write(&write(entries(1..=3, 1), 1, 1)).unwrap();
    log.write(&write(entries(4..=6, 1), 1, 3)).unwrap();
    drop(log);
    let file = active_file(root.path());
    let end = fs::metadata(&file).unwrap().len();
    File::options()
        .write(true)
        .open(&file)
        .unwrap()
        .set_len(end - 1)
        .unwrap();
    let before = fs::read(&file).unwrap();
    let (log, found) = open(root.path());
    let misfit = boot::check(found, &log, Applied { index: 5, term: 1 }).unwrap_err();
    assert!(
        matches!(misfit, Misfit::Cut { needed: 5, last: 3 }),
        "{misfit}"
    );
    drop(log);
    assert!(fs::read(&file).unwrap() == before, "the file was changed");
}

#[test]
fn the_boot_checks_know_every_misfit() {
    let root = tempfile::tempdir().unwrap();
    let (log, _) = open(root.path());
    log.write(&write(entries(1..=9, 4), 4, 7)).unwrap();
    let base = Some(Base { index: 3, term: 4 });
    log.write(&LogWrite {
        base,
        ..LogWrite::default()
    })
    .unwrap();
    let good = log.recovered().unwrap();
    let check =
        |found: &Recovered, index, term| boot::check(found.clone(), &log, Applied { index, term });
    for applied in [3, 4, 7] {
        assert_eq!(check(&good, applied, 4).unwrap().hard_state.commit, 7);
    }
    assert_eq!(
        check(&good, 9, 4).unwrap().hard_state.commit,
        9,
        "what is applied is committed"
    );
    assert!(matches!(
        check(&good, 2, 4),
        Err(Misfit::Gap { from: 3, to: 3, .. })
    ));
    assert!(matches!(
        check(&good, 10, 4),
        Err(Misfit::Cut {
            needed: 10,
            last: 9
        })
    ));
    assert!(matches!(
        check(&good, 5, 3),
        Err(Misfit::Term {
            log: 4,
            state: 3,
            ..
        })
    ));
    assert!(matches!(
        check(&good, 3, 3),
        Err(Misfit::Term {
            log: 4,
            state: 3,
            ..
        })
    ));
    let mut bad = good.clone();
    bad.hard_state.commit = 10;
    assert!(matches!(
        check(&bad, 5, 4),
        Err(Misfit::Cut {
            needed: 10,
            last: 9
        })
    ));
    bad = good.clone();
    bad.hard_state.term = 3;
    assert!(matches!(
        check(&bad, 5, 4),
        Err(Misfit::HardState {
            last_term: 4,
            hard_state: 3
        })
    ));
}

#[test]
fn stored_keys_have_the_bytes_of_the_format() {
    let base = Base {
        index: 0x0102,
        term: 3,
    };
    assert_eq!(
        encode_base(&base),
        [0, 0, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 0, 0, 0, 3]
    );
    assert_eq!(decode_base(&encode_base(&base)), Some(base));
    assert_eq!(decode_base(&[0; 15]), None);
    assert_eq!(decode_base(&[0; 17]), None);
}

/// One byte is changed at every place of the file: either all that was written is still there (the
/// place does not count), or only the last write is gone as if it had been torn, or the log is
/// refused.
#[test]
fn no_changed_byte_makes_entries_vanish_from_the_middle_or_pass_unseen() {
    let root = tempfile::tempdir().unwrap();
    let (log, _) = open(root.path());
    for index in 1..=4 {
        log.write(&write(entries(index..=index, 1), 1, index))
            .unwrap();
    }
    drop(log);
    let file = active_file(root.path());
    let bytes = fs::read(&file).unwrap();
    let (mut refused, mut torn) = (0, 0);
    for at in 0..bytes.len() {
        let mut changed = bytes.clone();
        changed[at] ^= 0x10;
        fs::write(&file, &changed).unwrap();
        let Ok((log, found)) = EngineLog::open(root.path(), true) else {
            refused += 1;
            continue;
        };
        match boot::check(found.clone(), &log, Applied::default()) {
            Err(_) => refused += 1,
            Ok(_) if found.last == 3 => torn += 1,
            Ok(_) => {
                assert_eq!(found.last, 4, "byte {at}");
                let all = log.entries(1, 5, u64::MAX).unwrap();
                assert!(all == entries(1..=4, 1), "byte {at}");
            }
        }
    }
    assert!(
        refused > bytes.len() / 2 && torn > 0,
        "{refused} refused, {torn} torn"
    );
}

#[test]
fn what_a_recycled_file_held_before_is_no_damage() {
    let root = tempfile::tempdir().unwrap();
    let (log, _) = open(root.path());
    for index in 1..=4 {
        log.write(&write(entries(index..=index, 1), 1, index))
            .unwrap();
    }
    drop(log);
    let bytes = fs::read(active_file(root.path())).unwrap();
    assert!(has_whole_batch(&bytes, 1), "its own batches are found");
    assert!(
        !has_whole_batch(&bytes, 2),
        "those of an earlier use are not"
    );
    for zeros in 0..40 {
        let apart = [&vec![0; zeros][..], &bytes[24..]].concat();
        assert!(has_whole_batch(&apart, 1), "{zeros} zeros before");
    }
    assert!(!has_whole_batch(&[0; 4096], 1) && !has_whole_batch(&[], 1));
}

/// Without a bound this would hash some hundred gigabytes.
#[test]
fn values_that_look_like_headers_do_not_hold_a_start_up() {
    let length: u64 = 1024 * 1024;
    let header = [(length << 8).to_be_bytes(), 16_u64.to_be_bytes()].concat();
    let tail = header.repeat(256 * 1024);
    assert!(!has_whole_batch(&tail, 1));
}
