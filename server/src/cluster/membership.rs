//! The membership that `apply` writes and everybody reads: the member table and its rows.

use std::sync::Arc;

use arc_swap::ArcSwap;

use super::member_table::{Change, Member, MemberTable};
use super::row;
use super::version::{DowngradeInfo, Version};
use crate::error::RequestError;
use crate::ids::MemberId;
use crate::storage::{Batch, Family, StorageError, View};

/// Handle to the membership of the cluster; clones share it.
///
/// Readers take the table as it stands and are never blocked. Only `apply` changes it, and what it
/// changes goes into the batch of the same entry.
#[derive(Clone, Debug)]
pub struct Membership {
    table: Arc<ArcSwap<MemberTable>>,
    max_learners: usize,
}

/// What became of a member's attributes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attributes {
    /// They were noted.
    Set,
    /// The member was removed meanwhile: nothing to note.
    Removed,
    /// There was never such a member, which no sound log says.
    Unknown,
}

impl Membership {
    /// Reads the rows. `max_learners` is `--max-learners`, which all members have to agree on.
    ///
    /// # Errors
    ///
    /// When the rows cannot be read, or one of them is not what etcd would have written.
    pub fn load(view: &View, max_learners: usize) -> Result<Self, StorageError> {
        let mut table = MemberTable::default();
        let mut rows = view.scan(Family::Member, &[], None);
        while let Some((key, value)) = rows.next()? {
            let member = row::decode_member(value)
                .map_err(|error| StorageError::corrupt(Family::Member, error.to_string()))?;
            if row::parse_member_key(key) != Some(member.id()) {
                return Err(StorageError::corrupt(
                    Family::Member,
                    "key is not the member's id",
                ));
            }
            table.members.insert(member.id(), member);
        }
        let mut rows = view.scan(Family::MemberRemoved, &[], None);
        while let Some((key, _)) = rows.next()? {
            let id = row::parse_member_key(key)
                .ok_or_else(|| StorageError::corrupt(Family::MemberRemoved, "key is no id"))?;
            table.removed.insert(id);
        }
        if let Some(text) = view.get(Family::Cluster, row::CLUSTER_VERSION_KEY)? {
            let version = std::str::from_utf8(&text).ok().and_then(Version::parse);
            table.version = Some(version.ok_or_else(|| {
                StorageError::corrupt(Family::Cluster, "the cluster version is no version")
            })?);
        }
        if let Some(json) = view.get(Family::Cluster, row::DOWNGRADE_KEY)? {
            table.downgrade = row::decode_downgrade(&json)
                .map_err(|error| StorageError::corrupt(Family::Cluster, error.to_string()))?;
        }
        Ok(Self {
            table: Arc::new(ArcSwap::from_pointee(table)),
            max_learners,
        })
    }

    /// The membership as it stands.
    pub fn table(&self) -> Arc<MemberTable> {
        self.table.load_full()
    }

    /// Would a change be made now?
    ///
    /// # Errors
    ///
    /// Why not.
    pub fn check(&self, change: &Change) -> Result<(), RequestError> {
        self.table.load().check(change, self.max_learners)
    }

    /// Makes a change, if the membership allows it. For `apply` only.
    ///
    /// # Errors
    ///
    /// Why not; nothing has changed then.
    pub fn change(&self, change: Change, batch: &mut Batch) -> Result<(), RequestError> {
        let mut table = MemberTable::clone(&self.table());
        table.check(&change, self.max_learners)?;
        let id = table.make(change);
        let key = row::member_key(id);
        match table.member(id) {
            Some(member) => put_member(member, batch),
            None => {
                batch.delete(Family::Member, &key);
                batch.put(Family::MemberRemoved, &key, row::REMOVED);
            }
        }
        self.table.store(Arc::new(table));
        Ok(())
    }

    /// Notes what a member says of itself. For `apply` only.
    pub fn set_attributes(
        &self,
        id: MemberId,
        name: String,
        client_urls: Vec<String>,
        batch: &mut Batch,
    ) -> Attributes {
        let mut table = MemberTable::clone(&self.table());
        if !table.set_attributes(id, name, client_urls) {
            return if table.is_removed(id) {
                Attributes::Removed
            } else {
                Attributes::Unknown
            };
        }
        put_member(
            table.member(id).expect("its attributes were just set"),
            batch,
        );
        self.table.store(Arc::new(table));
        Attributes::Set
    }

    /// Sets the cluster version. For `apply` only.
    pub fn set_version(&self, version: Version, batch: &mut Batch) {
        let mut table = MemberTable::clone(&self.table());
        table.version = Some(version);
        batch.put(
            Family::Cluster,
            row::CLUSTER_VERSION_KEY,
            version.to_string(),
        );
        self.table.store(Arc::new(table));
    }

    /// Sets or ends the downgrade job. For `apply` only.
    pub fn set_downgrade(&self, info: DowngradeInfo, batch: &mut Batch) {
        let mut table = MemberTable::clone(&self.table());
        batch.put(
            Family::Cluster,
            row::DOWNGRADE_KEY,
            row::encode_downgrade(&info),
        );
        table.downgrade = info;
        self.table.store(Arc::new(table));
    }
}

fn put_member(member: &Member, batch: &mut Batch) {
    batch.put(
        Family::Member,
        row::member_key(member.id()),
        row::encode_member(member),
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::{Backend, BackendOptions};

    fn member(id: u64) -> Member {
        let peer_urls = Some(vec![format!("http://m{id}:2380")]);
        Member {
            id,
            peer_urls,
            ..Member::default()
        }
    }

    #[test]
    fn what_was_applied_is_found_again_and_nothing_else() {
        let dir = tempfile::tempdir().expect("a folder for the test");
        let backend = Backend::open(dir.path(), &BackendOptions::default()).expect("a new state");
        let membership = Membership::load(&backend.view(), 1).expect("no rows");
        let mut batch = backend.batch();
        for id in 1..=3 {
            membership
                .change(Change::Add(member(id)), &mut batch)
                .expect("a new member");
        }
        membership
            .change(Change::Remove(MemberId::new(2)), &mut batch)
            .expect("it is there");
        let refused = membership.change(Change::Add(member(2)), &mut batch);
        assert_eq!(refused, Err(RequestError::MemberNotFound));
        let urls = vec!["http://c:2379".to_owned()];
        for (id, outcome) in [
            (1, Attributes::Set),
            (2, Attributes::Removed),
            (9, Attributes::Unknown),
        ] {
            let id = MemberId::new(id);
            let name = "one".to_owned();
            assert_eq!(
                membership.set_attributes(id, name, urls.clone(), &mut batch),
                outcome
            );
        }
        membership.set_version(
            Version {
                major: 3,
                minor: 7,
                patch: 0,
            },
            &mut batch,
        );
        let job = DowngradeInfo {
            target_version: "3.6.0".to_owned(),
            enabled: true,
        };
        membership.set_downgrade(job, &mut batch);
        backend.write(batch).expect("a write to a new state");

        let loaded = Membership::load(&backend.view(), 1).expect("our own rows");
        assert_eq!(*loaded.table(), *membership.table());
        let removed = backend.get(Family::MemberRemoved, b"2").expect("a read");
        assert_eq!(removed.as_deref(), Some(&b"removed"[..]));
        let version = backend
            .get(Family::Cluster, b"clusterVersion")
            .expect("a read");
        assert_eq!(version.as_deref(), Some(&b"3.7.0"[..]));
    }

    #[test]
    fn a_row_under_the_wrong_id_is_refused() {
        let dir = tempfile::tempdir().expect("a folder for the test");
        let backend = Backend::open(dir.path(), &BackendOptions::default()).expect("a new state");
        let mut batch = backend.batch();
        batch.put(Family::Member, "7", row::encode_member(&member(8)));
        backend.write(batch).expect("a write to a new state");
        assert!(Membership::load(&backend.view(), 1).is_err());
    }
}
