//! Connections to other members: one HTTP/1.1 request at a time on each.

use std::error::Error;
use std::io;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, Uri};
use http_body::Body;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::PeerTimeouts;

/// Why a peer did not answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum DialError {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("{0}")]
    Http(#[from] hyper::Error),
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    #[error("{0} is no URL that this server can reach: it speaks http:// with a host and a port")]
    Url(String),
    #[error("the answer is too long")]
    TooLong,
}

/// A connection to a peer that is ready for the next request.
pub(super) struct Connection<B = Full<Bytes>> {
    sender: SendRequest<B>,
    host: String,
}

impl<B> Connection<B>
where
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    /// Connects to one of a peer's URLs.
    pub(super) async fn open(url: &str, timeouts: &PeerTimeouts) -> Result<Self, DialError> {
        let host = authority(url).ok_or_else(|| DialError::Url(url.to_owned()))?;
        let connecting = timeout(timeouts.dial, TcpStream::connect(&host)).await;
        let stream = connecting.map_err(|_elapsed| DialError::Timeout(timeouts.dial))??;
        prepare(&stream, timeouts.write)?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        // Ends when the request's body is read or dropped, and the sender with it.
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection to a peer ended with an error");
            }
        });
        Ok(Self { sender, host })
    }

    /// Whether the other end has not closed it.
    pub(super) fn is_open(&self) -> bool {
        !self.sender.is_closed()
    }

    /// Sends a request, and waits for the head of its answer.
    pub(super) async fn send(
        &mut self,
        mut request: Request<B>,
        wait: Duration,
    ) -> Result<Response<Incoming>, DialError> {
        if let Ok(host) = self.host.parse() {
            request.headers_mut().insert(http::header::HOST, host);
        }
        let answer = timeout(wait, async {
            self.sender.ready().await?;
            self.sender.send_request(request).await
        });
        let answer = answer.await.map_err(|_elapsed| DialError::Timeout(wait))?;
        Ok(answer?)
    }
}

/// Reads the whole of a short answer.
pub(super) async fn read_answer(body: Incoming, wait: Duration) -> Result<Bytes, DialError> {
    read_up_to(ANSWER_BYTES_MAX, body, wait).await
}

/// Reads the whole of an answer of at most `bytes_max` bytes.
pub(super) async fn read_up_to(
    bytes_max: usize,
    body: Incoming,
    wait: Duration,
) -> Result<Bytes, DialError> {
    let limited = Limited::new(body, bytes_max);
    let collected = timeout(wait, limited.collect()).await;
    let collected = collected.map_err(|_elapsed| DialError::Timeout(wait))?;
    match collected {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) => match error.downcast::<hyper::Error>() {
            Ok(error) => Err(DialError::Http(*error)),
            Err(error) if error.is::<LengthLimitError>() => Err(DialError::TooLong),
            Err(error) => Err(DialError::Io(io::Error::other(error))),
        },
    }
}

/// Sets up a socket between members, of either side.
pub(super) fn prepare(stream: &TcpStream, write_timeout: Duration) -> io::Result<()> {
    stream.set_nodelay(true)?;
    // The kernel ends a connection whose other end has taken nothing for so long, be it that it is
    // gone or that it does not read.
    #[cfg(target_os = "linux")]
    {
        let millis = u32::try_from(write_timeout.as_millis()).unwrap_or(u32::MAX);
        rustix::net::sockopt::set_tcp_user_timeout(stream, millis)?;
    }
    Ok(())
}

/// `host:port` of a URL that can be dialed.
fn authority(url: &str) -> Option<String> {
    let uri: Uri = url.trim().parse().ok()?;
    let authority = uri.authority()?;
    let port = authority.port_u16()?;
    (uri.scheme_str() == Some("http")).then(|| format!("{}:{port}", authority.host()))
}

/// Bytes of an answer that is no stream: an error text, or a probe's JSON.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::mutate;

    #[test]
    fn only_http_urls_with_a_host_and_a_port_are_dialed() {
        for (url, expected) in [
            ("http://127.0.0.1:2380", Some("127.0.0.1:2380")),
            (" http://[::1]:2380", Some("[::1]:2380")),
            ("http://node.example:80", Some("node.example:80")),
            ("https://127.0.0.1:2380", None),
            ("unix://socket", None),
            ("http://127.0.0.1", None),
            ("", None),
        ] {
            assert_eq!(authority(url).as_deref(), expected, "{url}");
        }
    }

    proptest! {
        #[test]
        fn no_junk_for_a_url_panics(text in mutate::near_any(&[
            "http://127.0.0.1:2380",
            " http://[::1]:2380?x=y#z ",
            "HTTP://u:p@a:1",
        ])) {
            let text = String::from_utf8_lossy(&text);
            prop_assert_eq!(authority(&text), authority(text.trim()));
        }
    }
}
