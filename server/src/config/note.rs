//! What there is to say about a configuration that is accepted.
//!
//! The log's own settings are part of the configuration, so what is noticed while reading it is
//! collected here and logged once the log stands.

use tracing::{info, warn};

/// One line for the log.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "each variant is explained by its text")]
pub enum Note {
    VariableUsed { name: String, value: String },
    VariableUnknown { text: String },
    VersionVariable { value: String },
    FileLoaded { path: String },
    UnknownKey { key: String },
    NoEffect { flag: &'static str },
    Deprecated { flag: &'static str },
    DefaultName,
    DefaultHost { host: String },
    NoDefaultHost { error: String },
    DefaultDataDir { dir: String },
    CheckpointNotPersisted,
    TimeoutRaised { flag: &'static str },
    ProgressIntervalRaised { given: String },
    LargeRequests { bytes: u64 },
}

impl Note {
    /// Writes the line, with etcd's text where etcd has one.
    pub fn log(&self) {
        match self {
            Self::VariableUsed { name, value } => info!(
                "variable-name" = name,
                "variable-value" = value,
                "recognized and used environment variable"
            ),
            Self::VariableUnknown { text } => {
                warn!(
                    "environment-variable" = text,
                    "unrecognized environment variable"
                );
            }
            Self::VersionVariable { value } => {
                warn!(
                    key = "ETCD_VERSION",
                    value, "cannot set special environment variable"
                );
            }
            Self::FileLoaded { path } => info!(
                path,
                "loaded server configuration, other configuration command line flags and \
                 environment variables will be ignored if provided"
            ),
            Self::UnknownKey { key } => {
                warn!(key, "no such setting; it is ignored, as etcd ignores it");
            }
            Self::NoEffect { flag } => {
                warn!(
                    flag,
                    "tunes a part of etcd that Trilith does not have; it has no effect"
                );
            }
            Self::Deprecated { flag } => {
                warn!(flag, "is deprecated by etcd, and its value is ignored");
            }
            Self::DefaultName => {
                warn!(
                    name = "default",
                    "give each member a name of its own with --name"
                );
            }
            Self::DefaultHost { host } => info!(host, "detected default host for advertise"),
            Self::NoDefaultHost { error } => info!(error, "failed to detect default host"),
            Self::DefaultDataDir { dir } => {
                warn!("data-dir" = dir, "'data-dir' was empty; using default");
            }
            Self::CheckpointNotPersisted => warn!(
                "Detected that checkpointing is enabled without persistence. Consider enabling \
                 feature gate LeaseCheckpointPersist"
            ),
            Self::TimeoutRaised { flag } => info!("{flag} increased to minimum value: 5s"),
            Self::ProgressIntervalRaised { given } => warn!(
                given,
                "adjusted watch progress notify interval to the minimum of 100ms"
            ),
            Self::LargeRequests { bytes } => warn!(
                "max-request-bytes" = bytes,
                "recommended-request-bytes" = super::check::RECOMMENDED_REQUEST_BYTES,
                "exceeded recommended request limit"
            ),
        }
    }
}
