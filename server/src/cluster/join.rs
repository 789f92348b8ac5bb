//! Finds a member's place in a cluster that runs already, from what its members say.

use super::bootstrap::BootstrapMember;
use super::member_table::Member;
use super::version::{SERVER_VERSION, Version};
use crate::ids::{ClusterId, MemberId};

/// A cluster as one of its members tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExistingCluster {
    /// Its id.
    pub id: ClusterId,
    /// Its members in ascending order of their ids.
    pub members: Vec<Member>,
}

impl ExistingCluster {
    /// Reads the answer to `/members`; `id` is that of the answer's header.
    ///
    /// # Errors
    ///
    /// When it is no list of members.
    pub fn parse(id: ClusterId, json: &[u8]) -> Result<Self, String> {
        let members = serde_json::from_slice::<Option<Vec<Member>>>(json);
        let mut members = members
            .map_err(|error| error.to_string())?
            .unwrap_or_default();
        members.sort_by_key(Member::id);
        Ok(Self { id, members })
    }

    /// Holds the members of `--initial-cluster` against those that are there, by their peer URLs:
    /// gives the ids of those that are, in the order of `local`. `same` compares URLs, and says how
    /// they differ.
    ///
    /// # Errors
    ///
    /// etcd's text for members that are too many, too few or others.
    pub fn assign(
        &self,
        local: &[BootstrapMember],
        same: impl Fn(&[String], &[String]) -> Result<(), String>,
    ) -> Result<Vec<MemberId>, JoinError> {
        let refused = |reason: String| JoinError::Members {
            cluster: self.text(),
            reason,
        };
        if self.members.len() != local.len() {
            return Err(refused("member count is unequal".to_owned()));
        }
        let mut ids: Vec<MemberId> = local.iter().map(|member| member.id).collect();
        for member in &self.members {
            let mut difference = String::new();
            let mut found = local
                .iter()
                .map(|local| same(member.peer_urls(), &local.peer_urls));
            let at = found.position(|same| same.map_err(|how| difference = how).is_ok());
            let Some(at) = at else {
                return Err(refused(format!(
                    "PeerURLs: no match found for existing member ({}, {}), last resolver error \
                     ({difference})",
                    member.id(),
                    list(member.peer_urls())
                )));
            };
            ids[at] = member.id();
        }
        Ok(ids)
    }

    /// As Go prints it.
    fn text(&self) -> String {
        let members = self.members.iter().map(|member| {
            format!(
                "&{{ID:{} RaftAttributes:{{PeerURLs:{} IsLearner:{}}} Attributes:{{Name:{} \
                 ClientURLs:{}}}}}",
                member.id(),
                list(member.peer_urls()),
                member.is_learner,
                member.name,
                list(&member.client_urls)
            )
        });
        let members: Vec<_> = members.collect();
        let (id, members) = (self.id, members.join(" "));
        format!("{{ClusterID:{id} Members:[{members}] RemovedMemberIDs:[]}}")
    }

    /// Whether the cluster has no more learners than it may, with this member among them.
    ///
    /// # Errors
    ///
    /// etcd's text when it has.
    pub fn check_learners(&self, max_learners: usize) -> Result<(), JoinError> {
        let learners = self.members.iter().filter(|member| member.is_learner);
        if learners.count() > max_learners {
            return Err(JoinError::TooManyLearners);
        }
        Ok(())
    }
}

/// Whether a cluster whose members tell these versions of it can be joined: some do, and none is
/// out of what this server speaks. While the cluster is being downgraded, that is the next version
/// alone.
pub fn is_compatible(versions: &[Version], is_downgrading: bool) -> bool {
    let own = SERVER_VERSION.cluster();
    let (oldest, newest) = if is_downgrading {
        let next = Version {
            minor: own.minor + 1,
            ..own
        };
        (next, next)
    } else {
        (Version::OLDEST_CLUSTER, own)
    };
    let mut versions = versions.iter();
    !versions.as_slice().is_empty() && versions.all(|version| (oldest..=newest).contains(version))
}

/// As Go prints a list.
fn list(texts: &[String]) -> String {
    format!("[{}]", texts.join(" "))
}

/// Why a cluster cannot be joined, in etcd's words. Nothing was written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JoinError {
    /// Nobody has told who is in it.
    #[error(
        "cannot fetch cluster info from peer urls: could not retrieve cluster information from the \
         given URLs"
    )]
    NoAnswer,
    /// Somebody says that nobody is in it.
    #[error(
        "cannot fetch cluster info from peer urls: failed to get raft cluster member(s) from the \
         given URLs"
    )]
    NoMembers,
    /// `--initial-cluster` names other members.
    #[error("error validating peerURLs {cluster}: {reason}")]
    Members {
        /// Those that are there.
        cluster: String,
        /// What does not fit.
        reason: String,
    },
    /// It has another version.
    #[error("incompatible with current running cluster")]
    Incompatible,
    /// It has more learners than `--max-learners`.
    #[error("membership: too many learner members in cluster")]
    TooManyLearners,
    /// A new cluster is asked for, and this member is in one that runs.
    #[error("member {0} has already been bootstrapped")]
    Bootstrapped(MemberId),
}

#[cfg(test)]
mod tests {
    use super::*;

    const JSON: &str = r#"[
        {"id":2,"peerURLs":["http://b:1"],"name":"b","clientURLs":["http://b:2"]},
        {"id":1,"peerURLs":["http://a:1"],"name":"a","clientURLs":[]},
        {"id":18446744073709551615,"peerURLs":["http://c:1"],"isLearner":true}]"#;

    fn existing() -> ExistingCluster {
        let cluster = ExistingCluster::parse(ClusterId::new(0xc), JSON.as_bytes());
        cluster.expect("a list of members")
    }

    fn local(urls: &[&str]) -> Vec<BootstrapMember> {
        let one = |(at, url): (usize, &&str)| BootstrapMember {
            id: MemberId::new(100 + at as u64),
            name: String::new(),
            peer_urls: vec![url.to_string()],
        };
        urls.iter().enumerate().map(one).collect()
    }

    fn same(a: &[String], b: &[String]) -> Result<(), String> {
        if a == b {
            Ok(())
        } else {
            Err(format!("{a:?} != {b:?}"))
        }
    }

    #[test]
    fn ids_are_those_of_the_members_with_the_same_urls() {
        let ids = existing().assign(&local(&["http://c:1", "http://b:1", "http://a:1"]), same);
        let expected = [u64::MAX, 2, 1].map(MemberId::new);
        assert_eq!(ids.as_deref(), Ok(&expected[..]));
    }

    #[test]
    fn other_members_are_refused_with_etcds_texts() {
        let refused = |urls: &[&str]| {
            let error = existing().assign(&local(urls), same).expect_err("others");
            error.to_string()
        };
        let whole = "error validating peerURLs {ClusterID:c Members:[\
            &{ID:1 RaftAttributes:{PeerURLs:[http://a:1] IsLearner:false} \
            Attributes:{Name:a ClientURLs:[]}} \
            &{ID:2 RaftAttributes:{PeerURLs:[http://b:1] IsLearner:false} \
            Attributes:{Name:b ClientURLs:[http://b:2]}} \
            &{ID:ffffffffffffffff RaftAttributes:{PeerURLs:[http://c:1] IsLearner:true} \
            Attributes:{Name: ClientURLs:[]}}] RemovedMemberIDs:[]}: ";
        assert_eq!(
            refused(&["http://a:1"]),
            format!("{whole}member count is unequal")
        );
        assert_eq!(
            refused(&["http://c:1", "http://b:1", "http://d:1"]),
            format!(
                "{whole}PeerURLs: no match found for existing member (1, [http://a:1]), last \
                 resolver error ([\"http://a:1\"] != [\"http://d:1\"])"
            )
        );
    }

    #[test]
    fn learners_are_counted_and_versions_compared() {
        assert_eq!(existing().check_learners(1), Ok(()));
        assert_eq!(
            existing().check_learners(0),
            Err(JoinError::TooManyLearners)
        );
        let version = |text| Version::parse(text).expect("a version");
        let (own, old, next) = (version("3.7.0"), version("3.0.0"), version("3.8.0"));
        for (versions, downgrading, expected) in [
            (&[][..], false, false),
            (&[own, old], false, true),
            (&[own, next], false, false),
            (&[own], true, false),
            (&[next], true, true),
            (&[version("2.3.0")], false, false),
        ] {
            assert_eq!(
                is_compatible(versions, downgrading),
                expected,
                "{versions:?}"
            );
        }
    }

    #[test]
    fn what_is_no_list_of_members_is_refused() {
        let parse = |json: &str| ExistingCluster::parse(ClusterId::new(1), json.as_bytes());
        assert!(parse("noise").is_err());
        assert_eq!(parse("null").map(|cluster| cluster.members.len()), Ok(0));
    }
}
