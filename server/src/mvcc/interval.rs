//! The keys that one request means, parsed once, so that what is checked is what runs.

use bytes::Bytes;

/// Where an interval of keys ends.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum End {
    /// One key only.
    Single,
    /// Every key at or after the first.
    From,
    /// Keys before this one. May be at or before the first: then the interval is empty.
    Before(Bytes),
}

/// A set of neighboring keys.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Interval {
    /// The first key, included.
    pub key: Bytes,
    /// Where it ends.
    pub end: End,
}

impl Interval {
    /// As requests name it: no `range_end` is one key, `"\0"` is everything from `key` on.
    pub fn from_request(key: Bytes, range_end: Bytes) -> Self {
        let end = match &range_end[..] {
            [] => End::Single,
            [0] => End::From,
            _ => End::Before(range_end),
        };
        Self { key, end }
    }

    /// One key.
    pub fn single(key: Bytes) -> Self {
        Self {
            key,
            end: End::Single,
        }
    }

    /// Every key there is.
    pub fn everything() -> Self {
        Self {
            key: Bytes::new(),
            end: End::From,
        }
    }

    /// Whether `key` belongs to it.
    pub fn contains(&self, key: &[u8]) -> bool {
        match &self.end {
            End::Single => self.key == key,
            End::From => self.key <= key,
            End::Before(end) => self.key <= key && key < &end[..],
        }
    }

    /// The first key, and the key before which it ends, if it ends.
    pub fn bounds(&self) -> (Bytes, Option<Bytes>) {
        let upper = match &self.end {
            End::Single => Some(successor(&self.key)),
            End::From => None,
            End::Before(end) => Some(end.clone()),
        };
        (self.key.clone(), upper)
    }

    /// Whether no key can belong to it.
    pub fn is_empty(&self) -> bool {
        matches!(&self.end, End::Before(end) if *end <= self.key)
    }
}

/// The smallest key after `key`.
fn successor(key: &[u8]) -> Bytes {
    let mut next = Vec::with_capacity(key.len() + 1);
    next.extend_from_slice(key);
    next.push(0);
    next.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interval(key: &'static [u8], range_end: &'static [u8]) -> Interval {
        Interval::from_request(Bytes::from_static(key), Bytes::from_static(range_end))
    }

    #[test]
    fn range_end_is_read_as_etcd_reads_it() {
        assert_eq!(interval(b"a", b"").end, End::Single);
        assert_eq!(interval(b"a", b"\0").end, End::From);
        assert_eq!(
            interval(b"a", b"\0\0").end,
            End::Before(Bytes::from_static(b"\0\0"))
        );
    }

    #[test]
    fn bounds_hold_what_contains_says() {
        let keys: [&[u8]; 6] = [b"\0", b"a", b"a\0", b"b", b"b\xff", b"c"];
        for (key, range_end) in [
            (&b"a"[..], &b""[..]),
            (b"a", b"\0"),
            (b"a", b"b"),
            (b"b", b"a"),
            (b"\0", b"\0"),
        ] {
            let interval = interval(key, range_end);
            let (lower, upper) = interval.bounds();
            for key in keys {
                let within = lower <= key && upper.as_ref().is_none_or(|upper| key < &upper[..]);
                assert_eq!(interval.contains(key), within, "{interval:?} {key:?}");
                assert!(!(interval.is_empty() && within));
            }
        }
    }
}
