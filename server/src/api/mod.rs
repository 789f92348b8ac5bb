//! etcd's gRPC surface: services, and the listeners that carry them.
//!
//! A service takes a request apart, calls the layer below and puts the answer together; it holds no
//! state but the streams of its connections. Only this module names tonic.

mod authentication;
mod cluster;
mod dispatch;
mod header;
mod kv;
mod large_reply;
mod leader_loss;
mod lease;
mod list;
mod list_body;
mod listener;
mod maintenance;
mod metadata;
mod outlet;
mod pings;
mod range_stream;
mod snapshot_stream;
mod space;
mod status;
mod validate;
mod watch;

#[cfg(test)]
mod list_tests;

pub use cluster::ClusterService;
pub use dispatch::{Scrape, Services};
pub use header::HeaderSource;
pub use kv::KvService;
pub use lease::LeaseService;
pub use listener::{ConnectionSettings, Reuse, bind, serve};
pub use maintenance::{MaintenanceService, defragment};
pub use snapshot_stream::SnapshotSlots;
pub use space::SpaceGuard;
pub use watch::WatchService;
