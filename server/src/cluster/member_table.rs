//! Who is a member: the rules for changes, pure; rows are made of the result elsewhere.
//!
//! A change is checked when it is applied, by every member alike, so that an entry that a client
//! could not have proposed against this state has no effect anywhere.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::version::{DowngradeInfo, Version};
use crate::error::RequestError;
use crate::ids::MemberId;

/// A member as etcd's rows, peers and configuration changes write it in JSON.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Its id.
    pub id: u64,
    /// Where its peers find it. `None` is Go's nil slice, which is written as null.
    #[serde(rename = "peerURLs", default)]
    pub peer_urls: Option<Vec<String>>,
    /// A learner does not vote.
    #[serde(rename = "isLearner", default, skip_serializing_if = "is_false")]
    pub is_learner: bool,
    /// Its `--name`; empty until it has started.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Where clients find it; empty until it has started.
    #[serde(
        rename = "clientURLs",
        default,
        deserialize_with = "null_is_empty",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub client_urls: Vec<String>,
}

impl Member {
    /// Its id as the type that the rest of the server uses.
    pub fn id(&self) -> MemberId {
        MemberId::new(self.id)
    }

    /// Has it ever published its name?
    pub fn is_started(&self) -> bool {
        !self.name.is_empty()
    }

    /// Its peer URLs.
    pub fn peer_urls(&self) -> &[String] {
        self.peer_urls.as_deref().unwrap_or_default()
    }

    fn shares_peer_url(&self, urls: &[String]) -> bool {
        self.peer_urls().iter().any(|url| urls.contains(url))
    }
}

fn is_false(value: &bool) -> bool {
    !value
}

fn null_is_empty<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Vec<String>, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

/// A change of the membership.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A new voter, or a learner where the member says so.
    Add(Member),
    /// As `Add`, by an entry of the type for learners, the only one that the bound on learners
    /// holds for.
    AddLearner(Member),
    /// A learner becomes a voter.
    Promote(MemberId),
    /// A member goes and may never come back under its id.
    Remove(MemberId),
    /// A member gets other peer URLs.
    Update(Member),
}

impl Change {
    /// Reads the content of a configuration change: its type by etcd's number, the id it is for,
    /// and its context.
    ///
    /// # Errors
    ///
    /// A text that says why it is no change that etcd makes.
    pub fn decode(kind: i32, id: MemberId, context: &[u8]) -> Result<Self, String> {
        let change = match kind {
            ADD_NODE | ADD_LEARNER_NODE => {
                let Context { member, is_promote } = parse(context)?;
                check_id(id, &member)?;
                match kind {
                    _ if is_promote => Self::Promote(id),
                    ADD_LEARNER_NODE => Self::AddLearner(member),
                    _ => Self::Add(member),
                }
            }
            REMOVE_NODE => Self::Remove(id),
            UPDATE_NODE => {
                let member = parse(context)?;
                check_id(id, &member)?;
                Self::Update(member)
            }
            _ => return Err(format!("there is no configuration change of type {kind}")),
        };
        Ok(change)
    }

    /// Whom it is about.
    pub fn id(&self) -> MemberId {
        match self {
            Self::Add(member) | Self::AddLearner(member) | Self::Update(member) => member.id(),
            Self::Promote(id) | Self::Remove(id) => *id,
        }
    }
}

/// etcd's numbers of the types of configuration changes.
const ADD_NODE: i32 = 0;
const REMOVE_NODE: i32 = 1;
const UPDATE_NODE: i32 = 2;
const ADD_LEARNER_NODE: i32 = 3;

/// Context of an addition or a promotion.
#[derive(Deserialize)]
struct Context {
    #[serde(flatten)]
    member: Member,
    #[serde(rename = "isPromote", default)]
    is_promote: bool,
}

fn parse<'a, T: Deserialize<'a>>(context: &'a [u8]) -> Result<T, String> {
    serde_json::from_slice(context).map_err(|error| format!("its member cannot be read: {error}"))
}

fn check_id(id: MemberId, member: &Member) -> Result<(), String> {
    if member.id() == id {
        return Ok(());
    }
    Err(format!(
        "it is for member {id} and names member {}",
        member.id()
    ))
}

/// Members, removed ids, cluster version and downgrade job, at one applied index.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemberTable {
    /// Invariant: the key is the member's id.
    pub(super) members: BTreeMap<MemberId, Member>,
    pub(super) removed: BTreeSet<MemberId>,
    pub(super) version: Option<Version>,
    pub(super) downgrade: DowngradeInfo,
}

impl MemberTable {
    /// Members in order of their ids.
    pub fn members(&self) -> impl Iterator<Item = &Member> {
        self.members.values()
    }

    /// One member.
    pub fn member(&self, id: MemberId) -> Option<&Member> {
        self.members.get(&id)
    }

    /// Was there a member of this id once?
    pub fn is_removed(&self, id: MemberId) -> bool {
        self.removed.contains(&id)
    }

    /// Those that were members once.
    pub fn removed(&self) -> impl Iterator<Item = MemberId> {
        self.removed.iter().copied()
    }

    /// The cluster version; `None` until the first leader has set it.
    pub fn version(&self) -> Option<Version> {
        self.version
    }

    /// The downgrade job.
    pub fn downgrade(&self) -> &DowngradeInfo {
        &self.downgrade
    }

    /// Would enough of the voters have started after `id` has gone, with `id` itself not counted?
    pub fn is_removal_safe(&self, id: MemberId) -> bool {
        let left = || self.voters().filter(|member| member.id() != id);
        left().filter(|member| member.is_started()).count() >= quorum(left().count())
    }

    /// Would enough of the voters have started with one more that has not?
    pub fn is_addition_safe(&self) -> bool {
        let started = self.voters().filter(|member| member.is_started()).count();
        let after = self.voters().count() + 1;
        // One started member may always get a second: etcd's way to restore a cluster.
        (started == 1 && after == 2) || started >= quorum(after)
    }

    /// Would enough of the voters have started if `id` voted too, which is a learner now?
    pub fn is_promotion_safe(&self, id: MemberId) -> bool {
        let would_vote = |member: &&Member| !member.is_learner || member.id() == id;
        let voters = || self.members().filter(would_vote);
        voters().filter(|member| member.is_started()).count() >= quorum(voters().count())
    }

    /// Those of the members that vote.
    pub fn voters(&self) -> impl Iterator<Item = &Member> {
        self.members().filter(|member| !member.is_learner)
    }

    /// Checks a change against the state that it is applied to, in etcd's order of checks.
    pub(super) fn check(&self, change: &Change, max_learners: usize) -> Result<(), RequestError> {
        let id = change.id();
        if self.is_removed(id) {
            return Err(RequestError::MemberNotFound);
        }
        match change {
            Change::Promote(_) => {
                let member = self.member(id).ok_or(RequestError::MemberNotFound)?;
                if member.is_learner {
                    Ok(())
                } else {
                    Err(RequestError::MemberNotLearner)
                }
            }
            Change::Add(member) | Change::AddLearner(member) => {
                if self.member(id).is_some() {
                    return Err(RequestError::MemberExist);
                }
                if self
                    .members()
                    .any(|other| other.shares_peer_url(member.peer_urls()))
                {
                    return Err(RequestError::PeerUrlExist);
                }
                let learners = self.members().filter(|other| other.is_learner).count();
                let counted = matches!(change, Change::AddLearner(_)) && member.is_learner;
                if counted && learners >= max_learners {
                    return Err(RequestError::TooManyLearners);
                }
                Ok(())
            }
            Change::Remove(_) => self
                .member(id)
                .map(|_| ())
                .ok_or(RequestError::MemberNotFound),
            Change::Update(member) => {
                self.member(id).ok_or(RequestError::MemberNotFound)?;
                let mut others = self.members().filter(|other| other.id() != id);
                if others.any(|other| other.shares_peer_url(member.peer_urls())) {
                    return Err(RequestError::PeerUrlExist);
                }
                Ok(())
            }
        }
    }

    /// Makes a checked change and gives the id whose row it touched.
    pub(super) fn make(&mut self, change: Change) -> MemberId {
        let id = change.id();
        match change {
            Change::Add(member) | Change::AddLearner(member) => {
                self.members.insert(id, member);
            }
            Change::Promote(_) => {
                self.existing(id).is_learner = false;
            }
            Change::Remove(_) => {
                self.members.remove(&id);
                self.removed.insert(id);
            }
            Change::Update(member) => {
                self.existing(id).peer_urls = member.peer_urls;
            }
        }
        id
    }

    /// Notes what a member says of itself. False if nobody knows such a member.
    pub(super) fn set_attributes(
        &mut self,
        id: MemberId,
        name: String,
        client_urls: Vec<String>,
    ) -> bool {
        let Some(member) = self.members.get_mut(&id) else {
            return false;
        };
        member.name = name;
        member.client_urls = client_urls;
        true
    }

    fn existing(&mut self, id: MemberId) -> &mut Member {
        self.members
            .get_mut(&id)
            .expect("the check has found the member")
    }
}

fn quorum(voters: usize) -> usize {
    voters / 2 + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(id: u64, url: &str) -> Member {
        Member {
            id,
            peer_urls: Some(vec![url.to_owned()]),
            ..Member::default()
        }
    }

    fn learner(id: u64, url: &str) -> Member {
        Member {
            is_learner: true,
            ..member(id, url)
        }
    }

    fn table(members: &[Member]) -> MemberTable {
        let mut table = MemberTable::default();
        for member in members {
            table.make(Change::Add(member.clone()));
        }
        table
    }

    fn id(n: u64) -> MemberId {
        MemberId::new(n)
    }

    #[test]
    fn an_id_or_peer_url_in_use_is_refused() {
        let table = table(&[member(1, "http://a:1")]);
        let check = |change| table.check(&change, 1);
        assert_eq!(
            check(Change::Add(member(1, "http://b:1"))),
            Err(RequestError::MemberExist)
        );
        assert_eq!(
            check(Change::Add(member(2, "http://a:1"))),
            Err(RequestError::PeerUrlExist)
        );
        assert_eq!(check(Change::Add(member(2, "http://b:1"))), Ok(()));
        assert_eq!(
            check(Change::Update(member(1, "http://a:1"))),
            Ok(()),
            "its own"
        );
    }

    #[test]
    fn a_removed_id_never_comes_back() {
        let mut table = table(&[member(1, "http://a:1"), member(2, "http://b:1")]);
        table.make(Change::Remove(id(2)));
        for change in [
            Change::Add(member(2, "http://c:1")),
            Change::Remove(id(2)),
            Change::Promote(id(2)),
            Change::Update(member(2, "http://c:1")),
        ] {
            assert_eq!(table.check(&change, 1), Err(RequestError::MemberNotFound));
        }
        assert!(table.is_removed(id(2)));
    }

    #[test]
    fn only_a_learner_is_promoted() {
        let mut table = table(&[member(1, "http://a:1"), learner(2, "http://b:1")]);
        let check = |table: &MemberTable, n| table.check(&Change::Promote(id(n)), 1);
        assert_eq!(check(&table, 1), Err(RequestError::MemberNotLearner));
        assert_eq!(check(&table, 3), Err(RequestError::MemberNotFound));
        assert_eq!(check(&table, 2), Ok(()));
        table.make(Change::Promote(id(2)));
        assert_eq!(check(&table, 2), Err(RequestError::MemberNotLearner));
    }

    #[test]
    fn learners_are_counted_for_entries_of_their_type_only() {
        let table = table(&[member(1, "http://a:1"), learner(2, "http://b:1")]);
        let third = learner(3, "http://c:1");
        let check = |change, max| table.check(&change, max);
        assert_eq!(
            check(Change::AddLearner(third.clone()), 1),
            Err(RequestError::TooManyLearners)
        );
        assert_eq!(check(Change::AddLearner(third.clone()), 2), Ok(()));
        assert_eq!(check(Change::Add(third), 1), Ok(()));
    }

    #[test]
    fn an_update_changes_peer_urls_only() {
        let mut table = table(&[member(1, "http://a:1")]);
        assert!(table.set_attributes(id(1), "one".to_owned(), vec!["http://c:1".to_owned()]));
        let update = Member {
            name: "other".to_owned(),
            ..learner(1, "http://b:1")
        };
        table.make(Change::Update(update));
        let after = table.member(id(1)).expect("it is still there");
        assert_eq!(after.peer_urls(), ["http://b:1"]);
        assert_eq!((after.name.as_str(), after.is_learner), ("one", false));
        assert!(!table.set_attributes(id(9), String::new(), Vec::new()));
    }

    #[test]
    fn changes_are_read_as_etcd_writes_them() {
        let read = |kind, id: u64, context: &str| {
            Change::decode(kind, MemberId::new(id), context.as_bytes())
        };
        let context = r#"{"id":7,"peerURLs":["http://a:1"],"name":"x"}"#;
        let named = Member {
            name: "x".to_owned(),
            ..member(7, "http://a:1")
        };
        assert_eq!(read(ADD_NODE, 7, context), Ok(Change::Add(named.clone())));
        assert_eq!(read(UPDATE_NODE, 7, context), Ok(Change::Update(named)));
        assert_eq!(read(REMOVE_NODE, 7, ""), Ok(Change::Remove(id(7))));
        let context = r#"{"id":7,"peerURLs":["http://a:1"],"isLearner":true}"#;
        let added = Change::AddLearner(learner(7, "http://a:1"));
        assert_eq!(read(ADD_LEARNER_NODE, 7, context), Ok(added));
        let context = r#"{"id":7,"peerURLs":null,"isPromote":true}"#;
        assert_eq!(read(ADD_NODE, 7, context), Ok(Change::Promote(id(7))));
    }

    #[test]
    fn changes_that_etcd_would_not_write_are_no_changes() {
        let read = |kind, context: &str| Change::decode(kind, id(7), context.as_bytes());
        assert!(
            read(ADD_NODE, r#"{"id":8,"peerURLs":[]}"#).is_err(),
            "another id"
        );
        assert!(read(ADD_NODE, "").is_err());
        assert!(read(UPDATE_NODE, "{").is_err());
        assert!(read(4, "").is_err());
    }

    #[test]
    fn the_only_member_may_not_go_and_may_get_a_second() {
        let mut table = table(&[member(1, "http://a:1")]);
        table.set_attributes(id(1), "one".to_owned(), Vec::new());
        assert!(!table.is_removal_safe(id(1)));
        assert!(table.is_removal_safe(id(5)), "one started voter stays");
        assert!(table.is_addition_safe());
        table.make(Change::Add(member(2, "http://b:1")));
        assert!(!table.is_addition_safe(), "one of three would have started");
    }
}
