//! What members ask about each other's state: its hash, and whether a downgrade is under way.

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Method, Request, Response, StatusCode};

use super::endpoints::not_allowed;
use crate::cluster::Membership;
use crate::corruption::{
    CLUSTER_ID_MISMATCH, COMPACTED, FUTURE_REVISION, HashAnswer, HashHeader, HashQuestion,
};
use crate::hashing::Hashing;
use crate::ids::{ClusterId, Revision};
use crate::mvcc::MvccError;
use crate::peer::{self, CLUSTER_ID};
use crate::read::Reader;

/// The part of the state that is asked about.
#[derive(Clone)]
pub(super) struct Asked {
    /// Named in every answer.
    pub(super) cluster_id: ClusterId,
    /// What is hashed.
    pub(super) hashing: Hashing,
    /// Has the downgrade job.
    pub(super) membership: Membership,
    /// Confirms what it says.
    pub(super) reader: Reader,
}

impl Asked {
    /// The hash at a revision, by which members find out whether their data are the same.
    pub(super) async fn hash_kv(&self, request: &Request<Bytes>) -> Response<Bytes> {
        if request.method() != Method::GET {
            return not_allowed("GET");
        }
        let theirs = request.headers().get(CLUSTER_ID).map(HeaderValue::as_bytes);
        let own = self.cluster_id.to_string();
        if theirs.is_some_and(|theirs| !theirs.is_empty() && theirs != own.as_bytes()) {
            return peer::error(StatusCode::PRECONDITION_FAILED, CLUSTER_ID_MISMATCH);
        }
        // Go takes a null for an empty question.
        let Ok(question) = serde_json::from_slice::<Option<HashQuestion>>(request.body()) else {
            return peer::error(StatusCode::BAD_REQUEST, "error unmarshalling request");
        };
        let revision = question.and_then(|question| question.revision);
        let revision = Revision::new(revision.unwrap_or_default());
        let hashed = match self.hashing.kv(revision).await {
            Ok(hashed) => hashed,
            Err(MvccError::Stopped) => {
                return peer::error(StatusCode::INTERNAL_SERVER_ERROR, "the server stops");
            }
            Err(error) => {
                let revision = revision.get();
                tracing::warn!("requested-revision" = revision, %error, "failed to get hashKV");
                return peer::error(StatusCode::BAD_REQUEST, &text(&error));
            }
        };
        let answer = HashAnswer {
            header: HashHeader {
                revision: hashed.current_revision.get(),
            },
            hash: hashed.hash,
            compact_revision: hashed.compact_revision.get(),
            hash_revision: hashed.revision.get(),
        };
        let json = serde_json::to_vec(&answer).expect("numbers make JSON");
        self.answer(json.into(), "application/json")
    }

    /// Whether a downgrade is under way, which a member asks that wants to join.
    pub(super) async fn downgrade_enabled(&self, request: &Request<Bytes>) -> Response<Bytes> {
        if request.method() != Method::GET {
            return not_allowed("GET");
        }
        if let Err(error) = self.reader.linearizable().await {
            let text = format!("failed linearized read: {error}");
            return peer::error(StatusCode::INTERNAL_SERVER_ERROR, &text);
        }
        let enabled = self.membership.table().downgrade().enabled.to_string();
        self.answer(enabled.into(), "text/plain")
    }

    fn answer(&self, body: Bytes, content_type: &'static str) -> Response<Bytes> {
        let mut answer = Response::new(body);
        let headers = answer.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
        let cluster_id = HeaderValue::try_from(self.cluster_id.to_string());
        headers.insert(
            CLUSTER_ID,
            cluster_id.expect("an id is written in hexadecimal"),
        );
        answer
    }
}

/// What etcd says to members, which is not what it says to clients.
fn text(error: &MvccError) -> String {
    match error {
        MvccError::Compacted { .. } => COMPACTED.to_owned(),
        MvccError::FutureRevision { .. } => FUTURE_REVISION.to_owned(),
        other => other.to_string(),
    }
}

/// Where the downgrade is asked for.
pub(super) const DOWNGRADE_PATH: &str = "/downgrade/enabled";
