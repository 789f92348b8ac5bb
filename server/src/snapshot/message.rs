//! The message that goes ahead of a state on its way to another member.

use bytes::Bytes;
use prost::Message as _;
use trilith_proto::raftpb;

use crate::mvcc;
use crate::storage::schema::meta;
use crate::storage::{Family, View};

/// Lets the message name the state that is sent: its applied index, read through the same view as
/// the rows, and who voted then.
///
/// # Errors
///
/// When the state does not know the member that it goes to, or cannot be read.
pub fn describe(view: &View, mut message: raftpb::Message) -> Result<raftpb::Message, String> {
    let (index, term) = mvcc::applied(view).map_err(|error| error.to_string())?;
    let conf_state = view.get(Family::Meta, meta::CONF_STATE);
    let conf_state = conf_state.map_err(|error| error.to_string())?;
    let conf_state = raftpb::ConfState::decode(conf_state.unwrap_or_default());
    let conf_state = conf_state.map_err(|error| error.to_string())?;
    let members = conf_state.voters.iter().chain(&conf_state.learners);
    if !members.into_iter().any(|id| *id == message.to) {
        // Its addition is being applied. It would refuse a state that does not know it.
        return Err("the state does not have the member yet".to_owned());
    }
    let metadata = raftpb::SnapshotMetadata {
        conf_state: Some(conf_state),
        index: index.get(),
        term: term.get(),
    };
    message.snapshot = Some(raftpb::Snapshot {
        data: Bytes::new(),
        metadata: Some(metadata),
    });
    Ok(message)
}
