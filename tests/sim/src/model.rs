//! What the log means, in the simplest words: the reference that every answer is compared with.
//!
//! It keeps all versions of all keys, so that it can tell the state at any index and revision.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use bytes::Bytes;
use prost::Message;
use trilith_proto::etcdserverpb as pb;
use trilith_proto::etcdserverpb::compare::{CompareResult, TargetUnion};
use trilith_proto::etcdserverpb::request_op::Request;
use trilith_proto::mvccpb::KeyValue;

use crate::answer::Answer;

/// The state after each entry of the log.
pub(crate) struct Model {
    /// Revision and compact revision after each entry; the first is before all.
    moments: Vec<(i64, i64)>,
    keys: BTreeMap<Bytes, Vec<Version>>,
    leases: BTreeMap<i64, BTreeSet<Bytes>>,
    /// What each revision has changed, from 2 on.
    changes: Vec<Vec<Change>>,
    /// The requests in the log, by the tag that their client gave them.
    answers: BTreeMap<u64, Applied>,
}

/// What became of one request.
#[derive(Clone, Debug)]
pub(crate) struct Applied {
    pub(crate) index: u64,
    pub(crate) answer: Result<Answer, &'static str>,
}

/// What a revision did to a key: its pair, or `None` for a deletion.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Change {
    pub(crate) key: Bytes,
    pub(crate) pair: Option<KeyValue>,
}

struct Version {
    revision: i64,
    pair: Option<KeyValue>,
}

const NOT_FOUND: &str = "etcdserver: requested lease not found";
const EXISTS: &str = "etcdserver: lease already exists";
pub(crate) const COMPACTED: &str = "etcdserver: mvcc: required revision has been compacted";
pub(crate) const FUTURE: &str = "etcdserver: mvcc: required revision is a future revision";

impl Model {
    pub(crate) fn new() -> Self {
        Self {
            moments: vec![(1, -1)],
            keys: BTreeMap::new(),
            leases: BTreeMap::new(),
            changes: Vec::new(),
            answers: BTreeMap::new(),
        }
    }

    /// The last entry it knows.
    pub(crate) fn index(&self) -> u64 {
        self.moments.len() as u64 - 1
    }

    /// Revision and compact revision after an entry.
    pub(crate) fn moment(&self, index: u64) -> Option<(i64, i64)> {
        self.moments.get(usize::try_from(index).ok()?).copied()
    }

    pub(crate) fn revision(&self) -> i64 {
        self.moments.last().map_or(1, |(revision, _)| *revision)
    }

    pub(crate) fn compacted(&self) -> i64 {
        self.moments.last().map_or(-1, |(_, compacted)| *compacted)
    }

    /// What was made of the request with this tag.
    pub(crate) fn applied(&self, tag: u64) -> Option<&Applied> {
        self.answers.get(&tag)
    }

    /// The changes of a revision.
    pub(crate) fn changes(&self, revision: i64) -> &[Change] {
        let at = usize::try_from(revision - 2).ok();
        at.and_then(|at| self.changes.get(at))
            .map_or(&[], Vec::as_slice)
    }

    /// Takes the next entry of the log; one without a request changes nothing.
    pub(crate) fn apply(
        &mut self,
        request: Option<&pb::InternalRaftRequest>,
    ) -> Result<(), String> {
        let (revision, compacted) = (self.revision(), self.compacted());
        let index = self.index() + 1;
        self.moments.push((revision, compacted));
        let Some(request) = request else {
            return Ok(());
        };
        let answer = self.answer(request);
        let name = request
            .header
            .as_ref()
            .map_or("", |header| &header.username);
        if let Ok(tag) = name.parse() {
            let applied = Applied { index, answer };
            if let Some(before) = self.answers.insert(tag, applied) {
                return Err(format!(
                    "request {tag} is applied at {} and again at {index}",
                    before.index
                ));
            }
        }
        Ok(())
    }

    fn answer(&mut self, request: &pb::InternalRaftRequest) -> Result<Answer, &'static str> {
        if let Some(put) = &request.put {
            return self.in_txn(|txn| txn.checked_put(put));
        }
        if let Some(delete) = &request.delete_range {
            return self.in_txn(|txn| Ok(txn.delete(delete)));
        }
        if let Some(request) = &request.txn {
            return self.in_txn(|txn| txn.run(request));
        }
        if let Some(compaction) = &request.compaction {
            return self.compact(compaction.revision);
        }
        if let Some(grant) = &request.lease_grant {
            if self.leases.contains_key(&grant.id) {
                return Err(EXISTS);
            }
            self.leases.insert(grant.id, BTreeSet::new());
            let (id, revision) = (grant.id, self.revision());
            return Ok(Answer::Grant { id, revision });
        }
        if let Some(revoke) = &request.lease_revoke {
            let keys = self.leases.get(&revoke.id).cloned().ok_or(NOT_FOUND)?;
            self.in_txn(|txn| {
                for key in keys {
                    txn.set(&key, None);
                }
                Ok(Answer::Done)
            })?;
            self.leases.remove(&revoke.id);
            return Ok(Answer::Revision(self.revision()));
        }
        Ok(Answer::Done)
    }

    fn compact(&mut self, target: i64) -> Result<Answer, &'static str> {
        let moment = self.moments.last_mut().expect("never empty");
        if target <= moment.1 {
            return Err(COMPACTED);
        }
        if target > moment.0 {
            return Err(FUTURE);
        }
        moment.1 = target;
        Ok(Answer::Revision(moment.0))
    }

    fn in_txn(
        &mut self,
        run: impl FnOnce(&mut Txn<'_>) -> Result<Answer, &'static str>,
    ) -> Result<Answer, &'static str> {
        let main = self.revision() + 1;
        let mut txn = Txn {
            model: self,
            main,
            changes: Vec::new(),
        };
        let answer = run(&mut txn);
        let changes = std::mem::take(&mut txn.changes);
        if !changes.is_empty() {
            self.changes.push(changes);
            self.moments.last_mut().expect("never empty").0 = main;
        }
        answer
    }

    /// The pairs of a range at a revision.
    pub(crate) fn range(&self, key: &[u8], end: &[u8], revision: i64) -> Vec<KeyValue> {
        let upper = match end {
            [] => Bound::Included(key),
            [0] => Bound::Unbounded,
            end => Bound::Excluded(end),
        };
        if matches!(upper, Bound::Excluded(end) if end <= key) {
            return Vec::new();
        }
        let keys = self.keys.range::<[u8], _>((Bound::Included(key), upper));
        let at = |versions: &Vec<Version>| {
            let found = versions
                .iter()
                .rfind(|version| version.revision <= revision);
            found.and_then(|version| version.pair.clone())
        };
        keys.filter_map(|(_, versions)| at(versions)).collect()
    }

    /// Whether a lease exists.
    pub(crate) fn has_lease(&self, id: i64) -> bool {
        self.leases.contains_key(&id)
    }
}

/// One entry's changes on their way.
struct Txn<'a> {
    model: &'a mut Model,
    main: i64,
    changes: Vec<Change>,
}

impl Txn<'_> {
    fn revision(&self) -> i64 {
        if self.changes.is_empty() {
            self.main - 1
        } else {
            self.main
        }
    }

    fn get(&self, key: &[u8]) -> Option<KeyValue> {
        self.model.range(key, b"", self.main).pop()
    }

    fn set(&mut self, key: &Bytes, pair: Option<KeyValue>) {
        if let Some(lease) = self.get(key).map(|old| old.lease).filter(|id| *id != 0)
            && let Some(keys) = self.model.leases.get_mut(&lease)
        {
            keys.remove(key);
        }
        if let Some(lease) = pair.as_ref().map(|pair| pair.lease).filter(|id| *id != 0)
            && let Some(keys) = self.model.leases.get_mut(&lease)
        {
            keys.insert(key.clone());
        }
        let versions = self.model.keys.entry(key.clone()).or_default();
        let (revision, of_this) = (self.main, pair.clone());
        versions.push(Version {
            revision,
            pair: of_this,
        });
        self.changes.push(Change {
            key: key.clone(),
            pair,
        });
    }

    fn checked_put(&mut self, put: &pb::PutRequest) -> Result<Answer, &'static str> {
        if put.lease != 0 && !self.model.has_lease(put.lease) {
            return Err(NOT_FOUND);
        }
        Ok(self.put(put))
    }

    fn put(&mut self, put: &pb::PutRequest) -> Answer {
        let old = self.get(&put.key);
        let pair = KeyValue {
            key: put.key.clone(),
            value: put.value.clone(),
            create_revision: old.as_ref().map_or(self.main, |old| old.create_revision),
            mod_revision: self.main,
            version: old.as_ref().map_or(1, |old| old.version + 1),
            lease: put.lease,
        };
        self.set(&put.key, Some(pair));
        let (revision, previous) = (self.revision(), old.filter(|_| put.prev_kv));
        Answer::Put { revision, previous }
    }

    fn delete(&mut self, delete: &pb::DeleteRangeRequest) -> Answer {
        let pairs = self.model.range(&delete.key, &delete.range_end, self.main);
        for pair in &pairs {
            self.set(&pair.key, None);
        }
        Answer::Delete {
            revision: self.revision(),
            deleted: pairs.len() as i64,
            previous: if delete.prev_kv { pairs } else { Vec::new() },
        }
    }

    fn run(&mut self, request: &pb::TxnRequest) -> Result<Answer, &'static str> {
        let succeeded = request.compare.iter().all(|compare| self.holds(compare));
        let steps = if succeeded {
            &request.success
        } else {
            &request.failure
        };
        let puts = steps.iter().filter_map(|step| match &step.request {
            Some(Request::RequestPut(put)) if put.lease != 0 => Some(put.lease),
            _ => None,
        });
        for lease in puts {
            if !self.model.has_lease(lease) {
                return Err(NOT_FOUND);
            }
        }
        let (newest, compacted) = (self.main - 1, self.model.compacted());
        for step in steps {
            match &step.request {
                Some(Request::RequestRange(range)) if range.revision > newest => {
                    return Err(FUTURE);
                }
                Some(Request::RequestRange(range))
                    if range.revision > 0 && range.revision < compacted =>
                {
                    return Err(COMPACTED);
                }
                _ => {}
            }
        }
        let parts = steps.iter().map(|step| match &step.request {
            Some(Request::RequestPut(put)) => self.put(put),
            Some(Request::RequestDeleteRange(delete)) => self.delete(delete),
            Some(Request::RequestRange(range)) => {
                let at = match range.revision {
                    0 => self.main,
                    revision => revision,
                };
                let kvs = self.model.range(&range.key, &range.range_end, at);
                Answer::range(range, kvs)
            }
            _ => Answer::Done,
        });
        let parts = parts.map(Answer::without_revision).collect();
        Ok(Answer::Txn {
            revision: self.revision(),
            succeeded,
            parts,
        })
    }

    fn holds(&self, compare: &pb::Compare) -> bool {
        let pair = self.get(&compare.key);
        let missing = KeyValue::default();
        // A value of a missing key compares with nothing.
        let pair = match (&pair, &compare.target_union) {
            (None, Some(TargetUnion::Value(_))) => return false,
            (None, _) => &missing,
            (Some(pair), _) => pair,
        };
        let order = match &compare.target_union {
            Some(TargetUnion::Version(version)) => pair.version.cmp(version),
            Some(TargetUnion::CreateRevision(create)) => pair.create_revision.cmp(create),
            Some(TargetUnion::ModRevision(changed)) => pair.mod_revision.cmp(changed),
            Some(TargetUnion::Lease(lease)) => pair.lease.cmp(lease),
            Some(TargetUnion::Value(value)) => pair.value.cmp(value),
            None => return false,
        };
        match compare.result() {
            CompareResult::Equal => order.is_eq(),
            CompareResult::Greater => order.is_gt(),
            CompareResult::Less => order.is_lt(),
            CompareResult::NotEqual => order.is_ne(),
        }
    }
}

/// The request in an entry.
pub(crate) fn decode(data: &Bytes) -> Option<pb::InternalRaftRequest> {
    if data.is_empty() {
        return None;
    }
    pb::InternalRaftRequest::decode(data.clone()).ok()
}
