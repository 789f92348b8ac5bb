//! The URLs of members and clients: scheme, host and port, nothing else.
//!
//! Written out they are exactly what the user gave, since member and cluster ids are hashes of that
//! text; a general URL type would drop `:80` and add slashes.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// How to speak to the other side of a URL.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[expect(missing_docs, reason = "the names are the schemes")]
pub enum Scheme {
    Http,
    Https,
    Unix,
    Unixs,
}

impl Scheme {
    /// As it stands before the `://`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
            Self::Unix => "unix",
            Self::Unixs => "unixs",
        }
    }
}

/// One URL of a member.
///
/// Invariant: http and https URLs have the form `host:port` with a numeric port, and no path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberUrl {
    scheme: Scheme,
    /// `host:port`, or what follows `://` for a socket file.
    authority: String,
}

impl MemberUrl {
    /// Parses one URL; the error is the text that etcd prints.
    pub fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let lower = text.to_ascii_lowercase();
        let (scheme, skip) = [Scheme::Unixs, Scheme::Unix, Scheme::Https, Scheme::Http]
            .into_iter()
            .map(|scheme| (scheme, scheme.name().len() + 1))
            .find(|(scheme, skip)| {
                lower.starts_with(scheme.name()) && lower.as_bytes().get(skip - 1) == Some(&b':')
            })
            .ok_or_else(|| scheme_error(text))?;
        let rest = &text[skip..];
        let authority = rest.strip_prefix("//").unwrap_or(rest);
        if matches!(scheme, Scheme::Unix | Scheme::Unixs) {
            return Ok(Self {
                scheme,
                authority: authority.to_owned(),
            });
        }
        let end = authority.find(['/', '?', '#']).unwrap_or(authority.len());
        let (authority, path) = authority.split_at(end);
        if let Some(bad) = authority
            .chars()
            .find(|c| c.is_whitespace() || "<>\"\\^`{|}".contains(*c))
        {
            return Err(format!(
                "parse {text:?}: invalid character {:?} in host name",
                bad.to_string()
            ));
        }
        let form = || format!("URL address does not have the form \"host:port\": {text}");
        if authority.contains('@') {
            return Err(form());
        }
        let (_, port) = split_host_port(authority).ok_or_else(form)?;
        if !port.bytes().all(|c| c.is_ascii_digit()) {
            return Err(format!(
                "parse {text:?}: invalid port {:?} after host",
                format!(":{port}")
            ));
        }
        if !path.is_empty() {
            return Err(format!("URL must not contain a path: {text}"));
        }
        Ok(Self {
            scheme,
            authority: authority.to_owned(),
        })
    }

    /// Parses a comma-separated list and sorts it, as etcd does.
    pub fn parse_list(text: &str) -> Result<Vec<Self>, String> {
        let mut urls = text
            .split(',')
            .map(Self::parse)
            .collect::<Result<Vec<_>, _>>()?;
        urls.sort_by_key(|url| url.to_string());
        Ok(urls)
    }

    /// The URL `http://host:port`.
    pub(super) fn http(host: IpAddr, port: &str) -> Self {
        let host = if host.is_ipv6() {
            format!("[{host}]")
        } else {
            host.to_string()
        };
        Self {
            scheme: Scheme::Http,
            authority: format!("{host}:{port}"),
        }
    }

    /// How to speak to it.
    pub fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// Host without port and brackets; empty if there is none.
    pub fn host(&self) -> &str {
        split_host_port(&self.authority).map_or("", |(host, _)| host)
    }

    /// Port as written; empty if there is none.
    pub fn port(&self) -> &str {
        split_host_port(&self.authority).map_or("", |(_, port)| port)
    }

    /// Where to bind: None for socket files, and where host or port cannot be bound.
    ///
    /// "localhost" is 127.0.0.1, as Go's resolver prefers it.
    pub fn bind_address(&self) -> Option<SocketAddr> {
        let ip = match self.host() {
            "localhost" => IpAddr::V4(Ipv4Addr::LOCALHOST),
            host => host.parse().ok()?,
        };
        Some(SocketAddr::new(ip, self.port().parse().ok()?))
    }
}

impl fmt::Display for MemberUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.scheme.name(), self.authority)
    }
}

/// URLs joined by commas, as they stand in flags and logs.
pub fn join(urls: &[MemberUrl]) -> String {
    urls.iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(",")
}

/// Go's parser and etcd's check together decide between these two texts.
fn scheme_error(text: &str) -> String {
    let first = text.split('/').next().unwrap_or(text);
    match first.split_once(':') {
        Some((before, _)) if !before.starts_with(|c: char| c.is_ascii_alphabetic()) => {
            format!("parse {text:?}: first path segment in URL cannot contain colon")
        }
        _ => format!("URL scheme must be http, https, unix, or unixs: {text}"),
    }
}

/// Splits `host:port` and `[v6]:port`; None where Go's `SplitHostPort` fails.
fn split_host_port(authority: &str) -> Option<(&str, &str)> {
    if let Some(rest) = authority.strip_prefix('[') {
        let (host, after) = rest.split_once(']')?;
        return Some((host, after.strip_prefix(':')?));
    }
    let (host, port) = authority.rsplit_once(':')?;
    (!host.contains(':')).then_some((host, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_written_as_they_were_given() {
        for text in [
            "http://localhost:2379",
            "http://127.0.0.1:80",
            "https://[::1]:2380",
            "http://:2379",
            "unix://foo:1",
        ] {
            assert_eq!(MemberUrl::parse(text).unwrap().to_string(), text);
        }
        let loud = MemberUrl::parse(" HTTP://localhost:2379 ").unwrap();
        assert_eq!(loud.to_string(), "http://localhost:2379");
    }

    #[test]
    fn host_and_port_come_apart() {
        let url = MemberUrl::parse("http://[::1]:23790").unwrap();
        assert_eq!((url.host(), url.port()), ("::1", "23790"));
        assert_eq!(url.bind_address(), Some("[::1]:23790".parse().unwrap()));
        let url = MemberUrl::parse("http://localhost:1").unwrap();
        assert_eq!(url.bind_address(), Some("127.0.0.1:1".parse().unwrap()));
        assert_eq!(
            MemberUrl::parse("http://foo:1").unwrap().bind_address(),
            None
        );
        assert_eq!(
            MemberUrl::parse("http://127.0.0.1:99999")
                .unwrap()
                .bind_address(),
            None
        );
    }

    #[test]
    fn a_broken_url_gets_etcds_text() {
        let form = "URL address does not have the form \"host:port\": ";
        let cases = [
            (
                "127.0.0.1:2379",
                "parse \"127.0.0.1:2379\": first path segment in URL cannot contain colon".into(),
            ),
            (
                "localhost:2379",
                "URL scheme must be http, https, unix, or unixs: localhost:2379".into(),
            ),
            (
                "abc",
                "URL scheme must be http, https, unix, or unixs: abc".into(),
            ),
            (
                "",
                "URL scheme must be http, https, unix, or unixs: ".into(),
            ),
            ("http://localhost", format!("{form}http://localhost")),
            ("http://1:2:3", format!("{form}http://1:2:3")),
            (
                "http://localhost:abc",
                "parse \"http://localhost:abc\": invalid port \":abc\" after host".into(),
            ),
            (
                "http://localhost:1/",
                "URL must not contain a path: http://localhost:1/".into(),
            ),
            (
                "http://a b:1",
                "parse \"http://a b:1\": invalid character \" \" in host name".into(),
            ),
        ];
        for (text, error) in cases {
            assert_eq!(MemberUrl::parse(text).unwrap_err(), error, "{text}");
        }
    }
}
