//! The Trilith server as a library: one member of an etcd-compatible cluster.

pub mod alarm;
pub mod cluster;
pub mod config;
pub mod error;
pub mod ids;
pub mod lease;
pub mod logging;
pub mod member;
pub mod mvcc;
pub mod storage;
