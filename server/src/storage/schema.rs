//! The families of the state and the grammar of their keys, encode beside decode.
//!
//! Integers are big-endian, so that byte order is number order.
//!
//! | family | key | value |
//! |---|---|---|
//! | `revision` | main u64 ‖ sub u64 | see `mvcc/record.rs` |
//! | `current` | user key | see `mvcc/record.rs` |
//! | `old` | escaped user key ‖ !main u64 ‖ !sub u64 | empty, or one byte 1 for a tombstone |
//! | `count` | first user key of a bucket (the first bucket: empty) | keys in it, u32 |
//! | `lease_key` | lease id u64 ‖ user key | empty |
//! | `lease`, `alarm`, `auth*`, `member*`, `cluster` | as etcd's bucket of that name | as etcd's |
//! | `meta` | a name of [`meta`] | see there |
//!
//! The escape writes a zero byte as `00 ff` and ends the key with `00 01`: keys keep their order,
//! and no key's rows lie between those of another.

use crate::storage::StorageError;

macro_rules! families {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)+) => {
        /// A column family: one sorted map of the state.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(usize)]
        pub enum Family {
            $($(#[$doc])* $variant,)+
        }

        impl Family {
            /// Every family, in the order of their discriminants.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The name on disk.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)+
                }
            }
        }
    };
}

families! {
    /// Every revision that is kept, in order of writing.
    Revision = "revision",
    /// The latest value of each living key.
    Current = "current",
    /// Finds the past revisions of a key, newest first.
    Old = "old",
    /// How many keys live in each bucket of neighboring keys.
    Count = "count",
    /// Which keys a lease holds.
    LeaseKey = "lease_key",
    /// Leases.
    Lease = "lease",
    /// Whether authentication is on, and its revision.
    Auth = "auth",
    /// Users.
    AuthUser = "auth_user",
    /// Roles.
    AuthRole = "auth_role",
    /// Members.
    Member = "member",
    /// Ids of members that were removed and may never come back.
    MemberRemoved = "member_removed",
    /// Cluster version and downgrade.
    Cluster = "cluster",
    /// Alarms that are raised.
    Alarm = "alarm",
    /// Single values of the state itself; see [`meta`].
    Meta = "meta",
}

/// Keys of the family `meta`. Numbers in values are big-endian.
pub mod meta {
    /// Applied index u64 ‖ its term u64, in the batch of the entry it names.
    pub const APPLIED: &[u8] = b"applied";
    /// Current main revision, i64.
    pub const REVISION: &[u8] = b"revision";
    /// Revision of the last compaction that was accepted, i64; absent when there was none.
    pub const COMPACT_SCHEDULED: &[u8] = b"compact_scheduled";
    /// Revision of the last compaction whose deletes are all done, i64. Only the compaction
    /// thread and the import write it.
    pub const COMPACT_FINISHED: &[u8] = b"compact_finished";
    /// Target i64 ‖ first row not yet looked at (main u64 ‖ sub u64) of the compaction that runs.
    /// Only the compaction thread writes it.
    pub const COMPACT_PROGRESS: &[u8] = b"compact_progress";
    /// Raft configuration of the members as of the applied index, as the member module encodes it.
    pub const CONF_STATE: &[u8] = b"conf_state";
}

/// Bytes of a key in `revision`.
pub const REVISION_KEY_BYTES: usize = 16;

/// Key of `revision`: rows sort by main, then sub.
pub fn revision_key(main: i64, sub: i64) -> [u8; REVISION_KEY_BYTES] {
    let mut key = [0; REVISION_KEY_BYTES];
    key[..8].copy_from_slice(&main.to_be_bytes());
    key[8..].copy_from_slice(&sub.to_be_bytes());
    key
}

/// Main and sub of a key of `revision`.
pub fn parse_revision_key(key: &[u8]) -> Result<(i64, i64), StorageError> {
    if key.len() != REVISION_KEY_BYTES {
        return Err(StorageError::corrupt(
            Family::Revision,
            "key is not 16 bytes long",
        ));
    }
    Ok((be_i64(&key[..8]), be_i64(&key[8..])))
}

/// Key of `old` for one past revision of a user key.
pub fn old_key(user_key: &[u8], main: i64, sub: i64) -> Vec<u8> {
    let mut key = Vec::with_capacity(user_key.len() + OLD_SUFFIX_BYTES + 16);
    escape(user_key, &mut key);
    key.extend_from_slice(&ESCAPE_END);
    key.extend_from_slice(&(!main).to_be_bytes());
    key.extend_from_slice(&(!sub).to_be_bytes());
    key
}

/// The first possible key of `old` at or after `user_key`: where a scan over user keys begins.
pub fn old_lower(user_key: &[u8]) -> Vec<u8> {
    let mut key = Vec::with_capacity(user_key.len() + OLD_SUFFIX_BYTES);
    escape(user_key, &mut key);
    key
}

/// The first key of `old` after every row of `user_key`.
pub fn old_after(user_key: &[u8]) -> Vec<u8> {
    let mut key = old_lower(user_key);
    key.extend_from_slice(&[0, ESCAPE_END[1] + 1]);
    key
}

/// A key of `old` taken apart; the user key is unescaped into `user_key`.
pub fn parse_old_key(key: &[u8], user_key: &mut Vec<u8>) -> Result<(i64, i64), StorageError> {
    let corrupt = |reason: &str| StorageError::corrupt(Family::Old, reason);
    if key.len() < OLD_SUFFIX_BYTES {
        return Err(corrupt("key is too short"));
    }
    let (escaped, numbers) = key.split_at(key.len() - 16);
    let body = escaped
        .strip_suffix(&ESCAPE_END)
        .ok_or_else(|| corrupt("key has no end mark"))?;
    user_key.clear();
    let mut rest = body;
    while let Some(zero) = rest.iter().position(|&byte| byte == 0) {
        if rest.get(zero + 1) != Some(&0xff) {
            return Err(corrupt("key has a broken escape"));
        }
        user_key.extend_from_slice(&rest[..=zero]);
        rest = &rest[zero + 2..];
    }
    user_key.extend_from_slice(rest);
    Ok((!be_i64(&numbers[..8]), !be_i64(&numbers[8..])))
}

/// Key of `lease_key`.
pub fn lease_key(lease: i64, user_key: &[u8]) -> Vec<u8> {
    let mut key = Vec::with_capacity(8 + user_key.len());
    key.extend_from_slice(&lease.to_be_bytes());
    key.extend_from_slice(user_key);
    key
}

/// Bounds of the rows of one lease in `lease_key`: the first included, the last not.
pub fn lease_key_bounds(lease: i64) -> ([u8; 8], Option<[u8; 8]>) {
    // Byte order is the order of unsigned numbers: what follows -1 is the end of the family.
    let unsigned = lease.cast_unsigned();
    (
        unsigned.to_be_bytes(),
        unsigned.checked_add(1).map(u64::to_be_bytes),
    )
}

/// Lease and user key of a key of `lease_key`.
pub fn parse_lease_key(key: &[u8]) -> Result<(i64, &[u8]), StorageError> {
    if key.len() < 8 {
        return Err(StorageError::corrupt(Family::LeaseKey, "key is too short"));
    }
    let (lease, user_key) = key.split_at(8);
    Ok((be_i64(lease), user_key))
}

/// A big-endian i64 from exactly eight bytes of `family`.
pub fn parse_i64(family: Family, bytes: &[u8]) -> Result<i64, StorageError> {
    if bytes.len() != 8 {
        return Err(StorageError::corrupt(family, "value is not 8 bytes long"));
    }
    Ok(be_i64(bytes))
}

fn escape(user_key: &[u8], out: &mut Vec<u8>) {
    let mut rest = user_key;
    while let Some(zero) = rest.iter().position(|&byte| byte == 0) {
        out.extend_from_slice(&rest[..=zero]);
        out.push(0xff);
        rest = &rest[zero + 1..];
    }
    out.extend_from_slice(rest);
}

fn be_i64(bytes: &[u8]) -> i64 {
    i64::from_be_bytes(bytes.try_into().expect("callers pass exactly eight bytes"))
}

const ESCAPE_END: [u8; 2] = [0, 1];
/// End mark, main and sub.
const OLD_SUFFIX_BYTES: usize = 2 + 16;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::mutate;

    #[test]
    fn old_keys_sort_by_user_key_then_newest_first() {
        let users: [&[u8]; 7] = [b"", b"\0", b"\0\0", b"a", b"a\0", b"a\0\xff", b"b"];
        let mut keys = Vec::new();
        for user in users {
            for (main, sub) in [(9, 1), (9, 0), (2, 0)] {
                keys.push(old_key(user, main, sub));
            }
        }
        let mut sorted = keys.clone();
        sorted.sort();
        assert_eq!(keys, sorted);
    }

    #[test]
    fn old_key_round_trips_and_its_bounds_enclose_it() {
        let users: [&[u8]; 6] = [b"\0", b"\0\x01", b"a\0\xffb", b"plain", b"\xff", b"x\0"];
        for user in users {
            let key = old_key(user, 7, 3);
            let mut back = Vec::new();
            assert_eq!(parse_old_key(&key, &mut back).expect("own key"), (7, 3));
            assert_eq!(back, user);
            assert!(old_lower(user) < key && key < old_after(user));
        }
    }

    #[test]
    fn a_broken_old_key_is_refused() {
        let mut user = Vec::new();
        assert!(parse_old_key(b"short", &mut user).is_err());
        assert!(parse_old_key(&[0; 18], &mut user).is_err());
    }

    #[test]
    fn bounds_of_a_lease_enclose_its_rows_and_no_others() {
        for lease in [0, 1, -1, -2, i64::MAX, i64::MIN] {
            let (lower, upper) = lease_key_bounds(lease);
            let within =
                |key: &[u8]| key >= &lower[..] && upper.is_none_or(|upper| key < &upper[..]);
            assert!(within(&lease_key(lease, b"")) && within(&lease_key(lease, b"\xff\xff")));
            for other in [lease.wrapping_add(1), lease.wrapping_sub(1)] {
                assert!(!within(&lease_key(other, b"")) && !within(&lease_key(other, b"\xff")));
            }
        }
    }

    #[test]
    fn golden_bytes() {
        assert_eq!(
            revision_key(1, 2),
            [0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 2]
        );
        let mut expected = b"a\0\xff\0\x01".to_vec();
        expected.extend_from_slice(&[255, 255, 255, 255, 255, 255, 255, 254]);
        expected.extend_from_slice(&[255; 8]);
        assert_eq!(old_key(b"a\0", 1, 0), expected);
        assert_eq!(lease_key(5, b"k"), b"\0\0\0\0\0\0\0\x05k");
    }

    fn a_key_of_one_family_reads_back(key: &[u8]) {
        if let Ok((main, sub)) = parse_revision_key(key) {
            assert_eq!(revision_key(main, sub), key);
        }
        let mut user_key = Vec::new();
        if let Ok((main, sub)) = parse_old_key(key, &mut user_key) {
            assert_eq!(old_key(&user_key, main, sub), key);
        }
        if let Ok((lease, user_key)) = parse_lease_key(key) {
            assert_eq!(lease_key(lease, user_key), key);
        }
        if let Ok(number) = parse_i64(Family::Meta, key) {
            assert_eq!(number.to_be_bytes(), key);
        }
    }

    proptest! {
        #[test]
        fn no_junk_for_a_key_panics(key in mutate::near_any::<[u8]>(&[
            b"\0\0\0\0\0\0\0\x05\0\0\0\0\0\0\0\x01",
            b"a\0\xffb\0\x01\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff\xff\xff\xff\xff\xff",
            b"\0\0\0\0\0\0\0\x05k",
        ])) {
            a_key_of_one_family_reads_back(&key);
        }
    }
}
