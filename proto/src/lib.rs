//! etcd's gRPC services and messages, by the names and numbers of etcd 3.7.
//!
//! One module per proto package, with the generated types and clients; the comments of the fields
//! come from the `.proto` files. [`server`] holds the service traits, which answer with the types
//! of [`wire`] where a reply carries stored key-values.
//!
//! Without the features `client` and `server` only messages are left, and nothing names tonic.

pub use generated::*;

pub mod wire;

#[cfg(feature = "server")]
pub mod codec;

#[expect(
    missing_docs,
    reason = "generated; most names say what etcd means by them"
)]
#[cfg_attr(
    any(feature = "client", feature = "server"),
    expect(clippy::allow_attributes, unused_qualifications, reason = "generated")
)]
mod generated {
    macro_rules! packages {
        ($($(#[$doc:meta])* $package:ident;)*) => {$(
            $(#[$doc])*
            pub mod $package {
                include!(concat!(env!("OUT_DIR"), "/", stringify!($package), ".rs"));
            }
        )*};
    }

    packages! {
        /// Users, roles and permissions.
        authpb;
        /// The API: key-value, watch, lease, cluster, maintenance, auth; the data of log entries.
        etcdserverpb;
        /// Leases at rest and between members.
        leasepb;
        /// Members at rest and in log entries.
        membershippb;
        /// Key-values and events.
        mvccpb;
        /// Raft's messages as Go members speak them.
        raftpb;
        /// Snapshot files.
        snappb;
        /// The election service.
        v3electionpb;
        /// The lock service.
        v3lockpb;
        /// Records of etcd's write-ahead log.
        walpb;
    }

    /// The service traits that a server implements, and the tower services around them.
    #[cfg(feature = "server")]
    pub mod server {
        include!(concat!(env!("OUT_DIR"), "/server/etcdserverpb.rs"));
        include!(concat!(env!("OUT_DIR"), "/server/v3electionpb.rs"));
        include!(concat!(env!("OUT_DIR"), "/server/v3lockpb.rs"));
    }
}
