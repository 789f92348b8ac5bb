//! The members of a new cluster as DNS names them, for `--discovery-srv`.
//!
//! A domain has SRV records of the services `etcd-server-ssl` and `etcd-server`, one for each
//! member. They have no names of members: whichever leads to where this member listens is its own,
//! and the others get numbers until they tell their names themselves.

use std::collections::BTreeMap;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};

use hickory_resolver::TokioResolver;
use hickory_resolver::net::NetError;
use hickory_resolver::proto::rr::RData;

/// What is asked.
#[derive(Clone, Debug)]
pub struct Question<'a> {
    /// `--discovery-srv`.
    pub domain: &'a str,
    /// `--discovery-srv-name`, which is appended to the names of the services.
    pub service_name: &'a str,
    /// `--name`.
    pub name: &'a str,
    /// Scheme, host and port of each of `--initial-advertise-peer-urls`.
    pub own: Vec<(&'static str, &'a str, u16)>,
}

/// A member as one record names it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Target {
    host: String,
    port: u16,
}

/// The members as `--initial-cluster` would name them, of both services.
///
/// Waits for the network; runs on a thread that may, within a runtime.
///
/// # Errors
///
/// When neither service names a member.
pub fn members(question: &Question<'_>) -> Result<String, DnsError> {
    let mut found = Vec::new();
    let mut problems = Vec::new();
    for (scheme, usual) in [("https", "etcd-server-ssl"), ("http", "etcd-server")] {
        let service = match question.service_name {
            "" => usual.to_owned(),
            suffix => format!("{usual}-{suffix}"),
        };
        let cluster = of_service(question, scheme, &service);
        tracing::info!(
            "service-scheme" = scheme,
            "service-name" = service,
            "server-name" = question.name,
            "discovery-srv" = question.domain,
            "found-cluster" = ?cluster.as_deref().unwrap_or_default(),
            "get cluster for {usual} SRV"
        );
        match cluster {
            Ok(members) => found.extend(members),
            Err(problem) => problems.push(problem.to_string()),
        }
    }
    let problems = problems.join("\n");
    if !problems.is_empty() {
        tracing::warn!(error = problems, "failed to resolve during SRV discovery");
    }
    if found.is_empty() {
        return Err(DnsError::Nobody(problems));
    }
    for member in &found {
        tracing::info!(node = member, "got bootstrap from DNS for etcd-server");
    }
    Ok(found.join(","))
}

fn of_service(
    question: &Question<'_>,
    scheme: &str,
    service: &str,
) -> Result<Vec<String>, Problem> {
    let mut own = BTreeMap::new();
    for (scheme, host, port) in &question.own {
        own.insert(resolve(host, *port)?, *scheme);
    }
    let failed = |problem| Problem::Service(service.to_owned(), Box::new(problem));
    let name = format!("_{service}._tcp.{}.", question.domain.trim_end_matches('.'));
    let targets = tokio::runtime::Handle::current()
        .block_on(look_up(&name))
        .map_err(|error| failed(Problem::Lookup(name, error)))?;
    let resolved = targets.into_iter().map(|target| {
        let address = resolve(&target.host, target.port);
        (target, address)
    });
    named(question.name, scheme, &own, resolved).map_err(failed)
}

/// Targets with their names. A problem with one of them counts only when nothing else is left.
fn named(
    name: &str,
    scheme: &str,
    own: &BTreeMap<SocketAddr, &str>,
    targets: impl Iterator<Item = (Target, io::Result<SocketAddr>)>,
) -> Result<Vec<String>, Problem> {
    let mut members = Vec::new();
    let mut problem = None;
    let mut numbers = 0..;
    for (target, address) in targets {
        let Target { host, port } = target;
        let expected = match address {
            Ok(address) => own.get(&address),
            Err(error) => {
                problem = Some(Problem::Address(error));
                continue;
            }
        };
        let member = match expected {
            Some(_own) => name.to_owned(),
            None => numbers
                .next()
                .map_or_else(String::new, |n: usize| n.to_string()),
        };
        match expected {
            Some(expected) if *expected != scheme => {
                let found = format!("{scheme}://{host}:{port}");
                problem = Some(Problem::Scheme(found, (*expected).to_owned()));
            }
            _ => members.push(format!("{member}={scheme}://{host}:{port}")),
        }
    }
    match problem {
        Some(problem) if members.is_empty() => Err(problem),
        _ => Ok(members),
    }
}

/// The records of a name, the most preferred first.
async fn look_up(name: &str) -> Result<Vec<Target>, NetError> {
    let resolver = TokioResolver::builder_tokio()?.build()?;
    let found = resolver.srv_lookup(name).await?;
    let mut records: Vec<_> = found
        .answers()
        .iter()
        .filter_map(|record| match &record.data {
            RData::SRV(srv) => Some(srv),
            _ => None,
        })
        .collect();
    records.sort_by_key(|srv| (srv.priority, u16::MAX - srv.weight));
    Ok(records
        .into_iter()
        .map(|srv| Target {
            // Records have a dot at the end, and URLs do not.
            host: srv.target.to_ascii().trim_end_matches('.').to_owned(),
            port: srv.port,
        })
        .collect())
}

/// The address of a host, of the older kind if it has both, as in etcd.
fn resolve(host: &str, port: u16) -> io::Result<SocketAddr> {
    let addresses: Vec<_> = (host.trim_matches(['[', ']']), port)
        .to_socket_addrs()?
        .collect();
    let older = addresses.iter().find(|address| address.is_ipv4());
    older
        .or(addresses.first())
        .copied()
        .ok_or_else(|| io::Error::other(format!("{host} has no address")))
}

/// Why DNS does not name the members.
#[derive(Debug, thiserror::Error)]
pub enum DnsError {
    /// No record leads anywhere.
    #[error("error setting up initial cluster: {0}")]
    Nobody(String),
}

/// What went wrong with one service or record.
#[derive(Debug, thiserror::Error)]
enum Problem {
    #[error("error querying DNS SRV records for _{0} {1}")]
    Service(String, Box<Problem>),
    #[error("lookup {0}: {1}")]
    Lookup(String, NetError),
    #[error(transparent)]
    Address(#[from] io::Error),
    #[error("bootstrap at {0} has scheme mismatch with expected peer, which has {1}")]
    Scheme(String, String),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(host: &str, port: u16) -> Target {
        let host = host.to_owned();
        Target { host, port }
    }

    fn address(text: &str) -> SocketAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn the_own_record_gets_the_name_and_the_others_get_numbers() {
        let own = BTreeMap::from([(address("10.0.0.2:2380"), "http")]);
        let targets = [
            (target("a.test", 2380), Ok(address("10.0.0.1:2380"))),
            (target("b.test", 2380), Ok(address("10.0.0.2:2380"))),
            (target("nowhere", 1), Err(io::Error::other("not known"))),
            (target("c.test", 2380), Ok(address("10.0.0.3:2380"))),
        ];
        let named = named("me", "http", &own, targets.into_iter()).expect("members");
        assert_eq!(
            named,
            [
                "0=http://a.test:2380",
                "me=http://b.test:2380",
                "1=http://c.test:2380"
            ]
        );
    }

    #[test]
    fn a_problem_counts_when_nobody_is_left() {
        let own = BTreeMap::from([(address("10.0.0.2:2380"), "http")]);
        let gone = || (target("nowhere", 1), Err(io::Error::other("not known")));
        let error = named("me", "http", &own, [gone()].into_iter()).expect_err("nobody");
        assert_eq!(error.to_string(), "not known");
        let mine = (target("b.test", 2380), Ok(address("10.0.0.2:2380")));
        let error = named("me", "https", &own, [mine].into_iter()).expect_err("nobody");
        assert!(
            error
                .to_string()
                .contains("https://b.test:2380 has scheme mismatch")
        );
        assert!(named("me", "http", &own, [].into_iter()).is_ok_and(|found| found.is_empty()));
    }

    #[test]
    fn addresses_need_no_names() {
        assert_eq!(
            resolve("10.0.0.2", 7).expect("a number"),
            address("10.0.0.2:7")
        );
        assert_eq!(resolve("[::1]", 7).expect("a number"), address("[::1]:7"));
    }
}
