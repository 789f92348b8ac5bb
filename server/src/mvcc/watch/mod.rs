//! Watches: who gets which events, in order, without gap or duplicate.
//!
//! The apply thread hands every published revision to the hub, which fans it out to the watchers
//! that are in step (`fanout.rs`). A watcher that starts in the past, or whose client does not keep
//! up, is a cursor (`cursor.rs`): it reads history off the apply thread until it is in step again.
//! Watchers with the same range and options share one group (`group.rs`), so that an event is
//! matched and encoded once for all of them, and reaches each stream as one delivery.
//!
//! What a watcher goes through, at revision 5 and with puts of its key at 3, 6 and 7:
//!
//! ```text
//! create, start 2      behind, cursor 2      mailbox: created(5)
//! pass [2, 6)          synced                mailbox: events(3)
//! publish 6            synced                mailbox: events(6)
//! publish 7, full      behind, cursor 7      mailbox: –
//! drained, pass        synced                mailbox: events(7)
//! ```
//!
//! **Invariant:** the core knows no thread, clock or disk; time reaches it as a call.

mod hub;

mod core;
mod cursor;
mod fanout;

mod delivery;
mod feed;
mod group;
mod history;
mod mailbox;
mod ranges;
mod recent;

#[cfg(test)]
mod hub_test;
#[cfg(test)]
mod model_test;
#[cfg(test)]
mod test_rig;
#[cfg(test)]
pub(crate) mod test_store;
#[cfg(test)]
mod transcript_test;

#[cfg(feature = "simulation")]
pub use self::hub::CatchUp;
pub use self::{
    core::WatchRequest,
    delivery::{Delivery, Recipients, StreamEnd, StreamId, WatchOptions, WatchRefused},
    hub::{WatchHub, WatchStream},
};
