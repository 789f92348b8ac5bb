//! Checks before a member starts that its log and its state belong together.
//!
//! Guessing here would lose committed entries: what does not fit is refused, and nothing is
//! written.

use std::path::PathBuf;

use raft::eraftpb::EntryType;

use super::conf_change::{ConfChange, ConfChangeKind, ConfState};
use super::log::{LogError, LogReader, Recovered};
use crate::ids::{Index, MemberId, Term};

/// How far the durable state has applied the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Applied {
    pub(crate) index: u64,
    pub(crate) term: u64,
}

/// Passes a log that fits the state, with what is committed raised to what is applied.
pub(crate) fn check(
    mut recovered: Recovered,
    reader: &dyn LogReader,
    applied: Applied,
) -> Result<Recovered, Misfit> {
    let Recovered { base, last, .. } = recovered;
    if base.index > applied.index {
        let (from, to) = (applied.index + 1, base.index);
        return Err(Misfit::Gap {
            applied: applied.index,
            from,
            to,
        });
    }
    if last < applied.index {
        return Err(Misfit::Cut {
            needed: applied.index,
            last,
        });
    }
    if last < recovered.hard_state.commit {
        return Err(Misfit::Cut {
            needed: recovered.hard_state.commit,
            last,
        });
    }
    let term = if applied.index == base.index {
        base.term
    } else {
        term_of(reader, applied.index)?
    };
    if term != applied.term {
        return Err(Misfit::Term {
            index: applied.index,
            log: term,
            state: applied.term,
        });
    }
    let last_term = if last == base.index {
        base.term
    } else {
        term_of(reader, last)?
    };
    if last_term > recovered.hard_state.term {
        let hard_state = recovered.hard_state.term;
        return Err(Misfit::HardState {
            last_term,
            hard_state,
        });
    }
    read_unapplied(reader, applied.index + 1, last)?;
    // What is applied was committed; the log learns of a commit later than the state does.
    recovered.hard_state.commit = recovered.hard_state.commit.max(applied.index);
    Ok(recovered)
}

/// Reads all that is still to be applied: damage is better found before the member joins, and the
/// pages are read once from disk either way.
fn read_unapplied(reader: &dyn LogReader, first: u64, last: u64) -> Result<(), Misfit> {
    let mut next = first;
    while next <= last {
        for entry in reader.entries(next, last + 1, READ_BYTES)? {
            if entry.index != next {
                return Err(Misfit::Missing { index: next });
            }
            next += 1;
        }
    }
    Ok(())
}

/// Who votes in a log whose state is still empty: those whom its first entries add, which are
/// committed from the start. A member that joins a running cluster knows of nobody until its first
/// entries are applied.
pub(crate) fn first_conf_state(
    recovered: &Recovered,
    reader: &dyn LogReader,
) -> Result<ConfState, Misfit> {
    let mut state = ConfState::default();
    if recovered.joined {
        return Ok(state);
    }
    for index in 1..=recovered.hard_state.commit {
        let entries = reader.entries(index, index + 1, u64::MAX)?;
        let Some(entry) = entries.first() else { break };
        if entry.term != 1 || entry.get_entry_type() != EntryType::EntryConfChange {
            break;
        }
        match ConfChange::decode(&entry.data) {
            Ok(change) if change.kind == ConfChangeKind::AddNode => {
                state.voters.push(change.member);
            }
            _ => break,
        }
    }
    state.voters.sort_unstable();
    state.voters.dedup();
    if state.voters.is_empty() {
        return Err(Misfit::NoVoters);
    }
    Ok(state)
}

/// The term of an entry that is there.
pub(crate) fn term_of(reader: &dyn LogReader, index: u64) -> Result<u64, Misfit> {
    let entries = reader.entries(index, index + 1, u64::MAX)?;
    let entry = entries.first().filter(|entry| entry.index == index);
    entry
        .map(|entry| entry.term)
        .ok_or(Misfit::Missing { index })
}

/// Entries are checked in pieces of about this size.
const READ_BYTES: u64 = 4 * 1024 * 1024;

/// How a log and a state do not fit.
#[derive(Debug, thiserror::Error)]
pub enum Misfit {
    /// The log begins too late.
    #[error("the state has applied entry {applied}, and entries {from} to {to} are missing")]
    Gap {
        /// What the state has.
        applied: u64,
        /// First missing entry.
        from: u64,
        /// Last missing entry.
        to: u64,
    },
    /// The log ends too early.
    #[error("it ends at entry {last}, and entry {needed} was committed")]
    Cut {
        /// What must be there.
        needed: u64,
        /// What is there.
        last: u64,
    },
    /// They have different histories.
    #[error("entry {index} has term {log}, and the state has applied it with term {state}")]
    Term {
        /// The entry.
        index: u64,
        /// Its term in the log.
        log: u64,
        /// Its term in the state.
        state: u64,
    },
    /// The hard state is older than the entries.
    #[error("its last entry is of term {last_term}, but its hard state of term {hard_state}")]
    HardState {
        /// Term of the last entry.
        last_term: u64,
        /// Term of the hard state.
        hard_state: u64,
    },
    /// An entry is not where it should be.
    #[error("entry {index} is missing")]
    Missing {
        /// The entry.
        index: u64,
    },
    /// Nobody votes.
    #[error("it does not begin with the members of its cluster")]
    NoVoters,
    /// A new cluster cannot be made of a member that does not vote.
    #[error(
        "--force-new-cluster would leave nobody to vote: member {id} is no voter of the cluster \
         that the log is of"
    )]
    NoVoterLeft {
        /// The member.
        id: MemberId,
    },
    /// It cannot be read.
    #[error(transparent)]
    Unreadable(#[from] LogError),
}

/// A log that cannot be started on. Nothing was written.
#[derive(Debug, thiserror::Error)]
#[error(
    "the raft log {} cannot be used: {misfit}; restore the whole data directory from a backup, or \
     remove it and let this member join anew", log.display()
)]
pub struct BootError {
    /// Where the log lies.
    pub log: PathBuf,
    /// What is wrong with it.
    pub misfit: Misfit,
}

impl From<(Index, Term)> for Applied {
    fn from((index, term): (Index, Term)) -> Self {
        Self {
            index: index.get(),
            term: term.get(),
        }
    }
}
