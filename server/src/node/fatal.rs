//! The end of a member that cannot go on.

use std::error::Error;

use crate::member;

/// Ends the process at once, as [`member::fatal`] does, with what was tried and why it failed.
pub(super) fn fatal(what: &str, error: &dyn Error) -> ! {
    member::fatal(&format!(
        "{what}: {error}; going on could lose acknowledged data"
    ))
}
