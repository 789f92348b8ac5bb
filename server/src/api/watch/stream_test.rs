//! The protocol of a stream, over a real hub: what is asked, and what comes back.

use std::time::Duration;

use prost::Message;
use tokio::sync::mpsc;
use tokio_stream::{StreamExt, wrappers::ReceiverStream};
use tonic::{Code, Status};
use trilith_proto::etcdserverpb::watch_create_request::FilterType;
use trilith_proto::etcdserverpb::watch_request::RequestUnion;
use trilith_proto::etcdserverpb::{
    ResponseHeader, WatchCancelRequest, WatchCreateRequest, WatchProgressRequest, WatchRequest,
};
use trilith_proto::mvccpb::Event;
use trilith_proto::wire::WatchResponse;

use super::stream::ResponseStream;
use crate::mvcc::watch::test_store::TestStore;

type Requests = ReceiverStream<Result<WatchRequest, Status>>;

struct Client {
    requests: Option<mpsc::Sender<Result<WatchRequest, Status>>>,
    responses: ResponseStream<Requests>,
}

impl Client {
    fn new(store: &TestStore) -> Self {
        Self::with(store, Duration::from_secs(600), 1000)
    }

    fn with(store: &TestStore, progress_interval: Duration, bytes_max: usize) -> Self {
        let (sender, receiver) = mpsc::channel(64);
        let header = |revision| ResponseHeader {
            revision,
            raft_term: 7,
            ..Default::default()
        };
        let responses = ResponseStream::new(
            ReceiverStream::new(receiver),
            store.hub.open(),
            Box::new(header),
            progress_interval,
            bytes_max,
        );
        Self {
            requests: Some(sender),
            responses,
        }
    }

    async fn send(&self, union: RequestUnion) {
        let request = WatchRequest {
            request_union: Some(union),
        };
        let requests = self.requests.as_ref().expect("not half-closed");
        requests.send(Ok(request)).await.expect("the stream reads");
    }

    async fn create(&mut self, request: WatchCreateRequest) -> WatchResponse {
        self.send(RequestUnion::CreateRequest(request)).await;
        let response = self.next().await;
        assert!(response.created, "{response:?}");
        response
    }

    async fn cancel(&self, watch_id: i64) {
        self.send(RequestUnion::CancelRequest(WatchCancelRequest { watch_id }))
            .await;
    }

    async fn next(&mut self) -> WatchResponse {
        self.responses
            .next()
            .await
            .expect("the stream goes on")
            .expect("no error")
    }

    /// The next response, as "id@revision: events".
    async fn line(&mut self) -> String {
        let response = self.next().await;
        let revision = response.header.expect("always").revision;
        let events: Vec<String> = response
            .events
            .iter()
            .map(|event| Event::decode(event.clone()).expect("our own encoding"))
            .map(|event| {
                let kv = event.kv.unwrap_or_default();
                let sign = if event.r#type == 0 { '+' } else { '-' };
                format!(
                    "{sign}{}@{}",
                    String::from_utf8_lossy(&kv.key),
                    kv.mod_revision
                )
            })
            .collect();
        format!("{}@{revision}: {}", response.watch_id, events.join(" "))
    }
}

fn key(key: &str) -> WatchCreateRequest {
    WatchCreateRequest {
        key: key.to_owned().into(),
        ..Default::default()
    }
}

fn range(from: &str, to: &str) -> WatchCreateRequest {
    WatchCreateRequest {
        range_end: to.to_owned().into(),
        ..key(from)
    }
}

#[tokio::test]
async fn ids_are_chosen_or_given_and_refusals_have_none() {
    let store = TestStore::new();
    let mut client = Client::new(&store);
    assert_eq!(client.create(key("a")).await.watch_id, 0);
    assert_eq!(
        client
            .create(WatchCreateRequest {
                watch_id: 1,
                ..key("a")
            })
            .await
            .watch_id,
        1
    );
    assert_eq!(client.create(key("a")).await.watch_id, 2);
    for (refused, reason) in [
        (
            WatchCreateRequest {
                watch_id: 1,
                ..key("b")
            },
            "mvcc: duplicate watch ID provided on the WatchStream",
        ),
        (range("b", "a"), "mvcc: watcher range is empty"),
        (
            WatchCreateRequest {
                start_revision: -1,
                watch_id: 1,
                ..range("b", "a")
            },
            "etcdserver: mvcc: required revision has been compacted",
        ),
    ] {
        let response = client.create(refused).await;
        assert_eq!((response.watch_id, response.canceled), (-1, true));
        assert_eq!(response.cancel_reason, reason);
        assert_eq!(response.header.expect("always").revision, 1);
    }
    assert_eq!(client.create(key("a")).await.watch_id, 3);
}

#[tokio::test]
async fn no_key_is_the_first_one_and_range_end_zero_is_everything_after() {
    let mut store = TestStore::new();
    let mut client = Client::new(&store);
    client.create(key("")).await;
    client.create(range("", "\0")).await;
    client.create(range("b", "\0")).await;
    store.put("\0", "1");
    store.put("a", "2");
    store.put("b", "3");
    let mut lines = Vec::new();
    for _ in 0..5 {
        lines.push(client.line().await);
    }
    assert_eq!(
        lines,
        [
            "0@2: +\0@2",
            "1@2: +\0@2",
            "1@3: +a@3",
            "1@4: +b@4",
            "2@4: +b@4"
        ]
    );
}

#[tokio::test]
async fn filters_leave_out_a_kind_and_unknown_ones_nothing() {
    let mut store = TestStore::new();
    let mut client = Client::new(&store);
    for filters in [
        vec![FilterType::Noput as i32],
        vec![FilterType::Nodelete as i32],
        vec![77],
    ] {
        client
            .create(WatchCreateRequest {
                filters,
                ..key("a")
            })
            .await;
    }
    store.put("a", "1");
    store.delete("a");
    let mut lines = Vec::new();
    for _ in 0..4 {
        lines.push(client.line().await);
    }
    assert_eq!(lines, ["1@2: +a@2", "2@2: +a@2", "0@3: -a@3", "2@3: -a@3"]);
}

#[tokio::test]
async fn a_cancel_is_answered_once_and_half_closing_ends_nothing() {
    let mut store = TestStore::new();
    let mut client = Client::new(&store);
    client.create(key("a")).await;
    client.create(key("a")).await;
    client.cancel(0).await;
    client.cancel(0).await;
    let canceled = client.next().await;
    assert_eq!((canceled.watch_id, canceled.canceled), (0, true));
    client.requests = None;
    store.put("a", "1");
    assert_eq!(client.line().await, "1@2: +a@2");
}

#[tokio::test]
async fn asked_progress_is_for_the_whole_stream() {
    let mut store = TestStore::new();
    let mut client = Client::new(&store);
    client.create(key("a")).await;
    client
        .create(WatchCreateRequest {
            start_revision: 3,
            ..key("a")
        })
        .await;
    store.put("a", "1");
    let progress = || RequestUnion::ProgressRequest(WatchProgressRequest {});
    // Silent: the second watcher's start is still to come.
    client.send(progress()).await;
    assert_eq!(client.line().await, "0@2: +a@2");
    client.cancel(99).await;
    store.put("b", "2");
    client.send(progress()).await;
    assert_eq!(client.line().await, "-1@3: ");
}

#[tokio::test]
async fn quiet_watchers_are_told_of_progress() {
    let store = TestStore::new();
    let mut client = Client::with(&store, Duration::from_millis(1), 1000);
    client.create(key("a")).await;
    client
        .create(WatchCreateRequest {
            progress_notify: true,
            ..key("a")
        })
        .await;
    assert_eq!(client.line().await, "1@1: ");
    assert_eq!(client.line().await, "1@1: ");
}

#[tokio::test]
async fn fragments_are_for_those_who_asked() {
    let mut store = TestStore::new();
    for number in 0..5 {
        store.put(&format!("a{number}"), &"v".repeat(400));
    }
    let mut client = Client::new(&store);
    client
        .create(WatchCreateRequest {
            fragment: true,
            start_revision: 2,
            ..range("a", "b")
        })
        .await;
    let mut fragments = Vec::new();
    while fragments.last() != Some(&false) {
        let response = client.next().await;
        assert!(response.encoded_len() < 1000);
        fragments.push(response.fragment);
    }
    assert_eq!(fragments, [true, true, false]);
    client
        .create(WatchCreateRequest {
            start_revision: 2,
            ..range("a", "b")
        })
        .await;
    let whole = client.next().await;
    assert_eq!(
        (whole.watch_id, whole.fragment, whole.events.len()),
        (1, false, 5)
    );
}

#[tokio::test]
async fn a_cancel_gets_through_while_events_pour_in() {
    let mut store = TestStore::new();
    let mut client = Client::new(&store);
    client.create(key("a")).await;
    store.put("a", "0");
    client.cancel(0).await;
    for _ in 0..100 {
        let response = client.next().await;
        if response.canceled {
            return;
        }
        store.put("a", "1");
    }
    panic!("the cancel starved");
}

#[tokio::test]
async fn a_broken_request_and_a_stopping_server_end_the_stream() {
    let store = TestStore::new();
    let mut client = Client::new(&store);
    let broken = Status::invalid_argument("broken");
    let requests = client.requests.as_ref().expect("open");
    requests.send(Err(broken)).await.expect("the stream reads");
    let error = client
        .responses
        .next()
        .await
        .expect("an end")
        .expect_err("an error");
    assert_eq!(error.code(), Code::InvalidArgument);
    assert!(client.responses.next().await.is_none());

    let mut client = Client::new(&store);
    client.create(key("a")).await;
    store.hub.stop();
    let error = client
        .responses
        .next()
        .await
        .expect("an end")
        .expect_err("an error");
    assert_eq!(
        (error.code(), error.message()),
        (Code::Unavailable, "etcdserver: server stopped")
    );
}
