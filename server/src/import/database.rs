//! Fills an empty state from a database file of etcd.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use trilith_bbolt::{Bucket, File};

use super::error::ImportError;
use crate::cluster::{MemberTable, Membership, SERVER_VERSION, Version};
use crate::ids::{Index, MemberId, Revision, Term};
use crate::member::ConfState;
use crate::mvcc::{
    Address, BUCKETS, KEY_BUCKET, LoadedRevisions, Loader, META_BUCKET, encode_applied,
};
use crate::progress::{Audience, Progress};
use crate::storage::{Backend, Batch, Family, schema::meta};

/// A sound database file of etcd 3.7 or older.
#[derive(Debug)]
pub(super) struct Database {
    path: PathBuf,
    file: File,
    audience: Audience,
}

/// Records of the bucket `key` on their way into an empty state.
#[derive(Debug)]
pub(super) struct Records {
    /// Where they come from.
    path: PathBuf,
    loader: Loader,
    newest: Address,
    progress: Progress,
}

impl Records {
    /// Begins to fill `backend` from a file of so many bytes.
    pub(super) fn begin(
        path: &Path,
        backend: &Backend,
        audience: Audience,
        bytes: u64,
    ) -> Result<Self, ImportError> {
        Ok(Self {
            path: path.to_path_buf(),
            loader: Loader::new(backend.clone())?,
            newest: Address { main: 1, sub: 0 },
            progress: Progress::new(audience, "importing keys", bytes),
        })
    }

    /// Takes the next one, in order.
    pub(super) fn add(&mut self, key: &[u8], value: &[u8]) -> Result<(), ImportError> {
        let parsed = parse_address(key);
        let (address, is_deletion) = parsed.map_err(|reason| content(&self.path, reason))?;
        self.loader.record(address, is_deletion, value)?;
        self.newest = address;
        self.progress.add(key.len() + value.len());
        Ok(())
    }
}

/// What becomes of the members in the file.
#[derive(Clone, Debug)]
pub(super) enum Members {
    /// They go on.
    Kept,
    /// They make way for those of a new cluster, which has applied its first entries.
    Replaced {
        /// Their rows, as key and value of etcd's bucket `members`.
        rows: Vec<(String, Bytes)>,
        /// The last entry by which they were added, and its term.
        applied: (Index, Term),
        /// Who votes from then on.
        conf_state: ConfState,
    },
}

/// What becomes of the revisions in the file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Bump {
    /// How much the current revision rises; what is below it counts as compacted. 0: nothing.
    pub(super) by: u64,
}

impl Database {
    /// Opens a file and checks that its content is for this version.
    ///
    /// # Errors
    ///
    /// A file that is damaged, no database of etcd, or one of a later version.
    pub(super) fn open(path: &Path, audience: Audience) -> Result<Self, ImportError> {
        let file = File::open(path)?;
        let database = Self {
            path: path.to_path_buf(),
            file,
            audience,
        };
        database.meta()?.ok_or_else(|| {
            database.content("it has no bucket meta, so it is no database of etcd")
        })?;
        if let Some(text) = database.value(STORAGE_VERSION)? {
            let version = std::str::from_utf8(&text).ok().and_then(Version::parse);
            match version {
                Some(version) if version.cluster() <= SERVER_VERSION.cluster() => {}
                _ => {
                    let text = String::from_utf8_lossy(&text).into_owned();
                    return Err(database.content(&format!(
                        "it has the storage version {text:?}, and this version knows up to {}; \
                         downgrade the cluster first",
                        SERVER_VERSION.cluster()
                    )));
                }
            }
        }
        Ok(database)
    }

    /// The file's pages.
    pub(super) fn file(&self) -> &File {
        &self.file
    }

    /// The version of the schema; empty for one from before etcd 3.6.
    pub(super) fn storage_version(&self) -> Result<String, ImportError> {
        let version = self.value(STORAGE_VERSION)?.unwrap_or_default();
        Ok(String::from_utf8_lossy(&version).into_owned())
    }

    /// The last applied entry and its term; both 0 for a new member.
    pub(super) fn applied(&self) -> Result<(Index, Term), ImportError> {
        let number = |name: &str| -> Result<u64, ImportError> {
            let Some(value) = self.value(name)? else {
                return Ok(0);
            };
            let value: [u8; 8] = value[..]
                .try_into()
                .map_err(|_| self.content(&format!("{name} in the bucket meta is no number")))?;
            Ok(u64::from_be_bytes(value))
        };
        Ok((
            Index::new(number(CONSISTENT_INDEX)?),
            Term::new(number(TERM)?),
        ))
    }

    /// How many members the cluster has.
    pub(super) fn members(&self) -> Result<usize, ImportError> {
        let Some(bucket) = self.file.bucket(MEMBERS_BUCKET)? else {
            return Ok(0);
        };
        let mut members = 0;
        for pair in bucket.pairs() {
            pair?;
            members += 1;
        }
        Ok(members)
    }

    /// Whether a member is one of them.
    pub(super) fn is_member(&self, id: MemberId) -> Result<bool, ImportError> {
        self.has(MEMBERS_BUCKET, id)
    }

    /// Whether a member was removed for good.
    pub(super) fn is_removed(&self, id: MemberId) -> Result<bool, ImportError> {
        self.has(REMOVED_BUCKET, id)
    }

    fn has(&self, bucket: &[u8], id: MemberId) -> Result<bool, ImportError> {
        match self.file.bucket(bucket)? {
            Some(bucket) => Ok(bucket.get(id.to_string().as_bytes())?.is_some()),
            None => Ok(false),
        }
    }

    /// Copies everything into `backend`, which is empty. The state is whole and durable when this
    /// returns, and none before.
    pub(super) fn fill(
        &self,
        backend: &Backend,
        members: &Members,
        bump: Bump,
    ) -> Result<(), ImportError> {
        let mut records = Records::begin(&self.path, backend, self.audience, self.file.size())?;
        if let Some(bucket) = self.file.bucket(KEY_BUCKET.as_bytes())? {
            for pair in bucket.pairs() {
                let (key, value) = pair?;
                records.add(&key, &value)?;
            }
        }
        self.fill_around(records, backend, members, bump)
    }

    /// As [`Database::fill`], behind `records`, which are all that the file had.
    pub(super) fn fill_around(
        &self,
        records: Records,
        backend: &Backend,
        members: &Members,
        bump: Bump,
    ) -> Result<(), ImportError> {
        self.fill_rows(backend, members)?;
        let (applied, conf_state) = match members {
            Members::Kept => (self.applied()?, self.conf_state(backend)?),
            Members::Replaced {
                rows,
                applied,
                conf_state,
            } => {
                let mut batch = backend.batch();
                for (key, value) in rows {
                    batch.put(Family::Member, key, value);
                }
                backend.write(batch)?;
                (*applied, Some(conf_state.clone()))
            }
        };
        let mut rest = backend.batch();
        if applied.0.get() > 0 {
            rest.put(
                Family::Meta,
                meta::APPLIED,
                encode_applied(applied.0, applied.1),
            );
        }
        if let Some(conf_state) = conf_state {
            rest.put(Family::Meta, meta::CONF_STATE, conf_state.encode());
        }
        self.finish(records, bump, rest)
    }

    /// Rows of everything but keys: as etcd has them.
    fn fill_rows(&self, backend: &Backend, members: &Members) -> Result<(), ImportError> {
        let mut batch = backend.batch();
        let made_anew = |name: &str| name == KEY_BUCKET || name == META_BUCKET;
        let kept = BUCKETS.iter().filter(|(name, _)| !made_anew(name));
        for &(name, family) in kept {
            let is_member = matches!(family, Family::Member | Family::MemberRemoved);
            if is_member && matches!(members, Members::Replaced { .. }) {
                continue;
            }
            let Some(bucket) = self.file.bucket(name.as_bytes())? else {
                continue;
            };
            for pair in bucket.pairs() {
                let (key, value) = pair?;
                batch.put(family, key, value);
                if batch.bytes() >= BATCH_BYTES {
                    backend.write(std::mem::replace(&mut batch, backend.batch()))?;
                }
            }
        }
        Ok(backend.write(batch)?)
    }

    /// Who votes, told from the members: what the bucket `meta` says is, after a restore, about
    /// the old cluster. `None` before the first entry is applied.
    fn conf_state(&self, backend: &Backend) -> Result<Option<ConfState>, ImportError> {
        let members = Membership::load(&backend.view(), usize::MAX)?;
        let table: &MemberTable = &members.table();
        let of = |learners: bool| {
            let chosen = table
                .members()
                .filter(|member| member.is_learner == learners);
            chosen.map(|member| member.id()).collect::<Vec<_>>()
        };
        let conf_state = ConfState {
            voters: of(false),
            learners: of(true),
        };
        match (self.applied()?.0.get(), conf_state.voters.is_empty()) {
            (0, _) => Ok(None),
            (_, false) => Ok(Some(conf_state)),
            (_, true) => Err(self.content("it names no member that votes")),
        }
    }

    fn finish(&self, records: Records, bump: Bump, rest: Batch) -> Result<(), ImportError> {
        let Records {
            mut loader,
            mut newest,
            progress,
            ..
        } = records;
        progress.finish();
        let mut revisions = LoadedRevisions {
            current: Revision::new(newest.main),
            compact_scheduled: self.compacted(COMPACT_SCHEDULED)?,
            compact_finished: self.compacted(COMPACT_FINISHED)?,
        };
        if bump.by > 0 {
            // etcdutl makes room with an empty record, which belongs to no key.
            let by = i64::try_from(bump.by).unwrap_or(i64::MAX);
            newest.main = newest.main.checked_add(by).ok_or_else(|| {
                self.content("its revision cannot rise so much: give a smaller --bump-revision")
            })?;
            newest.sub = 0;
            loader.record(newest, false, &[])?;
            revisions.current = Revision::new(newest.main);
            revisions.compact_scheduled = Some(revisions.current);
        }
        revisions.current = revisions
            .current
            .max(revisions.compact_scheduled.unwrap_or_default())
            .max(revisions.compact_finished.unwrap_or_default());
        Ok(loader.finish(revisions, rest)?)
    }

    /// A record's key: main, `_`, sub, and `t` if it is a deletion.
    pub(super) fn address(&self, key: &[u8]) -> Result<(Address, bool), ImportError> {
        parse_address(key).map_err(|reason| self.content(reason))
    }

    /// The revision of a compaction mark.
    fn compacted(&self, name: &str) -> Result<Option<Revision>, ImportError> {
        let Some(value) = self.value(name)? else {
            return Ok(None);
        };
        let (address, _) = self.address(&value)?;
        // etcd writes 0 for none.
        Ok(Some(Revision::new(address.main)).filter(|revision| revision.get() > 0))
    }

    fn meta(&self) -> Result<Option<Bucket>, ImportError> {
        Ok(self.file.bucket(META_BUCKET.as_bytes())?)
    }

    fn value(&self, name: &str) -> Result<Option<Bytes>, ImportError> {
        match self.meta()? {
            Some(bucket) => Ok(bucket.get(name.as_bytes())?),
            None => Ok(None),
        }
    }

    pub(super) fn content(&self, reason: &str) -> ImportError {
        content(&self.path, reason)
    }
}

fn content(path: &Path, reason: &str) -> ImportError {
    ImportError::Content {
        path: path.to_path_buf(),
        reason: reason.to_owned(),
    }
}

fn parse_address(key: &[u8]) -> Result<(Address, bool), &'static str> {
    const SHORT: &str = "a key of the bucket key is too short";
    let (number, mark) = key.split_at_checked(REVISION_BYTES).ok_or(SHORT)?;
    let is_deletion = match mark {
        [] => false,
        [b't'] => true,
        _ => return Err("a key of the bucket key has an unknown mark"),
    };
    let [main @ .., _, _, _, _, _, _, _, _, _] = number else {
        return Err(SHORT);
    };
    let be = |bytes: &[u8]| bytes.try_into().map(i64::from_be_bytes);
    match (be(main), be(&number[9..])) {
        (Ok(main), Ok(sub)) if number[8] == b'_' => Ok((Address { main, sub }, is_deletion)),
        _ => Err("a key of the bucket key is no revision"),
    }
}

const MEMBERS_BUCKET: &[u8] = b"members";
const REMOVED_BUCKET: &[u8] = b"members_removed";

/// Keys of the bucket `meta`.
const CONSISTENT_INDEX: &str = "consistent_index";
const TERM: &str = "term";
const STORAGE_VERSION: &str = "storageVersion";
const COMPACT_SCHEDULED: &str = "scheduledCompactRev";
const COMPACT_FINISHED: &str = "finishedCompactRev";

/// Main and sub with a sign between them.
const REVISION_BYTES: usize = 17;

/// Rows written at once.
const BATCH_BYTES: usize = 1 << 20;
