//! Users, roles and permissions as the log makes them, and who may do what.
//!
//! `table.rs` applies changes and writes rows, `permission.rs` answers what roles allow, `store.rs`
//! is the handle that `apply` and the API share. Nothing here knows passwords or tokens: the API of
//! the proposer has checked them before an entry is made.
//!
//! Invariant: only `apply` changes anything, and what it does depends on entries and rows alone.

mod order;
mod permission;
mod row;
mod store;
mod table;

#[cfg(test)]
mod table_tests;

pub use permission::{Access, KeyRange};
pub use store::AuthStore;
pub use table::{AuthError, Caller, Table};
