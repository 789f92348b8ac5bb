//! Leases: which exist, how long they live, when they end.
//!
//! The table (`table.rs`, `queue.rs`) is pure and takes `now`. `lessor.rs` is the handle that
//! `apply`, the API and the expiry loop share; it owns the lock and the clock. Which keys hang on a
//! lease is not known here: those are rows of the store, written with the keys.
//!
//! Invariant: only `apply` grants and revokes. Deadlines exist on the leader alone and never decide
//! what an entry does.

mod checkpoint;
mod queue;
mod row;
mod table;

mod lessor;

pub use lessor::{Lessor, min_ttl};
pub use row::{decode_lease_row, encode_lease_row, lease_row_key};
pub use table::{Due, LeaseTable, MAX_LEASE_TTL, Renewal, TimeToLive};

#[cfg(test)]
mod model_test;
