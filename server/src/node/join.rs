//! Asks the members of a cluster that runs already who is in it, before anything is written.

use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::FuturesOrdered;
use http::Response;
use serde::Deserialize;
use tokio::runtime::Handle;

use super::error::NodeError;
use super::state_endpoints::DOWNGRADE_PATH;
use crate::cluster::bootstrap::Bootstrap;
use crate::cluster::join::{ExistingCluster, JoinError, is_compatible};
use crate::cluster::{Identity, Version};
use crate::config::{Config, same_urls};
use crate::ids::{ClusterId, MemberId};
use crate::peer::{self, CLUSTER_ID};
use crate::propose::request_timeout;

/// A member's place in a cluster.
pub(super) struct Place {
    pub(super) identity: Identity,
    /// Where the others are.
    pub(super) others: Vec<(MemberId, Vec<String>)>,
}

/// Finds the place of this member, one of `local`, in the cluster of the others. Blocks: not for
/// async threads.
///
/// # Errors
///
/// etcd's texts for a cluster that does not answer, or that has no place for it.
pub(super) fn find(config: &Config, local: &Bootstrap) -> Result<Place, NodeError> {
    let own = local.members.iter().position(|m| m.name == config.name);
    let own = own.expect("the configuration was checked to name this member");
    let existing = existing(&other_urls(config, local), FETCH_TIME_MAX)?;
    let ids = existing.assign(&local.members, same_urls)?;
    let id = ids[own];
    let others = existing.members.iter().filter(|member| member.id() != id);
    let others: Vec<_> = others
        .map(|member| (member.id(), member.peer_urls().to_vec()))
        .collect();
    let wait = request_timeout(config.election_timeout);
    let versions: Vec<_> = others
        .iter()
        .filter_map(|(id, urls)| cluster_version(*id, urls, wait))
        .collect();
    let mut downgrades = others
        .iter()
        .filter_map(|(_, urls)| is_downgrading(urls, wait));
    if !is_compatible(&versions, downgrades.next().unwrap_or_default()) {
        return Err(JoinError::Incompatible.into());
    }
    existing.check_learners(config.max_learners)?;
    let identity = Identity {
        member_id: id,
        cluster_id: existing.id,
    };
    Ok(Place { identity, others })
}

/// Refuses to found a cluster with a member that was in it already and has lost its data: it would
/// vote again where it has voted. The others may not run yet, and then nobody knows.
///
/// # Errors
///
/// [`JoinError::Bootstrapped`].
pub(super) fn refuse_second_start(
    config: &Config,
    local: &Bootstrap,
    own: MemberId,
) -> Result<(), NodeError> {
    let existing = existing(&other_urls(config, local), FOUND_TIME_MAX);
    let members = existing.map_or_else(|_unknown| Vec::new(), |existing| existing.members);
    let known = members.iter().find(|member| member.id() == own);
    if known.is_some_and(|member| !member.client_urls.is_empty()) {
        return Err(JoinError::Bootstrapped(own).into());
    }
    Ok(())
}

/// In the order in which they are asked.
fn other_urls(config: &Config, local: &Bootstrap) -> Vec<String> {
    let others = local.members.iter().filter(|m| m.name != config.name);
    let mut urls: Vec<_> = others.flat_map(|member| member.peer_urls.clone()).collect();
    urls.sort_unstable();
    urls
}

/// All are asked at once, and the first answer in their order counts.
fn existing(urls: &[String], wait: Duration) -> Result<ExistingCluster, JoinError> {
    let asked = urls.iter().map(|url| async move {
        let answer = peer::get(url, MEMBERS_PATH, wait).await;
        (url, answer)
    });
    let mut answers = asked.collect::<FuturesOrdered<_>>();
    let runtime = Handle::current();
    while let Some((url, answer)) = runtime.block_on(answers.next()) {
        let told = answer.map_err(|error| error.to_string());
        match told.and_then(|answer| cluster_in(&answer)) {
            Ok(cluster) if cluster.members.is_empty() => return Err(JoinError::NoMembers),
            Ok(cluster) => return Ok(cluster),
            Err(error) => {
                tracing::warn!(address = url, error, "failed to get cluster response");
            }
        }
    }
    Err(JoinError::NoAnswer)
}

fn cluster_in(answer: &Response<Bytes>) -> Result<ExistingCluster, String> {
    let id = answer.headers().get(CLUSTER_ID);
    let id = id.and_then(|id| u64::from_str_radix(id.to_str().ok()?, 16).ok());
    let id = id.ok_or("it does not name its cluster")?;
    ExistingCluster::parse(ClusterId::new(id), answer.body())
}

#[derive(Deserialize)]
struct Versions {
    etcdcluster: String,
}

/// The version of its cluster, as a member tells it; a cluster that has none yet tells no version.
fn cluster_version(id: MemberId, urls: &[String], wait: Duration) -> Option<Version> {
    let answer = first_answer(urls, VERSION_PATH, wait)?;
    let versions = serde_json::from_slice::<Versions>(answer.body());
    let version = versions
        .ok()
        .and_then(|told| Version::parse(&told.etcdcluster));
    if version.is_none() {
        tracing::warn!(
            "remote-member-id" = %id,
            "failed to parse cluster version of remote member"
        );
    }
    version
}

fn is_downgrading(urls: &[String], wait: Duration) -> Option<bool> {
    let answer = first_answer(urls, DOWNGRADE_PATH, wait)?;
    std::str::from_utf8(answer.body()).ok()?.parse().ok()
}

fn first_answer(urls: &[String], path: &'static str, wait: Duration) -> Option<Response<Bytes>> {
    urls.iter().find_map(|url| {
        let answer = get(url, path, wait);
        let told = answer.inspect_err(|error| {
            tracing::warn!(address = url, error, "failed to reach the peer URL");
        });
        told.ok()
    })
}

fn get(url: &str, path: &'static str, wait: Duration) -> Result<Response<Bytes>, String> {
    let answer = Handle::current().block_on(peer::get(url, path, wait));
    answer.map_err(|error| error.to_string())
}

const MEMBERS_PATH: &str = "/members";
const VERSION_PATH: &str = "/version";

/// How long a member may take to tell who is in the cluster, as in etcd.
const FETCH_TIME_MAX: Duration = Duration::from_secs(10);

/// The same when a cluster is founded, where most often nobody is there yet.
const FOUND_TIME_MAX: Duration = Duration::from_secs(1);
