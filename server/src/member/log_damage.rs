//! Tells a log that a crash has torn from one that is damaged.
//!
//! raft-engine ends a log at the first batch that it cannot read, and takes it for torn. Every
//! write of ours is synced before the next one, so a crash tears no more than the last batch: a
//! whole one behind it, of the same file, proves that what cannot be read was once durable. Then
//! acknowledged entries would be lost in silence.
//!
//! ```text
//! batch  = header entries footer
//! header = length << 8 | compression (u64), offset of the footer (u64), both big-endian
//! footer = items, and their CRC-32 XOR number of the file (u32, little-endian)
//! ```
//!
//! Files are recycled: what an earlier use left behind is signed with an earlier number.

const HEADER_BYTES: usize = 16;
const CHECKSUM_BYTES: usize = 4;

/// Whether a whole batch of the file with this number stands anywhere behind the broken one that
/// `tail` begins with.
pub(super) fn has_whole_batch(tail: &[u8], file_number: u32) -> bool {
    // Where the broken batch says how long it is, its own content is not looked at: a value may
    // look like anything.
    let from = header(tail).map_or(1, |(length, _)| length);
    let mut at = from;
    let mut hashed = 0;
    while let Some(first) = tail.get(at..at + HEADER_BYTES) {
        if first[..8] == [0; 8] {
            // No batch has length 0: on to where a length may end. Most tails are filled with
            // zeros.
            match tail[at + 8..].iter().position(|byte| *byte != 0) {
                Some(zeros) => at += zeros + 1,
                None => return false,
            }
        } else if is_whole_batch(&tail[at..], file_number, &mut hashed) {
            return true;
        } else if hashed > HASHED_BYTES_MAX {
            return false;
        } else {
            at += 1;
        }
    }
    false
}

/// Adds what it had to hash to `hashed`.
fn is_whole_batch(bytes: &[u8], file_number: u32, hashed: &mut usize) -> bool {
    let Some((length, footer)) = header(bytes) else {
        return false;
    };
    *hashed += length - footer;
    let (items, checksum) = bytes[footer..length].split_at(length - footer - CHECKSUM_BYTES);
    let checksum = checksum.try_into().map(u32::from_le_bytes);
    checksum.is_ok_and(|checksum| crc32fast::hash(items) == checksum ^ file_number)
}

/// Length of the batch and offset of its footer, if they are possible ones.
fn header(bytes: &[u8]) -> Option<(usize, usize)> {
    let (length, rest) = bytes.split_first_chunk()?;
    let length = usize::try_from(u64::from_be_bytes(*length) >> 8).ok()?;
    let footer = usize::try_from(u64::from_be_bytes(*rest.first_chunk()?)).ok()?;
    let possible = footer >= HEADER_BYTES
        && footer.checked_add(CHECKSUM_BYTES)? < length
        && length <= bytes.len();
    possible.then_some((length, footer))
}

/// Bytes that are hashed where a header seems to be, before the search is given up and the tail is
/// taken for torn. By chance there are next to none; but behind a recycled file's last batch lie
/// values of clients, who could fill them with such, and a start must not take hours.
const HASHED_BYTES_MAX: usize = 512 * 1024 * 1024;
