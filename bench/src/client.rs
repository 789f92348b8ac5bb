//! gRPC over one HTTP/2 connection, as thin as it goes: framed request bytes in, reply bytes out.
//!
//! The generator shares the machine with the server it measures, so what it spends per request
//! dampens every ratio. Requests are therefore encoded ahead of time and replies are not decoded
//! unless a scenario needs a field of them.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use bytes::{Bytes, BytesMut};
use h2::{RecvStream, SendStream, client::SendRequest};
use http::{HeaderMap, Method, Request, Uri, Version};
use prost::Message;
use tokio::{io::BufReader, net::TcpStream};

pub(crate) const PUT: &str = "/etcdserverpb.KV/Put";
pub(crate) const RANGE: &str = "/etcdserverpb.KV/Range";
pub(crate) const RANGE_STREAM: &str = "/etcdserverpb.KV/RangeStream";
pub(crate) const TXN: &str = "/etcdserverpb.KV/Txn";
pub(crate) const WATCH: &str = "/etcdserverpb.Watch/Watch";
pub(crate) const LEASE_GRANT: &str = "/etcdserverpb.Lease/LeaseGrant";
pub(crate) const SNAPSHOT: &str = "/etcdserverpb.Maintenance/Snapshot";
pub(crate) const LEASE_KEEP_ALIVE: &str = "/etcdserverpb.Lease/LeaseKeepAlive";
pub(crate) const COMPACT: &str = "/etcdserverpb.KV/Compact";
pub(crate) const DEFRAGMENT: &str = "/etcdserverpb.Maintenance/Defragment";
pub(crate) const STATUS: &str = "/etcdserverpb.Maintenance/Status";
pub(crate) const MEMBER_ADD: &str = "/etcdserverpb.Cluster/MemberAdd";
pub(crate) const MEMBER_REMOVE: &str = "/etcdserverpb.Cluster/MemberRemove";
pub(crate) const HASH_KV: &str = "/etcdserverpb.Maintenance/HashKV";

/// Receive windows: wide enough that a list never waits for the generator's window updates.
const STREAM_WINDOW: u32 = 4 << 20;
const CONNECTION_WINDOW: u32 = 16 << 20;
/// What is read from the kernel at once.
const READ_BYTES: usize = 128 << 10;
/// A server that takes longer than this to accept is not going to be measured.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Length of gRPC's frame prefix: one byte of flags, four of length.
pub(crate) const PREFIX: usize = 5;

/// One HTTP/2 connection; a clone shares it.
#[derive(Clone)]
pub(crate) struct Connection {
    requests: SendRequest<Bytes>,
    authority: String,
}

/// What a method's requests have in common, made once.
#[derive(Clone)]
pub(crate) struct Target {
    uri: Uri,
    headers: HeaderMap,
}

/// One call under way, of any of gRPC's four kinds.
pub(crate) struct Call {
    pub(crate) requests: SendStream<Bytes>,
    pub(crate) replies: Replies,
}

/// The reply half of a call.
pub(crate) struct Replies {
    response: Option<h2::client::ResponseFuture>,
    body: Option<RecvStream>,
}

impl Connection {
    /// Connects to `host:port` and finishes the HTTP/2 handshake.
    pub(crate) async fn open(endpoint: &str) -> Result<Self> {
        let tcp = tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(endpoint)).await??;
        tcp.set_nodelay(true)?;
        // h2 asks for a frame at a time; the kernel is asked for what has come.
        let tcp = BufReader::with_capacity(READ_BYTES, tcp);
        let (requests, connection) = h2::client::Builder::new()
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .handshake::<_, Bytes>(tcp)
            .await?;
        // Its error reaches every open call; there is nobody else to tell.
        tokio::spawn(async move { drop(connection.await) });
        Ok(Self {
            requests,
            authority: endpoint.to_owned(),
        })
    }

    /// The request head for `path`, one of the constants above.
    pub(crate) fn target(&self, path: &str) -> Result<Target> {
        let uri = Uri::builder()
            .scheme("http")
            .authority(self.authority.as_str())
            .path_and_query(path)
            .build()?;
        let mut headers = HeaderMap::new();
        headers.insert(
            "content-type",
            http::HeaderValue::from_static("application/grpc"),
        );
        headers.insert("te", http::HeaderValue::from_static("trailers"));
        Ok(Target { uri, headers })
    }

    /// Sends `request` (already framed); `last` ends the client's side of the call.
    pub(crate) async fn call(&self, target: &Target, request: Bytes, last: bool) -> Result<Call> {
        let mut head = Request::new(());
        *head.method_mut() = Method::POST;
        *head.uri_mut() = target.uri.clone();
        *head.version_mut() = Version::HTTP_2;
        *head.headers_mut() = target.headers.clone();
        let mut ready = self.requests.clone().ready().await?;
        let (response, mut requests) = ready.send_request(head, false)?;
        requests.send_data(request, last)?;
        Ok(Call {
            requests,
            replies: Replies {
                response: Some(response),
                body: None,
            },
        })
    }

    /// A unary call: the reply message without its frame.
    ///
    /// Fails on any gRPC status but OK: a scenario counts only work that was done.
    pub(crate) async fn unary(&self, target: &Target, request: Bytes) -> Result<Bytes> {
        let mut call = self.call(target, request, true).await?;
        let Some(first) = call.replies.chunk().await? else {
            bail!("no reply message");
        };
        let mut rest = BytesMut::new();
        while let Some(chunk) = call.replies.chunk().await? {
            if rest.is_empty() {
                rest.extend_from_slice(&first);
            }
            rest.extend_from_slice(&chunk);
        }
        let mut reply = if rest.is_empty() {
            first
        } else {
            rest.freeze()
        };
        if reply.len() < PREFIX {
            bail!("reply of {} bytes has no frame", reply.len());
        }
        Ok(reply.split_off(PREFIX))
    }

    /// As [`Connection::unary`] with both messages typed.
    pub(crate) async fn ask<Q: Message, A: Message + Default>(
        &self,
        path: &str,
        request: &Q,
    ) -> Result<A> {
        let reply = self.unary(&self.target(path)?, frame(request)).await?;
        Ok(A::decode(reply)?)
    }

    /// Makes the call and throws the reply away as it comes; gives its size in bytes.
    pub(crate) async fn drain<Q: Message>(&self, path: &str, request: &Q) -> Result<u64> {
        let mut call = self.call(&self.target(path)?, frame(request), true).await?;
        let mut size = 0;
        while let Some(chunk) = call.replies.chunk().await? {
            size += chunk.len() as u64;
        }
        Ok(size)
    }
}

impl Replies {
    /// The next piece of the reply body, not aligned to messages; `None` after status OK.
    pub(crate) async fn chunk(&mut self) -> Result<Option<Bytes>> {
        if let Some(response) = self.response.take() {
            let (head, body) = response.await?.into_parts();
            if head.status != http::StatusCode::OK {
                bail!("HTTP status {}", head.status);
            }
            if head.headers.contains_key("grpc-status") {
                check_status(&head.headers)?;
            }
            self.body = Some(body);
        }
        let body = self.body.as_mut().context("the call has ended")?;
        if let Some(chunk) = body.data().await {
            let chunk = chunk?;
            body.flow_control().release_capacity(chunk.len())?;
            return Ok(Some(chunk));
        }
        let trailers = body.trailers().await?;
        self.body = None;
        match trailers {
            Some(trailers) => check_status(&trailers)?,
            None => bail!("the call ended without a gRPC status"),
        }
        Ok(None)
    }
}

/// Cuts a reply body into messages that are small beside a chunk of it.
#[derive(Default)]
pub(crate) struct Frames {
    partial: Vec<u8>,
}

impl Frames {
    /// Adds `chunk` and hands each message that is now whole to `each`.
    pub(crate) fn feed(
        &mut self,
        chunk: &[u8],
        mut each: impl FnMut(&[u8]) -> Result<()>,
    ) -> Result<()> {
        let mut joined = std::mem::take(&mut self.partial);
        let mut rest = chunk;
        if !joined.is_empty() {
            joined.extend_from_slice(chunk);
            rest = &joined;
        }
        while let Some(size) = message_size(rest) {
            let Some(message) = rest.get(PREFIX..PREFIX + size) else {
                break;
            };
            each(message)?;
            rest = &rest[PREFIX + size..];
        }
        self.partial = rest.to_vec();
        Ok(())
    }
}

/// The gRPC frame around `message`.
pub(crate) fn frame<M: Message>(message: &M) -> Bytes {
    let size = message.encoded_len();
    let mut framed = Vec::with_capacity(PREFIX + size);
    framed.push(0);
    framed.extend_from_slice(&(size as u32).to_be_bytes());
    message.encode_raw(&mut framed);
    framed.into()
}

fn message_size(frame: &[u8]) -> Option<usize> {
    let prefix = frame.get(1..PREFIX)?;
    Some(u32::from_be_bytes([prefix[0], prefix[1], prefix[2], prefix[3]]) as usize)
}

fn check_status(headers: &HeaderMap) -> Result<()> {
    let status = headers.get("grpc-status").context("no gRPC status")?;
    if status != "0" {
        let text = headers
            .get("grpc-message")
            .and_then(|text| text.to_str().ok());
        bail!(
            "gRPC status {}: {}",
            status.to_str()?,
            text.unwrap_or("no text")
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_out_whole_wherever_the_body_is_cut() {
        let mut body = Vec::new();
        for size in [0_usize, 1, 7, 300] {
            body.push(0);
            body.extend_from_slice(&(size as u32).to_be_bytes());
            body.extend(std::iter::repeat_n(size as u8, size));
        }
        for cut in 1..body.len() {
            let mut frames = Frames::default();
            let mut sizes = Vec::new();
            for chunk in body.chunks(cut) {
                let each = |message: &[u8]| {
                    sizes.push(message.len());
                    Ok(())
                };
                frames.feed(chunk, each).expect("each never fails");
            }
            assert_eq!(sizes, [0, 1, 7, 300], "cut every {cut} bytes");
        }
    }
}
