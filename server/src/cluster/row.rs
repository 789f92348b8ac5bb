//! Rows of the membership on disk, as in etcd's buckets of the same names.
//!
//! ```text
//! family member:          id in hexadecimal  ->  JSON of the member
//! family member_removed:  id in hexadecimal  ->  "removed"
//! family cluster:         "clusterVersion"   ->  "3.7.0"
//!                         "downgrade"        ->  {"target-version":"3.6.0","enabled":true}
//! ```

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::member_table::{Change, Member, MemberTable};
use super::version::DowngradeInfo;
use crate::ids::MemberId;

/// Key of the cluster version.
pub(super) const CLUSTER_VERSION_KEY: &[u8] = b"clusterVersion";

/// Key of the downgrade job.
pub(super) const DOWNGRADE_KEY: &[u8] = b"downgrade";

/// Value of a removed id.
pub(super) const REMOVED: &[u8] = b"removed";

/// Key of a member or a removed id.
pub(super) fn member_key(id: MemberId) -> String {
    id.to_string()
}

/// The id that a key names.
pub(super) fn parse_member_key(key: &[u8]) -> Option<MemberId> {
    let text = std::str::from_utf8(key).ok()?;
    u64::from_str_radix(text, 16).ok().map(MemberId::new)
}

/// A member in JSON.
pub(super) fn encode_member(member: &Member) -> String {
    go_json(member)
}

/// A member from JSON.
pub(super) fn decode_member(json: &[u8]) -> Result<Member, serde_json::Error> {
    serde_json::from_slice(json)
}

#[derive(Serialize, Deserialize)]
struct DowngradeRow {
    #[serde(rename = "target-version", default)]
    target_version: String,
    #[serde(default)]
    enabled: bool,
}

/// A downgrade job in JSON.
pub(super) fn encode_downgrade(info: &DowngradeInfo) -> String {
    let target_version = info.target_version.clone();
    go_json(&DowngradeRow {
        target_version,
        enabled: info.enabled,
    })
}

/// A downgrade job from JSON.
pub(super) fn decode_downgrade(json: &[u8]) -> Result<DowngradeInfo, serde_json::Error> {
    let row: DowngradeRow = serde_json::from_slice(json)?;
    Ok(DowngradeInfo {
        target_version: row.target_version,
        enabled: row.enabled,
    })
}

impl MemberTable {
    /// The members as etcd lists them to one that joins: a line of JSON.
    pub fn to_json(&self) -> String {
        let members: Vec<&Member> = self.members().collect();
        go_json(&members) + "\n"
    }
}

impl Change {
    /// The context of the configuration change that makes it: etcd's JSON, or nothing.
    pub fn context(&self) -> Bytes {
        match self {
            Self::Add(member) | Self::AddLearner(member) | Self::Update(member) => {
                Bytes::from(encode_member(member))
            }
            Self::Promote(id) => {
                let id = id.get();
                Bytes::from(format!(r#"{{"id":{id},"peerURLs":null,"isPromote":true}}"#))
            }
            Self::Remove(_) => Bytes::new(),
        }
    }
}

/// JSON as Go's encoder writes it: with the five characters escaped that HTML and JavaScript care
/// for. They occur within strings only, so that replacing them in the text is enough.
fn go_json(value: &impl Serialize) -> String {
    let json = serde_json::to_string(value).expect("strings, numbers and lists always encode");
    let mut escaped = String::with_capacity(json.len());
    for character in json.chars() {
        match character {
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => {
                escaped.push_str(&format!("\\u{:04x}", character as u32));
            }
            other => escaped.push(other),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::mutate;

    #[test]
    fn rows_are_etcds_to_the_byte() {
        let mut member = Member {
            id: 3_319_814_642_761_637_952,
            peer_urls: Some(vec!["http://127.0.0.1:23800".to_owned()]),
            ..Member::default()
        };
        assert_eq!(member_key(member.id()), "2e1259d415f2a040");
        assert_eq!(
            encode_member(&member),
            r#"{"id":3319814642761637952,"peerURLs":["http://127.0.0.1:23800"]}"#
        );
        member.is_learner = true;
        member.name = "default".to_owned();
        member.client_urls = vec!["http://127.0.0.1:23790".to_owned()];
        let full = concat!(
            r#"{"id":3319814642761637952,"peerURLs":["http://127.0.0.1:23800"],"isLearner":true,"#,
            r#""name":"default","clientURLs":["http://127.0.0.1:23790"]}"#
        );
        assert_eq!(encode_member(&member), full);
        assert_eq!(decode_member(full.as_bytes()).expect("own row"), member);
    }

    #[test]
    fn contexts_read_back_as_the_change_they_were_made_of() {
        let member = Member {
            id: 7,
            peer_urls: Some(vec!["http://a:1".to_owned()]),
            ..Member::default()
        };
        let id = MemberId::new(7);
        for (kind, change) in [
            (0, Change::Add(member.clone())),
            (3, Change::AddLearner(member.clone())),
            (2, Change::Update(member)),
            (0, Change::Promote(id)),
            (1, Change::Remove(id)),
        ] {
            assert_eq!(Change::decode(kind, id, &change.context()), Ok(change));
        }
    }

    #[test]
    fn a_nil_slice_of_go_stays_null() {
        let row = r#"{"id":1,"peerURLs":null}"#;
        let member = decode_member(row.as_bytes()).expect("Go writes such rows");
        assert_eq!(encode_member(&member), row);
        let empty = r#"{"id":1,"peerURLs":[]}"#;
        let member = decode_member(empty.as_bytes()).expect("Go writes such rows");
        assert_eq!(encode_member(&member), empty);
    }

    #[test]
    fn names_are_escaped_as_go_escapes_them() {
        let member = Member {
            id: 1,
            name: "<a&b>\u{2028}\"".to_owned(),
            ..Member::default()
        };
        let row = r#"{"id":1,"peerURLs":null,"name":"\u003ca\u0026b\u003e\u2028\""}"#;
        assert_eq!(encode_member(&member), row);
        assert_eq!(decode_member(row.as_bytes()).expect("own row"), member);
    }

    #[test]
    fn the_downgrade_row_is_etcds() {
        let job = DowngradeInfo {
            target_version: "3.6.0".to_owned(),
            enabled: true,
        };
        let row = r#"{"target-version":"3.6.0","enabled":true}"#;
        assert_eq!(encode_downgrade(&job), row);
        assert_eq!(decode_downgrade(row.as_bytes()).expect("own row"), job);
        let none = encode_downgrade(&DowngradeInfo::default());
        assert_eq!(none, r#"{"target-version":"","enabled":false}"#);
    }

    fn a_row_reads_back(bytes: &[u8]) {
        if let Some(id) = parse_member_key(bytes) {
            assert_eq!(parse_member_key(member_key(id).as_bytes()), Some(id));
        }
        if let Ok(member) = decode_member(bytes) {
            let again = decode_member(encode_member(&member).as_bytes());
            assert_eq!(again.expect("own row"), member);
        }
        if let Ok(job) = decode_downgrade(bytes) {
            let again = decode_downgrade(encode_downgrade(&job).as_bytes());
            assert_eq!(again.expect("own row"), job);
        }
    }

    proptest! {
        #[test]
        fn no_junk_for_a_row_panics(bytes in mutate::near_any(&[
            r#"{"id":1,"peerURLs":["http://a:1"],"isLearner":true,"name":"x","clientURLs":null}"#,
            r#"{"id":18446744073709551615,"peerURLs":null,"name":"\u003ca\u0026b\ud83d\ude00"}"#,
            r#"{"target-version":"3.6.0","enabled":true}"#,
            "2e1259d415f2a040",
        ])) {
            a_row_reads_back(&bytes);
        }
    }
}
