//! Counters and names that must not be mixed up, each a type of its own.

use std::fmt;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident($raw:ty), $format:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name($raw);

        impl $name {
            /// Wraps a raw number as it stands on the wire or on disk.
            pub const fn new(raw: $raw) -> Self {
                Self(raw)
            }

            /// The raw number, for the wire, the disk and arithmetic at an edge.
            pub const fn get(self) -> $raw {
                self.0
            }

            /// The one that follows.
            ///
            /// # Panics
            ///
            /// On overflow: a counter that wraps would name two things alike.
            pub const fn next(self) -> Self {
                Self(self.0.checked_add(1).expect("a counter never reaches the end of its range"))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, $format, self.0)
            }
        }
    };
}

id!(
    /// Names a member for as long as the cluster lives; printed in hexadecimal as etcd does.
    MemberId(u64),
    "{:x}"
);
id!(
    /// Names a cluster; printed in hexadecimal as etcd does.
    ClusterId(u64),
    "{:x}"
);
id!(
    /// Position of an entry in the raft log; the first entry is 1, and 0 means "before all".
    Index(u64),
    "{}"
);
id!(
    /// Raft term.
    Term(u64),
    "{}"
);
id!(
    /// Names a lease; 0 is "no lease". Printed in hexadecimal as etcd does.
    LeaseId(i64),
    "{:x}"
);
id!(
    /// Names a watcher within its stream; chosen by the client or counted up from 0.
    WatchId(i64),
    "{}"
);
id!(
    /// Names a proposal across the whole cluster, so that its result finds the request that waits.
    RequestId(u64),
    "{:x}"
);
id!(
    /// Main revision of the store: 1 when it is new, one more with each changing entry.
    Revision(i64),
    "{}"
);
