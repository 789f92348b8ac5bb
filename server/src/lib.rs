//! The Trilith server as a library: one member of an etcd-compatible cluster.
//!
//! `node` wires everything; `docs/architecture.md` is the map.

pub mod config;
pub mod logging;

pub mod command;
pub mod node;

pub mod api;
pub mod compactor;
pub mod corruption;
pub mod discovery;
pub mod discovery_service;
pub mod import;

pub mod hashing;
pub mod propose;
pub mod quiet;
pub mod quota;
pub mod read;

pub mod expiry;
pub mod leadership;
pub mod primary;
pub mod reconfigure;
pub mod transfer;

pub mod apply;
pub mod member;
pub mod peer;

pub mod snapshot;

pub mod alarm;
pub mod auth;
pub mod cluster;
pub mod lease;
pub mod mvcc;

pub mod storage;

pub mod error;
pub mod ids;
pub mod limits;
pub mod metrics;
pub mod pipe;
pub mod planted;
pub mod progress;
pub mod wait;

#[cfg(test)]
mod mutate;
