//! The log's part in taking over a snapshot: whether it needs one, and what it begins with after.
//!
//! Raft is not running then. A member that counts entries behind the snapshot as its own, because
//! it has told a leader so, must keep them: such a log holds the snapshot's last entry already, and
//! needs no snapshot. Any other log has nothing that the snapshot does not replace.

use std::path::Path;

use raft::eraftpb::HardState;
use trilith_proto::raftpb;

use super::boot::{self, Applied, BootError, Misfit};
use super::driver::{MemberLog, StartError};
use super::log::{Base, EngineLog, LogReader, Recovered};
use crate::ids::{Index, Term};
use crate::planted::{Bug, is_planted};

/// What a log begins with after a snapshot was taken over.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct LogAnew {
    /// The snapshot's last entry, and its term.
    pub base: (Index, Term),
    /// The term that the member knows, and whom it voted for in it.
    pub hard_state: raftpb::HardState,
    /// How often the member was started.
    pub boot_epoch: u64,
}

impl MemberLog {
    /// Begins the empty log of a member that joins a running cluster.
    ///
    /// # Errors
    ///
    /// When it cannot be written.
    pub fn join(directory: &Path, fsync: bool) -> Result<(), StartError> {
        let (log, _) = EngineLog::open(directory, fsync).map_err(StartError::log(directory))?;
        log.begin_joined().map_err(StartError::log(directory))
    }

    /// What the log begins with if the state of a snapshot takes the place of one that has applied
    /// `applied`; `None` if log and state have what it has. Writes nothing.
    ///
    /// # Errors
    ///
    /// [`StartError::Boot`] when log and state do not fit: a snapshot does not bring back what the
    /// member has forgotten that it said.
    pub fn anew_behind(
        &self,
        snapshot: (Index, Term),
        applied: (Index, Term),
    ) -> Result<Option<LogAnew>, StartError> {
        let misfit = |misfit| BootError {
            log: self.directory.clone(),
            misfit,
        };
        let recovered = self.recovered.clone();
        let anew = anew_behind(recovered, &self.log, snapshot, Applied::from(applied));
        Ok(anew.map_err(misfit)?)
    }

    /// Begins the log anew, durably. May be repeated.
    ///
    /// # Errors
    ///
    /// When it cannot be written.
    pub fn begin_anew(&self, anew: &LogAnew) -> Result<(), StartError> {
        let base = Base {
            index: anew.base.0.get(),
            term: anew.base.1.get(),
        };
        let begun = self
            .log
            .begin_anew(&base, &anew.for_raft(), anew.boot_epoch);
        begun.map_err(StartError::log(&self.directory))
    }
}

impl LogAnew {
    /// Its hard state as raft-rs has it.
    pub(super) fn for_raft(&self) -> HardState {
        let mut hard_state = HardState::default();
        let known = &self.hard_state;
        (hard_state.term, hard_state.vote) = (known.term, known.vote);
        hard_state.commit = known.commit;
        hard_state
    }
}

/// See [`MemberLog::anew_behind`].
pub(super) fn anew_behind(
    recovered: Recovered,
    log: &dyn LogReader,
    snapshot: (Index, Term),
    applied: Applied,
) -> Result<Option<LogAnew>, Misfit> {
    let checked = boot::check(recovered, log, applied)?;
    let (index, term) = (snapshot.0.get(), snapshot.1.get());
    let takes_any = is_planted(Bug::SnapshotTakenAnyway);
    if index <= checked.hard_state.commit && !takes_any {
        return Ok(None);
    }
    // What is committed was passed above, and the base is never behind it.
    let is_within = index <= checked.last && !takes_any;
    if is_within && boot::term_of(log, index)? == term {
        return Ok(None);
    }
    let known = &checked.hard_state;
    let forgets = is_planted(Bug::InstallForgetsVote);
    let vote = if known.term >= term && !forgets {
        known.vote
    } else {
        0
    };
    Ok(Some(LogAnew {
        base: snapshot,
        hard_state: raftpb::HardState {
            term: known.term.max(term),
            vote,
            commit: index,
        },
        boot_epoch: checked.boot_epoch,
    }))
}

#[cfg(test)]
#[path = "install_tests.rs"]
mod tests;
