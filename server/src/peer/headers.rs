//! What members say of themselves in the headers of every request, and what they check of it.

use http::header::{HeaderMap, HeaderName, HeaderValue};

use crate::cluster::{SERVER_VERSION, Version};
use crate::ids::{ClusterId, MemberId};

pub(super) const SERVER_FROM: HeaderName = HeaderName::from_static("x-server-from");
pub(super) const SERVER_VERSION_HEADER: HeaderName = HeaderName::from_static("x-server-version");
const MIN_CLUSTER_VERSION_HEADER: HeaderName = HeaderName::from_static("x-min-cluster-version");
/// The cluster that a request or an answer belongs to.
pub const CLUSTER_ID: HeaderName = HeaderName::from_static("x-etcd-cluster-id");
const PEER_URLS: HeaderName = HeaderName::from_static("x-peerurls");
pub(super) const RAFT_TO: HeaderName = HeaderName::from_static("x-raft-to");

/// The oldest cluster that a member of our version can be part of, as etcd has it.
const MIN_CLUSTER_VERSION: Version = Version {
    major: 3,
    minor: 0,
    patch: 0,
};

/// What a member without the headers is taken for: etcd 2.0, which had none.
const WITHOUT_HEADER: &str = "2.0.0";

/// Who a member is, in the headers that it sends.
#[derive(Clone, Debug)]
pub(super) struct Introduction {
    pub(super) id: MemberId,
    pub(super) cluster_id: ClusterId,
    headers: HeaderMap,
}

impl Introduction {
    /// `urls` are the advertised peer URLs.
    pub(super) fn new(id: MemberId, cluster_id: ClusterId, urls: &[String]) -> Self {
        let mut headers = HeaderMap::new();
        let mut put = |name, text: String| {
            if let Ok(value) = HeaderValue::try_from(text) {
                headers.insert(name, value);
            }
        };
        put(SERVER_FROM, id.to_string());
        put(SERVER_VERSION_HEADER, SERVER_VERSION.to_string());
        put(MIN_CLUSTER_VERSION_HEADER, MIN_CLUSTER_VERSION.to_string());
        put(CLUSTER_ID, cluster_id.to_string());
        put(PEER_URLS, urls.join(","));
        Self {
            id,
            cluster_id,
            headers,
        }
    }

    /// The headers of every request to another member.
    pub(super) fn headers(&self) -> HeaderMap {
        self.headers.clone()
    }

    /// Checks that a request comes from a member that can be part of our cluster.
    ///
    /// # Errors
    ///
    /// etcd's text, for a reply with status 412.
    pub(super) fn check(&self, headers: &HeaderMap) -> Result<(), &'static str> {
        // etcd panics over a version that is none.
        let version = |name| Version::parse(text(headers, name).unwrap_or(WITHOUT_HEADER));
        let (Some(remote), Some(remote_min)) = (
            version(&SERVER_VERSION_HEADER),
            version(&MIN_CLUSTER_VERSION_HEADER),
        ) else {
            return Err(INCOMPATIBLE_VERSION);
        };
        let own = SERVER_VERSION.cluster();
        if remote.cluster() < MIN_CLUSTER_VERSION || remote_min.cluster() > own {
            return Err(INCOMPATIBLE_VERSION);
        }
        if text(headers, &CLUSTER_ID) != Some(&self.cluster_id.to_string()) {
            return Err(CLUSTER_ID_MISMATCH);
        }
        Ok(())
    }
}

/// The sender, if it names itself.
pub(super) fn sender(headers: &HeaderMap) -> Option<MemberId> {
    parse_id(text(headers, &SERVER_FROM)?)
}

/// Where the sender says that it can be reached.
pub(super) fn sender_urls(headers: &HeaderMap) -> Vec<String> {
    let urls = text(headers, &PEER_URLS).unwrap_or_default();
    let urls = urls.split(',').filter(|url| !url.is_empty());
    urls.take(SENDER_URLS_MAX).map(str::to_owned).collect()
}

/// An id as etcd prints it: hexadecimal, without zeros in front.
pub(super) fn parse_id(text: &str) -> Option<MemberId> {
    let digits = text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let id = digits.then(|| u64::from_str_radix(text, 16).ok())??;
    Some(MemberId::new(id))
}

pub(super) fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// etcd's texts of the two refusals, by which a peer tells them apart.
pub(super) const INCOMPATIBLE_VERSION: &str = "incompatible version";
pub(super) const CLUSTER_ID_MISMATCH: &str = "cluster ID mismatch";

/// More URLs than any member has.
const SENDER_URLS_MAX: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    fn introduction() -> Introduction {
        let urls = ["http://a:1".to_owned(), "http://b:2".to_owned()];
        Introduction::new(MemberId::new(0xab), ClusterId::new(0xcd), &urls)
    }

    #[test]
    fn a_member_of_the_same_cluster_is_welcome() {
        let headers = introduction().headers();
        assert_eq!(introduction().check(&headers), Ok(()));
        assert_eq!(sender(&headers), Some(MemberId::new(0xab)));
        assert_eq!(sender_urls(&headers), ["http://a:1", "http://b:2"]);
    }

    #[test]
    fn others_are_refused_with_etcds_texts() {
        for (name, value, refusal) in [
            (CLUSTER_ID, "ce", CLUSTER_ID_MISMATCH),
            (CLUSTER_ID, "", CLUSTER_ID_MISMATCH),
            (SERVER_VERSION_HEADER, "2.3.8", INCOMPATIBLE_VERSION),
            (SERVER_VERSION_HEADER, "x", INCOMPATIBLE_VERSION),
            (MIN_CLUSTER_VERSION_HEADER, "3.8.0", INCOMPATIBLE_VERSION),
        ] {
            let mut headers = introduction().headers();
            headers.insert(name, HeaderValue::from_static(value));
            assert_eq!(introduction().check(&headers), Err(refusal), "{value}");
        }
        let headers = HeaderMap::new();
        assert_eq!(introduction().check(&headers), Err(INCOMPATIBLE_VERSION));
    }

    #[test]
    fn an_id_is_hexadecimal_and_nothing_else() {
        assert_eq!(
            parse_id("8e9e05c52164694d"),
            Some(MemberId::new(0x8e9e_05c5_2164_694d))
        );
        for bad in ["", "+1", "x", "10000000000000000", "-1", " 1"] {
            assert_eq!(parse_id(bad), None, "{bad:?}");
        }
    }
}
