//! The discovery service as the flags name it: another cluster, which knows the members of a new
//! one.

use std::fmt;
use std::time::Duration;

/// The flags `--discovery-*`, of a member that has them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiscoveryService {
    /// Names the new cluster; never empty.
    pub token: String,
    /// `host:port` of each member of the service; at least one.
    pub endpoints: Vec<String>,
    /// How long it may take to find out who asks; `None` for as long as it takes.
    pub dial_timeout: Option<Duration>,
    /// How long a request may take; above zero.
    pub request_timeout: Duration,
    /// Time between two pings; `None` sends none.
    pub keepalive_time: Option<Duration>,
    /// Time for the answer to a ping; `None` for the default.
    pub keepalive_timeout: Option<Duration>,
    /// Who asks, where the service wants to know.
    pub credentials: Option<Credentials>,
}

/// A user of the service.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// Its name.
    pub user: String,
    /// Its password, which is never shown.
    pub password: String,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("user", &self.user)
            .finish_non_exhaustive()
    }
}
