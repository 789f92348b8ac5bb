//! Streams whose clients want a leader (`hasleader: true`) end when there has been none for long.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Response};
use http_body::{Body as HttpBody, Frame, SizeHint};
use tokio::sync::watch;
use tonic::Status;
use tonic::body::Body;

use super::header::HeaderSource;
use super::status::status;
use crate::error::RequestError;

/// Says when the leader has been missing for too long; clones say the same.
#[derive(Clone)]
pub(super) struct LeaderLoss {
    /// How often that has happened.
    losses: watch::Receiver<u64>,
    /// Ends the look-out with the last clone.
    _lookout: Arc<Lookout>,
}

struct Lookout(tokio::task::JoinHandle<()>);

impl Drop for Lookout {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl LeaderLoss {
    /// Looks once in an `election_timeout`.
    pub(super) fn look_out(header: HeaderSource, election_timeout: Duration) -> Self {
        let (sender, losses) = watch::channel(0);
        let lookout = tokio::spawn(async move {
            let mut missed = 0;
            loop {
                tokio::time::sleep(election_timeout).await;
                missed = if header.has_leader() { 0 } else { missed + 1 };
                if missed >= LOOKS_MAX {
                    sender.send_modify(|losses| *losses += 1);
                }
            }
        });
        Self {
            losses,
            _lookout: Arc::new(Lookout(lookout)),
        }
    }

    /// The answer of a stream that ends with the next loss.
    pub(super) fn bind(&self, response: Response<Body>) -> Response<Body> {
        let mut losses = self.losses.clone();
        losses.mark_unchanged();
        response.map(|body| Body::new(Bound::new(body, losses)))
    }
}

/// A body that the loss of the leader ends.
struct Bound {
    /// `None` once it has ended.
    body: Option<Body>,
    lost: Pin<Box<dyn Future<Output = ()> + Send>>,
}

impl Bound {
    fn new(body: Body, mut losses: watch::Receiver<u64>) -> Self {
        let lost = Box::pin(async move {
            if losses.changed().await.is_err() {
                // The server stops, and ends its streams by itself.
                std::future::pending().await
            }
        });
        let body = Some(body);
        Self { body, lost }
    }
}

impl HttpBody for Bound {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let bound = &mut *self;
        let Some(body) = &mut bound.body else {
            return Poll::Ready(None);
        };
        if bound.lost.as_mut().poll(context).is_pending() {
            return Pin::new(body).poll_frame(context);
        }
        bound.body = None;
        let mut trailers = HeaderMap::new();
        let added = status(RequestError::NoLeader).add_header(&mut trailers);
        Poll::Ready(Some(added.map(|()| Frame::trailers(trailers))))
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(HttpBody::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}

/// Looks in a row without a leader after which streams end: etcd's `maxNoLeaderCnt`.
const LOOKS_MAX: u32 = 3;

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;

    use super::*;

    #[tokio::test]
    async fn a_loss_ends_a_stream_with_etcds_error_and_the_one_before_does_not() {
        let (sender, losses) = watch::channel(7);
        let endless = || {
            Body::new(http_body_util::StreamBody::new(futures::stream::pending::<
                Result<Frame<Bytes>, Status>,
            >()))
        };
        let mut stream = Bound::new(endless(), losses);
        assert!(futures::poll!(stream.frame()).is_pending());
        sender.send_modify(|losses| *losses += 1);
        let last = stream.frame().await.expect("trailers").expect("a frame");
        let trailers = last.into_trailers().expect("trailers");
        let told = Status::from_header_map(&trailers).expect("a status");
        assert_eq!(told.message(), "etcdserver: no leader");
        assert_eq!(told.code(), tonic::Code::Unavailable);
        assert!(stream.frame().await.is_none());
        assert!(stream.is_end_stream());
    }
}
