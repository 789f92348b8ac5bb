//! Members of a cluster over real sockets, and strangers that knock at their door.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::SystemTime;

use bytes::Bytes;
use parking_lot::Mutex;
use prost::Message as _;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use trilith_proto::raftpb::Entry;

use super::*;
use crate::metrics::Metrics;

const CLUSTER: ClusterId = ClusterId::new(0xc);

/// A snapshot's message and its file.
type Snapshot = (Message, Vec<u8>);

/// Stands for a member: keeps what peers send.
#[derive(Default)]
struct Inbox {
    messages: Mutex<Vec<Message>>,
    /// Snapshots that came whole.
    snapshots: Arc<Mutex<Vec<Snapshot>>>,
    changed: Notify,
    removed_ids: Mutex<Vec<MemberId>>,
    unreachable: AtomicUsize,
    is_removed: AtomicBool,
}

impl RaftPort for Inbox {
    fn step(&self, message: Message) -> Result<(), String> {
        if message.r#type == MessageType::MsgHup as i32 {
            return Err("not for peers".to_owned());
        }
        self.messages.lock().push(message);
        self.changed.notify_waiters();
        Ok(())
    }

    fn receive_snapshot(&self, message: Message, mut file: mpsc::Receiver<Piece>) -> Received {
        let snapshots = self.snapshots.clone();
        Box::pin(async move {
            let mut bytes = Vec::new();
            while let Some(piece) = file.recv().await {
                match piece {
                    Piece::Bytes(more) => bytes.extend_from_slice(&more),
                    Piece::End => {
                        snapshots.lock().push((message, bytes));
                        return Ok(());
                    }
                }
            }
            Err("it was cut off".to_owned())
        })
    }

    fn is_removed(&self, id: MemberId) -> bool {
        self.removed_ids.lock().contains(&id)
    }

    fn report_unreachable(&self, _id: MemberId) {
        self.unreachable.fetch_add(1, Ordering::SeqCst);
        self.changed.notify_waiters();
    }

    fn removed(&self) {
        self.is_removed.store(true, Ordering::SeqCst);
        self.changed.notify_waiters();
    }
}

impl Inbox {
    /// Waits until `condition` holds, which it does as soon as something has come.
    async fn wait_for(&self, condition: impl Fn(&Self) -> bool) {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if condition(self) {
                return;
            }
            changed.await;
        }
    }

    fn count(&self) -> usize {
        self.messages.lock().len()
    }
}

struct Member {
    id: MemberId,
    url: String,
    address: String,
    inbox: Arc<Inbox>,
    peers: Peers,
    serving: tokio::task::JoinHandle<()>,
}

impl Drop for Member {
    fn drop(&mut self) {
        self.peers.stop();
        self.serving.abort();
    }
}

async fn member(id: u64) -> Member {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    let url = format!("http://{address}");
    let id = MemberId::new(id);
    let inbox = Arc::new(Inbox::default());
    let second = Duration::from_secs(1);
    let options = PeerOptions {
        id,
        cluster_id: CLUSTER,
        urls: vec![url.clone()],
        timeouts: PeerTimeouts {
            dial: second,
            read: second,
            write: second,
        },
        request_bytes_max: 1024,
        network: Metrics::new().network,
    };
    let runtime = Handle::current();
    let peers = Peers::new(&options, runtime.clone(), inbox.clone());
    let endpoints = Endpoints::new(runtime);
    let serving = tokio::spawn(serve(vec![listener], peers.clone(), endpoints));
    Member {
        id,
        url,
        address,
        inbox,
        peers,
        serving,
    }
}

fn know_each_other(members: &[&Member]) {
    for member in members {
        let all = members.iter();
        member
            .peers
            .set_members(all.map(|peer| (peer.id, vec![peer.url.clone()])));
    }
}

fn message(kind: MessageType, from: u64, to: u64, data: &'static str) -> Message {
    let entry = Entry {
        data: Bytes::from(data),
        index: 1,
        term: 1,
        ..Entry::default()
    };
    Message {
        r#type: kind as i32,
        from,
        to,
        term: 1,
        entries: vec![entry],
        ..Message::default()
    }
}

/// Sends until something arrives: raft does so too, and what is sent while a stream is being set up
/// may be lost.
async fn send_until_it_arrives(from: &Member, to: &Member, sent: &Message) {
    let before = to.inbox.count();
    loop {
        from.peers.send(vec![sent.clone()]);
        let arrived = to.inbox.wait_for(|inbox| inbox.count() > before);
        let pause = Duration::from_millis(50);
        if tokio::time::timeout(pause, arrived).await.is_ok() {
            break;
        }
    }
    assert_eq!(to.inbox.messages.lock().last(), Some(sent));
}

/// Sends a request as it stands, and gives the status line of the answer with the body, if any.
async fn knock(member: &Member, request: &str, body: &[u8]) -> String {
    let mut stream = TcpStream::connect(&member.address)
        .await
        .expect("a connection");
    stream.write_all(request.as_bytes()).await.expect("sent");
    stream.write_all(body).await.expect("sent");
    let mut answer = Vec::new();
    let mut piece = [0; 4096];
    loop {
        let count = stream.read(&mut piece).await.expect("an answer");
        answer.extend_from_slice(&piece[..count]);
        let text = String::from_utf8_lossy(&answer).into_owned();
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
        let length = head.to_ascii_lowercase();
        let length = length.split_once("content-length: ");
        let length = length.and_then(|(_, rest)| rest.lines().next()?.parse().ok());
        if count == 0 || (text.contains("\r\n\r\n") && body.len() >= length.unwrap_or(0)) {
            let status = head.lines().next().unwrap_or_default();
            let status = status.trim_start_matches("HTTP/1.1 ");
            return format!("{status}|{}", body.trim_end());
        }
    }
}

fn stream_request(path: &str, cluster: &str, to: u64) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nHost: x\r\nX-Server-From: 1\r\nX-Server-Version: 3.7.3\r\n\
         X-Min-Cluster-Version: 3.0.0\r\nX-Etcd-Cluster-ID: {cluster}\r\nX-Raft-To: {to:x}\r\n\r\n"
    )
}

async fn post(member: &Member, from: u64, body: &[u8]) -> String {
    let request = format!(
        "POST /raft HTTP/1.1\r\nHost: x\r\nX-Server-From: {from:x}\r\nX-Server-Version: 3.7.3\r\n\
         X-Min-Cluster-Version: 3.0.0\r\nX-Etcd-Cluster-ID: c\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    knock(member, &request, body).await
}

#[tokio::test]
async fn messages_of_every_size_arrive_on_both_streams() {
    let (one, two) = (member(1).await, member(2).await);
    know_each_other(&[&one, &two]);
    for kind in [MessageType::MsgApp, MessageType::MsgHeartbeat] {
        send_until_it_arrives(&one, &two, &message(kind, 1, 2, "small")).await;
        let large: &'static str = Box::leak("x".repeat(3_000_000).into_boxed_str());
        send_until_it_arrives(&two, &one, &message(kind, 2, 1, large)).await;
    }
    assert!(one.peers.active_since(two.id).is_some());
    assert_eq!(one.peers.active_since(one.id), None);
}

#[tokio::test]
async fn a_member_that_starts_again_is_found_again() {
    let (one, two) = (member(1).await, member(2).await);
    know_each_other(&[&one, &two]);
    let sent = message(MessageType::MsgApp, 1, 2, "x");
    send_until_it_arrives(&one, &two, &sent).await;
    drop(two);
    let lost = one.inbox.unreachable.load(Ordering::SeqCst);
    one.inbox
        .wait_for(|inbox| {
            one.peers.send(vec![sent.clone()]);
            inbox.unreachable.load(Ordering::SeqCst) > lost
        })
        .await;
    let two = member(2).await;
    know_each_other(&[&one, &two]);
    send_until_it_arrives(&one, &two, &sent).await;
}

#[tokio::test]
async fn who_is_no_member_yet_gets_its_messages_by_the_pipeline() {
    let (old, new) = (member(1).await, member(2).await);
    // The new member knows the cluster; the old one hears of it only by its request for a stream.
    let known = vec![(old.id, vec![old.url.clone()])];
    new.peers.set_members(known);
    send_until_it_arrives(&old, &new, &message(MessageType::MsgApp, 1, 2, "x")).await;
    assert_eq!(old.peers.active_since(new.id), None);
}

#[tokio::test]
async fn a_member_that_was_removed_is_told_so() {
    let (one, two) = (member(1).await, member(2).await);
    one.inbox.removed_ids.lock().push(two.id);
    know_each_other(&[&two, &one]);
    two.inbox
        .wait_for(|inbox| inbox.is_removed.load(Ordering::SeqCst))
        .await;
    let sent = message(MessageType::MsgApp, 2, 1, "x").encode_to_vec();
    let answer = post(&one, 2, &sent).await;
    assert_eq!(
        answer,
        "403 Forbidden|cannot process message from removed member"
    );
    assert_eq!(one.inbox.count(), 0);
}

#[tokio::test]
async fn requests_for_a_stream_are_checked_as_etcd_checks_them() {
    let (one, two) = (member(1).await, member(2).await);
    know_each_other(&[&one, &two]);
    let stream = "/raft/stream/message/1";
    for (path, cluster, to, expected) in [
        (
            stream,
            "d",
            2,
            "412 Precondition Failed|cluster ID mismatch",
        ),
        (stream, "c", 3, "412 Precondition Failed|to field mismatch"),
        (
            "/raft/stream/message/7",
            "c",
            2,
            "404 Not Found|error sender not found",
        ),
        (
            "/raft/stream/message/x",
            "c",
            2,
            "404 Not Found|invalid from",
        ),
        ("/raft/stream/other/1", "c", 2, "404 Not Found|invalid path"),
        ("/raft/stream/1", "c", 2, "404 Not Found|invalid path"),
        ("/unknown", "c", 2, "404 Not Found|404 page not found"),
    ] {
        let answer = knock(&two, &stream_request(path, cluster, to), b"").await;
        assert_eq!(answer, expected, "{path} {cluster} {to}");
    }
    let malformed = stream_request(stream, "c", 2).replace("3.7.3", "v3");
    let answer = knock(&two, &malformed, b"").await;
    assert_eq!(answer, "412 Precondition Failed|incompatible version");
    let wrong_method = stream_request(stream, "c", 2).replace("GET", "PUT");
    let answer = knock(&two, &wrong_method, b"").await;
    assert_eq!(answer, "405 Method Not Allowed|Method Not Allowed");
}

#[tokio::test]
async fn messages_that_are_posted_are_checked_as_etcd_checks_them() {
    let (one, two) = (member(1).await, member(2).await);
    know_each_other(&[&one, &two]);
    let posted = |kind, from, to| message(kind, from, to, "x").encode_to_vec();
    for (body, expected) in [
        (posted(MessageType::MsgApp, 1, 2), "204 No Content|"),
        (
            posted(MessageType::MsgApp, 1, 3),
            "403 Forbidden|cannot process message to mismatch member",
        ),
        (
            posted(MessageType::MsgApp, 3, 2),
            "403 Forbidden|cannot process message to mismatch member",
        ),
        (
            posted(MessageType::MsgHup, 1, 2),
            "500 Internal Server Error|error processing raft message",
        ),
        (
            vec![0xff; 9],
            "400 Bad Request|error unmarshalling raft message",
        ),
    ] {
        assert_eq!(post(&two, 1, &body).await, expected);
    }
    assert_eq!(two.inbox.count(), 1);
}

#[tokio::test]
async fn a_peer_that_announces_more_than_it_may_send_or_sends_nothing_is_let_go() {
    let (one, two) = (member(1).await, member(2).await);
    know_each_other(&[&one, &two]);
    let head = |length: u64| {
        format!(
            "POST /raft HTTP/1.1\r\nHost: x\r\nX-Server-From: 1\r\nX-Server-Version: 3.7.3\r\n\
             X-Etcd-Cluster-ID: c\r\nX-Min-Cluster-Version: 3.0.0\r\n\
             Content-Length: {length}\r\n\r\n"
        )
    };
    // Longer than any message: nothing of it is kept, whatever comes.
    let silent = knock(&two, &head(1 << 60), b"begun").await;
    assert_eq!(silent, "400 Bad Request|error reading raft message");
    let body = vec![0; BODY_BYTES_TOO_MANY];
    let refused = knock(&two, &head(BODY_BYTES_TOO_MANY as u64), &body).await;
    assert_eq!(refused, "413 Payload Too Large|request body too large");
}

const BODY_BYTES_TOO_MANY: usize = MESSAGE_BYTES_MIN + 1;

#[tokio::test]
async fn a_probe_is_told_the_time() {
    let one = member(1).await;
    let before = SystemTime::now();
    let answer = knock(&one, "GET /raft/probing HTTP/1.1\r\nHost: x\r\n\r\n", b"").await;
    let (status, body) = answer.split_once('|').expect("a status and a body");
    assert_eq!(status, "200 OK");
    assert!(body.starts_with("{\"OK\":true,\"Now\":\""), "{body}");
    assert!(before <= SystemTime::now());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_arrives_whole_or_not_at_all() {
    let (one, two) = (member(1).await, member(2).await);
    know_each_other(&[&one, &two]);
    let mut sent = message(MessageType::MsgSnap, 1, 2, "");
    sent.entries.clear();
    let pieces = [Bytes::from(vec![7; 100_000]), Bytes::from(vec![8; 5])];
    for size in [100_006, 100_005] {
        let (sender, body) = mpsc::channel(pieces.len());
        for piece in &pieces {
            sender.send(Ok(piece.clone())).await.expect("there is room");
        }
        drop(sender);
        let taken = one.peers.send_snapshot(sent.clone(), size, body).await;
        assert_eq!(taken.is_ok(), size == 100_005, "{taken:?}");
    }
    let expected = (sent, pieces.concat());
    assert_eq!(*two.inbox.snapshots.lock(), [expected]);
}
