//! The log in a temporary directory.

use std::fs::{self, File};
use std::io::Write;
use std::path::PathBuf;

use proptest::prelude::*;

use super::*;
use crate::mutate;

/// Entries from `first`, `bytes` long all together.
fn entries(first: u64, count: u64, bytes: usize) -> LogWrite {
    let each = bytes / usize::try_from(count).unwrap();
    let entries = (first..first + count).map(|index| {
        let mut entry = Entry::default();
        (entry.index, entry.term) = (index, 1);
        entry.data = vec![7; each].into();
        entry
    });
    let (entries, sync) = (entries.collect(), true);
    LogWrite {
        entries,
        sync,
        ..LogWrite::default()
    }
}

fn last_file(directory: &Path) -> PathBuf {
    let files = fs::read_dir(directory)
        .unwrap()
        .map(|file| file.unwrap().path());
    let appended = files.filter(|path| path.extension().is_some_and(|kind| kind == "raftlog"));
    appended.max().unwrap()
}

/// A file that was recycled may be longer than what fills it the second time. A kill then leaves a
/// full file with a tail of old batches, and the next start goes on in a new one at once.
#[test]
fn a_full_file_with_a_torn_tail_is_cut_before_a_new_one_follows_it() {
    let root = tempfile::tempdir().unwrap();
    let directory = root.path().join("log");
    let (log, _) = EngineLog::open(&directory, true).unwrap();
    let full = usize::try_from(FILE_BYTES).unwrap();
    log.write(&entries(1, 2, full)).unwrap();
    let file = last_file(&directory);
    drop(log);
    let length = fs::metadata(&file).unwrap().len();
    assert!(length >= FILE_BYTES);
    let mut tail = File::options().append(true).open(&file).unwrap();
    tail.write_all(&[9; 100]).unwrap();

    for epoch in 1..4 {
        let (log, recovered) = EngineLog::open(&directory, true).unwrap();
        assert_eq!((recovered.last, recovered.boot_epoch), (2, epoch - 1));
        log.begin_epoch(epoch).unwrap();
        assert_eq!(fs::metadata(&file).unwrap().len(), length);
    }
    assert_ne!(last_file(&directory), file);
}

#[test]
fn files_that_a_kill_left_behind_are_removed_at_the_next_start() {
    let root = tempfile::tempdir().unwrap();
    let directory = root.path().join("log");
    let (log, _) = EngineLog::open(&directory, true).unwrap();
    let full = usize::try_from(FILE_BYTES).unwrap();
    for first in [1, 3, 5] {
        log.write(&entries(first, 2, full)).unwrap();
    }
    let base = Some(Base { index: 4, term: 1 });
    let compacted = LogWrite {
        base,
        sync: true,
        ..LogWrite::default()
    };
    log.write(&compacted).unwrap();
    drop(log);
    // As if the second file had been recycled, and the first were next.
    let file = |number: u32| directory.join(format!("{number:016}.raftlog"));
    assert_eq!(last_file(&directory), file(4));
    fs::remove_file(file(2)).unwrap();

    let (log, recovered) = EngineLog::open(&directory, true).unwrap();
    assert_eq!((recovered.base.index, recovered.last), (4, 6));
    assert!(file(1).exists(), "nothing was removed before the checks");
    log.begin_epoch(1).unwrap();
    assert!(!file(1).exists() && file(3).exists());
}

#[test]
fn a_log_that_is_only_opened_keeps_its_torn_tail() {
    let root = tempfile::tempdir().unwrap();
    let directory = root.path().join("log");
    let (log, _) = EngineLog::open(&directory, true).unwrap();
    log.write(&entries(1, 2, 100)).unwrap();
    drop(log);
    let file = last_file(&directory);
    let mut torn = fs::read(&file).unwrap();
    torn.extend_from_slice(&[9; 100]);
    fs::write(&file, &torn).unwrap();

    let (log, recovered) = EngineLog::open(&directory, true).unwrap();
    assert_eq!(recovered.last, 2);
    drop(log);
    assert!(fs::read(&file).unwrap() == torn, "nothing was written");
}

fn a_value_reads_back(bytes: &[u8]) {
    if let Ok(hard_state) = decode_hard_state(bytes) {
        let again = hard_state.write_to_bytes().unwrap();
        assert_eq!(decode_hard_state(&again).unwrap(), hard_state);
    }
    if let Some(base) = decode_base(bytes) {
        assert_eq!(encode_base(&base), bytes);
    }
}

proptest! {
    #[test]
    fn no_junk_for_a_value_panics(bytes in mutate::near_any::<[u8]>(&[
        b"\x08\x07\x10\x01\x18\xac\x02",
        b"\0\0\0\0\0\0\0\x07\0\0\0\0\0\0\0\x01",
    ])) {
        a_value_reads_back(&bytes);
    }
}
