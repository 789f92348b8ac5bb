//! Reads the records of etcd's write-ahead log.
//!
//! ```text
//! directory = <sequence %016x>-<first index %016x>.wal ...     sequences without gaps
//! segment   = frame ... zeros                                  filled in advance
//! frame     = length (8 bytes, little-endian), walpb.Record, padding
//! length    = lower 56 bits: bytes of the record; highest byte: 0x80 and how much padding, or 0
//! ```
//!
//! The checksum of a record is CRC-32C over the data of all records so far; each segment begins
//! with a record that carries the checksum on. A frame that a crash has cut short at the very end
//! was never synced, so nobody was told of it: it is passed over, as etcd's own repair does. Damage
//! anywhere else is an error.

use std::fs::{self, File};
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use prost::Message;
use trilith_proto::{raftpb, walpb};

/// The segments of a log, in order.
#[derive(Debug)]
pub(super) struct Wal {
    segments: Vec<PathBuf>,
}

/// What one record says.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Record {
    /// Whose log it is: an encoded `etcdserverpb.Metadata`.
    Metadata(Bytes),
    /// An entry; it replaces all that came before at its index and behind it.
    Entry(raftpb::Entry),
    /// Term, vote and commit index from here on.
    HardState(raftpb::HardState),
    /// A state as of this point was saved.
    Snapshot(walpb::Snapshot),
}

impl Wal {
    /// Finds the segments in `directory`.
    ///
    /// # Errors
    ///
    /// When there is none, or one is missing between two others.
    pub(super) fn open(directory: &Path) -> Result<Self, WalError> {
        let io = |error| WalError::io(directory, error);
        let mut numbered = Vec::new();
        for file in fs::read_dir(directory).map_err(io)? {
            let path = file.map_err(io)?.path();
            numbered.extend(sequence(&path).map(|sequence| (sequence, path)));
        }
        numbered.sort();
        if let Some(pair) = numbered.windows(2).find(|pair| pair[0].0 + 1 != pair[1].0) {
            return Err(WalError::Missing {
                before: pair[1].1.clone(),
            });
        }
        if numbered.is_empty() {
            return Err(WalError::Empty(directory.to_path_buf()));
        }
        Ok(Self {
            segments: numbered.into_iter().map(|(_, path)| path).collect(),
        })
    }

    /// Reads from the beginning.
    pub(super) fn records(&self) -> Records<'_> {
        Records {
            rest: &self.segments,
            open: None,
            checksum: None,
            torn: None,
        }
    }
}

/// The sequence number of a segment's name; `None` for any other file.
fn sequence(path: &Path) -> Option<u64> {
    let stem = path.file_name()?.to_str()?.strip_suffix(".wal")?;
    let (sequence, index) = stem.split_once('-')?;
    u64::from_str_radix(index, 16).ok()?;
    u64::from_str_radix(sequence, 16).ok()
}

/// Records in the order in which they were written.
#[derive(Debug)]
pub(super) struct Records<'a> {
    rest: &'a [PathBuf],
    open: Option<Segment>,
    /// CRC-32C of the data of all records so far; `None` before the first record, which tells that
    /// of segments that are gone.
    checksum: Option<u32>,
    torn: Option<(PathBuf, u64)>,
}

#[derive(Debug)]
struct Segment {
    path: PathBuf,
    file: BufReader<File>,
    size: u64,
    /// Where the next frame begins.
    offset: u64,
}

impl Records<'_> {
    /// The next record; `None` at the end.
    ///
    /// # Errors
    ///
    /// When a file cannot be read or is damaged elsewhere than at the end of the last one.
    pub(super) fn next(&mut self) -> Result<Option<Record>, WalError> {
        loop {
            let Some(segment) = &mut self.open else {
                let Some((path, rest)) = self.rest.split_first() else {
                    return Ok(None);
                };
                self.rest = rest;
                self.open = Some(Segment::open(path)?);
                continue;
            };
            match segment.frame(self.checksum) {
                Ok(Frame::End) => self.open = None,
                Ok(Frame::Checksum(checksum)) => self.checksum = Some(checksum),
                Ok(Frame::Data(record, checksum)) => {
                    self.checksum = Some(checksum);
                    return Ok(Some(record));
                }
                Err(Unreadable::Torn) if self.rest.is_empty() => {
                    self.torn = Some((segment.path.clone(), segment.offset));
                    self.open = None;
                }
                Err(unreadable) => {
                    let problem = match unreadable {
                        Unreadable::Torn => "a frame is cut short, and another segment follows",
                        Unreadable::Damaged(problem) => problem,
                        Unreadable::Io(error) => return Err(WalError::io(&segment.path, error)),
                    };
                    return Err(WalError::Damaged {
                        path: segment.path.clone(),
                        offset: segment.offset,
                        problem,
                    });
                }
            }
        }
    }

    /// The file and offset of a frame that a crash has cut short, once the end was reached.
    pub(super) fn torn(&self) -> Option<&(PathBuf, u64)> {
        self.torn.as_ref()
    }
}

enum Frame {
    /// End of file, or the zeros that it was filled with in advance.
    End,
    Checksum(u32),
    Data(Record, u32),
}

enum Unreadable {
    /// A crash can have left it, at the end of the last segment.
    Torn,
    Damaged(&'static str),
    Io(io::Error),
}

impl Segment {
    fn open(path: &Path) -> Result<Self, WalError> {
        let file = File::open(path).map_err(|error| WalError::io(path, error))?;
        let metadata = file.metadata().map_err(|error| WalError::io(path, error))?;
        Ok(Self {
            path: path.to_path_buf(),
            file: BufReader::with_capacity(READ_BYTES, file),
            size: metadata.len(),
            offset: 0,
        })
    }

    /// Reads the frame at `offset` and steps behind it.
    fn frame(&mut self, checksum: Option<u32>) -> Result<Frame, Unreadable> {
        let left = self.size - self.offset;
        if left == 0 {
            return Ok(Frame::End);
        }
        if left < LENGTH_BYTES {
            return Err(Unreadable::Torn);
        }
        let mut length = [0; LENGTH_BYTES as usize];
        self.read(&mut length)?;
        let length = u64::from_le_bytes(length);
        if length == 0 {
            return Ok(Frame::End);
        }
        let record_bytes = length & RECORD_MASK;
        let has_padding = length >> 63 == 1;
        let padding = if has_padding { (length >> 56) & 7 } else { 0 };
        let frame_bytes = record_bytes + padding;
        if frame_bytes > left - LENGTH_BYTES {
            return Err(Unreadable::Torn);
        }
        if record_bytes > RECORD_BYTES_MAX {
            return Err(Unreadable::Damaged("a record is larger than any of etcd's"));
        }
        let mut data = vec![0; frame_bytes as usize];
        self.read(&mut data)?;
        let data = Bytes::from(data);
        let frame = parse(&data.slice(..record_bytes as usize), checksum).map_err(|problem| {
            if self.has_unwritten_sector(&data) {
                Unreadable::Torn
            } else {
                Unreadable::Damaged(problem)
            }
        })?;
        self.offset += LENGTH_BYTES + frame_bytes;
        Ok(frame)
    }

    fn read(&mut self, into: &mut [u8]) -> Result<(), Unreadable> {
        self.file.read_exact(into).map_err(Unreadable::Io)
    }

    /// Whether one of the disk sectors that a frame's data lies in holds only zeros of it: such a
    /// sector was not written before the crash. etcd's criterion.
    fn has_unwritten_sector(&self, data: &[u8]) -> bool {
        let begin = self.offset + LENGTH_BYTES;
        let first = (SECTOR_BYTES - begin % SECTOR_BYTES) as usize;
        let (head, rest) = data.split_at(first.min(data.len()));
        let mut sectors = std::iter::once(head).chain(rest.chunks(SECTOR_BYTES as usize));
        sectors.any(|sector| !sector.is_empty() && sector.iter().all(|byte| *byte == 0))
    }
}

fn parse(record: &Bytes, checksum: Option<u32>) -> Result<Frame, &'static str> {
    let broken = |_| "what a record holds is no protobuf";
    let record = walpb::Record::decode(record.clone()).map_err(|_| "a record is no protobuf")?;
    if record.r#type == CHECKSUM {
        return if checksum.is_none_or(|checksum| checksum == record.crc) {
            Ok(Frame::Checksum(record.crc))
        } else {
            Err("its first record does not carry on the checksum of the segment before")
        };
    }
    let checksum = checksum.ok_or("its first record is not a checksum")?;
    let checksum = crc32c::crc32c_append(checksum, &record.data);
    if checksum != record.crc {
        return Err("a checksum is wrong");
    }
    let data = record.data;
    let record = match record.r#type {
        1 => Record::Metadata(data),
        2 => Record::Entry(raftpb::Entry::decode(data).map_err(broken)?),
        3 => Record::HardState(raftpb::HardState::decode(data).map_err(broken)?),
        5 => Record::Snapshot(walpb::Snapshot::decode(data).map_err(broken)?),
        _ => return Err("a record is of a kind that etcd 3.7 does not know"),
    };
    Ok(Frame::Data(record, checksum))
}

/// Why etcd's log cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum WalError {
    /// There are no segments.
    #[error("{} holds no file of etcd's write-ahead log", .0.display())]
    Empty(PathBuf),
    /// A segment is missing.
    #[error("the file of etcd's write-ahead log before {} is missing", before.display())]
    Missing {
        /// The segment after it.
        before: PathBuf,
    },
    /// A segment is damaged.
    #[error("{} is damaged at offset {offset}: {problem}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where the frame begins.
        offset: u64,
        /// What is wrong.
        problem: &'static str,
    },
    /// The system refused.
    #[error("cannot read {}: {error}", path.display())]
    Io {
        /// What.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
}

impl WalError {
    fn io(path: &Path, error: io::Error) -> Self {
        Self::Io {
            path: path.to_path_buf(),
            error,
        }
    }
}

const LENGTH_BYTES: u64 = 8;
const RECORD_MASK: u64 = (1 << 56) - 1;

/// Type of the record that carries the checksum into the next segment.
const CHECKSUM: i64 = 4;

/// What a disk writes whole or not at all.
const SECTOR_BYTES: u64 = 512;

/// Far above what a server takes as a request, and far below what a machine has.
const RECORD_BYTES_MAX: u64 = 1 << 30;

const READ_BYTES: usize = 256 * 1024;

#[cfg(test)]
#[path = "wal_tests.rs"]
pub(super) mod tests;
