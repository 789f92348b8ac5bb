//! Requests of other members: the raft paths are answered here, all others by [`Endpoints`].

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::{Bytes, BytesMut};
use futures::future::BoxFuture;
use http::header::{ALLOW, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Either, Full};
use hyper::body::Incoming;
use prost::Message as _;
use tokio::runtime::Handle;
use tokio::time::timeout;
use trilith_proto::raftpb::Message;

use super::framing::StreamKind;
use super::outgoing::Outgoing;
use super::{
    PROBING_PATH, Peers, RAFT_PATH, Refused, SNAPSHOT_PATH, STREAM_PATH, headers, probe, receive,
};
use crate::ids::MemberId;

/// Answers one path.
pub type Handler =
    Arc<dyn Fn(Request<Bytes>) -> BoxFuture<'static, Response<Bytes>> + Send + Sync + 'static>;

/// What the peer URLs serve beside raft, by path.
#[derive(Clone)]
pub struct Endpoints {
    handlers: BTreeMap<&'static str, Handler>,
    runtime: Handle,
}

impl Endpoints {
    /// Serves nothing yet. Handlers run on `runtime`, which is not the one of the connections: a
    /// handler that takes its time must not hold up a heartbeat.
    pub fn new(runtime: Handle) -> Self {
        Self {
            handlers: BTreeMap::new(),
            runtime,
        }
    }

    /// Answers `path` by `handler`; a path that ends with a slash stands for all below it too.
    /// Bodies come whole, up to [`BODY_BYTES_MAX`]; longer ones were refused.
    #[must_use]
    pub fn on(mut self, path: &'static str, handler: Handler) -> Self {
        self.handlers.insert(path, handler);
        self
    }

    fn find(&self, path: &str) -> Option<Handler> {
        let exact = self.handlers.get(path);
        let found = exact.or_else(|| {
            let below = |served: &str| served.ends_with('/') && path.starts_with(served);
            let mut fits = self.handlers.iter().filter(|(served, _)| below(served));
            // Of two that both begin the path the longer one comes later.
            fits.next_back().map(|(_, handler)| handler)
        });
        found.cloned()
    }
}

/// A whole answer, or a stream.
pub(super) type Body = Either<Full<Bytes>, Outgoing>;

/// Answers a request.
pub(super) async fn answer(
    peers: &Peers,
    endpoints: &Endpoints,
    request: Request<Incoming>,
) -> Response<Body> {
    let path = request.uri().path();
    if let Some(rest) = path.strip_prefix(STREAM_PATH) {
        return match stream(peers, &request, rest) {
            Ok(stream) => with_cluster_id(peers, Response::new(Either::Right(stream))),
            Err(refusal) => with_cluster_id(peers, refusal.answer().map(Either::Left)),
        };
    }
    if path == RAFT_PATH || path == SNAPSHOT_PATH {
        let taken = if path == RAFT_PATH {
            message(peers, request).await
        } else {
            receive::snapshot(peers, request).await
        };
        let answer = match taken {
            Ok(()) => status(StatusCode::NO_CONTENT),
            Err(refusal) => refusal.answer(),
        };
        return with_cluster_id(peers, answer.map(Either::Left));
    }
    let answer = match path {
        PROBING_PATH => Response::new(Full::new(probe::answer(SystemTime::now()))),
        _ => endpoint(peers, endpoints, request).await,
    };
    answer.map(Either::Left)
}

type Whole = Response<Full<Bytes>>;

fn with_cluster_id(peers: &Peers, mut answer: Response<Body>) -> Response<Body> {
    let own = peers.shared.own.headers();
    for name in [headers::CLUSTER_ID, headers::SERVER_VERSION_HEADER] {
        if let Some(value) = own.get(&name) {
            answer.headers_mut().insert(name, value.clone());
        }
    }
    answer
}

/// A peer asks for a stream of messages: checked as etcd checks it, in its order.
fn stream(peers: &Peers, request: &Request<Incoming>, rest: &str) -> Result<Outgoing, Refusal> {
    if request.method() != Method::GET {
        return Err(method_not_allowed("GET"));
    }
    let shared = &peers.shared;
    let own = &shared.own;
    own.check(request.headers())
        .map_err(|text| refusal(StatusCode::PRECONDITION_FAILED, text))?;
    let not_found = |text: &'static str| refusal(StatusCode::NOT_FOUND, text);
    let (kind, from) = rest
        .split_once('/')
        .ok_or_else(|| not_found("invalid path"))?;
    let kind = StreamKind::parse(kind).ok_or_else(|| not_found("invalid path"))?;
    let from = headers::parse_id(from).ok_or_else(|| not_found("invalid from"))?;
    if shared.raft.is_removed(from) {
        return Err(refusal(StatusCode::GONE, ""));
    }
    let Some(peer) = peers.member(from) else {
        // It was added while this member lags behind: it is sent what raft has for it.
        let urls = headers::sender_urls(request.headers());
        if !urls.is_empty() {
            peers.add_remote(from, urls);
        }
        return Err(not_found("error sender not found"));
    };
    let to = headers::text(request.headers(), &headers::RAFT_TO).and_then(headers::parse_id);
    if to != Some(own.id) {
        return Err(refusal(
            StatusCode::PRECONDITION_FAILED,
            "to field mismatch",
        ));
    }
    // Three heartbeats fit into the read timeout of the other end, so that one may be late.
    let heartbeat = shared.timeouts.read / 3;
    Ok(Outgoing::attach(peer, kind, heartbeat))
}

/// A peer posts one message.
async fn message(peers: &Peers, request: Request<Incoming>) -> Result<(), Refusal> {
    if request.method() != Method::POST {
        return Err(method_not_allowed("POST"));
    }
    let shared = &peers.shared;
    let sender = meet_sender(peers, request.headers())?;
    let known = sender.and_then(|sender| peers.find(sender));
    let taken = async {
        let body = read_body(peers, request.into_body(), shared.message_bytes_max).await?;
        if let Some(peer) = &known {
            peer.metrics.received_bytes.inc_by(body.len() as u64);
        }
        let message = Message::decode(body).map_err(|_broken| {
            refusal(StatusCode::BAD_REQUEST, "error unmarshalling raft message")
        })?;
        let sender = sender.unwrap_or(MemberId::new(message.from));
        shared.take(sender, message).map_err(not_taken)
    };
    let taken = taken.await;
    if let (Some(peer), Err(_)) = (&known, &taken) {
        peer.metrics.received_failures.inc();
    }
    taken
}

/// The answer to a message that was not taken.
pub(super) fn not_taken(refused: Refused) -> Refusal {
    match refused {
        Refused::RemovedSender => refusal(
            StatusCode::FORBIDDEN,
            "cannot process message from removed member",
        ),
        Refused::Mismatch => refusal(
            StatusCode::FORBIDDEN,
            "cannot process message to mismatch member",
        ),
        Refused::Raft(error) => {
            tracing::warn!(error, "failed to process Raft message");
            refusal(
                StatusCode::INTERNAL_SERVER_ERROR,
                "error processing raft message",
            )
        }
    }
}

/// Checks that a message comes from a member of our cluster, and remembers where that one is.
pub(super) fn meet_sender(peers: &Peers, headers: &HeaderMap) -> Result<Option<MemberId>, Refusal> {
    let shared = &peers.shared;
    let checked = shared.own.check(headers);
    checked.map_err(|text| refusal(StatusCode::PRECONDITION_FAILED, text))?;
    let sender = headers::sender(headers);
    if let Some(sender) = sender
        && !shared.raft.is_removed(sender)
    {
        let urls = headers::sender_urls(headers);
        if !urls.is_empty() {
            peers.add_remote(sender, urls);
        }
    }
    Ok(sender)
}

/// Hands a request on to whoever serves its path.
async fn endpoint(peers: &Peers, endpoints: &Endpoints, request: Request<Incoming>) -> Whole {
    let Some(handler) = endpoints.find(request.uri().path()) else {
        return refusal(StatusCode::NOT_FOUND, "404 page not found").answer();
    };
    let (head, body) = request.into_parts();
    let body = match read_body(peers, body, BODY_BYTES_MAX).await {
        Ok(body) => body,
        Err(refusal) => return refusal.answer(),
    };
    let handled = handler(Request::from_parts(head, body));
    match endpoints.runtime.spawn(handled).await {
        Ok(answer) => answer.map(Full::new),
        // The server stops.
        Err(_canceled) => status(StatusCode::SERVICE_UNAVAILABLE),
    }
}

/// Reads a body as it comes: a length that was announced makes room for nothing.
async fn read_body(peers: &Peers, mut body: Incoming, limit: usize) -> Result<Bytes, Refusal> {
    let bad = || refusal(StatusCode::BAD_REQUEST, "error reading raft message");
    let mut bytes = BytesMut::new();
    loop {
        let frame = timeout(peers.shared.timeouts.read, body.frame()).await;
        let frame = match frame.map_err(|_elapsed| bad())? {
            Some(frame) => frame.map_err(|_broken| bad())?,
            None => return Ok(bytes.freeze()),
        };
        let data = frame.data_ref().map(Bytes::as_ref).unwrap_or_default();
        if bytes.len() + data.len() > limit {
            let text = "request body too large";
            return Err(refusal(StatusCode::PAYLOAD_TOO_LARGE, text));
        }
        bytes.extend_from_slice(data);
    }
}

/// Why a request is not served, in etcd's words.
pub(super) struct Refusal {
    code: StatusCode,
    text: Cow<'static, str>,
    /// The method that would have been served.
    allowed: Option<&'static str>,
}

pub(super) fn refusal(code: StatusCode, text: impl Into<Cow<'static, str>>) -> Refusal {
    Refusal {
        code,
        text: text.into(),
        allowed: None,
    }
}

pub(super) fn method_not_allowed(allowed: &'static str) -> Refusal {
    Refusal {
        allowed: Some(allowed),
        ..refusal(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed")
    }
}

impl Refusal {
    fn answer(&self) -> Whole {
        let mut answer = if self.text.is_empty() {
            status(self.code)
        } else {
            error(self.code, &self.text).map(Full::new)
        };
        if let Some(allowed) = self.allowed {
            let allowed = HeaderValue::from_static(allowed);
            answer.headers_mut().insert(ALLOW, allowed);
        }
        answer
    }
}

/// An error as Go's `http.Error` answers it.
pub fn error(code: StatusCode, text: &str) -> Response<Bytes> {
    let mut answer = Response::new(Bytes::from(format!("{text}\n")));
    *answer.status_mut() = code;
    let plain = HeaderValue::from_static("text/plain; charset=utf-8");
    answer.headers_mut().insert(CONTENT_TYPE, plain);
    answer
}

fn status(code: StatusCode) -> Whole {
    let mut answer = Response::new(Full::default());
    *answer.status_mut() = code;
    answer
}

/// Bytes of a body that is no raft message: what members ask of each other is a few fields, and a
/// membership change some URLs.
pub(super) const BODY_BYTES_MAX: usize = 512 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    fn handler(name: &'static str) -> Handler {
        Arc::new(move |_request| Box::pin(async move { Response::new(Bytes::from(name)) }))
    }

    #[tokio::test]
    async fn a_path_is_served_by_the_handler_that_names_most_of_it() {
        let endpoints = Endpoints::new(Handle::current())
            .on("/members", handler("all"))
            .on("/members/", handler("below"))
            .on("/members/promote/", handler("promote"));
        for (path, expected) in [
            ("/members", Some("all")),
            ("/members/x", Some("below")),
            ("/members/promote/7", Some("promote")),
            ("/member", None),
            ("/", None),
        ] {
            let answer = match endpoints.find(path) {
                Some(found) => Some(found(Request::new(Bytes::new())).await.into_body()),
                None => None,
            };
            assert_eq!(answer, expected.map(Bytes::from), "{path}");
        }
    }
}
