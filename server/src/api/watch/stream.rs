//! One watch stream: requests in, responses out.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use futures::Stream;
use rand::Rng;
use tokio::time::{Instant, Sleep};
use tonic::Status;
use trilith_proto::etcdserverpb::watch_create_request::FilterType;
use trilith_proto::etcdserverpb::watch_request::RequestUnion;
use trilith_proto::etcdserverpb::{ResponseHeader, WatchCreateRequest, WatchRequest};
use trilith_proto::wire::WatchResponse;

use super::progress::ProgressMarks;
use super::response::Outgoing;
use crate::api::status::status;
use crate::error::{Code, RequestError};
use crate::ids::WatchId;
use crate::mvcc::Interval;
use crate::mvcc::watch::{self, Delivery, StreamEnd, WatchOptions, WatchStream};

/// The stream that the RPC answers with. `R` is the stream of requests.
pub struct ResponseStream<R> {
    /// `None` once the client has half-closed; its watches go on.
    requests: Option<R>,
    watches: WatchStream,
    /// Makes the header of a revision.
    header: Box<dyn Fn(i64) -> ResponseHeader + Send>,
    outgoing: Option<Outgoing>,
    /// Deliveries since requests and timer were last looked at.
    deliveries: usize,
    progress: ProgressMarks,
    progress_interval: Duration,
    /// Runs while there are watchers that want progress.
    timer: Option<Pin<Box<Sleep>>>,
    /// Size from which a response is fragmented, in bytes.
    response_bytes_max: usize,
    ended: bool,
}

impl<R: Stream<Item = Result<WatchRequest, Status>> + Unpin> ResponseStream<R> {
    pub(super) fn new(
        requests: R,
        watches: WatchStream,
        header: Box<dyn Fn(i64) -> ResponseHeader + Send>,
        progress_interval: Duration,
        response_bytes_max: usize,
    ) -> Self {
        // So that clients which came together are not told of their progress together.
        let jitter = progress_interval.mul_f64(rand::rng().random_range(0.0..0.1));
        Self {
            requests: Some(requests),
            watches,
            header,
            outgoing: None,
            deliveries: 0,
            progress: ProgressMarks::default(),
            progress_interval: progress_interval + jitter,
            timer: None,
            response_bytes_max,
            ended: false,
        }
    }

    /// The next delivery. Between deliveries, and at the latest after [`DELIVERIES_MAX`], requests
    /// and the timer have their turn: one request at a time while deliveries wait, so that the
    /// answers to a client which does not read them stay few.
    fn poll_delivery(&mut self, context: &mut Context<'_>) -> Poll<Result<Delivery, Status>> {
        loop {
            if self.deliveries < DELIVERIES_MAX
                && let Poll::Ready(delivery) = self.watches.poll_next(context)
            {
                self.deliveries += 1;
                return Poll::Ready(delivery.map_err(end_status));
            }
            let hurried = self.deliveries >= DELIVERIES_MAX;
            self.deliveries = 0;
            let ticked = self.poll_timer(context);
            let handled = self.poll_request(context)?;
            if !hurried && ticked.is_pending() && handled.is_pending() {
                return Poll::Pending;
            }
        }
    }

    /// Reads and carries out one request.
    fn poll_request(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Status>> {
        let Some(requests) = &mut self.requests else {
            return Poll::Pending;
        };
        match ready!(Pin::new(requests).poll_next(context)) {
            Some(Ok(request)) => self.handle(request),
            Some(Err(error)) => return Poll::Ready(Err(error)),
            None => self.requests = None,
        }
        Poll::Ready(Ok(()))
    }

    fn handle(&mut self, request: WatchRequest) {
        match request.request_union {
            Some(RequestUnion::CreateRequest(request)) => self.watches.create(parse(&request)),
            Some(RequestUnion::CancelRequest(request)) => {
                self.watches.cancel(WatchId::new(request.watch_id));
            }
            Some(RequestUnion::ProgressRequest(_)) => self.watches.request_progress(),
            // etcd passes over what it does not know, and keeps the stream.
            None => tracing::debug!("a watch request of an unknown kind"),
        }
    }

    /// Asks for the progress of quiet watchers when it is time.
    fn poll_timer(&mut self, context: &mut Context<'_>) -> Poll<()> {
        if self.progress.is_empty() {
            self.timer = None;
            return Poll::Pending;
        }
        let interval = self.progress_interval;
        let timer = self
            .timer
            .get_or_insert_with(|| Box::pin(tokio::time::sleep(interval)));
        ready!(timer.as_mut().poll(context));
        timer.as_mut().reset(Instant::now() + interval);
        self.watches.progress(self.progress.tick().into_iter());
        Poll::Ready(())
    }

    /// Notes what a delivery means for progress, and makes it the outgoing one.
    fn take(&mut self, delivery: Delivery) {
        match &delivery {
            Delivery::Created { id, options, .. } if options.progress_notify => {
                self.progress.add(*id);
            }
            Delivery::Canceled { id, .. } => self.progress.remove(*id),
            Delivery::Events {
                watchers, options, ..
            } if options.progress_notify => {
                watchers.iter().for_each(|id| self.progress.got_events(id));
            }
            _ => {}
        }
        self.outgoing = Some(Outgoing::new(
            delivery,
            &self.header,
            self.response_bytes_max,
        ));
    }
}

impl<R: Stream<Item = Result<WatchRequest, Status>> + Unpin> Stream for ResponseStream<R> {
    type Item = Result<WatchResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.ended {
            return Poll::Ready(None);
        }
        loop {
            if let Some(outgoing) = &mut self.outgoing {
                if let Some(response) = outgoing.next() {
                    return Poll::Ready(Some(Ok(response)));
                }
                self.outgoing = None;
            }
            match ready!(self.poll_delivery(context)) {
                Ok(delivery) => self.take(delivery),
                Err(error) => {
                    self.ended = true;
                    return Poll::Ready(Some(Err(error)));
                }
            }
        }
    }
}

/// As etcd reads it: no key is the first possible one, id 0 leaves the choice to the server,
/// unknown filters count for nothing. Keys are copied: they outlive the buffer that the request
/// came in.
fn parse(request: &WatchCreateRequest) -> watch::WatchRequest {
    let key = if request.key.is_empty() {
        b"\0"
    } else {
        &request.key[..]
    };
    let filters = |filter: FilterType| request.filters.contains(&(filter as i32));
    watch::WatchRequest {
        id: (request.watch_id != 0).then_some(WatchId::new(request.watch_id)),
        interval: Interval::from_request(
            Bytes::copy_from_slice(key),
            Bytes::copy_from_slice(&request.range_end),
        ),
        start: request.start_revision,
        options: WatchOptions {
            prev_kv: request.prev_kv,
            no_put: filters(FilterType::Noput),
            no_delete: filters(FilterType::Nodelete),
            fragment: request.fragment,
            progress_notify: request.progress_notify,
        },
    }
}

fn end_status(end: StreamEnd) -> Status {
    status(match end {
        StreamEnd::Stopped => RequestError::Stopped,
        StreamEnd::HistoryUnreadable => RequestError::Other(
            Code::Internal,
            "trilith: cannot read the history".to_owned(),
        ),
    })
}

/// Deliveries in a row before requests and timer have their turn: a cancel must get through however
/// much there is to deliver, and looking for one costs about as much as a small delivery.
const DELIVERIES_MAX: usize = 32;
