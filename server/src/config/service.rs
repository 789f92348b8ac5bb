//! Reads the flags of the discovery service.

use super::build::{at_least_zero, some_time};
use super::check::not_yet;
use super::error::ConfigError;
use super::flags::Values;
use super::table::{SERVICE_SOCKETS, TLS};
use super::url::{MemberUrl, Scheme};
use crate::discovery_service::{Credentials, DiscoveryService};

/// The checks among the others of `check`; first those that etcd makes.
pub(super) fn check(values: &Values) -> Result<(), ConfigError> {
    let endpoints = values.words("discovery-endpoints");
    if values.text("discovery-token").is_empty() != endpoints.is_empty() {
        return Err(ConfigError::HalfDiscovery);
    }
    if endpoints.iter().any(|endpoint| endpoint.trim().is_empty()) {
        return Err(ConfigError::EmptyEndpoint);
    }
    Ok(())
}

/// The service, if there is one.
pub(super) fn build(values: &Values) -> Result<Option<DiscoveryService>, ConfigError> {
    let credentials = credentials(values)?;
    let endpoints = values.words("discovery-endpoints");
    if endpoints.is_empty() {
        return Ok(None);
    }
    let endpoints = endpoints.iter().map(|text| address(text));
    let request_timeout = values.duration("discovery-request-timeout");
    if request_timeout <= 0 {
        return Err(ConfigError::DiscoveryTimeout(request_timeout));
    }
    Ok(Some(DiscoveryService {
        token: values.text("discovery-token").to_owned(),
        endpoints: endpoints.collect::<Result<_, _>>()?,
        dial_timeout: some_time(values.duration("discovery-dial-timeout")),
        request_timeout: at_least_zero(request_timeout),
        keepalive_time: some_time(values.duration("discovery-keepalive-time")),
        keepalive_timeout: some_time(values.duration("discovery-keepalive-timeout")),
        credentials,
    }))
}

/// The user with the password, which may stand behind the name.
fn credentials(values: &Values) -> Result<Option<Credentials>, ConfigError> {
    let (user, password) = (
        values.text("discovery-user"),
        values.text("discovery-password"),
    );
    let (user, password) = match user.split_once(':') {
        Some(both) if password.is_empty() => both,
        _ => (user, password),
    };
    if user.is_empty() != password.is_empty() {
        return Err(ConfigError::HalfCredentials);
    }
    Ok((!user.is_empty()).then(|| Credentials {
        user: user.to_owned(),
        password: password.to_owned(),
    }))
}

/// The `host:port` of an endpoint, which may stand in a URL, whose path etcd does not look at.
fn address(endpoint: &str) -> Result<String, ConfigError> {
    let unreadable = |reason| ConfigError::Endpoint {
        endpoint: endpoint.to_owned(),
        reason,
    };
    let setting = || format!("discovery-endpoints={endpoint}");
    let text = endpoint.trim();
    if text.starts_with("unix:") || text.starts_with("unixs:") {
        return Err(not_yet(&setting(), &SERVICE_SOCKETS));
    }
    let (scheme, rest) = text.split_once("://").unwrap_or(("http", text));
    let authority = rest.split('/').next().unwrap_or_default();
    let url = MemberUrl::parse(&format!("{scheme}://{authority}")).map_err(unreadable)?;
    if url.scheme() == Scheme::Https {
        return Err(not_yet(&setting(), &TLS));
    }
    if url.host().is_empty() || url.port().parse::<u16>().is_err() {
        return Err(unreadable("it has no host or no port".to_owned()));
    }
    Ok(authority.to_owned())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::tests::{accepted, refused};

    /// Flags of a member that asks the service `a:1`.
    fn service<'a>(more: &[&'a str]) -> Vec<&'a str> {
        let mut args = vec!["--discovery-token=t", "--discovery-endpoints=a:1"];
        args.extend(more);
        args
    }

    #[test]
    fn the_discovery_service_is_read() {
        let config = accepted(&service(&["--name=m", "--discovery-keepalive-time=0s"]));
        let read = config.discovery.expect("a service");
        assert_eq!(read.request_timeout, Duration::from_secs(5));
        assert_eq!(read.dial_timeout, Some(Duration::from_secs(2)));
        assert_eq!(read.keepalive_time, None);
        assert_eq!(read.credentials, None);
        assert_eq!(config.initial_cluster, "m=http://localhost:2380");
        assert_eq!(config.initial_cluster_token, "t");
        let endpoints = "--discovery-endpoints=http://b:2/v3, a:1,[::1]:3";
        let config = accepted(&["--discovery-token=t", endpoints]);
        let mut endpoints = config.discovery.expect("a service").endpoints;
        endpoints.sort();
        assert_eq!(endpoints, ["[::1]:3", "a:1", "b:2"]);
        for user in [
            &["--discovery-user=u", "--discovery-password=p:w"][..],
            &["--discovery-user=u:p:w"],
        ] {
            let read = accepted(&service(user)).discovery.expect("a service");
            let read = read.credentials.expect("a user");
            assert_eq!((read.user.as_str(), read.password.as_str()), ("u", "p:w"));
            assert!(!format!("{read:?}").contains("p:w"));
        }
        assert_eq!(accepted(&[]).discovery, None);
    }

    #[test]
    fn a_discovery_service_that_cannot_be_asked_is_refused() {
        for (flag, text) in [
            (
                "--discovery-endpoints=https://a:1",
                "https://a:1 is not supported yet: Trilith has no",
            ),
            (
                "--discovery-endpoints=unix:///a",
                "unix:///a is not supported yet: Trilith does",
            ),
            (
                "--discovery-endpoints=a",
                "--discovery-endpoints=a is no endpoint: ",
            ),
            (
                "--discovery-endpoints=a:x",
                "--discovery-endpoints=a:x is no endpoint: ",
            ),
            (
                "--discovery-endpoints=:1",
                "--discovery-endpoints=:1 is no endpoint: ",
            ),
            (
                "--discovery-endpoints=a:70000",
                "--discovery-endpoints=a:70000 is no endpoint: ",
            ),
            (
                "--discovery-endpoints=ftp://a:1",
                "--discovery-endpoints=ftp://a:1 is no endpoint: ",
            ),
            (
                "--discovery-user=u",
                "--discovery-user and --discovery-password must be set together",
            ),
            (
                "--discovery-password=p",
                "--discovery-user and --discovery-password must be set",
            ),
            (
                "--discovery-request-timeout=0s",
                "--discovery-request-timeout must be >0 (set to 0s)",
            ),
            (
                "--discovery-cacert=ca.pem",
                "--discovery-cacert is not supported yet: Trilith has no",
            ),
        ] {
            let refusal = refused(&service(&[flag]));
            assert!(refusal.contains(text), "{flag}: {refusal}");
        }
    }
}
