//! A snapshot file: what it holds, and a new member made of it.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use crc32c::crc32c_append;
use sha2::{Digest, Sha256};
use trilith_bbolt::Entry;
use trilith_proto::raftpb;

use super::database::{Bump, Database, Members};
use super::error::ImportError;
use crate::cluster::Identity;
use crate::cluster::bootstrap::Bootstrap;
use crate::cluster::datadir::{DataDir, sync_directory};
use crate::ids::{Index, MemberId, Term};
use crate::member::{ConfState, KeptLog, MemberLog};
use crate::mvcc::Fields;
use crate::progress::{Audience, Progress};
use crate::storage::{Backend, BackendOptions};

/// A file that `snapshot save` has written, or a copy of a database file.
#[derive(Debug)]
pub struct SnapshotFile {
    path: PathBuf,
    /// Bytes without the checksum at the end.
    database_bytes: u64,
    /// Whether there is one.
    has_checksum: bool,
}

/// What a snapshot file holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SnapshotStatus {
    /// CRC-32C over every bucket's name, keys and values.
    pub hash: u32,
    /// The last revision.
    pub revision: i64,
    /// Keys that are not deleted.
    pub total_keys: u64,
    /// Bytes of all pages.
    pub total_size: u64,
    /// The storage version; empty before etcd 3.6.
    pub version: String,
}

/// How a member is made of a snapshot.
#[derive(Clone, Debug)]
pub struct Restore<'a> {
    /// Where the member goes: a directory that is empty or does not exist.
    pub data_dir: &'a Path,
    /// Where its log goes instead, which does not exist yet.
    pub wal_dir: Option<&'a Path>,
    /// The new cluster.
    pub cluster: &'a Bootstrap,
    /// The member of it that is made.
    pub member: MemberId,
    /// Take a file without checksum, and ignore one that is wrong.
    pub skip_hash_check: bool,
    /// How much the revision rises; what is below it then counts as compacted.
    pub bump_revision: u64,
}

impl SnapshotFile {
    /// Opens a file; its content is not looked at yet.
    ///
    /// # Errors
    ///
    /// When it cannot be read.
    pub fn open(path: &Path) -> Result<Self, ImportError> {
        let bytes = fs::metadata(path)
            .map_err(|error| file_error(path, error))?
            .len();
        // Pages are multiples of a sector, so this is how etcd tells whether there is a checksum.
        let has_checksum = bytes % SECTOR_BYTES == CHECKSUM_BYTES;
        let trailer = if has_checksum { CHECKSUM_BYTES } else { 0 };
        Ok(Self {
            path: path.to_path_buf(),
            database_bytes: bytes - trailer,
            has_checksum,
        })
    }

    /// Reads everything and checks that it is sound.
    ///
    /// # Errors
    ///
    /// Damage, and content that etcd does not write.
    pub fn status(&self) -> Result<SnapshotStatus, ImportError> {
        let database = Database::open(&self.path, Audience::Terminal)?;
        let file = database.file();
        file.check()?;
        let mut status = SnapshotStatus {
            total_size: file.size().min(self.database_bytes),
            version: database.storage_version()?,
            ..SnapshotStatus::default()
        };
        let mut living = HashSet::new();
        let mut progress = Progress::new(
            Audience::Terminal,
            "reading the snapshot",
            self.database_bytes,
        );
        for bucket in file.buckets() {
            let (name, bucket) = bucket?;
            status.hash = crc32c_append(status.hash, &name);
            for entry in bucket.entries() {
                let Entry::Pair(key, value) = entry? else {
                    return Err(database.content("it has a bucket within a bucket"));
                };
                status.hash = crc32c_append(crc32c_append(status.hash, &key), &value);
                progress.add(key.len() + value.len());
                if name[..] != *b"key" {
                    continue;
                }
                let (address, is_deletion) = database.address(&key)?;
                status.revision = address.main;
                let user_key = Fields::parse(&value)?.key;
                if is_deletion {
                    living.remove(user_key);
                } else if !living.contains(user_key) {
                    living.insert(user_key.to_vec());
                }
            }
        }
        progress.finish();
        status.total_keys = living.len() as u64;
        Ok(status)
    }

    /// Makes a new member of a new cluster with this content.
    ///
    /// # Errors
    ///
    /// A wrong or missing checksum, damage, and directories that are not free. Nothing was made
    /// then, but for parts of a directory that the next try clears away.
    pub fn restore(&self, how: &Restore<'_>) -> Result<Identity, ImportError> {
        if !how.skip_hash_check {
            self.check_checksum()?;
        }
        is_free(how)?;
        let database = Database::open(&self.path, Audience::Terminal)?;
        database.file().check()?;
        let applied = (Index::new(how.cluster.members.len() as u64), Term::new(1));
        let voters: Vec<MemberId> = how.cluster.members.iter().map(|member| member.id).collect();
        let hard_state = raftpb::HardState {
            term: applied.1.get(),
            vote: voters[0].get(),
            commit: applied.0.get(),
        };
        let contexts = how.cluster.contexts().into_iter();
        let members = Members::Replaced {
            rows: contexts.map(|(id, json)| (id.to_string(), json)).collect(),
            applied,
            conf_state: ConfState {
                voters,
                learners: Vec::new(),
            },
        };
        let identity = Identity {
            cluster_id: how.cluster.cluster_id,
            member_id: how.member,
        };
        let bump = Bump {
            by: how.bump_revision,
        };
        DataDir::lock(how.data_dir)?.create(&identity, |fresh| {
            {
                let backend = Backend::open(&fresh.state, &BackendOptions::to_fill())?;
                database.fill(&backend, &members, bump)?;
            }
            let log = how.wal_dir.unwrap_or(&fresh.log);
            if let Some(elsewhere) = how.wal_dir {
                make_durably(elsewhere)?;
            }
            KeptLog::begin(log, applied, true)?.finish(&hard_state)?;
            Ok::<_, ImportError>(sync_directory(log)?)
        })?;
        Ok(identity)
    }

    fn check_checksum(&self) -> Result<(), ImportError> {
        if !self.has_checksum {
            return Err(ImportError::NoChecksum(self.path.clone()));
        }
        let failed = |error| file_error(&self.path, error);
        let mut file = File::open(&self.path).map_err(failed)?;
        let mut progress =
            Progress::new(Audience::Terminal, "checking the file", self.database_bytes);
        let mut hash = Sha256::new();
        let mut buffer = vec![0; READ_BYTES];
        let mut left = self.database_bytes;
        while left > 0 {
            let wanted = left.min(READ_BYTES as u64) as usize;
            file.read_exact(&mut buffer[..wanted]).map_err(failed)?;
            hash.update(&buffer[..wanted]);
            left -= wanted as u64;
            progress.add(wanted);
        }
        progress.finish();
        let mut expected = [0; CHECKSUM_BYTES as usize];
        file.seek(SeekFrom::Start(self.database_bytes))
            .map_err(failed)?;
        file.read_exact(&mut expected).map_err(failed)?;
        if hash.finalize()[..] != expected {
            return Err(ImportError::Checksum(self.path.clone()));
        }
        Ok(())
    }
}

/// Whether nothing is where the member is to be made. What an earlier try has left is cleared away.
fn is_free(how: &Restore<'_>) -> Result<(), ImportError> {
    let mut was_begun = false;
    if how.data_dir.exists() {
        let names = fs::read_dir(how.data_dir).map_err(|error| file_error(how.data_dir, error))?;
        for name in names {
            let name = name.map_err(|error| file_error(how.data_dir, error))?;
            if name.file_name() != "member.new" {
                return Err(ImportError::NotEmpty(how.data_dir.to_path_buf()));
            }
            was_begun = true;
        }
    }
    match how.wal_dir.filter(|wal_dir| wal_dir.exists()) {
        // Nobody has started on it: it is the log of the member that was only begun.
        Some(wal_dir) if was_begun && MemberLog::is_unused(wal_dir) => {
            fs::remove_dir_all(wal_dir).map_err(|error| file_error(wal_dir, error))
        }
        Some(wal_dir) => Err(ImportError::WalDirExists(wal_dir.to_path_buf())),
        None => Ok(()),
    }
}

fn make_durably(directory: &Path) -> Result<(), ImportError> {
    fs::create_dir_all(directory).map_err(|error| file_error(directory, error))?;
    let whole = directory.canonicalize();
    let whole = whole.map_err(|error| file_error(directory, error))?;
    match whole.parent() {
        Some(parent) => Ok(sync_directory(parent)?),
        None => Ok(()),
    }
}

fn file_error(path: &Path, error: io::Error) -> ImportError {
    ImportError::File {
        path: path.to_path_buf(),
        error,
    }
}

const SECTOR_BYTES: u64 = 512;

/// SHA-256 of all bytes before it.
const CHECKSUM_BYTES: u64 = 32;

const READ_BYTES: usize = 1 << 20;
