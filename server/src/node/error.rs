//! Why a member did not start.

use std::net::SocketAddr;

use crate::cluster::bootstrap::BootstrapError;
use crate::cluster::datadir::DataDirError;
use crate::cluster::join::JoinError;
use crate::config::ConfigError;
use crate::corruption::InitialCheckError;
use crate::ids::ClusterId;
use crate::member::StartError;
use crate::mvcc::MvccError;
use crate::storage::StorageError;

/// Why a member did not start. Nothing was acknowledged, and the text says what to do.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the texts say what each means")]
pub enum NodeError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Dns(#[from] crate::discovery::dns::DnsError),
    #[error("failed to join discovery cluster ({0})")]
    Discovery(#[from] crate::discovery::service::ServiceError),
    #[error("told to stop while waiting for the members that the discovery service names")]
    StoppedDiscovering,
    #[error(
        "the discovery service has another member with the name {name:?}: {cluster}; give each \
         member a name of its own, and take a new token, since this one is used up"
    )]
    SameName { name: String, cluster: String },
    #[error(transparent)]
    Bootstrap(#[from] BootstrapError),
    #[error(transparent)]
    Join(#[from] JoinError),
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    #[error(transparent)]
    Import(#[from] crate::import::ImportError),
    #[error(transparent)]
    Member(#[from] StartError),
    #[error(transparent)]
    Storage(#[from] StorageError),
    #[error(transparent)]
    Mvcc(#[from] MvccError),
    #[error(transparent)]
    Apply(#[from] crate::apply::ApplyError),
    #[error(
        "{0}; nothing was changed: find out which members agree with HashKV, and give this one the \
         data of the majority (remove it, clear its data directory, add it again), or start it \
         without the feature gate InitialCorruptCheck to look into it"
    )]
    Corruption(#[from] InitialCheckError),
    #[error(
        "--wal-dir {path} holds something already, and --data-dir has no member: it is the log of \
         another member, or of this one after its data directory was lost; choose an empty \
         directory"
    )]
    ForeignLog { path: String },
    #[error("--wal-dir {path} cannot be used: {error}")]
    LogDirectory { path: String, error: std::io::Error },
    #[error("{address} cannot be listened on: {error}; is another process using it?")]
    Listen {
        address: SocketAddr,
        error: std::io::Error,
    },
    #[error(
        "the disk is full, and {path}, which keeps room for a start, cannot be removed: {error}"
    )]
    Reserve { path: String, error: std::io::Error },
    #[error(
        "the state that a snapshot replaces is still in use here after {0:?}; start the member \
         again, which puts the snapshot in place"
    )]
    StillOpen(std::time::Duration),
    #[error("cannot start a thread: {0}")]
    Thread(#[from] std::io::Error),
    #[error("the membership in the state of cluster {0} is damaged: {1}")]
    ConfState(ClusterId, String),
}
