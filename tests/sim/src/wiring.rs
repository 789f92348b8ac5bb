//! What a member is wired with in place of threads, sockets and disks that fill up.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::runtime::Runtime;
use tokio::sync::mpsc;
use tokio::time::Instant;
use trilith_proto::raftpb;
use trilith_server::apply::{ConfChanger, Room};
use trilith_server::ids::{ClusterId, Index, MemberId, RequestId};
use trilith_server::leadership::Leadership;
use trilith_server::member::{ApplyWork, CommittedSink, ConfChange, MemberStatus, SteppedMember};
use trilith_server::metrics::Metrics;
use trilith_server::peer::{PeerOptions, PeerTimeouts, Peers, Piece, RaftPort, Received};
use trilith_server::read::Reader;

use crate::node::Outbox;

/// Asks again for reads that got no answer, as the server does.
pub(crate) async fn ask_again(reader: Reader) {
    let mut interval = tokio::time::interval(Duration::from_millis(100));
    loop {
        interval.tick().await;
        reader.tick(Instant::now());
    }
}

/// Where the member core's output goes.
pub(crate) struct Sink {
    pub(crate) outbox: Arc<Mutex<Outbox>>,
    pub(crate) leadership: Leadership,
}

impl CommittedSink for Sink {
    fn committed(&self, work: ApplyWork) {
        self.outbox.lock().works.push(work);
    }

    fn read_state(&self, context: u64, index: Index) {
        self.leadership.confirmed(context, index);
    }

    fn leader_changed(&self, status: &MemberStatus) {
        self.leadership.changed(status);
    }

    fn dropped(&self, ids: &[RequestId]) {
        self.leadership.dropped(ids);
    }

    fn send(&self, messages: Vec<raftpb::Message>) {
        self.outbox.lock().messages.extend(messages);
    }
}

/// Takes membership changes to the member core.
pub(crate) struct ToMember(pub(crate) Arc<Mutex<SteppedMember>>);

impl ConfChanger for ToMember {
    fn change(&mut self, _index: Index, accepted: Option<&Bytes>) -> Option<Bytes> {
        let decoded = accepted.map(|data| ConfChange::decode(data).expect("a change of ours"));
        let state = self.0.lock().apply_conf_change(decoded.as_ref());
        Some(state.expect("a voter is left").encode())
    }
}

/// A disk that is never full.
pub(crate) struct Unlimited;

impl Room for Unlimited {
    fn admits(&self, _: &trilith_proto::etcdserverpb::InternalRaftRequest, _: u64) -> bool {
        true
    }
}

/// No connections: the simulation carries the messages, and clients find the leader themselves.
pub(crate) fn peers(id: MemberId, runtime: &Runtime) -> Peers {
    let wait = Duration::from_secs(1);
    let options = PeerOptions {
        id,
        cluster_id: ClusterId::new(1),
        urls: Vec::new(),
        timeouts: PeerTimeouts {
            dial: wait,
            read: wait,
            write: wait,
        },
        request_bytes_max: 1 << 20,
        network: Metrics::new().network,
    };
    Peers::new(&options, runtime.handle().clone(), Arc::new(NoPort))
}

struct NoPort;

impl RaftPort for NoPort {
    fn step(&self, _: raftpb::Message) -> Result<(), String> {
        Ok(())
    }

    fn receive_snapshot(&self, _: raftpb::Message, _: mpsc::Receiver<Piece>) -> Received {
        Box::pin(async { Err("there are no connections".to_owned()) })
    }

    fn is_removed(&self, _: MemberId) -> bool {
        false
    }

    fn report_unreachable(&self, _: MemberId) {}

    fn removed(&self) {}
}
