//! The state as etcd's buckets hold it: for its `Hash`, and for files that etcd opens.
//!
//! | bucket | key | value |
//! |---|---|---|
//! | `key` | main u64 ‖ `_` ‖ sub u64, and `t` if it deleted the key | `mvccpb.KeyValue` |
//! | `meta` | `confState` | JSON |
//! | | `consistent_index`, `term` | u64 |
//! | | `scheduledCompactRev`, `finishedCompactRev` | as a key of `key` |
//! | | `storageVersion` | text |
//! | all others | as in our families for them | as in our families for them |

use prost::Message;
use trilith_proto::raftpb;

use crate::{
    ids::{Index, Term},
    mvcc::{
        record::{Address, Kind, Row},
        store,
    },
    storage::{Family, StorageError, View, schema, schema::meta},
};

/// Takes etcd's buckets in the order of their names, and the pairs of each in that of their keys.
pub trait BucketSink {
    /// What it may refuse them with.
    type Error: From<StorageError>;

    /// Begins a bucket.
    fn bucket(&mut self, name: &'static str) -> Result<(), Self::Error>;

    /// A pair of the bucket begun last.
    fn pair(&mut self, key: &[u8], value: &[u8]) -> Result<(), Self::Error>;
}

/// Walks over all of etcd's buckets, empty ones included, as of the moment of `view`.
///
/// # Errors
///
/// A failure of the state, or what `sink` returned.
pub fn walk_buckets<S: BucketSink>(view: &View, sink: &mut S) -> Result<(), S::Error> {
    for &(name, family) in BUCKETS {
        sink.bucket(name)?;
        match family {
            Family::Revision => walk_records(view, sink)?,
            Family::Meta => walk_meta(view, sink)?,
            _ => {
                let mut rows = view.scan(family, &[], None);
                while let Some((key, value)) = rows.next()? {
                    sink.pair(key, value)?;
                }
            }
        }
    }
    Ok(())
}

/// The last entry that the state of `view` has applied, and its term; zero for a new one.
pub fn applied(view: &View) -> Result<(Index, Term), StorageError> {
    match view.get(Family::Meta, meta::APPLIED)? {
        Some(value) => store::parse_applied(&value),
        None => Ok((Index::new(0), Term::new(0))),
    }
}

/// The storage version that etcd would have written: that of the cluster, since 3.6 knows it.
///
/// # Errors
///
/// A failure of the state.
pub fn storage_version(view: &View) -> Result<Option<String>, StorageError> {
    let Some(version) = view.get(Family::Cluster, CLUSTER_VERSION)? else {
        return Ok(None);
    };
    let version = String::from_utf8(version.to_vec())
        .map_err(|_| StorageError::corrupt(Family::Cluster, "the version is no text"))?;
    let mut numbers = version.split('.').map(str::parse::<u64>);
    let is_known = match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => (major, minor) >= FIRST_STORAGE_VERSION,
        _ => {
            return Err(StorageError::corrupt(
                Family::Cluster,
                "the version is none",
            ));
        }
    };
    Ok(is_known.then_some(version))
}

fn walk_records<S: BucketSink>(view: &View, sink: &mut S) -> Result<(), S::Error> {
    let mut rows = view.scan(Family::Revision, &[], None);
    while let Some((key, value)) = rows.next()? {
        let (main, sub) = schema::parse_revision_key(key)?;
        let row = Row::parse(value)?;
        let key = RecordKey::new(Address { main, sub }, row.kind);
        sink.pair(key.bytes(), row.kv)?;
    }
    Ok(())
}

fn walk_meta<S: BucketSink>(view: &View, sink: &mut S) -> Result<(), S::Error> {
    if let Some(encoded) = view.get(Family::Meta, meta::CONF_STATE)? {
        sink.pair(b"confState", conf_state_json(&encoded)?.as_bytes())?;
    }
    let applied = view.get(Family::Meta, meta::APPLIED)?;
    let applied = applied
        .map(|value| store::parse_applied(&value))
        .transpose()?;
    if let Some((index, _)) = applied {
        sink.pair(CONSISTENT_INDEX, &index.get().to_be_bytes())?;
    }
    let revisions: [(&[u8], &[u8]); 2] = [
        (b"finishedCompactRev", meta::COMPACT_FINISHED),
        (b"scheduledCompactRev", meta::COMPACT_SCHEDULED),
    ];
    for (name, key) in revisions {
        if let Some(value) = view.get(Family::Meta, key)? {
            let main = schema::parse_i64(Family::Meta, &value)?;
            let record = RecordKey::new(Address { main, sub: 0 }, Kind::Put);
            sink.pair(name, record.bytes())?;
        }
    }
    if let Some(version) = storage_version(view)? {
        sink.pair(STORAGE_VERSION, version.as_bytes())?;
    }
    if let Some((_, term)) = applied {
        sink.pair(TERM, &term.get().to_be_bytes())?;
    }
    Ok(())
}

/// A `ConfState` as Go's encoder writes it: lists that are empty left out, `auto_leave` never.
fn conf_state_json(encoded: &[u8]) -> Result<String, StorageError> {
    let state = raftpb::ConfState::decode(encoded)
        .map_err(|error| StorageError::corrupt(Family::Meta, error.to_string()))?;
    let lists = [
        ("voters", &state.voters),
        ("learners", &state.learners),
        ("voters_outgoing", &state.voters_outgoing),
        ("learners_next", &state.learners_next),
    ];
    let mut json = String::from("{");
    for (name, ids) in lists.into_iter().filter(|(_, ids)| !ids.is_empty()) {
        let ids: Vec<String> = ids.iter().map(u64::to_string).collect();
        json.push_str(&format!("\"{name}\":[{}],", ids.join(",")));
    }
    json.push_str(&format!("\"auto_leave\":{}}}", state.auto_leave));
    Ok(json)
}

/// A revision as etcd writes it: the key of a record.
pub(super) struct RecordKey {
    bytes: [u8; RECORD_KEY_BYTES + 1],
    length: usize,
}

impl RecordKey {
    pub(super) fn new(address: Address, kind: Kind) -> Self {
        let mut bytes = [0; RECORD_KEY_BYTES + 1];
        bytes[..8].copy_from_slice(&address.main.to_be_bytes());
        bytes[8] = b'_';
        bytes[9..RECORD_KEY_BYTES].copy_from_slice(&address.sub.to_be_bytes());
        bytes[RECORD_KEY_BYTES] = b't';
        let length = RECORD_KEY_BYTES + usize::from(kind == Kind::Tombstone);
        Self { bytes, length }
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

/// Bytes of a record's key that is no tombstone's.
const RECORD_KEY_BYTES: usize = 17;

/// The bucket of all records.
pub const KEY_BUCKET: &str = "key";

/// The bucket of single values.
pub const META_BUCKET: &str = "meta";

/// Keys of `meta` that etcd's hash leaves out, since members may differ in them.
pub(super) const UNHASHED: [&[u8]; 3] = [CONSISTENT_INDEX, STORAGE_VERSION, TERM];

const CONSISTENT_INDEX: &[u8] = b"consistent_index";
const STORAGE_VERSION: &[u8] = b"storageVersion";
const TERM: &[u8] = b"term";

/// Where the family `cluster` has the version of the cluster.
const CLUSTER_VERSION: &[u8] = b"clusterVersion";

/// Major and minor number.
const FIRST_STORAGE_VERSION: (u64, u64) = (3, 6);

/// etcd's buckets in the order of their names, and our families for them.
pub const BUCKETS: &[(&str, Family)] = &[
    ("alarm", Family::Alarm),
    ("auth", Family::Auth),
    ("authRoles", Family::AuthRole),
    ("authUsers", Family::AuthUser),
    ("cluster", Family::Cluster),
    (KEY_BUCKET, Family::Revision),
    ("lease", Family::Lease),
    ("members", Family::Member),
    ("members_removed", Family::MemberRemoved),
    (META_BUCKET, Family::Meta),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_conf_state_is_written_as_etcd_writes_it() {
        let mut state = raftpb::ConfState {
            voters: vec![6_662_698_563_040_693_991],
            ..raftpb::ConfState::default()
        };
        let json =
            |state: &raftpb::ConfState| conf_state_json(&state.encode_to_vec()).expect("own");
        assert_eq!(
            json(&state),
            r#"{"voters":[6662698563040693991],"auto_leave":false}"#
        );
        state.voters.push(7);
        state.learners = vec![8];
        assert_eq!(
            json(&state),
            r#"{"voters":[6662698563040693991,7],"learners":[8],"auto_leave":false}"#
        );
        assert!(conf_state_json(b"\xff").is_err());
    }

    #[test]
    fn the_key_of_a_tombstone_ends_in_t() {
        let address = Address { main: 258, sub: 3 };
        let key = b"\0\0\0\0\0\0\x01\x02_\0\0\0\0\0\0\0\x03";
        assert_eq!(RecordKey::new(address, Kind::Put).bytes(), key);
        let tombstone = RecordKey::new(address, Kind::Tombstone);
        assert_eq!(tombstone.bytes(), [&key[..], b"t"].concat());
    }
}
