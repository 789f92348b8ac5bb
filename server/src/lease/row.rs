//! The row of a lease on disk.
//!
//! ```text
//! family lease:  id, 8 bytes big-endian  ->  leasepb.Lease { ID = 1, TTL = 2, RemainingTTL = 3 }
//! ```
//!
//! Key and value are those of etcd's bucket of the same name.

use prost::Message;
use trilith_proto::leasepb;

use crate::ids::LeaseId;

/// Key of a lease's row.
pub fn lease_row_key(id: LeaseId) -> [u8; 8] {
    id.get().to_be_bytes()
}

/// Value of a lease's row. `remaining` is what the last checkpoint left, 0 if there was none.
pub fn encode_lease_row(id: LeaseId, ttl: i64, remaining: i64) -> Vec<u8> {
    leasepb::Lease {
        id: id.get(),
        ttl,
        remaining_ttl: remaining,
    }
    .encode_to_vec()
}

/// Id, time to live and remaining time of a row; `None` if it is not a lease's row.
pub fn decode_lease_row(key: &[u8], value: &[u8]) -> Option<(LeaseId, i64, i64)> {
    let id = i64::from_be_bytes(key.try_into().ok()?);
    let row = leasepb::Lease::decode(value).ok()?;
    (row.id == id).then_some((LeaseId::new(id), row.ttl, row.remaining_ttl))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::mutate;

    #[test]
    fn rows_are_etcds_to_the_byte() {
        let id = LeaseId::new(0x7587_1234);
        assert_eq!(lease_row_key(id), [0, 0, 0, 0, 0x75, 0x87, 0x12, 0x34]);
        let golden = [0x08, 0xb4, 0xa4, 0x9c, 0xac, 0x07, 0x10, 0x3c, 0x18, 0x05];
        assert_eq!(encode_lease_row(id, 60, 5), golden);
        assert_eq!(encode_lease_row(id, 60, 0), golden[..8]);
        assert_eq!(
            decode_lease_row(&lease_row_key(id), &golden),
            Some((id, 60, 5))
        );
    }

    #[test]
    fn a_negative_id_is_ordered_and_read_as_etcd_does() {
        let id = LeaseId::new(-5);
        assert_eq!(lease_row_key(id)[0], 0xff);
        let row = encode_lease_row(id, 9, 0);
        assert_eq!(decode_lease_row(&lease_row_key(id), &row), Some((id, 9, 0)));
    }

    #[test]
    fn a_row_that_names_another_lease_is_refused() {
        let row = encode_lease_row(LeaseId::new(1), 9, 0);
        assert_eq!(
            decode_lease_row(&lease_row_key(LeaseId::new(2)), &row),
            None
        );
        assert_eq!(decode_lease_row(b"short", &row), None);
    }

    fn a_row_reads_back(bytes: &[u8]) {
        let (key, value) = bytes.split_at(bytes.len().min(8));
        if let Some((id, ttl, remaining)) = decode_lease_row(key, value) {
            assert_eq!(lease_row_key(id), key);
            let again = encode_lease_row(id, ttl, remaining);
            assert_eq!(decode_lease_row(key, &again), Some((id, ttl, remaining)));
        }
    }

    proptest! {
        #[test]
        fn no_junk_for_a_row_panics(bytes in mutate::near_any::<[u8]>(&[
            b"\0\0\0\0\0\0\0\x07\x08\x07\x10\x3c\x18\x05",
            b"\xff\xff\xff\xff\xff\xff\xff\xff\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01\x10\x3c",
        ])) {
            a_row_reads_back(&bytes);
        }
    }
}
