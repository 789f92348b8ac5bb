//! What the discovery service keeps of a new cluster, under etcd's keys.
//!
//! ```text
//! /_etcd/registry/<token>/_config/size     how many members the cluster has, in decimal digits
//! /_etcd/registry/<token>/members/<hex id> name=url,name=url: the peer URLs of one member
//! ```
//!
//! Whoever wants a cluster writes the size; each member writes itself. Those who come after the
//! cluster is full are none of it: the order of the first writes decides.

use trilith_proto::mvccpb::KeyValue;

use super::service::ServiceError;
use crate::ids::MemberId;

/// The keys of one cluster.
#[derive(Debug)]
pub(super) struct Keys {
    prefix: String,
}

impl Keys {
    /// The keys under a token, which is read as a path, as in etcd: `a//b/../c` means `a/c`.
    pub(super) fn new(token: &str) -> Self {
        let mut parts = vec!["_etcd", "registry"];
        for part in token.split('/') {
            match part {
                "" | "." => {}
                ".." => drop(parts.pop()),
                part => parts.push(part),
            }
        }
        let prefix = parts.iter().map(|part| format!("/{part}")).collect();
        Self { prefix }
    }

    pub(super) fn size(&self) -> String {
        format!("{}/_config/size", self.prefix)
    }

    /// What the keys of all members begin with.
    pub(super) fn members(&self) -> String {
        format!("{}/members", self.prefix)
    }

    pub(super) fn member(&self, id: MemberId) -> String {
        format!("{}/{id}", self.members())
    }
}

/// Reads how many members there are to be.
pub(super) fn size(found: Option<&KeyValue>) -> Result<usize, ServiceError> {
    let found = found.ok_or(ServiceError::SizeNotFound)?;
    let digits = std::str::from_utf8(&found.value).ok();
    let size = digits.and_then(|digits| digits.parse::<i64>().ok());
    let size = size.and_then(|size| usize::try_from(size).ok());
    size.filter(|size| *size > 0).ok_or(ServiceError::BadSize)
}

/// The members that have come so far.
#[derive(Debug)]
pub(super) struct Roster {
    size: usize,
    /// Invariant: in the order of the revisions that made them, each key once.
    members: Vec<Registered>,
}

#[derive(Debug)]
struct Registered {
    created: i64,
    key: String,
    /// `name=url,name=url`.
    urls: String,
}

impl Roster {
    /// Nobody yet, of `size` who are to come.
    pub(super) fn new(size: usize) -> Self {
        let members = Vec::new();
        Self { size, members }
    }

    pub(super) fn size(&self) -> usize {
        self.size
    }

    pub(super) fn len(&self) -> usize {
        self.members.len()
    }

    pub(super) fn is_complete(&self) -> bool {
        self.members.len() >= self.size
    }

    /// Takes in a key of the service. One that is no member is told in the log and left out.
    pub(super) fn add(&mut self, found: &KeyValue) {
        let key = String::from_utf8_lossy(&found.key).trim().to_owned();
        let urls = String::from_utf8_lossy(&found.value).trim().to_owned();
        let refusal = if !urls.contains('=') {
            Some("invalid peer info returned from discovery service")
        } else if self.members.iter().any(|member| member.key == key) {
            Some("found duplicate peer from discovery service")
        } else {
            None
        };
        if let Some(refusal) = refusal {
            tracing::warn!("memberKey" = key, "memberInfo" = urls, "{refusal}");
            return;
        }
        tracing::info!(
            "memberKey" = key,
            "memberInfo" = urls,
            "found peer from discovery service"
        );
        let created = found.create_revision;
        let place = self
            .members
            .partition_point(|member| member.created <= created);
        self.members
            .insert(place, Registered { created, key, urls });
    }

    /// Whether the cluster is made of others than the one with this key.
    pub(super) fn is_full_without(&self, key: &str) -> bool {
        self.is_complete() && !self.first().any(|member| member.key == key)
    }

    /// The cluster as `--initial-cluster` would name it.
    pub(super) fn cluster(&self) -> String {
        let urls: Vec<_> = self.first().map(|member| member.urls.as_str()).collect();
        urls.join(",")
    }

    fn first(&self) -> impl Iterator<Item = &Registered> {
        self.members.iter().take(self.size)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn registered(key: &'static str, value: &'static str, created: i64) -> KeyValue {
        KeyValue {
            key: key.into(),
            value: value.into(),
            create_revision: created,
            ..Default::default()
        }
    }

    #[test]
    fn the_token_is_a_path_within_the_registry() {
        let keys = Keys::new("abc");
        assert_eq!(keys.size(), "/_etcd/registry/abc/_config/size");
        let member = keys.member(MemberId::new(0xab));
        assert_eq!(member, "/_etcd/registry/abc/members/ab");
        for (token, members) in [
            ("/a//b/", "/_etcd/registry/a/b/members"),
            ("a/./../b", "/_etcd/registry/b/members"),
            ("../../../x", "/x/members"),
        ] {
            assert_eq!(Keys::new(token).members(), members);
        }
    }

    #[test]
    fn a_size_is_a_number_above_zero() {
        let read = |value| size(Some(&registered("size", value, 1)));
        assert_eq!(read("3").expect("a size"), 3);
        assert_eq!(read("+3").expect("Go reads it too"), 3);
        for bad in ["", "0", "-1", " 3", "3 ", "x", "9223372036854775808"] {
            assert!(matches!(read(bad), Err(ServiceError::BadSize)), "{bad:?}");
        }
        assert!(matches!(size(None), Err(ServiceError::SizeNotFound)));
    }

    #[test]
    fn the_first_who_came_are_the_cluster() {
        let mut roster = Roster::new(2);
        roster.add(&registered("c", "c=http://c:1", 7));
        assert!(!roster.is_full_without("b"));
        roster.add(&registered("a", "a=http://a:1,a=http://a:2", 5));
        roster.add(&registered("b", "b=http://b:1", 9));
        assert_eq!(roster.cluster(), "a=http://a:1,a=http://a:2,c=http://c:1");
        assert!(roster.is_full_without("b"));
        assert!(!roster.is_full_without("c"));
    }

    #[test]
    fn what_is_no_member_is_left_out() {
        let mut roster = Roster::new(1);
        roster.add(&registered("a", "no URLs", 1));
        assert_eq!(roster.len(), 0);
        roster.add(&registered("a ", " a=http://a:1 ", 2));
        roster.add(&registered("a", "a=http://a:2", 3));
        assert_eq!(
            (roster.len(), roster.cluster().as_str()),
            (1, "a=http://a:1")
        );
    }
}
