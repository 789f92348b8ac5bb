//! The directory of a member that etcd, or `etcdutl snapshot restore`, has left.

use std::fs::File;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;

use super::database::{Bump, Database, Members};
use super::error::ImportError;
use super::survey::{self, Survey};
use super::wal::Wal;
use crate::cluster::Identity;
use crate::member::KeptLog;
use crate::progress::Audience;
use crate::storage::{Backend, BackendOptions};

/// A member of etcd that was found sound and can be taken over.
#[derive(Debug)]
pub struct EtcdMember {
    database: Database,
    survey: Survey,
    /// Keeps etcd from starting on the database meanwhile.
    _lock: Option<File>,
}

impl EtcdMember {
    /// Reads all of the log and the head of the database in etcd's `member` directory. Writes
    /// nothing. `wal_dir` is `--wal-dir`, which has to be free for our own log.
    ///
    /// # Errors
    ///
    /// Damage, files that do not belong together, a member that was removed from its cluster.
    pub fn open(directory: &Path, wal_dir: Option<&Path>) -> Result<Self, ImportError> {
        let wal = directory.join(WAL);
        if let Some(elsewhere) = wal_dir.filter(|elsewhere| Wal::open(elsewhere).is_ok()) {
            return Err(ImportError::WalDir {
                found: elsewhere.to_path_buf(),
                wanted: wal,
            });
        }
        let lock = lock(&directory.join(SNAP).join(DATABASE))?;
        let wal = Wal::open(&wal)?;
        let database = open_database(&directory.join(SNAP), &wal)?;
        let survey = survey::survey(wal, database.applied()?)?;
        let id = survey.identity.member_id;
        if database.is_removed(id)? {
            return Err(ImportError::Removed(id));
        }
        if database.applied()?.0.get() > 0 && !database.is_member(id)? {
            return Err(ImportError::Stranger(id));
        }
        Ok(Self {
            database,
            survey,
            _lock: lock,
        })
    }

    /// Whose directory it is.
    pub fn identity(&self) -> Identity {
        self.survey.identity
    }

    /// How many members its cluster has, as far as the database knows.
    ///
    /// # Errors
    ///
    /// When the database cannot be read.
    pub fn members(&self) -> Result<usize, ImportError> {
        self.database.members()
    }

    /// Writes state and log into two directories, the first of which does not exist yet.
    ///
    /// # Errors
    ///
    /// Damage in what was not read before, and failed writes.
    pub fn write(&self, state: &Path, log: &Path, fsync: bool) -> Result<(), ImportError> {
        let applied = self.database.applied()?;
        tracing::info!(
            "local-member-id" = %self.identity().member_id,
            "cluster-id" = %self.identity().cluster_id,
            "applied-index" = applied.0.get(),
            "commit-index" = self.survey.hard_state.commit,
            "importing the data of etcd"
        );
        {
            let backend = Backend::open(state, &BackendOptions::to_fill())?;
            self.database
                .fill(&backend, &Members::Kept, Bump::default())?;
        }
        let mut kept = KeptLog::begin(log, applied, fsync)?;
        self.survey.entries(|entry| Ok(kept.push(entry)?))?;
        kept.finish(&self.survey.hard_state)?;
        Ok(())
    }
}

/// Takes the lock that etcd holds on its database for as long as it runs; `None` without one.
fn lock(path: &Path) -> Result<Option<File>, ImportError> {
    let refused = |error| ImportError::File {
        path: path.to_path_buf(),
        error,
    };
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(refused(error)),
    };
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Some(file)),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(ImportError::Running(path.to_path_buf())),
        Err(error) => Err(refused(error.into())),
    }
}

/// The database, or a newer one that the leader has sent and that etcd would have put in its place
/// with the next start.
fn open_database(snap: &Path, wal: &Wal) -> Result<Database, ImportError> {
    let path = snap.join(DATABASE);
    let newest = survey::newest_snapshot(wal)?;
    let received: PathBuf = snap.join(format!("{newest:016x}.snap.db"));
    if path.exists() || !received.exists() {
        let database = Database::open(&path, Audience::Log)?;
        if database.applied()?.0.get() >= newest || !received.exists() {
            return Ok(database);
        }
    }
    Database::open(&received, Audience::Log)
}

const SNAP: &str = "snap";
const WAL: &str = "wal";
const DATABASE: &str = "db";
