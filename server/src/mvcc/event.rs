//! What a revision changed, as watchers learn it.

use bytes::Bytes;

use crate::ids::Revision;

/// All changes of one revision, in the order they were made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RevisionEvents {
    /// The revision.
    pub revision: Revision,
    /// Its changes, at least one.
    pub events: Vec<Event>,
    /// Whether some of them leave out what their key was before, because it was too much to keep
    /// in memory: whoever wants that reads this revision from history.
    pub lacks_previous: bool,
}

/// One change of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// What happened.
    pub kind: EventKind,
    /// To which key.
    pub key: Bytes,
    /// The encoded `mvccpb.KeyValue`; of a deleted key only key and revision of the deletion.
    pub kv: Bytes,
    /// The key as it was before, encoded likewise, if it existed and is not left out.
    pub previous: Option<Bytes>,
}

/// What happened to a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// It was created or changed.
    Put,
    /// It was deleted.
    Delete,
}
