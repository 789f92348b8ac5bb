//! Puts the state of a received snapshot in its place, before a start opens anything.

use std::path::Path;

use super::error::NodeError;
use crate::cluster::datadir::DataDir;
use crate::cluster::incoming::{Arrived, Incoming, Install};
use crate::ids::{Index, MemberId, Term};
use crate::member::{LogAnew, MemberLog};
use crate::mvcc;
use crate::storage::{Backend, BackendOptions};
use trilith_proto::raftpb;

/// Installs a snapshot that has arrived whole, if log and state do not have what it has; goes on
/// with an install that was cut off. Removes what counts for nothing.
///
/// # Errors
///
/// When log and state do not fit; then nothing was written.
pub(super) fn resume(data_dir: &DataDir, log: &Path, fsync: bool) -> Result<(), NodeError> {
    let incoming = data_dir.incoming();
    let install = match incoming.arrived()? {
        Arrived::Nothing => return Ok(incoming.clear()?),
        Arrived::Install(install) => install,
        Arrived::Whole(index, term) => {
            match decide(data_dir, log, (index, term), fsync)? {
                Some(install) => incoming.decide(&install)?,
                None => {
                    tracing::info!("snapshot-index" = index.get(), "the snapshot is not needed");
                    return Ok(incoming.clear()?);
                }
            };
            return resume(data_dir, log, fsync);
        }
    };
    carry_out(&incoming, &install, log, fsync)?;
    tracing::info!("snapshot-index" = install.base.0.get(), "applied snapshot");
    Ok(())
}

/// Whether the snapshot is needed, with log and state at rest: nobody is told anything any more
/// that the log then would not keep.
fn decide(
    data_dir: &DataDir,
    log: &Path,
    snapshot: (Index, Term),
    fsync: bool,
) -> Result<Option<Install>, NodeError> {
    let state = Backend::open(&data_dir.create_state()?, &BackendOptions::default())?;
    let applied = mvcc::applied(&state.view())?;
    let anew = MemberLog::open(log, fsync)?.anew_behind(snapshot, applied)?;
    Ok(anew.map(|anew| Install {
        base: anew.base,
        term: Term::new(anew.hard_state.term),
        vote: MemberId::new(anew.hard_state.vote),
        boot_epoch: anew.boot_epoch,
    }))
}

/// Each step may be done again.
fn carry_out(
    incoming: &Incoming,
    install: &Install,
    log: &Path,
    fsync: bool,
) -> Result<(), NodeError> {
    incoming.replace_state()?;
    let hard_state = raftpb::HardState {
        term: install.term.get(),
        vote: install.vote.get(),
        commit: install.base.0.get(),
    };
    MemberLog::open(log, fsync)?.begin_anew(&LogAnew {
        base: install.base,
        hard_state,
        boot_epoch: install.boot_epoch,
    })?;
    Ok(incoming.clear()?)
}
