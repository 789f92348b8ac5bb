//! The questions about leases that other members ask of the leader.

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Method, Request, Response, StatusCode};
use prost::Message;
use trilith_proto::etcdserverpb as pb;
use trilith_proto::leasepb::{LeaseInternalRequest, LeaseInternalResponse};

use crate::error::RequestError;
use crate::ids::LeaseId;
use crate::peer;
use crate::primary::{NOT_FOUND, PROTOBUF, Primary};

/// Renews a lease.
pub(super) async fn renew(primary: &Primary, request: &Request<Bytes>) -> Response<Bytes> {
    let question: pb::LeaseKeepAliveRequest = match read(request) {
        Ok(question) => question,
        Err((code, text)) => return peer::error(code, text),
    };
    let renewed = primary.renew_here(LeaseId::new(question.id)).await;
    match renewed.and_then(|ttl| ttl.ok_or(RequestError::LeaseNotPrimary)) {
        Ok(ttl) => answer(&pb::LeaseKeepAliveResponse {
            header: None,
            id: question.id,
            ttl,
        }),
        Err(error) => refusal(&error, StatusCode::BAD_REQUEST),
    }
}

/// Tells what is left of a lease.
///
/// A member that does not lead says so, whether it has the lease or not: it may lag behind.
pub(super) async fn time_to_live(primary: &Primary, request: &Request<Bytes>) -> Response<Bytes> {
    let question: LeaseInternalRequest = match read(request) {
        Ok(question) => question,
        Err((code, text)) => return peer::error(code, text),
    };
    let Some(question) = question.lease_time_to_live_request else {
        let (code, text) = UNREADABLE;
        return peer::error(code, text);
    };
    let told = primary.time_to_live_here(&question).await;
    match told.and_then(|told| told.ok_or(RequestError::LeaseNotPrimary)) {
        Ok(told) => {
            // Go reads the header without a look whether there is one.
            let header = Some(pb::ResponseHeader::default());
            let told = pb::LeaseTimeToLiveResponse { header, ..told };
            answer(&LeaseInternalResponse {
                lease_time_to_live_response: Some(told),
            })
        }
        Err(error) => refusal(&error, StatusCode::INTERNAL_SERVER_ERROR),
    }
}

/// The question, or why there is none.
fn read<T: Message + Default>(request: &Request<Bytes>) -> Result<T, (StatusCode, &'static str)> {
    if request.method() != Method::POST {
        return Err((StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed"));
    }
    if request.body().len() > QUESTION_BYTES_MAX {
        return Err((StatusCode::PAYLOAD_TOO_LARGE, "request body too large"));
    }
    T::decode(request.body().clone()).map_err(|_broken| UNREADABLE)
}

fn answer(message: &impl Message) -> Response<Bytes> {
    let mut answer = Response::new(Bytes::from(message.encode_to_vec()));
    let protobuf = HeaderValue::from_static(PROTOBUF);
    answer.headers_mut().insert(CONTENT_TYPE, protobuf);
    answer
}

/// In etcd's codes and words; `other` is the code of all that has none of its own.
fn refusal(error: &RequestError, other: StatusCode) -> Response<Bytes> {
    match error {
        RequestError::LeaseNotFound => peer::error(StatusCode::NOT_FOUND, NOT_FOUND),
        RequestError::TimeoutWaitAppliedIndex => peer::error(StatusCode::REQUEST_TIMEOUT, BEHIND),
        error => peer::error(other, error.text()),
    }
}

/// The answer to what is no question.
const UNREADABLE: (StatusCode, &str) = (StatusCode::BAD_REQUEST, "error unmarshalling request");

/// etcd's text for a leader whose apply is behind.
const BEHIND: &str = "waiting for node to catch up its applied index has timed out";

/// etcd's bound on a question about a lease.
const QUESTION_BYTES_MAX: usize = 64 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(method: Method, body: Bytes) -> Request<Bytes> {
        let mut request = Request::new(body);
        *request.method_mut() = method;
        request
    }

    #[test]
    fn only_posted_questions_of_a_bounded_size_are_read() {
        let code = |method, body| {
            let read = read::<pb::LeaseKeepAliveRequest>(&ask(method, body));
            read.map(|question| question.id)
                .map_err(|(code, _)| code.as_u16())
        };
        let question = pb::LeaseKeepAliveRequest { id: 7 }.encode_to_vec();
        assert_eq!(code(Method::POST, question.clone().into()), Ok(7));
        assert_eq!(code(Method::POST, Bytes::new()), Ok(0));
        assert_eq!(code(Method::GET, question.into()), Err(405));
        assert_eq!(code(Method::POST, Bytes::from_static(b"\xff")), Err(400));
        let large = vec![0; QUESTION_BYTES_MAX + 1];
        assert_eq!(code(Method::POST, large.into()), Err(413));
    }

    #[test]
    fn refusals_have_the_codes_that_etcd_members_look_at() {
        let code = |error, other| refusal(&error, other).status().as_u16();
        let (bad, failed) = (StatusCode::BAD_REQUEST, StatusCode::INTERNAL_SERVER_ERROR);
        assert_eq!(code(RequestError::LeaseNotFound, bad), 404);
        assert_eq!(code(RequestError::TimeoutWaitAppliedIndex, bad), 408);
        assert_eq!(code(RequestError::LeaseNotPrimary, bad), 400);
        assert_eq!(code(RequestError::LeaseNotPrimary, failed), 500);
        let text = refusal(&RequestError::LeaseNotPrimary, bad).into_body();
        assert_eq!(text, "not a primary lessor\n");
    }
}
