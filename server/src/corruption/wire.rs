//! The question after a hash on peer URLs, and its answer, in the JSON that Go makes of them.

use serde::{Deserialize, Serialize};

/// Asks for the hash at a revision.
#[derive(Debug, Deserialize, Serialize)]
pub struct HashQuestion {
    /// None is 0, the current one.
    pub revision: Option<i64>,
}

/// As Go writes and reads `HashKVResponse`: what is zero is left out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default)]
pub struct HashAnswer {
    /// Tells the current revision.
    pub header: HashHeader,
    /// The hash.
    #[serde(skip_serializing_if = "is_zero")]
    pub hash: u32,
    /// The compact revision that it was computed with.
    #[serde(skip_serializing_if = "is_zero")]
    pub compact_revision: i64,
    /// The last revision in it.
    #[serde(skip_serializing_if = "is_zero")]
    pub hash_revision: i64,
}

/// What a [`HashAnswer`] has of `ResponseHeader`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default)]
pub struct HashHeader {
    /// The current revision of the member that answers.
    #[serde(skip_serializing_if = "is_zero")]
    pub revision: i64,
}

fn is_zero<T: Default + PartialEq>(number: &T) -> bool {
    *number == T::default()
}

/// Where the hash is asked for.
pub const HASH_PATH: &str = "/members/hashkv";

/// etcd's texts of the refusals that tell why, which are not those for clients.
pub const COMPACTED: &str = "mvcc: required revision has been compacted";
/// A revision that the member asked does not have yet.
pub const FUTURE_REVISION: &str = "mvcc: required revision is a future revision";
/// The member asked is of another cluster.
pub const CLUSTER_ID_MISMATCH: &str = "cluster ID mismatch";

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(hash: u32, compact_revision: i64, revision: i64) -> HashAnswer {
        HashAnswer {
            header: HashHeader { revision },
            hash,
            compact_revision,
            hash_revision: 5,
        }
    }

    #[test]
    fn a_hash_is_written_as_go_writes_it_and_read_back() {
        let (header, hash) = (r#""header":{"revision":7}"#, r#""hash":4294967295"#);
        let rest = r#""compact_revision":-1,"hash_revision":5"#;
        let whole = format!("{{{header},{hash},{rest}}}");
        let empty = r#"{"header":{},"hash_revision":5}"#.to_owned();
        for (answer, text) in [(answer(u32::MAX, -1, 7), whole), (answer(0, 0, 0), empty)] {
            let json = serde_json::to_string(&answer).expect("numbers make JSON");
            assert_eq!(json, text);
            let read: HashAnswer = serde_json::from_str(&text).expect("our own JSON");
            assert_eq!(read, answer);
        }
    }

    #[test]
    fn fields_of_a_newer_member_are_passed_over_and_junk_is_refused() {
        let read = |text| serde_json::from_str::<HashAnswer>(text).ok();
        let newer = r#"{"header":{"member_id":1,"raft_term":2},"hash":3,"more":[]}"#;
        assert_eq!(read(newer).map(|answer| answer.hash), Some(3));
        for junk in [
            "",
            "[1]",
            "null",
            r#"{"hash":4294967296}"#,
            r#"{"hash":-1}"#,
        ] {
            assert_eq!(read(junk), None, "{junk}");
        }
    }
}
