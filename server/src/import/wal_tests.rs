//! Tests of the log's reader, and a writer of such logs for them.

use proptest::prelude::*;

use super::*;
use crate::mutate;

/// Writes segments as etcd does.
pub(in crate::import) struct Writer {
    directory: PathBuf,
    sequence: u64,
    segment: Vec<u8>,
    checksum: u32,
}

impl Writer {
    pub(in crate::import) fn new(directory: &Path) -> Self {
        let mut writer = Self {
            directory: directory.to_path_buf(),
            sequence: 0,
            segment: Vec::new(),
            checksum: 0,
        };
        writer.frame(CHECKSUM, Bytes::new());
        writer
    }

    pub(in crate::import) fn record(&mut self, kind: i64, message: &impl Message) {
        self.frame(kind, message.encode_to_vec().into());
    }

    fn frame(&mut self, kind: i64, data: Bytes) {
        self.checksum = crc32c::crc32c_append(self.checksum, &data);
        let record = walpb::Record {
            r#type: kind,
            crc: self.checksum,
            data,
        };
        let record = record.encode_to_vec();
        let padding = (8 - record.len() % 8) % 8;
        let mut length = record.len() as u64;
        if padding > 0 {
            length |= (0x80 | padding as u64) << 56;
        }
        self.segment.extend(length.to_le_bytes());
        self.segment.extend(&record);
        self.segment.extend(vec![0; padding]);
    }

    /// Ends the segment and begins the next one, whose first index is `index`.
    pub(in crate::import) fn cut(&mut self, index: u64) {
        self.save(index);
        self.sequence += 1;
        self.segment.clear();
        self.frame(CHECKSUM, Bytes::new());
    }

    /// Writes the segment with some of the zeros that it was filled with, and gives its path.
    pub(in crate::import) fn save(&mut self, index: u64) -> PathBuf {
        let name = format!("{:016x}-{index:016x}.wal", self.sequence);
        let path = self.directory.join(name);
        let mut filled = self.segment.clone();
        filled.extend([0; 4096]);
        fs::write(&path, filled).expect("a segment");
        path
    }
}

pub(in crate::import) fn entry(index: u64, data: &'static [u8]) -> raftpb::Entry {
    raftpb::Entry {
        term: 2,
        index,
        data: Bytes::from_static(data),
        ..raftpb::Entry::default()
    }
}

fn hard_state(commit: u64) -> raftpb::HardState {
    raftpb::HardState {
        term: 2,
        vote: 7,
        commit,
    }
}

fn read(directory: &Path) -> Result<(Vec<Record>, bool), WalError> {
    let wal = Wal::open(directory)?;
    let mut records = wal.records();
    let mut all = Vec::new();
    while let Some(record) = records.next()? {
        all.push(record);
    }
    Ok((all, records.torn().is_some()))
}

/// Two segments with a record of each kind, and their paths.
fn sample(directory: &Path) -> [PathBuf; 2] {
    let mut writer = Writer::new(directory);
    writer.frame(1, Bytes::from_static(b"who"));
    writer.record(2, &entry(1, b"first"));
    let first = directory.join("0000000000000000-0000000000000000.wal");
    writer.cut(0);
    writer.record(3, &hard_state(1));
    writer.record(2, &entry(2, &[b'x'; 2000]));
    [first, writer.save(2)]
}

#[test]
fn records_come_out_in_order_over_segments_and_up_to_the_zeros() {
    let directory = tempfile::tempdir().expect("a folder");
    sample(directory.path());
    fs::write(directory.path().join("0.tmp"), b"filled in advance").expect("a file");
    let (records, torn) = read(directory.path()).expect("readable");
    let expected = [
        Record::Metadata(Bytes::from_static(b"who")),
        Record::Entry(entry(1, b"first")),
        Record::HardState(hard_state(1)),
        Record::Entry(entry(2, &[b'x'; 2000])),
    ];
    assert_eq!(records, expected);
    assert!(!torn);
}

#[test]
fn a_last_frame_that_is_cut_short_is_passed_over() {
    let directory = tempfile::tempdir().expect("a folder");
    let [_, last] = sample(directory.path());
    let whole = fs::read(&last).expect("a segment");
    let end = whole.len() - 4096;
    for cut in [end - 1, end - 1500, end - 2020] {
        fs::write(&last, &whole[..cut]).expect("a segment");
        let (records, torn) = read(directory.path()).expect("readable");
        assert_eq!((records.len(), torn), (3, true), "cut at {cut}");
    }
    // A sector in the middle of the frame that never reached the disk.
    let mut torn = whole.clone();
    torn[end - 1500..end - 400].fill(0);
    fs::write(&last, &torn).expect("a segment");
    assert_eq!(read(directory.path()).expect("readable").0.len(), 3);
}

#[test]
fn damage_elsewhere_is_an_error_that_names_file_and_offset() {
    let directory = tempfile::tempdir().expect("a folder");
    let [first, last] = sample(directory.path());
    let (whole, tail) = (
        fs::read(&first).expect("one"),
        fs::read(&last).expect("two"),
    );
    let mut flipped = whole.clone();
    let at = flipped.len() - 4096 - 12;
    flipped[at] ^= 1;
    fs::write(&first, &flipped).expect("a segment");
    let refused = read(directory.path());
    assert!(matches!(refused, Err(WalError::Damaged { path, .. }) if path == first));

    fs::write(&first, &whole[..whole.len() - 4096 - 3]).expect("a segment");
    let refused = read(directory.path());
    assert!(matches!(refused, Err(WalError::Damaged { path, .. }) if path == first));

    // A whole record is missing: the next segment's checksum tells.
    let mut short = whole.clone();
    short.truncate(16);
    fs::write(&first, &short).expect("a segment");
    assert!(matches!(
        read(directory.path()),
        Err(WalError::Damaged { .. })
    ));

    fs::write(&first, &whole).expect("a segment");
    let mut flipped = tail.clone();
    let at = flipped.len() - 4096 - 100;
    flipped[at] ^= 1;
    fs::write(&last, &flipped).expect("a segment");
    let refused = read(directory.path());
    assert!(matches!(refused, Err(WalError::Damaged { path, .. }) if path == last));
}

#[test]
fn missing_segments_are_noticed() {
    let directory = tempfile::tempdir().expect("a folder");
    assert!(matches!(read(directory.path()), Err(WalError::Empty(_))));
    let mut writer = Writer::new(directory.path());
    writer.cut(0);
    let middle = directory
        .path()
        .join("0000000000000001-0000000000000005.wal");
    writer.cut(5);
    writer.save(9);
    fs::remove_file(middle).expect("it was there");
    assert!(matches!(
        read(directory.path()),
        Err(WalError::Missing { .. })
    ));
}

proptest! {
    #[test]
    fn no_junk_for_a_segment_panics(bytes in mutate::near_any::<[u8]>(&[
        &segment()[..],
    ])) {
        let directory = tempfile::tempdir().expect("a folder");
        let path = directory.path().join("0000000000000000-0000000000000000.wal");
        fs::write(path, bytes).expect("a segment");
        if let Ok((records, _torn)) = read(directory.path()) {
            prop_assert!(records.len() <= 3);
        }
    }
}

fn segment() -> Vec<u8> {
    let mut writer = Writer::new(Path::new(""));
    writer.frame(1, Bytes::from_static(b"who"));
    writer.record(2, &entry(1, b"first"));
    writer.record(3, &hard_state(1));
    writer.segment.extend([0; 64]);
    writer.segment
}
