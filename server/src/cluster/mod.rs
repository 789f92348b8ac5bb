//! What makes members a cluster: who they are, which version they agree on, how it begins.

pub mod bootstrap;
pub mod datadir;
pub mod identity;
pub mod incoming;
pub mod join;
mod member_table;
mod membership;
mod peer_url;
mod row;
mod version;

pub use identity::Identity;
pub use member_table::{Change, Member, MemberTable};
pub use membership::{Attributes, Membership};
pub use peer_url::is_peer_url;
pub use version::{DowngradeInfo, SERVER_VERSION, Version, downgrade_target, next_cluster_version};
