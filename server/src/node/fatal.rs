//! The end of a member that cannot go on.

use std::error::Error;

/// Logs why and ends the process at once, without unwinding and without another write.
///
/// After a failed durable write nobody may be told anything any more, and a retry would lie: the
/// kernel marks pages clean after a failed fsync.
pub(super) fn fatal(what: &str, error: &dyn Error) -> ! {
    tracing::error!(%error, "{what}: stopping, since going on could lose acknowledged data");
    std::process::abort()
}
