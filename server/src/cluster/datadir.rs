//! The data directory: locked, checked before anything is written, made whole or not at all.
//!
//! ```text
//! <data-dir>/member/identity   whose it is, and the format of all the rest
//! <data-dir>/member/log/       the raft log
//! <data-dir>/member/state/     the replicated state
//! <data-dir>/member/incoming/  a snapshot that is being taken over; see `incoming`
//! <data-dir>/member.new/       a first start that was cut off; it is made anew
//! <data-dir>/member.etcd/      what etcd has left here, after it was taken over
//! ```
//!
//! A new member is built in `member.new` and then renamed, so `member` is there with its identity
//! and the first entries of its log, or it is not there. Each name is made durable before anything
//! relies on it.
//!
//! Where etcd's `member` is, the new one takes its name in two steps: etcd's directory is renamed,
//! so that etcd cannot start on it again with a vote that it has given away since, and then the new
//! one. A crash between the two leaves `member.etcd` and a whole `member.new`, and no `member`: the
//! next start does the second step.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, Mode, OFlags};

use super::identity::{self, Identity, IdentityError};
use super::incoming::Incoming;

const MEMBER: &str = "member";
const MEMBER_NEW: &str = "member.new";
const MEMBER_ETCD: &str = "member.etcd";
const IDENTITY: &str = "identity";
const LOG: &str = "log";
const STATE: &str = "state";

/// Only the owner reads or enters: keys, values and credentials lie here.
pub(super) const DIRECTORY_MODE: u32 = 0o700;
pub(super) const FILE_MODE: u32 = 0o600;

/// What lies in a data directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// No member was made in it yet.
    Nothing,
    /// A member of ours.
    Member(Identity),
    /// The `member` directory of etcd.
    Etcd(PathBuf),
}

/// Where the parts of a member go that is being made.
#[derive(Clone, Debug)]
pub struct Fresh {
    /// An empty directory for the raft log.
    pub log: PathBuf,
    /// The state's directory, which is not there yet and may stay away.
    pub state: PathBuf,
}

/// A data directory that this process has locked, until it is dropped.
#[derive(Debug)]
pub struct DataDir {
    root: PathBuf,
    _lock: OwnedFd,
}

impl DataDir {
    /// Locks the data directory, which is created if it is not there.
    ///
    /// # Errors
    ///
    /// [`DataDirError::Locked`] when another process has it; [`DataDirError::Io`] when it cannot be
    /// made.
    pub fn lock(root: &Path) -> Result<Self, DataDirError> {
        if !root.exists() {
            let made = DirBuilder::new()
                .recursive(true)
                .mode(DIRECTORY_MODE)
                .create(root);
            made.map_err(|error| DataDirError::io("create", root, error))?;
            if let Some(parent) = root.canonicalize().ok().as_deref().and_then(Path::parent) {
                sync_directory(parent)?;
            }
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let lock = rustix::fs::open(root, flags, Mode::empty())
            .map_err(|error| DataDirError::io("open", root, error.into()))?;
        match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self {
                root: root.to_path_buf(),
                _lock: lock,
            }),
            Err(rustix::io::Errno::WOULDBLOCK) => Err(DataDirError::Locked(root.to_path_buf())),
            Err(error) => Err(DataDirError::io("lock", root, error.into())),
        }
    }

    /// What lies in the directory. Writes nothing.
    ///
    /// # Errors
    ///
    /// When it holds something else than a whole member of a format that this program knows, or
    /// the data of etcd.
    pub fn content(&self) -> Result<Content, DataDirError> {
        let member = self.root.join(MEMBER);
        if !member.exists() {
            return Ok(Content::Nothing);
        }
        let path = member.join(IDENTITY);
        if !path.exists() {
            if ["snap", "wal"]
                .iter()
                .any(|name| member.join(name).exists())
            {
                return Ok(Content::Etcd(member));
            }
            let mut entries =
                fs::read_dir(&member).map_err(|error| DataDirError::io("read", &member, error))?;
            // An empty directory may have been laid out for us; there is nothing to lose in it.
            return if entries.next().is_none() {
                Ok(Content::Nothing)
            } else {
                Err(DataDirError::NoIdentity(path))
            };
        }
        let identity = Identity::decode(&read_bounded(&path)?)
            .map_err(|error| DataDirError::Identity { path, error })?;
        if !self.log().is_dir() {
            return Err(DataDirError::NoLog(self.log()));
        }
        Ok(Content::Member(identity))
    }

    /// Ends what a crash has cut off between the two steps of taking etcd's place.
    ///
    /// # Errors
    ///
    /// [`DataDirError::Io`].
    pub fn resume(&self) -> Result<(), DataDirError> {
        if !self.is_between_names() {
            return Ok(());
        }
        let (member, fresh) = (self.root.join(MEMBER), self.root.join(MEMBER_NEW));
        fs::rename(&fresh, &member).map_err(|error| DataDirError::io("rename", &fresh, error))?;
        sync_directory(&self.root)
    }

    /// Whether a crash has cut off the second step of taking etcd's place.
    pub fn is_between_names(&self) -> bool {
        // The identity is written last: where it is, all of the rest is durable.
        let is_whole = self.root.join(MEMBER_NEW).join(IDENTITY).exists();
        let exists = |name| self.root.join(name).exists();
        !exists(MEMBER) && exists(MEMBER_ETCD) && is_whole
    }

    /// Makes a new member: `fill` writes the beginning of its log, and its state if it has one
    /// already, into the directories it is given. What etcd has left is moved out of the way.
    ///
    /// The member appears at once and durably when this returns; after a crash before that the
    /// directory is as before, but for a `member.new` that the next call clears away (or, at the
    /// very end, [`Self::resume`] takes).
    ///
    /// # Errors
    ///
    /// Those of `fill`, [`DataDirError::Imported`] before anything was done, and
    /// [`DataDirError::Io`].
    ///
    /// # Panics
    ///
    /// When there is a member already: the caller has asked [`Self::content`].
    pub fn create<E: From<DataDirError>>(
        &self,
        identity: &Identity,
        fill: impl FnOnce(&Fresh) -> Result<(), E>,
    ) -> Result<(), E> {
        let member = self.root.join(MEMBER);
        assert!(!member.join(IDENTITY).exists(), "a member is made once");
        let aside = self.root.join(MEMBER_ETCD);
        let replaces_etcd = matches!(self.content()?, Content::Etcd(_));
        if replaces_etcd && aside.exists() {
            return Err(DataDirError::Imported(aside).into());
        }
        let fresh = self.root.join(MEMBER_NEW);
        match fs::remove_dir_all(&fresh) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(DataDirError::io("remove", &fresh, error).into());
            }
            _ => {}
        }
        let log = fresh.join(LOG);
        for directory in [&fresh, &log] {
            DirBuilder::new()
                .mode(DIRECTORY_MODE)
                .create(directory)
                .map_err(|error| DataDirError::io("create", directory, error))?;
        }
        let state = fresh.join(STATE);
        fill(&Fresh {
            log: log.clone(),
            state: state.clone(),
        })?;
        if state.exists() {
            sync_directory(&state)?;
        }
        sync_directory(&log)?;
        sync_directory(&fresh)?;
        write_file(&fresh.join(IDENTITY), &identity.encode())?;
        sync_directory(&fresh)?;
        if replaces_etcd {
            fs::rename(&member, &aside)
                .map_err(|error| DataDirError::io("rename", &member, error))?;
            sync_directory(&self.root)?;
        }
        // Replaces an empty directory of that name, and fails on any other.
        fs::rename(&fresh, &member).map_err(|error| DataDirError::io("rename", &fresh, error))?;
        sync_directory(&self.root)?;
        Ok(())
    }

    /// The directory as it was given.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Where the raft log lies.
    pub fn log(&self) -> PathBuf {
        self.root.join(MEMBER).join(LOG)
    }

    /// Where the replicated state lies, which may not be there yet.
    pub fn state(&self) -> PathBuf {
        self.root.join(MEMBER).join(STATE)
    }

    /// Where a snapshot comes in that replaces the state.
    pub fn incoming(&self) -> Incoming {
        Incoming::new(&self.root.join(MEMBER), self.state())
    }

    /// Makes the state's directory if it is not there yet, durably.
    ///
    /// # Errors
    ///
    /// [`DataDirError::Io`].
    pub fn create_state(&self) -> Result<PathBuf, DataDirError> {
        let state = self.state();
        if !state.exists() {
            DirBuilder::new()
                .mode(DIRECTORY_MODE)
                .create(&state)
                .map_err(|error| DataDirError::io("create", &state, error))?;
            sync_directory(&self.root.join(MEMBER))?;
        }
        Ok(state)
    }
}

/// Makes the names in a directory durable.
///
/// # Errors
///
/// [`DataDirError::Io`].
pub fn sync_directory(directory: &Path) -> Result<(), DataDirError> {
    File::open(directory)
        .and_then(|opened| opened.sync_all())
        .map_err(|error| DataDirError::io("sync", directory, error))
}

/// Written beside its place and renamed, so that it is there whole or not at all.
pub(super) fn write_file(path: &Path, bytes: &[u8]) -> Result<(), DataDirError> {
    let temporary = path.with_extension("tmp");
    let mut options = File::options();
    let written = options
        .write(true)
        .create(true)
        .truncate(true)
        .mode(FILE_MODE)
        .open(&temporary)
        .and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()));
    written.map_err(|error| DataDirError::io("write", &temporary, error))?;
    fs::rename(&temporary, path).map_err(|error| DataDirError::io("rename", &temporary, error))
}

fn read_bounded(path: &Path) -> Result<Vec<u8>, DataDirError> {
    let mut bytes = Vec::new();
    let one_too_many = identity::MAX_BYTES as u64 + 1;
    File::open(path)
        .and_then(|file| file.take(one_too_many).read_to_end(&mut bytes))
        .map_err(|error| DataDirError::io("read", path, error))?;
    Ok(bytes)
}

/// Why a data directory cannot be used. Nothing was written into it. The operator can fix each of
/// them.
#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    /// Another process has locked it.
    #[error(
        "the data directory {} is in use by another process; stop that one, or give this one \
         another --data-dir", .0.display()
    )]
    Locked(PathBuf),
    /// etcd's data was taken over here before, and there is some again.
    #[error(
        "etcd's data cannot be taken over while {} is there from the last time; move it elsewhere, \
         or remove it", .0.display()
    )]
    Imported(PathBuf),
    /// There is a member without its identity.
    #[error(
        "{} is missing although its directory has content; restore the data directory from a \
         backup, or remove it and let this member join anew", .0.display()
    )]
    NoIdentity(PathBuf),
    /// There is an identity without a log.
    #[error(
        "{} is missing; restore the data directory from a backup, or remove it and let this \
         member join anew", .0.display()
    )]
    NoLog(PathBuf),
    /// The identity cannot be used.
    #[error("{} cannot be used: {error}; {}", path.display(), remedy(error))]
    Identity {
        /// The identity file.
        path: PathBuf,
        /// What is wrong with it.
        error: IdentityError,
    },
    /// What was noted about a snapshot cannot be read.
    #[error(
        "{} is damaged; remove the data directory and let this member join anew", .0.display()
    )]
    Note(PathBuf),
    /// The system refused.
    #[error("cannot {action} {}: {error}", path.display())]
    Io {
        /// A verb.
        action: &'static str,
        /// What it was done to.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
}

impl DataDirError {
    pub(super) fn io(action: &'static str, path: &Path, error: io::Error) -> Self {
        Self::Io {
            action,
            path: path.to_path_buf(),
            error,
        }
    }
}

fn remedy(error: &IdentityError) -> &'static str {
    match error {
        IdentityError::Damaged(_) => {
            "restore the data directory from a backup, or remove it and let this member join anew"
        }
        IdentityError::Newer { .. } => "run the version that wrote it, or a later one",
    }
}

#[cfg(test)]
#[path = "datadir_tests.rs"]
mod tests;
