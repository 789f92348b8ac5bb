//! Finds the members of a new cluster before anything is written: by `--initial-cluster`, DNS, or
//! the discovery service.

use tokio::runtime::Handle;
use tokio::sync::watch;

use super::error::NodeError;
use crate::cluster::bootstrap::{Bootstrap, NewMember};
use crate::config::{self, Config, SrvRecords, is_cluster};
use crate::discovery::dns;
use crate::discovery::service::{self, Newcomer};
use crate::discovery_service::DiscoveryService;

/// The members, among them the one of `config`. Blocks: not for async threads. Waiting for other
/// members ends when `stop` turns true.
///
/// # Errors
///
/// When the members cannot be found, or contradict each other or the settings.
pub(super) fn members(
    config: &Config,
    stop: watch::Receiver<bool>,
) -> Result<Bootstrap, NodeError> {
    if let Some(records) = &config.discovery_srv {
        return named(&config.bootstrap_discovered(&by_dns(config, records)?)?);
    }
    let wanted = named(&config.bootstrap()?)?;
    match &config.discovery {
        Some(service) => by_service(config, service, &wanted, stop),
        None => Ok(wanted),
    }
}

fn named(wanted: &config::Bootstrap) -> Result<Bootstrap, NodeError> {
    let members = wanted.members.iter().map(|(name, urls)| NewMember {
        name: name.clone(),
        peer_urls: urls.iter().map(ToString::to_string).collect(),
    });
    let members: Vec<_> = members.collect();
    Ok(Bootstrap::new(&members, &wanted.token)?)
}

/// The members as DNS names them.
fn by_dns(config: &Config, records: &SrvRecords) -> Result<String, NodeError> {
    let urls = &config.initial_advertise_peer_urls;
    let own = urls.iter().filter_map(|url| {
        let port = url.port().parse().ok()?;
        Some((url.scheme().name(), url.host(), port))
    });
    let question = dns::Question {
        domain: &records.domain,
        service_name: &records.service_name,
        name: &config.name,
        own: own.collect(),
    };
    Ok(dns::members(&question)?)
}

/// Registers this member, which is all of `alone`, and waits for the others.
fn by_service(
    config: &Config,
    service: &DiscoveryService,
    alone: &Bootstrap,
    mut stop: watch::Receiver<bool>,
) -> Result<Bootstrap, NodeError> {
    let newcomer = Newcomer {
        id: alone.members[0].id,
        urls: config.initial_cluster.clone(),
    };
    let cluster = Handle::current().block_on(async {
        tokio::select! {
            joined = service::join(service, &newcomer, is_cluster) => joined.map_err(Into::into),
            _stopped = stop.wait_for(|stop| *stop) => Err(NodeError::StoppedDiscovering),
        }
    })?;
    let members = named(&config.bootstrap_registered(&cluster)?)?;
    let mut known = members.members.iter();
    if !known.any(|member| member.id == newcomer.id && member.name == config.name) {
        let name = config.name.clone();
        return Err(NodeError::SameName { name, cluster });
    }
    Ok(members)
}
