//! Opens what a member has on disk, or makes it on the first start.

use std::fs::{self, DirBuilder};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use tokio::sync::watch;

use super::discover;
use super::disk::Disks;
use super::error::NodeError;
use super::install::{self, OnDisk};
use super::join::{self, Place};
use crate::auth::AuthStore;
use crate::cluster::datadir::{Content, DataDir, DataDirError, sync_directory};
use crate::cluster::identity::Identity;
use crate::config::{ClusterState, Config};
use crate::ids::MemberId;
use crate::import::{EtcdMember, ImportError};
use crate::member::{ConfState, MemberLog, StartError};
use crate::mvcc::Store;
use crate::storage::schema::meta;
use crate::storage::{Backend, BackendOptions, Family, StorageError};

/// What is on disk, opened.
pub(super) struct Opened {
    /// What has to outlive everything else.
    pub(super) kept: Kept,
    /// Whether the member was made by this start.
    pub(super) is_new: bool,
    /// Who this member is.
    pub(super) identity: Identity,
    /// Where the others are, as far as only a first start knows.
    pub(super) others: Vec<(MemberId, Vec<String>)>,
    /// What it is written to.
    pub(super) disks: Disks,
    /// The log, not yet checked against the state.
    pub(super) log: MemberLog,
    /// The state.
    pub(super) store: Store,
    /// Who voted at the applied index; `None` while nothing is applied.
    pub(super) conf_state: Option<ConfState>,
}

/// Held for its lock until the member has stopped.
pub(super) struct Kept {
    pub(super) data_dir: DataDir,
}

/// Opens the data directory; makes a member in it when there is none yet.
///
/// # Errors
///
/// Before anything is written, when the directory is in use, damaged, foreign or newer.
pub(super) fn open(config: &Config, stop: watch::Receiver<bool>) -> Result<Opened, NodeError> {
    let data_dir = DataDir::lock(&config.data_dir)?;
    let fsync = !config.unsafe_no_fsync;
    data_dir.resume()?;
    let found = data_dir.content()?;
    let is_new = found == Content::Nothing;
    // Opening the log may write to it, as torn ends are cut: what can be refused is refused first.
    Backend::check_directory(&data_dir.state())?;
    let disks = Disks::open(config)?;
    if !is_new && config.discovery.is_some() {
        tracing::warn!(
            "wal-dir" = %config.log_dir().display(),
            "discovery token is ignored since cluster already initialized; valid logs are found"
        );
    }
    let mut others = Vec::new();
    let identity = match found {
        Content::Member(identity) => {
            let log = config.log_dir();
            install::resume(&mut OnDisk::new(&data_dir, &log, fsync))?;
            identity
        }
        Content::Etcd(member) => import(config, &data_dir, &member)?,
        Content::Nothing => {
            let place = create(config, &data_dir, stop)?;
            others = place.others;
            place.identity
        }
    };
    let log = MemberLog::open(&config.log_dir(), fsync)?;
    let backend = Backend::open(&data_dir.create_state()?, &backend_options(config))?;
    AuthStore::begin(&backend)?;
    let store = Store::open(backend.clone())?;
    if let Some(threshold) = config.bootstrap_defrag_threshold_bytes {
        defragment(&store, threshold)?;
    }
    let conf_state = backend
        .get(Family::Meta, meta::CONF_STATE)?
        .map(|bytes| ConfState::decode(&bytes))
        .transpose()
        .map_err(|error| NodeError::ConfState(identity.cluster_id, error.to_string()))?;
    Ok(Opened {
        kept: Kept { data_dir },
        is_new,
        identity,
        others,
        disks,
        log,
        store,
        conf_state,
    })
}

/// Defragments if that frees at least `threshold` bytes, as far as can be told beforehand.
fn defragment(store: &Store, threshold: u64) -> Result<(), StorageError> {
    let sizes = store.backend().sizes();
    let free = sizes.total_bytes - sizes.in_use_bytes;
    if free < threshold {
        tracing::info!(
            "current-db-size-bytes" = sizes.total_bytes,
            "current-db-size-in-use-bytes" = sizes.in_use_bytes,
            "bootstrap-defrag-threshold-bytes" = threshold,
            "Skipping defragmentation"
        );
        return Ok(());
    }
    crate::api::defragment(store, &|| true).map(drop)
}

fn backend_options(config: &Config) -> BackendOptions {
    BackendOptions::within(crate::quota::limit(config.quota_backend_bytes))
}

/// Makes a new member, of a new cluster as `--initial-cluster` describes it, or of one that runs.
fn create(
    config: &Config,
    data_dir: &DataDir,
    stop: watch::Receiver<bool>,
) -> Result<Place, NodeError> {
    let bootstrap = discover::members(config, stop)?;
    let joins = config.initial_cluster_state == ClusterState::Existing;
    let place = if joins {
        join::find(config, &bootstrap)?
    } else {
        let own = bootstrap.members.iter().find(|m| m.name == config.name);
        let own = own.expect("the configuration was checked to name this member");
        join::refuse_second_start(config, &bootstrap, own.id)?;
        let identity = Identity {
            cluster_id: bootstrap.cluster_id,
            member_id: own.id,
        };
        let others = Vec::new();
        Place { identity, others }
    };
    let fsync = !config.unsafe_no_fsync;
    let begin = |log: &Path| {
        if joins {
            MemberLog::join(log, fsync)
        } else {
            MemberLog::bootstrap(log, &bootstrap.contexts(), fsync)
        }
    };
    if let Some(wal_dir) = &config.wal_dir {
        make_log_directory(wal_dir)?;
        begin(wal_dir)?;
        sync_directory(wal_dir)?;
    }
    data_dir.create(&place.identity, |fresh| match &config.wal_dir {
        Some(_elsewhere) => Ok(()),
        None => begin(&fresh.log).map_err(Created::Log),
    })?;
    tracing::info!(
        "cluster-id" = %place.identity.cluster_id,
        "local-member-id" = %place.identity.member_id,
        "made a new member"
    );
    Ok(place)
}

/// Makes a member of what etcd has left in its `member` directory, which is only read.
fn import(config: &Config, data_dir: &DataDir, etcds: &Path) -> Result<Identity, NodeError> {
    let found = EtcdMember::open(etcds, config.wal_dir.as_deref())?;
    let identity = found.identity();
    let fsync = !config.unsafe_no_fsync;
    if let Some(wal_dir) = &config.wal_dir {
        make_log_directory(wal_dir)?;
    }
    let made = data_dir.create(&identity, |fresh| {
        let log = config.wal_dir.as_ref().unwrap_or(&fresh.log);
        found.write(&fresh.state, log, fsync)?;
        Ok::<_, ImportError>(sync_directory(log)?)
    });
    made?;
    tracing::info!(
        "cluster-id" = %identity.cluster_id,
        "local-member-id" = %identity.member_id,
        "imported the data of etcd; its files are kept in member.etcd and can be removed"
    );
    Ok(identity)
}

/// Makes an empty directory of `--wal-dir`, durably; it holds the promise of all that comes.
///
/// The log is begun before the member's identity is written, so a kill in between leaves the
/// beginning of a log that nobody owns. That one is begun anew; anything else is left alone.
fn make_log_directory(wal_dir: &Path) -> Result<(), NodeError> {
    let refused = |error| NodeError::LogDirectory {
        path: wal_dir.display().to_string(),
        error,
    };
    if !wal_dir.exists() {
        let mut directory = DirBuilder::new();
        let directory = directory.recursive(true).mode(DIRECTORY_MODE);
        directory.create(wal_dir).map_err(refused)?;
        if let Some(parent) = wal_dir.canonicalize().map_err(refused)?.parent() {
            sync_directory(parent)?;
        }
        return Ok(());
    }
    let mut entries = fs::read_dir(wal_dir).map_err(refused)?;
    if entries.next().is_none() {
        return Ok(());
    }
    if !MemberLog::is_unused(wal_dir) {
        return Err(NodeError::ForeignLog {
            path: wal_dir.display().to_string(),
        });
    }
    for entry in fs::read_dir(wal_dir).map_err(refused)? {
        fs::remove_file(entry.map_err(refused)?.path()).map_err(refused)?;
    }
    Ok(())
}

/// Only the owner reads or enters.
const DIRECTORY_MODE: u32 = 0o700;

/// What can fail while a member is made.
enum Created {
    DataDir(DataDirError),
    Log(StartError),
}

impl From<DataDirError> for Created {
    fn from(error: DataDirError) -> Self {
        Self::DataDir(error)
    }
}

impl From<Created> for NodeError {
    fn from(error: Created) -> Self {
        match error {
            Created::DataDir(error) => Self::DataDir(error),
            Created::Log(error) => Self::Member(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bootstrap(directory: &Path) {
        let member = (MemberId::new(7), bytes::Bytes::from_static(b"{}"));
        MemberLog::bootstrap(directory, &[member], true).unwrap();
    }

    #[test]
    fn a_log_directory_is_made_and_one_that_was_only_begun_is_made_anew() {
        let root = tempfile::tempdir().unwrap();
        let wal_dir = root.path().join("deep/wal");
        make_log_directory(&wal_dir).unwrap();
        bootstrap(&wal_dir);
        make_log_directory(&wal_dir).unwrap();
        assert_eq!(fs::read_dir(&wal_dir).unwrap().count(), 0);
        bootstrap(&wal_dir);
    }

    #[test]
    fn a_log_directory_with_anything_else_in_it_is_refused_and_not_touched() {
        let root = tempfile::tempdir().unwrap();
        bootstrap(root.path());
        fs::write(root.path().join("0.wal"), b"somebody's").unwrap();
        let before = fs::read_dir(root.path()).unwrap().count();
        let refused = make_log_directory(root.path());
        assert!(matches!(refused, Err(NodeError::ForeignLog { .. })));
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), before);
    }
}
