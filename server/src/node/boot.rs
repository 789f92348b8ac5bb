//! Opens what a member has on disk, or makes it on the first start.

use std::path::Path;

use super::error::NodeError;
use crate::cluster::bootstrap::{Bootstrap, NewMember};
use crate::cluster::datadir::{DataDir, DataDirError};
use crate::cluster::identity::Identity;
use crate::config::Config;
use crate::member::{ConfState, MemberLog, StartError};
use crate::mvcc::Store;
use crate::storage::schema::meta;
use crate::storage::{Backend, BackendOptions, Family};

/// What is on disk, opened.
pub(super) struct Opened {
    /// What has to outlive everything else.
    pub(super) kept: Kept,
    /// Whether the member was made by this start.
    pub(super) is_new: bool,
    /// Who this member is.
    pub(super) identity: Identity,
    /// The log, not yet checked against the state.
    pub(super) log: MemberLog,
    /// The state.
    pub(super) store: Store,
    /// Who voted at the applied index; `None` while nothing is applied.
    pub(super) conf_state: Option<ConfState>,
}

/// Held for its lock until the member has stopped.
pub(super) struct Kept {
    _data_dir: DataDir,
}

/// Opens the data directory; makes a member in it when there is none yet.
///
/// # Errors
///
/// Before anything is written, when the directory is in use, damaged, foreign or newer.
pub(super) fn open(config: &Config) -> Result<Opened, NodeError> {
    let data_dir = DataDir::lock(&config.data_dir)?;
    let fsync = !config.unsafe_no_fsync;
    let found = data_dir.identity()?;
    let is_new = found.is_none();
    let identity = match found {
        Some(identity) => identity,
        None => create(config, &data_dir)?,
    };
    let log = MemberLog::open(&config.log_dir(), fsync)?;
    let backend = Backend::open(&data_dir.create_state()?, &BackendOptions::default())?;
    let store = Store::open(backend.clone())?;
    let conf_state = backend
        .get(Family::Meta, meta::CONF_STATE)?
        .map(|bytes| ConfState::decode(&bytes))
        .transpose()
        .map_err(|error| NodeError::ConfState(identity.cluster_id, error.to_string()))?;
    Ok(Opened {
        kept: Kept {
            _data_dir: data_dir,
        },
        is_new,
        identity,
        log,
        store,
        conf_state,
    })
}

/// Makes a new member of a new cluster, as `--initial-cluster` describes it.
fn create(config: &Config, data_dir: &DataDir) -> Result<Identity, NodeError> {
    let wanted = config.bootstrap()?;
    let members: Vec<_> = wanted
        .members
        .iter()
        .map(|(name, urls)| NewMember {
            name: name.clone(),
            peer_urls: urls.iter().map(ToString::to_string).collect(),
        })
        .collect();
    let own_urls = &wanted.members[&config.name];
    let own_urls: Vec<_> = own_urls.iter().map(ToString::to_string).collect();
    let bootstrap = Bootstrap::new(&members, &wanted.token)?;
    let own = bootstrap
        .find(&own_urls)
        .expect("the configuration was checked to name this member");
    let identity = Identity {
        cluster_id: bootstrap.cluster_id,
        member_id: own.id,
    };
    let fsync = !config.unsafe_no_fsync;
    if let Some(wal_dir) = &config.wal_dir {
        refuse_foreign_log(wal_dir)?;
        MemberLog::bootstrap(wal_dir, &bootstrap.contexts(), fsync)?;
    }
    data_dir.create(&identity, |log| match &config.wal_dir {
        Some(_elsewhere) => Ok(()),
        None => MemberLog::bootstrap(log, &bootstrap.contexts(), fsync).map_err(Created::Log),
    })?;
    tracing::info!(
        "cluster-id" = %identity.cluster_id,
        "local-member-id" = %identity.member_id,
        "made a new member"
    );
    Ok(identity)
}

fn refuse_foreign_log(wal_dir: &Path) -> Result<(), NodeError> {
    let holds_something =
        std::fs::read_dir(wal_dir).is_ok_and(|mut entries| entries.next().is_some());
    if holds_something {
        return Err(NodeError::ForeignLog {
            path: wal_dir.display().to_string(),
        });
    }
    Ok(())
}

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
