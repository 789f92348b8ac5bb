//! What reading and writing revisions can answer besides data.

use crate::{ids::Revision, storage::StorageError};

/// A refusal that a client caused, or a failure of the state.
#[derive(Clone, Debug, thiserror::Error)]
pub enum MvccError {
    /// The revision asked for lies before the last compaction.
    #[error("required revision {requested} has been compacted at {compacted}")]
    Compacted {
        /// What was asked for.
        requested: Revision,
        /// Revision of the last compaction.
        compacted: Revision,
    },
    /// The revision asked for does not exist yet.
    #[error("required revision {requested} is after the current one, {current}")]
    FutureRevision {
        /// What was asked for.
        requested: Revision,
        /// The newest there is.
        current: Revision,
    },
    /// The work was told to stop before it was done.
    #[error("stopped before the work was done")]
    Stopped,
    /// The state itself failed.
    #[error(transparent)]
    Storage(#[from] StorageError),
}
