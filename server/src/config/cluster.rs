//! The members of a new cluster: reading `--initial-cluster` and holding it against this member.
//!
//! None of this matters once a member has data, so it is checked only for a first start.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::net::ToSocketAddrs;

use super::Config;
use super::check::{not_yet, unsupported};
use super::error::ConfigError;
use super::url::{MemberUrl, join};

/// Whether the first start founds a cluster or joins one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are the flag's values")]
pub enum ClusterState {
    New,
    Existing,
}

/// Where DNS names the members of a new cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SrvRecords {
    /// `--discovery-srv`.
    pub domain: String,
    /// `--discovery-srv-name`.
    pub service_name: String,
}

/// What a member needs to know for its first start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bootstrap {
    /// Peer URLs of each member by name, sorted; this member is among them.
    pub members: BTreeMap<String, Vec<MemberUrl>>,
    /// Keeps clusters with the same URLs apart.
    pub token: String,
}

impl Config {
    /// Reads and checks what matters for a first start only, as etcd does.
    pub fn bootstrap(&self) -> Result<Bootstrap, ConfigError> {
        let bootstrap = self.bootstrap_from(&self.initial_cluster, ConfigError::NoLocalName)?;
        if self.discovery.is_some() && self.initial_cluster_state == ClusterState::Existing {
            return Err(ConfigError::DiscoveryForExisting);
        }
        Ok(bootstrap)
    }

    /// The members that the discovery service names; whether this one is among them is not checked.
    pub fn bootstrap_registered(&self, cluster: &str) -> Result<Bootstrap, ConfigError> {
        let members = parse_members(cluster).map_err(ConfigError::InitialCluster)?;
        self.checked(members, ConfigError::DuplicateDiscoveredUrl)
    }

    /// The same with what DNS has in the place of `--initial-cluster`.
    pub fn bootstrap_discovered(&self, cluster: &str) -> Result<Bootstrap, ConfigError> {
        self.bootstrap_from(cluster, ConfigError::NoLocalRecord)
    }

    fn bootstrap_from(
        &self,
        cluster: &str,
        absent: fn(String) -> ConfigError,
    ) -> Result<Bootstrap, ConfigError> {
        let members = parse_members(cluster).map_err(ConfigError::InitialCluster)?;
        let Some(own) = members.get(&self.name) else {
            return Err(absent(self.name.clone()));
        };
        if self.initial_cluster_state == ClusterState::New {
            self.advertised_urls_match(own, cluster)?;
        }
        self.checked(members, ConfigError::DuplicateUrl)
    }

    fn checked(
        &self,
        members: BTreeMap<String, Vec<MemberUrl>>,
        duplicate: fn(String) -> ConfigError,
    ) -> Result<Bootstrap, ConfigError> {
        let urls: Vec<String> = members
            .values()
            .flatten()
            .map(ToString::to_string)
            .collect();
        if urls.iter().collect::<BTreeSet<_>>().len() < urls.len() {
            return Err(duplicate(written(&members)));
        }
        for (name, url) in members
            .iter()
            .flat_map(|(name, urls)| urls.iter().map(move |url| (name, url)))
        {
            if let Some(missing) = unsupported(url) {
                return Err(not_yet(&format!("initial-cluster={name}={url}"), missing));
            }
        }
        Ok(Bootstrap {
            members,
            token: self.initial_cluster_token.clone(),
        })
    }

    /// The URLs in the list and the advertised ones must be the same, be it after resolving names.
    fn advertised_urls_match(&self, own: &[MemberUrl], cluster: &str) -> Result<(), ConfigError> {
        let advertised = &self.initial_advertise_peer_urls;
        if own == advertised {
            return Ok(());
        }
        let resolved =
            |urls: &[MemberUrl]| -> Option<BTreeSet<String>> { urls.iter().map(resolve).collect() };
        if own.len() == advertised.len()
            && let (Some(own), Some(advertised)) = (resolved(own), resolved(advertised))
            && own == advertised
        {
            return Ok(());
        }
        let absent = |of: &[MemberUrl], from: &[MemberUrl]| -> Vec<String> {
            of.iter()
                .filter(|url| !from.contains(url))
                .map(ToString::to_string)
                .collect()
        };
        let missing = absent(own, advertised);
        if !missing.is_empty() {
            let has: Vec<_> = missing
                .iter()
                .map(|url| format!("{}={url}", self.name))
                .collect();
            return Err(ConfigError::NotAdvertised {
                has: has.join(","),
                urls: join(advertised),
            });
        }
        Err(ConfigError::NotInCluster {
            has: absent(advertised, own).join(","),
            cluster: cluster.to_owned(),
        })
    }
}

/// Whether two members have the same peer URLs, be it after resolving names.
///
/// # Errors
///
/// etcd's text of how they differ.
pub fn same_urls(a: &[String], b: &[String]) -> Result<(), String> {
    if a.len() != b.len() {
        return Err(format!("len({}) != len({})", quoted(a), quoted(b)));
    }
    let parse = |urls: &[String]| -> Result<Vec<MemberUrl>, String> {
        let urls = urls.iter().map(|url| MemberUrl::parse(url));
        let mut urls = urls.collect::<Result<Vec<_>, _>>()?;
        urls.sort_by_key(ToString::to_string);
        Ok(urls)
    };
    let (a, b) = (parse(a)?, parse(b)?);
    if a == b {
        return Ok(());
    }
    let resolved = |urls: &[MemberUrl]| -> Vec<String> {
        let resolved = urls
            .iter()
            .map(|url| resolve(url).unwrap_or(url.to_string()));
        let mut resolved: Vec<_> = resolved.collect();
        resolved.sort_unstable();
        resolved
    };
    let (a, b) = (resolved(&a), resolved(&b));
    match a.iter().zip(&b).find(|(a, b)| a != b) {
        Some((a, b)) => Err(format!("resolved urls: {a:?} != {b:?}")),
        None => Ok(()),
    }
}

/// As Go quotes a list.
fn quoted(texts: &[String]) -> String {
    let texts: Vec<_> = texts.iter().map(|text| format!("{text:?}")).collect();
    format!("[{}]", texts.join(" "))
}

/// The URL with its name resolved; as in etcd, "localhost" is nothing but itself.
fn resolve(url: &MemberUrl) -> Option<String> {
    if url.host() == "localhost" {
        return Some(url.to_string());
    }
    let port = url.port().parse::<u16>().ok()?;
    let address = (url.host(), port).to_socket_addrs().ok()?.next()?;
    Some(format!("{}://{address}", url.scheme().name()))
}

/// Whether a text names members as `--initial-cluster` does.
pub fn is_cluster(text: &str) -> bool {
    parse_members(text).is_ok()
}

/// Reads `name=url,name=url`; a name may come more than once.
pub(super) fn parse_members(text: &str) -> Result<BTreeMap<String, Vec<MemberUrl>>, String> {
    let mut members: BTreeMap<String, Vec<MemberUrl>> = BTreeMap::new();
    for pair in text.split(',').filter(|pair| !pair.is_empty()) {
        let (name, url) = pair.split_once('=').unwrap_or((pair, ""));
        members
            .entry(name.to_owned())
            .or_default()
            .push(MemberUrl::parse(url)?);
    }
    for urls in members.values_mut() {
        urls.sort_by_key(ToString::to_string);
    }
    Ok(members)
}

/// As `--initial-cluster` would be written, in the order of `members`.
pub(super) fn written(
    members: impl IntoIterator<Item = (impl Display, impl AsRef<[MemberUrl]>)>,
) -> String {
    let mut pairs = Vec::new();
    for (name, urls) in members {
        pairs.extend(urls.as_ref().iter().map(|url| format!("{name}={url}")));
    }
    pairs.join(",")
}
