//! A snapshot that another member sends: checked whole before what is made of it counts.
//!
//! A file that comes in order, as our own members write it, is taken while it comes: its records go
//! into the new state at once, and only the few other pages into the file, at their places. Any
//! other file, such as etcd's, is kept until all of it is there.

use std::fs;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use trilith_bbolt::{Arrived, InOrder};

use super::database::{Bump, Database, Members, Records};
use super::error::ImportError;
use crate::ids::{Index, MemberId, Term};
use crate::mvcc::KEY_BUCKET;
use crate::progress::Audience;
use crate::storage::{Backend, BackendOptions, StorageError};

/// A snapshot while it comes.
#[derive(Debug)]
pub struct ComingSnapshot {
    /// Empty at the beginning.
    file: fs::File,
    path: PathBuf,
    place: Place,
    bytes: u64,
    form: Form,
}

/// Where the state is made.
#[derive(Debug)]
enum Place {
    /// A directory that does not exist yet.
    Directory(PathBuf),
    /// One that is open and empty.
    Open(Backend),
}

/// How the file comes.
#[derive(Debug)]
enum Form {
    /// Not known before so much of it is there.
    Unknown(Vec<u8>),
    /// In any order.
    Any,
    InOrder(Box<Begun>),
}

/// A state that is filled while the file comes.
#[derive(Debug)]
struct Begun {
    pages: InOrder,
    records: Records,
    backend: Backend,
}

/// A database file that was found sound, and to be the state that its sender has named.
#[derive(Debug)]
pub struct ReceivedSnapshot {
    database: Database,
    /// What was made of the records while they came, and is not in the file.
    begun: Option<(Records, Backend)>,
    place: Place,
}

impl ComingSnapshot {
    /// Takes a snapshot into an empty `file` at `path`, and makes a state of it in a directory
    /// that does not exist yet.
    pub fn new(file: fs::File, path: PathBuf, state: PathBuf) -> Self {
        Self::at(file, path, Place::Directory(state))
    }

    /// As [`Self::new`], into a state that is open and empty.
    pub fn into_open(file: fs::File, path: PathBuf, state: Backend) -> Self {
        Self::at(file, path, Place::Open(state))
    }

    fn at(file: fs::File, path: PathBuf, place: Place) -> Self {
        Self {
            file,
            path,
            place,
            bytes: 0,
            form: Form::Unknown(Vec::new()),
        }
    }

    /// Bytes that have come.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Takes what has come.
    ///
    /// # Errors
    ///
    /// Damage, rows that etcd would not write, and failed writes.
    pub fn push(&mut self, piece: &[u8]) -> Result<(), ImportError> {
        self.take(piece).map_err(told)
    }

    fn take(&mut self, piece: &[u8]) -> Result<(), ImportError> {
        let at = self.bytes;
        self.bytes += piece.len() as u64;
        match &mut self.form {
            Form::Any => self.file.write_all_at(piece, at).map_err(unwritten),
            Form::InOrder(begun) => begun.take(piece, &self.file),
            Form::Unknown(head) => {
                head.extend_from_slice(piece);
                if head.len() < InOrder::HEAD_BYTES {
                    return Ok(());
                }
                self.decide()
            }
        }
    }

    /// Tells from the beginning how it comes.
    fn decide(&mut self) -> Result<(), ImportError> {
        let Form::Unknown(head) = &mut self.form else {
            return Ok(());
        };
        let head = std::mem::take(head);
        self.form = Form::Any;
        let pages = InOrder::recognize(&self.path, &head);
        let Some(pages) = pages.filter(|it| it.largest() == KEY_BUCKET.as_bytes()) else {
            return self.file.write_all_at(&head, 0).map_err(unwritten);
        };
        let backend = self.place.open()?;
        let records = Records::begin(&self.path, &backend, Audience::Log, pages.size())?;
        let mut begun = Box::new(Begun {
            pages,
            records,
            backend,
        });
        begun.take(&head, &self.file)?;
        self.form = Form::InOrder(begun);
        Ok(())
    }

    /// All has come: checks it. `named` is the state's last applied entry and its term as the
    /// message says it, `own` the member that takes it.
    ///
    /// # Errors
    ///
    /// Damage, another state than the named one, and one of a cluster without this member.
    pub fn whole(
        mut self,
        named: (Index, Term),
        own: MemberId,
    ) -> Result<ReceivedSnapshot, ImportError> {
        self.decide().map_err(told)?;
        self.check(named, own).map_err(told)
    }

    fn check(self, named: (Index, Term), own: MemberId) -> Result<ReceivedSnapshot, ImportError> {
        let (database, begun) = match self.form {
            Form::InOrder(begun) => {
                let Begun {
                    pages,
                    records,
                    backend,
                } = *begun;
                pages.finish()?;
                let database = Database::open(&self.path, Audience::Log)?;
                (database, Some((records, backend)))
            }
            Form::Unknown(_) | Form::Any => {
                let database = Database::open(&self.path, Audience::Log)?;
                database.file().check()?;
                (database, None)
            }
        };
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
        Ok(ReceivedSnapshot {
            database,
            begun,
            place: self.place,
        })
    }
}

impl Place {
    fn open(&self) -> Result<Backend, StorageError> {
        match self {
            Self::Directory(state) => Backend::open(state, &BackendOptions::to_fill()),
            Self::Open(backend) => Ok(backend.clone()),
        }
    }
}

impl Begun {
    fn take(&mut self, piece: &[u8], file: &fs::File) -> Result<(), ImportError> {
        self.pages.push(piece);
        while let Some(arrived) = self.pages.next_page()? {
            match arrived {
                Arrived::Largest(leaf) => {
                    for (key, value) in leaf.pairs() {
                        self.records.add(key, value)?;
                    }
                }
                Arrived::Other(at, bytes) => file.write_all_at(&bytes, at).map_err(unwritten)?,
            }
        }
        Ok(())
    }
}

impl ReceivedSnapshot {
    /// About how much is still to be written.
    pub fn bytes_to_write(&self) -> u64 {
        match self.begun {
            Some(_) => 0,
            None => self.database.file().size(),
        }
    }

    /// Makes a state of all of it; durable when this returns, but for the directory's own name.
    ///
    /// # Errors
    ///
    /// Rows that etcd would not write, and failed writes.
    pub fn fill(self) -> Result<(), ImportError> {
        self.fill_state().map_err(told)
    }

    fn fill_state(self) -> Result<(), ImportError> {
        let (members, bump) = (Members::Kept, Bump::default());
        match self.begun {
            Some((records, backend)) => {
                let database = &self.database;
                database.fill_around(records, &backend, &members, bump)
            }
            None => self.database.fill(&self.place.open()?, &members, bump),
        }
    }
}

fn unwritten(error: io::Error) -> ImportError {
    ImportError::Received(error.to_string())
}

/// What is wrong with the file, without advice that is for those who move from etcd.
fn told(error: ImportError) -> ImportError {
    match error {
        ImportError::Database(error) => ImportError::Received(error.to_string()),
        ImportError::Content { reason, .. } => ImportError::Received(reason),
        other => other,
    }
}

#[cfg(test)]
#[path = "received_tests.rs"]
mod tests;
