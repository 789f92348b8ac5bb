//! Names a new cluster and its members the way etcd does, and makes the entries its log begins
//! with.

use bytes::Bytes;
use serde::Serialize;
use sha1::{Digest, Sha1};

use crate::ids::{ClusterId, MemberId};

/// One member of a cluster that is about to be made, from `--initial-cluster`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewMember {
    /// The member's `--name`.
    pub name: String,
    /// Its advertised peer URLs, at least one, in any order.
    pub peer_urls: Vec<String>,
}

/// A cluster that is about to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bootstrap {
    /// Name of the cluster: the same on all its members.
    pub cluster_id: ClusterId,
    /// The members in ascending order of their ids.
    pub members: Vec<BootstrapMember>,
}

/// One member of a [`Bootstrap`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BootstrapMember {
    /// Its id.
    pub id: MemberId,
    /// Its `--name`.
    pub name: String,
    /// Its peer URLs, sorted.
    pub peer_urls: Vec<String>,
}

impl Bootstrap {
    /// Names the members and the cluster.
    ///
    /// `token` is `--initial-cluster-token`. Every member that is given the same arguments comes to
    /// the same ids, so that they need not talk to agree.
    ///
    /// # Errors
    ///
    /// When two members would get the same id, which means that they have the same peer URLs.
    pub fn new(members: &[NewMember], token: &str) -> Result<Self, BootstrapError> {
        if members.is_empty() {
            return Err(BootstrapError::NoMembers);
        }
        let mut named: Vec<_> = members
            .iter()
            .map(|member| {
                let mut peer_urls = member.peer_urls.clone();
                peer_urls.sort();
                let id = member_id(&peer_urls, token, None);
                BootstrapMember {
                    id,
                    name: member.name.clone(),
                    peer_urls,
                }
            })
            .collect();
        named.sort_by_key(|member| member.id);
        if let Some(pair) = named.windows(2).find(|pair| pair[0].id == pair[1].id) {
            return Err(BootstrapError::SameMember {
                first: pair[0].name.clone(),
                second: pair[1].name.clone(),
                id: pair[0].id,
            });
        }
        let ids: Vec<_> = named.iter().map(|member| member.id).collect();
        Ok(Self {
            cluster_id: cluster_id(&ids),
            members: named,
        })
    }

    /// The contexts of the `AddNode` changes that the log begins with, one for each member in
    /// order.
    ///
    /// They stand at index 1 to n, in term 1, and are committed from the start: every member writes
    /// the same ones for itself.
    pub fn contexts(&self) -> Vec<(MemberId, Bytes)> {
        self.members
            .iter()
            .map(|member| (member.id, member.context()))
            .collect()
    }

    /// The member with these peer URLs, in any order.
    pub fn find(&self, peer_urls: &[String]) -> Option<&BootstrapMember> {
        let mut wanted = peer_urls.to_vec();
        wanted.sort();
        self.members
            .iter()
            .find(|member| member.peer_urls == wanted)
    }
}

impl BootstrapMember {
    /// etcd's JSON of a member, as it stands in the context of a configuration change.
    fn context(&self) -> Bytes {
        #[derive(Serialize)]
        struct Context<'a> {
            id: u64,
            #[serde(rename = "peerURLs")]
            peer_urls: &'a [String],
            #[serde(skip_serializing_if = "str::is_empty")]
            name: &'a str,
        }
        let context = Context {
            id: self.id.get(),
            peer_urls: &self.peer_urls,
            name: &self.name,
        };
        let json = serde_json::to_string(&context).expect("strings and a number make JSON");
        // Go's encoder writes these three as escapes, so that its output can stand in HTML.
        let json = json
            .replace('&', "\\u0026")
            .replace('<', "\\u003c")
            .replace('>', "\\u003e");
        Bytes::from(json)
    }
}

/// Id of a member: the first eight bytes of SHA-1 over its sorted peer URLs and the cluster's
/// token.
///
/// `added_at` (Unix seconds) is given for members added to a running cluster, with an empty token.
pub fn member_id(sorted_peer_urls: &[String], token: &str, added_at: Option<u64>) -> MemberId {
    let mut hash = Sha1::new();
    for url in sorted_peer_urls {
        hash.update(url.as_bytes());
    }
    hash.update(token.as_bytes());
    if let Some(seconds) = added_at {
        hash.update(seconds.to_string().as_bytes());
    }
    MemberId::new(first_eight(&hash.finalize()))
}

/// Id of a cluster: the first eight bytes of SHA-1 over the ids of its first members, ascending.
pub fn cluster_id(ascending: &[MemberId]) -> ClusterId {
    let mut hash = Sha1::new();
    for id in ascending {
        hash.update(id.get().to_be_bytes());
    }
    ClusterId::new(first_eight(&hash.finalize()))
}

fn first_eight(digest: &[u8]) -> u64 {
    let first = digest
        .first_chunk()
        .expect("a SHA-1 digest has twenty bytes");
    u64::from_be_bytes(*first)
}

/// Why a cluster cannot be made from its settings. The operator can fix each of them.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BootstrapError {
    /// `--initial-cluster` names nobody.
    #[error("the initial cluster has no members")]
    NoMembers,
    /// Two members have the same peer URLs.
    #[error("members {first:?} and {second:?} have the same peer URLs (id {id})")]
    SameMember {
        /// One of the two.
        first: String,
        /// The other.
        second: String,
        /// The id that both would get.
        id: MemberId,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(name: &str, url: &str) -> NewMember {
        NewMember {
            name: name.into(),
            peer_urls: vec![url.into()],
        }
    }

    /// etcd 3.7.3 with all defaults prints these two when it starts.
    #[test]
    fn the_default_member_and_cluster_have_the_ids_that_etcd_gives_them() {
        let bootstrap = Bootstrap::new(
            &[member("default", "http://localhost:2380")],
            "etcd-cluster",
        )
        .unwrap();
        assert_eq!(bootstrap.members[0].id.to_string(), "8e9e05c52164694d");
        assert_eq!(bootstrap.cluster_id.to_string(), "cdf818194e3a8c32");
    }

    #[test]
    fn the_context_is_the_json_that_etcd_writes() {
        let bootstrap = Bootstrap::new(
            &[member("default", "http://localhost:2380")],
            "etcd-cluster",
        )
        .unwrap();
        let (_, context) = bootstrap.contexts().remove(0);
        assert_eq!(
            context,
            r#"{"id":10276657743932975437,"peerURLs":["http://localhost:2380"],"name":"default"}"#
        );
    }

    #[test]
    fn ids_do_not_depend_on_the_order_of_members_or_urls() {
        let a = NewMember {
            name: "a".into(),
            peer_urls: vec!["http://x:1".into(), "http://w:1".into()],
        };
        let mut turned = a.clone();
        turned.peer_urls.reverse();
        let b = member("b", "http://y:1");
        let one = Bootstrap::new(&[a, b.clone()], "t").unwrap();
        let two = Bootstrap::new(&[b, turned], "t").unwrap();
        assert_eq!(one, two);
        assert!(one.members[0].id < one.members[1].id);
    }

    #[test]
    fn two_members_with_the_same_urls_are_refused() {
        let same = [member("a", "http://x:1"), member("b", "http://x:1")];
        assert!(matches!(
            Bootstrap::new(&same, "t"),
            Err(BootstrapError::SameMember { .. })
        ));
        assert_eq!(Bootstrap::new(&[], "t"), Err(BootstrapError::NoMembers));
    }
}
