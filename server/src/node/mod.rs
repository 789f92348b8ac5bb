//! Wires the parts of one member together and owns its threads; the only place where parts meet.

mod apply_thread;
mod background;
mod boot;
mod comparing;
mod discover;
mod disk;
mod endpoints;
mod ends;
mod error;
mod fatal;
mod heartbeats;
pub mod install;
mod join;
mod lease_endpoints;
mod peers;
mod publish;
mod receive;
mod run;
mod serve;
mod sink;
mod snapshots;
mod state_endpoints;
mod without_room;

pub use error::NodeError;
pub use run::run;
