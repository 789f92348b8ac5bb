//! The data directory: locked, checked before anything is written, made whole or not at all.
//!
//! ```text
//! <data-dir>/member/identity   whose it is, and the format of all the rest
//! <data-dir>/member/log/       the raft log
//! <data-dir>/member/state/     the replicated state
//! <data-dir>/member.new/       a first start that was cut off; it is made anew
//! ```
//!
//! A new member is built in `member.new` and then renamed, so `member` is there with its identity
//! and the first entries of its log, or it is not there. Each name is made durable before anything
//! relies on it.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, Mode, OFlags};

use super::identity::{self, Identity, IdentityError};

const MEMBER: &str = "member";
const MEMBER_NEW: &str = "member.new";
const IDENTITY: &str = "identity";
const LOG: &str = "log";
const STATE: &str = "state";

/// Only the owner reads or enters: keys, values and credentials lie here.
const DIRECTORY_MODE: u32 = 0o700;
const FILE_MODE: u32 = 0o600;

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

    /// Whose directory it is; `None` when no member was made in it yet. Writes nothing.
    ///
    /// # Errors
    ///
    /// When it holds something else than a whole member of a format that this program knows.
    pub fn identity(&self) -> Result<Option<Identity>, DataDirError> {
        let member = self.root.join(MEMBER);
        if !member.exists() {
            return Ok(None);
        }
        for name in ["snap", "wal"] {
            if member.join(name).exists() {
                return Err(DataDirError::Etcd(member.join(name)));
            }
        }
        let path = member.join(IDENTITY);
        if !path.exists() {
            let mut entries =
                fs::read_dir(&member).map_err(|error| DataDirError::io("read", &member, error))?;
            // An empty directory may have been laid out for us; there is nothing to lose in it.
            return if entries.next().is_none() {
                Ok(None)
            } else {
                Err(DataDirError::NoIdentity(path))
            };
        }
        let identity = Identity::decode(&read_bounded(&path)?)
            .map_err(|error| DataDirError::Identity { path, error })?;
        if !self.log().is_dir() {
            return Err(DataDirError::NoLog(self.log()));
        }
        Ok(Some(identity))
    }

    /// Makes a new member: `fill` writes the beginning of its log into the directory it is given.
    ///
    /// The member appears at once and durably when this returns; after a crash before that the
    /// directory is as before, but for a `member.new` that the next call clears away.
    ///
    /// # Errors
    ///
    /// Those of `fill`, and [`DataDirError::Io`].
    ///
    /// # Panics
    ///
    /// When there is a member already: the caller has asked [`Self::identity`].
    pub fn create<E: From<DataDirError>>(
        &self,
        identity: &Identity,
        fill: impl FnOnce(&Path) -> Result<(), E>,
    ) -> Result<(), E> {
        let member = self.root.join(MEMBER);
        assert!(!member.join(IDENTITY).exists(), "a member is made once");
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
        fill(&log)?;
        write_file(&fresh.join(IDENTITY), &identity.encode())?;
        sync_directory(&log)?;
        sync_directory(&fresh)?;
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
fn write_file(path: &Path, bytes: &[u8]) -> Result<(), DataDirError> {
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
    /// etcd keeps its data here.
    #[error(
        "{} was made by etcd, and this version does not import etcd's data; give another \
         --data-dir", .0.display()
    )]
    Etcd(PathBuf),
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
    fn io(action: &'static str, path: &Path, error: io::Error) -> Self {
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
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::ids::{ClusterId, MemberId};

    fn identity() -> Identity {
        Identity {
            member_id: MemberId::new(7),
            cluster_id: ClusterId::new(8),
        }
    }

    fn create(dir: &DataDir) {
        let made: Result<(), DataDirError> = dir.create(&identity(), |log| {
            fs::write(log.join("first"), b"entries").unwrap();
            Ok(())
        });
        made.unwrap();
    }

    /// All names and contents below a directory.
    fn listing(root: &Path) -> Vec<(PathBuf, Vec<u8>)> {
        let mut found = Vec::new();
        for entry in fs::read_dir(root).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                found.push((path.clone(), Vec::new()));
                found.extend(listing(&path));
            } else {
                found.push((path.clone(), fs::read(&path).unwrap()));
            }
        }
        found.sort();
        found
    }

    #[test]
    fn a_new_member_is_there_with_its_identity_and_log_and_only_for_its_owner() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path().join("deep/data");
        let dir = DataDir::lock(&root).unwrap();
        assert_eq!(dir.identity().unwrap(), None);
        create(&dir);
        assert_eq!(dir.identity().unwrap(), Some(identity()));
        assert_eq!(fs::read(dir.log().join("first")).unwrap(), b"entries");
        assert!(!root.join(MEMBER_NEW).exists());
        dir.create_state().unwrap();
        for path in [root.clone(), root.join("member"), dir.log(), dir.state()] {
            let mode = fs::metadata(&path).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, DIRECTORY_MODE, "{}", path.display());
        }
    }

    #[test]
    fn a_second_process_is_refused_until_the_first_lets_go() {
        let root = tempfile::tempdir().unwrap();
        let first = DataDir::lock(root.path()).unwrap();
        let error = DataDir::lock(root.path()).unwrap_err();
        assert!(matches!(&error, DataDirError::Locked(path) if path == root.path()));
        assert!(
            error
                .to_string()
                .contains(&root.path().display().to_string())
        );
        drop(first);
        DataDir::lock(root.path()).unwrap();
    }

    #[test]
    fn a_first_start_that_was_cut_off_is_made_anew() {
        let root = tempfile::tempdir().unwrap();
        let dir = DataDir::lock(root.path()).unwrap();
        let cut: Result<(), DataDirError> = dir.create(&identity(), |log| {
            fs::write(log.join("half"), b"").unwrap();
            Err(DataDirError::NoLog(log.into()))
        });
        cut.unwrap_err();
        assert_eq!(dir.identity().unwrap(), None);
        create(&dir);
        assert_eq!(dir.identity().unwrap(), Some(identity()));
        assert!(!dir.log().join("half").exists());
    }

    #[test]
    fn what_is_not_a_whole_member_is_refused_and_not_touched() {
        type Damage = fn(&Path);
        let cases: [(&str, Damage); 6] = [
            ("made by etcd", |member| {
                fs::create_dir(member.join("wal")).unwrap()
            }),
            ("made by etcd", |member| {
                fs::create_dir(member.join("snap")).unwrap()
            }),
            ("identity is missing", |member| {
                fs::remove_file(member.join("identity")).unwrap()
            }),
            ("log is missing", |member| {
                fs::remove_dir_all(member.join("log")).unwrap()
            }),
            ("identity cannot be used: it is damaged", |member| {
                fs::write(member.join("identity"), b"trilith identity 1\n").unwrap();
            }),
            ("its format is 2", |member| {
                let body = "trilith identity 2\nand more\n";
                let sum = crc32c::crc32c(body.as_bytes());
                fs::write(member.join("identity"), format!("{body}crc32c {sum:08x}\n")).unwrap();
            }),
        ];
        for (text, damage) in cases {
            let root = tempfile::tempdir().unwrap();
            let dir = DataDir::lock(root.path()).unwrap();
            create(&dir);
            damage(&root.path().join("member"));
            let before = listing(root.path());
            let error = dir.identity().unwrap_err().to_string();
            assert!(error.contains(text), "{error}");
            assert!(
                error.contains(&root.path().display().to_string()),
                "{error}"
            );
            assert_eq!(listing(root.path()), before, "{text}");
        }
    }

    #[test]
    fn an_empty_member_directory_is_as_good_as_none() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("member")).unwrap();
        let dir = DataDir::lock(root.path()).unwrap();
        assert_eq!(dir.identity().unwrap(), None);
        create(&dir);
        assert_eq!(dir.identity().unwrap(), Some(identity()));
    }
}
