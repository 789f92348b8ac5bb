//! Asks the other members for their hash.

use std::time::Duration;

use bytes::Bytes;
use futures::future::join_all;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Request, Response, StatusCode, Uri};

use super::Hasher;
use super::wire::{
    CLUSTER_ID_MISMATCH, COMPACTED, FUTURE_REVISION, HASH_PATH, HashAnswer, HashQuestion,
};
use crate::cluster::Member;
use crate::ids::{MemberId, Revision};
use crate::peer::{AskError, Peers};

/// What came of asking a member.
#[derive(Debug)]
pub(super) struct PeerHash {
    /// Who was asked.
    pub(super) id: MemberId,
    /// Its peer URLs.
    pub(super) urls: Vec<String>,
    /// Its answer, or why none of its URLs gave one.
    pub(super) answer: Result<HashAnswer, PeerError>,
}

/// Why there is no hash, in etcd's texts.
#[derive(Debug, thiserror::Error)]
pub(super) enum PeerError {
    #[error("etcdserver: mvcc: required revision has been compacted")]
    Compacted,
    #[error("etcdserver: mvcc: required revision is a future revision")]
    FutureRevision,
    #[error("etcdserver: cluster ID mismatch")]
    ClusterIdMismatch,
    #[error("unknown error: {0}")]
    Refused(String),
    #[error("{0}")]
    Unreadable(#[from] serde_json::Error),
    #[error("{0}")]
    Ask(#[from] AskError),
}

impl Hasher {
    /// The hashes of all other members at a revision, in the order of their ids. Members without a
    /// URL are not asked. All are asked at once, so that this ends after the time for one.
    pub(super) async fn peers_at(&self, revision: Revision) -> Vec<PeerHash> {
        let table = self.membership.table();
        let others = table.members().filter(|member| member.id() != self.id);
        let others = others.filter(|member| !member.peer_urls().is_empty());
        join_all(others.map(|member| self.peer_at(member, revision))).await
    }

    async fn peer_at(&self, member: &Member, revision: Revision) -> PeerHash {
        let (id, urls) = (member.id(), member.peer_urls().to_vec());
        let mut answer = Err(PeerError::Ask(AskError::Unknown(id)));
        for url in &urls {
            answer = ask(&self.peers, url, revision, self.timeout).await;
            match &answer {
                Ok(_) => break,
                Err(error) => tracing::warn!(
                    "local-member-id" = %self.id,
                    "requested-revision" = revision.get(),
                    "remote-peer-endpoint" = url,
                    %error,
                    "failed hash kv request"
                ),
            }
        }
        PeerHash { id, urls, answer }
    }
}

/// Asks at one URL.
async fn ask(
    peers: &Peers,
    url: &str,
    revision: Revision,
    wait: Duration,
) -> Result<HashAnswer, PeerError> {
    let question = HashQuestion {
        revision: Some(revision.get()),
    };
    let question = serde_json::to_vec(&question).expect("a number makes JSON");
    let mut request = Request::new(Bytes::from(question));
    *request.uri_mut() = Uri::from_static(HASH_PATH);
    let json = HeaderValue::from_static("application/json");
    request.headers_mut().insert(CONTENT_TYPE, json);
    read(&peers.ask_at(url, request, wait).await?)
}

/// What a member has answered.
fn read(answer: &Response<Bytes>) -> Result<HashAnswer, PeerError> {
    let text = String::from_utf8_lossy(answer.body());
    match answer.status() {
        StatusCode::OK => Ok(serde_json::from_slice(answer.body())?),
        StatusCode::BAD_REQUEST if text.contains(COMPACTED) => Err(PeerError::Compacted),
        StatusCode::BAD_REQUEST if text.contains(FUTURE_REVISION) => Err(PeerError::FutureRevision),
        StatusCode::PRECONDITION_FAILED if text.contains(CLUSTER_ID_MISMATCH) => {
            Err(PeerError::ClusterIdMismatch)
        }
        _ => Err(PeerError::Refused(
            text.chars().take(TEXT_CHARS_MAX).collect(),
        )),
    }
}

/// How much of a text that makes no sense is kept for the log.
const TEXT_CHARS_MAX: usize = 500;

#[cfg(test)]
mod tests {
    use super::*;

    fn read_text(code: u16, body: &'static str) -> Result<u32, String> {
        let mut answer = Response::new(Bytes::from_static(body.as_bytes()));
        *answer.status_mut() = StatusCode::from_u16(code).expect("a code");
        let hash = read(&answer).map(|answer| answer.hash);
        hash.map_err(|error| error.to_string())
    }

    #[test]
    fn refusals_are_told_apart_by_code_and_text() {
        assert_eq!(read_text(200, r#"{"header":{},"hash":7}"#), Ok(7));
        for (code, body, error) in [
            (
                400,
                "mvcc: required revision has been compacted\n",
                "etcdserver: mvcc: required revision has been compacted",
            ),
            (
                400,
                "mvcc: required revision is a future revision\n",
                "etcdserver: mvcc: required revision is a future revision",
            ),
            (
                412,
                "cluster ID mismatch\n",
                "etcdserver: cluster ID mismatch",
            ),
            (
                500,
                "cluster ID mismatch",
                "unknown error: cluster ID mismatch",
            ),
            (400, "bad path", "unknown error: bad path"),
            (404, "", "unknown error: "),
        ] {
            assert_eq!(
                read_text(code, body),
                Err(error.to_owned()),
                "{code} {body}"
            );
        }
        assert!(read_text(200, "no JSON").is_err());
        let long = read_text(500, Box::leak("x".repeat(100_000).into_boxed_str()));
        assert!(long.is_err_and(|text| text.len() < 1000));
    }
}
