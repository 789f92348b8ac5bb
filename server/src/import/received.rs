//! A snapshot that another member has sent: checked whole before anything is made of it.

use std::path::Path;

use super::database::{Bump, Database, Members};
use super::error::ImportError;
use crate::ids::{Index, MemberId, Term};
use crate::progress::Audience;
use crate::storage::{Backend, BackendOptions};

/// A database file that was found sound, and to be the state that its sender has named.
#[derive(Debug)]
pub struct ReceivedSnapshot {
    database: Database,
}

impl ReceivedSnapshot {
    /// Reads all of the file's pages. `named` is the state's last applied entry and its term as the
    /// message says it, `own` the member that takes it.
    ///
    /// # Errors
    ///
    /// Damage, another state than the named one, and one of a cluster without this member.
    pub fn open(path: &Path, named: (Index, Term), own: MemberId) -> Result<Self, ImportError> {
        Self::open_sound(path, named, own).map_err(told)
    }

    fn open_sound(path: &Path, named: (Index, Term), own: MemberId) -> Result<Self, ImportError> {
        let database = Database::open(path, Audience::Log)?;
        database.file().check()?;
        let applied = database.applied()?;
        if applied != named {
            return Err(database.content(&format!(
                "its state is that of entry {} of term {}, and it was sent as that of entry {} of \
                 term {}",
                applied.0, applied.1, named.0, named.1
            )));
        }
        if database.is_removed(own)? {
            return Err(ImportError::Removed(own));
        }
        if !database.is_member(own)? {
            return Err(database.content(&format!("it does not know this member, {own}")));
        }
        Ok(Self { database })
    }

    /// Makes a state of it in a directory that does not exist yet; durable when this returns, but
    /// for the directory's own name.
    ///
    /// # Errors
    ///
    /// Rows that etcd would not write, and failed writes.
    pub fn fill(&self, state: &Path, options: &BackendOptions) -> Result<(), ImportError> {
        let backend = Backend::open(state, options)?;
        let database = &self.database;
        let filled = database.fill(&backend, &Members::Kept, Bump::default());
        filled.map_err(told)
    }
}

/// What is wrong with the file, without advice that is for those who move from etcd.
fn told(error: ImportError) -> ImportError {
    match error {
        ImportError::Database(error) => ImportError::Received(error.to_string()),
        ImportError::Content { reason, .. } => ImportError::Received(reason),
        other => other,
    }
}
