//! Puts the state of a received snapshot in its place, before a start opens anything.

use std::path::Path;

use super::error::NodeError;
use crate::cluster::datadir::DataDir;
use crate::cluster::incoming::{Arrived, Incoming, Install};
use crate::ids::{Index, MemberId, Term};
use crate::member::{LogAnew, MemberLog};
use crate::mvcc;
use crate::planted::{Bug, is_planted};
use crate::storage::{Backend, BackendOptions};
use trilith_proto::raftpb;

/// What an install works on: state, log, and what has arrived, of a member that does not run.
pub trait Site {
    /// Why a step failed.
    type Error;

    /// How far a snapshot has come.
    ///
    /// # Errors
    ///
    /// When that cannot be read.
    fn arrived(&self) -> Result<Arrived, Self::Error>;

    /// What the log begins with behind a snapshot; `None` if log and state have what it has.
    ///
    /// # Errors
    ///
    /// When log and state do not fit.
    fn anew_behind(&self, snapshot: (Index, Term)) -> Result<Option<LogAnew>, Self::Error>;

    /// Decides, durably, that the snapshot is needed.
    ///
    /// # Errors
    ///
    /// When it cannot be written.
    fn decide(&mut self, install: &Install) -> Result<(), Self::Error>;

    /// Lets the new state take the place of the old one, durably. May be repeated.
    ///
    /// # Errors
    ///
    /// When it cannot be done.
    fn replace_state(&mut self) -> Result<(), Self::Error>;

    /// Begins the log anew, durably. May be repeated.
    ///
    /// # Errors
    ///
    /// When it cannot be written.
    fn begin_anew(&mut self, anew: &LogAnew) -> Result<(), Self::Error>;

    /// Removes all that has arrived.
    ///
    /// # Errors
    ///
    /// When it cannot be removed.
    fn clear(&mut self) -> Result<(), Self::Error>;
}

/// Installs a snapshot that has arrived whole, if log and state do not have what it has; goes on
/// with an install that was cut off. Removes what counts for nothing. Gives the last entry of a
/// snapshot that was installed.
///
/// # Errors
///
/// When a step fails. It may be called again, also after a crash. While nothing was decided,
/// nothing was written.
pub fn resume<S: Site>(site: &mut S) -> Result<Option<Index>, S::Error> {
    let install = match site.arrived()? {
        Arrived::Nothing => {
            site.clear()?;
            return Ok(None);
        }
        Arrived::Install(install) => install,
        // With log and state at rest nobody is told anything any more that the log then would not
        // keep.
        Arrived::Whole(index, term) => match site.anew_behind((index, term))? {
            Some(anew) => {
                let install = decided(&anew);
                site.decide(&install)?;
                install
            }
            None => {
                tracing::info!("snapshot-index" = index.get(), "the snapshot is not needed");
                site.clear()?;
                return Ok(None);
            }
        },
    };
    carry_out(site, &install)?;
    let index = install.base.0;
    tracing::info!("snapshot-index" = index.get(), "applied snapshot");
    Ok(Some(index))
}

/// Each step may be done again.
fn carry_out<S: Site>(site: &mut S, install: &Install) -> Result<(), S::Error> {
    site.replace_state()?;
    if is_planted(Bug::InstallForgottenEarly) {
        site.clear()?;
    }
    site.begin_anew(&begins_with(install))?;
    site.clear()
}

fn decided(anew: &LogAnew) -> Install {
    Install {
        base: anew.base,
        term: Term::new(anew.hard_state.term),
        vote: MemberId::new(anew.hard_state.vote),
        boot_epoch: anew.boot_epoch,
    }
}

fn begins_with(install: &Install) -> LogAnew {
    LogAnew {
        base: install.base,
        hard_state: raftpb::HardState {
            term: install.term.get(),
            vote: install.vote.get(),
            commit: install.base.0.get(),
        },
        boot_epoch: install.boot_epoch,
    }
}

/// A member on disk.
pub(super) struct OnDisk<'a> {
    incoming: Incoming,
    data_dir: &'a DataDir,
    log: &'a Path,
    fsync: bool,
}

impl<'a> OnDisk<'a> {
    pub(super) fn new(data_dir: &'a DataDir, log: &'a Path, fsync: bool) -> Self {
        Self {
            incoming: data_dir.incoming(),
            data_dir,
            log,
            fsync,
        }
    }
}

impl Site for OnDisk<'_> {
    type Error = NodeError;

    fn arrived(&self) -> Result<Arrived, NodeError> {
        Ok(self.incoming.arrived()?)
    }

    fn anew_behind(&self, snapshot: (Index, Term)) -> Result<Option<LogAnew>, NodeError> {
        let options = BackendOptions::default();
        let state = Backend::open(&self.data_dir.create_state()?, &options)?;
        let applied = mvcc::applied(&state.view())?;
        let log = MemberLog::open(self.log, self.fsync)?;
        Ok(log.anew_behind(snapshot, applied)?)
    }

    fn decide(&mut self, install: &Install) -> Result<(), NodeError> {
        Ok(self.incoming.decide(install)?)
    }

    fn replace_state(&mut self) -> Result<(), NodeError> {
        Ok(self.incoming.replace_state()?)
    }

    fn begin_anew(&mut self, anew: &LogAnew) -> Result<(), NodeError> {
        let log = MemberLog::open(self.log, self.fsync)?;
        Ok(log.begin_anew(anew)?)
    }

    fn clear(&mut self) -> Result<(), NodeError> {
        Ok(self.incoming.clear()?)
    }
}
