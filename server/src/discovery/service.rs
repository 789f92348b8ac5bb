//! The members of a new cluster as a discovery service knows them: another cluster, in which each
//! member registers itself under a token and waits until all others have.

use std::time::Duration;

use super::client::{CallError, Client};
use super::registry::{self, Keys, Roster};
use crate::discovery_service::DiscoveryService;
use crate::ids::MemberId;

/// The member that registers.
#[derive(Clone, Debug)]
pub struct Newcomer {
    /// Its id in the new cluster.
    pub id: MemberId,
    /// Itself, as `--initial-cluster` would name it.
    pub urls: String,
}

/// Why the service does not tell the members.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    /// Nobody has written how many members there are to be.
    #[error("discovery: size key not found")]
    SizeNotFound,
    /// The size is no number above zero.
    #[error("discovery: size key is bad")]
    BadSize,
    /// Others have come first.
    #[error("discovery: cluster is full")]
    Full,
    /// Somebody has registered what is no list of URLs.
    #[error("discovery: invalid peer URL")]
    InvalidUrl,
    /// The service does not know the user.
    #[error("{0}")]
    Refused(String),
    /// An endpoint is no address.
    #[error("the endpoint {0:?} is no host:port: {1}")]
    Endpoint(String, String),
}

impl From<CallError> for ServiceError {
    fn from(error: CallError) -> Self {
        Self::Refused(error.to_string())
    }
}

/// Registers a member and waits until the cluster is complete, which it then names as
/// `--initial-cluster` would. A service that does not answer is asked for ever, as by etcd.
///
/// `is_cluster` tells whether such a text can be read.
///
/// # Errors
///
/// [`ServiceError`], once the service has answered what no other try would change.
pub async fn join(
    service: &DiscoveryService,
    newcomer: &Newcomer,
    is_cluster: fn(&str) -> bool,
) -> Result<String, ServiceError> {
    tracing::info!("Bootstrapping cluster using v3 discovery.");
    let mut client = Client::new(service)?;
    client.authenticate().await?;
    let keys = Keys::new(&service.token);
    let mut joining = Joining {
        own_key: keys.member(newcomer.id),
        keys,
        client,
        retries: 0,
    };
    let joined = joining.join(newcomer).await.and_then(|cluster| {
        let read = is_cluster(&cluster);
        read.then_some(cluster).ok_or(ServiceError::InvalidUrl)
    });
    let endpoints = service.endpoints.join(",");
    match &joined {
        Ok(cluster) => tracing::info!(
            "discovery-token" = service.token,
            "discovery-endpoints" = endpoints,
            cluster,
            "discovery joined cluster successfully"
        ),
        Err(error) => tracing::warn!(
            "discovery-token" = service.token,
            "discovery-endpoints" = endpoints,
            %error,
            "discovery failed to join cluster"
        ),
    }
    joined
}

struct Joining {
    keys: Keys,
    own_key: String,
    client: Client,
    /// Tries in a row that have failed.
    retries: u32,
}

impl Joining {
    async fn join(&mut self, newcomer: &Newcomer) -> Result<String, ServiceError> {
        self.members().await?;
        self.register(&newcomer.urls).await;
        loop {
            let (mut roster, revision) = self.members().await?;
            if !roster.is_complete() {
                tracing::info!(
                    "clusterSize" = roster.size(),
                    "found-peers" = roster.len(),
                    "waiting for peers from discovery service"
                );
                if let Err(error) = self.complete(&mut roster, revision).await {
                    tracing::warn!(%error, "failed to wait for peers from discovery service");
                    self.back_off("waiting for peers").await;
                    continue;
                }
            }
            tracing::info!(
                "clusterSize" = roster.size(),
                "found-peers" = roster.len(),
                "found all needed peers from discovery service"
            );
            return Ok(roster.cluster());
        }
    }

    /// Who has registered, and the revision at which that was so.
    async fn members(&mut self) -> Result<(Roster, i64), ServiceError> {
        loop {
            let size_key = self.keys.size();
            let size = match self.client.range(&size_key, None).await {
                Ok(answer) => registry::size(answer.kvs.first())?,
                Err(error) => {
                    tracing::warn!(
                        "clusterSizeKey" = size_key,
                        %error,
                        "failed to get cluster size from discovery service"
                    );
                    self.back_off(CHECK).await;
                    continue;
                }
            };
            let prefix = self.keys.members();
            let answer = match self.client.range(&prefix, Some(after(&prefix))).await {
                Ok(answer) => answer,
                Err(error) => {
                    tracing::warn!(
                        "membersKeyPrefix" = prefix,
                        %error,
                        "failed to get cluster members from discovery service"
                    );
                    self.back_off(CHECK).await;
                    continue;
                }
            };
            self.retries = 0;
            let mut roster = Roster::new(size);
            for found in &answer.kvs {
                roster.add(found);
            }
            if roster.is_full_without(&self.own_key) {
                return Err(ServiceError::Full);
            }
            return Ok((roster, answer.header.map_or(0, |header| header.revision)));
        }
    }

    async fn register(&mut self, urls: &str) {
        while let Err(error) = self.client.put(&self.own_key, urls).await {
            tracing::warn!(
                "memberKey" = self.own_key,
                %error,
                "failed to register members itself to the discovery service"
            );
            self.back_off("register member itself").await;
        }
        self.retries = 0;
        tracing::info!(
            "memberKey" = self.own_key,
            "memberInfo" = urls,
            "register member itself successfully"
        );
    }

    /// Watches until nobody is missing; fails when the watch ends before.
    async fn complete(&mut self, roster: &mut Roster, revision: i64) -> Result<(), CallError> {
        let prefix = self.keys.members();
        let from = revision + 1;
        let mut watch = self.client.watch(&prefix, after(&prefix), from).await?;
        let ended = |text: &str| CallError::Refused(text.to_owned());
        while !roster.is_complete() {
            let told = watch.message().await;
            let told = told.map_err(|status| ended(status.message()))?;
            let told = told.ok_or_else(|| ended("the watch has ended"))?;
            for found in told.events.iter().filter_map(|event| event.kv.as_ref()) {
                roster.add(found);
            }
            if told.canceled && !roster.is_complete() {
                return Err(ended(&told.cancel_reason));
            }
        }
        Ok(())
    }

    /// Waits longer after each failure, up to a bound, as etcd does.
    async fn back_off(&mut self, reason: &str) {
        self.retries = self.retries.saturating_add(1);
        let pause = Duration::from_secs(1 << self.retries.min(DOUBLINGS_MAX));
        tracing::warn!(
            reason,
            backoff = ?pause,
            "retry connecting to discovery service"
        );
        tokio::time::sleep(pause).await;
    }
}

/// The end of the range of all keys with this prefix.
fn after(prefix: &str) -> Vec<u8> {
    let mut end = prefix.as_bytes().to_vec();
    let last = end
        .last_mut()
        .expect("the prefixes of the registry are not empty");
    *last += 1;
    end
}

/// What is tried again when nobody answers, in etcd's words.
const CHECK: &str = "cluster status check";

/// The pause is 2 s and grows to 256 s.
const DOUBLINGS_MAX: u32 = 8;
