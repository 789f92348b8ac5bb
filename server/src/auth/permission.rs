//! What the permissions of all roles of a user allow, as ranges that do not touch.

use bytes::Bytes;
use trilith_proto::authpb::Permission;
use trilith_proto::authpb::permission::Type;

/// What a request does with keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// It sees them, or what they were.
    Read,
    /// It changes or deletes them.
    Write,
}

/// Keys from the first, included, to the second, excluded, or to the end of all keys: the bounds of
/// the interval that the request runs over, so that what is allowed is what runs.
pub type KeyRange = (Bytes, Option<Bytes>);

/// Everything that one user may read and write.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Permissions {
    read: Ranges,
    write: Ranges,
}

/// Invariant: sorted, and between any two of them there is a key that belongs to neither.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Ranges(Vec<KeyRange>);

impl Permissions {
    /// Merges permissions. One of a kind that we do not know allows nothing, as in etcd.
    pub(super) fn merge<'a>(permissions: impl Iterator<Item = &'a Permission>) -> Self {
        let (mut read, mut write) = (Vec::new(), Vec::new());
        for permission in permissions.filter(|p| is_valid_range(&p.key, &p.range_end)) {
            let range = range(permission);
            match Type::try_from(permission.perm_type) {
                Ok(Type::Read) => read.push(range),
                Ok(Type::Write) => write.push(range),
                Ok(Type::Readwrite) => {
                    read.push(range.clone());
                    write.push(range);
                }
                Err(_unknown) => {}
            }
        }
        Self {
            read: Ranges::merge(read),
            write: Ranges::merge(write),
        }
    }

    /// Whether all keys of the range are allowed.
    pub(super) fn allow(&self, access: Access, range: &KeyRange) -> bool {
        match access {
            Access::Read => self.read.cover(range),
            Access::Write => self.write.cover(range),
        }
    }
}

impl Ranges {
    fn merge(mut ranges: Vec<KeyRange>) -> Self {
        ranges.sort();
        let mut merged: Vec<KeyRange> = Vec::with_capacity(ranges.len());
        for (lower, upper) in ranges {
            match merged.last_mut() {
                Some((_, end)) if reaches(end, &lower) => *end = later(end.take(), upper),
                _ => merged.push((lower, upper)),
            }
        }
        Self(merged)
    }

    /// Whether one of them holds the first key and ends no earlier.
    ///
    /// A range without keys, as `[b, a)`, is allowed to whoever is allowed its first key: etcd's
    /// answer.
    fn cover(&self, (lower, upper): &KeyRange) -> bool {
        let after = self.0.partition_point(|(begin, _)| begin <= lower);
        let Some((_, end)) = after.checked_sub(1).map(|at| &self.0[at]) else {
            return false;
        };
        match (end, upper) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(end), Some(upper)) => lower < end && upper <= end,
        }
    }
}

/// Whether a range that ends at `end` leaves no key between itself and `lower`.
fn reaches(end: &Option<Bytes>, lower: &Bytes) -> bool {
    end.as_ref().is_none_or(|end| end >= lower)
}

fn later(one: Option<Bytes>, other: Option<Bytes>) -> Option<Bytes> {
    one.zip(other).map(|(one, other)| one.max(other))
}

/// The keys of a permission: its two fields mean what they mean in a range request.
fn range(permission: &Permission) -> KeyRange {
    let upper = match &permission.range_end[..] {
        [] => Some([&permission.key[..], &[0]].concat().into()),
        OPEN => None,
        _ => Some(permission.range_end.clone()),
    };
    (permission.key.clone(), upper)
}

/// Whether a permission may be granted: etcd refuses those that would hold no key.
pub(super) fn is_valid_range(key: &[u8], range_end: &[u8]) -> bool {
    !key.is_empty() && (range_end.is_empty() || range_end == OPEN || key < range_end)
}

/// The `range_end` of a range that goes on to the last key.
const OPEN: &[u8] = &[0];

#[cfg(test)]
mod tests {
    use super::*;

    fn permission(kind: Type, key: &'static str, range_end: &'static str) -> Permission {
        Permission {
            perm_type: kind as i32,
            key: Bytes::from(key),
            range_end: Bytes::from(range_end),
        }
    }

    fn of(permissions: &[(Type, &'static str, &'static str)]) -> Permissions {
        let permissions: Vec<_> = permissions
            .iter()
            .map(|(kind, key, range_end)| permission(*kind, key, range_end))
            .collect();
        Permissions::merge(permissions.iter())
    }

    fn point(key: &'static str) -> KeyRange {
        (Bytes::from(key), Some(format!("{key}\0").into()))
    }

    fn keys(lower: &'static str, upper: &'static str) -> KeyRange {
        (Bytes::from(lower), Some(Bytes::from(upper)))
    }

    fn from(lower: &'static str) -> KeyRange {
        (Bytes::from(lower), None)
    }

    #[test]
    fn ranges_that_touch_or_overlap_are_one_and_gaps_stay() {
        let user = of(&[
            (Type::Read, "c", "e"),
            (Type::Read, "a", "b"),
            (Type::Read, "b", "c"),
            (Type::Read, "d", "f"),
            (Type::Read, "a", ""),
            (Type::Read, "g", ""),
            (Type::Read, "g\0", "h"),
        ]);
        assert_eq!(user.read.0, [keys("a", "f"), keys("g", "h")]);
        assert!(user.allow(Access::Read, &keys("a", "f")));
        assert!(user.allow(Access::Read, &keys("b", "e")));
        assert!(user.allow(Access::Read, &point("e")));
        for refused in [
            keys("a", "g"),
            keys("e", "h"),
            point("f"),
            from("g"),
            point(""),
        ] {
            assert!(!user.allow(Access::Read, &refused), "{refused:?}");
        }
        assert!(!user.allow(Access::Write, &point("a")));
    }

    #[test]
    fn an_open_end_goes_on_to_the_last_key() {
        let user = of(&[(Type::Write, "b", "\0"), (Type::Write, "c", "d")]);
        assert_eq!(user.write.0, [from("b")]);
        assert!(user.allow(Access::Write, &from("c")));
        assert!(user.allow(Access::Write, &keys("b", "zz")));
        assert!(!user.allow(Access::Write, &from("a")));
        assert!(!user.allow(Access::Read, &from("c")));
        let everything = of(&[(Type::Readwrite, "\0", "\0")]);
        assert!(everything.allow(Access::Read, &from("\0")));
        assert!(everything.allow(Access::Write, &point("\0")));
    }

    #[test]
    fn a_range_without_keys_needs_its_first_key() {
        let user = of(&[(Type::Read, "b", "d")]);
        assert!(user.allow(Access::Read, &keys("c", "a")));
        assert!(user.allow(Access::Read, &keys("c", "c")));
        assert!(!user.allow(Access::Read, &keys("d", "a")));
    }

    #[test]
    fn permissions_without_keys_and_of_unknown_kinds_allow_nothing() {
        let mut odd = permission(Type::Read, "a", "z");
        odd.perm_type = 7;
        let inverted = permission(Type::Readwrite, "z", "a");
        let nameless = permission(Type::Readwrite, "", "\0");
        let merged = Permissions::merge([odd, inverted, nameless].iter());
        assert_eq!(merged, Permissions::default());
    }
}
