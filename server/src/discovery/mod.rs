//! Who the members of a new cluster are, where `--initial-cluster` does not say it.

pub mod dns;
pub mod service;

mod client;
mod registry;
