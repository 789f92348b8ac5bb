//! One other member: where it is, what is on its way to it, and the tasks that talk to it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use parking_lot::{Mutex, RwLock};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use trilith_proto::raftpb::{Message, MessageType};

use super::framing::StreamKind;
use super::outbox::{NotTaken, Outbox};
use super::status::Status;
use super::{Shared, incoming, pipeline, probe};
use crate::ids::MemberId;
use crate::metrics::PeerMetrics;

/// Another member.
pub(super) struct Peer {
    pub(super) id: MemberId,
    pub(super) shared: Arc<Shared>,
    pub(super) status: Status,
    pub(super) metrics: PeerMetrics,
    urls: Urls,
    streams: [Mutex<Option<Arc<Outbox>>>; 2],
    pipeline: mpsc::Sender<Message>,
    tasks: Mutex<Vec<AbortHandle>>,
}

/// How much is known of another member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kinship {
    /// It is in the membership.
    Member,
    /// It says that it is a member, and the membership here is perhaps too old to know it. It is
    /// sent what raft has for it, and nothing is asked of it.
    Remote,
}

impl Peer {
    /// Starts the tasks that talk to it.
    pub(super) fn start(
        shared: &Arc<Shared>,
        id: MemberId,
        urls: Vec<String>,
        kinship: Kinship,
    ) -> Arc<Self> {
        let (pipeline, waiting) = mpsc::channel(pipeline::MESSAGES_MAX);
        let metrics = shared.network.peer(shared.own.id, id);
        let peer = Arc::new(Self {
            id,
            shared: shared.clone(),
            status: Status::new(id, metrics.clone()),
            metrics,
            urls: Urls::new(urls),
            streams: [const { Mutex::new(None) }; 2],
            pipeline,
            tasks: Mutex::default(),
        });
        let runtime = &shared.runtime;
        let mut tasks = vec![];
        for sender in pipeline::senders(&peer, waiting) {
            tasks.push(runtime.spawn(sender).abort_handle());
        }
        if kinship == Kinship::Member {
            for kind in [StreamKind::MsgApp, StreamKind::Message] {
                let reader = incoming::read(peer.clone(), kind);
                tasks.push(runtime.spawn(reader).abort_handle());
            }
            for name in probe::NAMES {
                tasks.push(runtime.spawn(probe::run(peer.clone(), name)).abort_handle());
            }
        }
        *peer.tasks.lock() = tasks;
        tracing::info!("remote-peer-id" = %id, "started remote peer");
        peer
    }

    /// Ends its tasks and streams; what waits for it is lost.
    pub(super) fn stop(&self) {
        for task in self.tasks.lock().drain(..) {
            task.abort();
        }
        for stream in &self.streams {
            if let Some(outbox) = stream.lock().take() {
                outbox.close();
            }
        }
        self.status.stop();
        tracing::info!("remote-peer-id" = %self.id, "stopped remote peer");
    }

    /// Sends a message by the way that etcd chooses: appends on their own stream, the rest on the
    /// other; the pipeline takes what has no stream.
    pub(super) fn send(&self, message: Message) {
        let is_append = message.r#type == MessageType::MsgApp as i32;
        let kinds: &[StreamKind] = if is_append {
            &[StreamKind::MsgApp, StreamKind::Message]
        } else {
            &[StreamKind::Message]
        };
        let mut message = message;
        for kind in kinds {
            let outbox = self.stream(*kind).lock().clone();
            let Some(outbox) = outbox else { continue };
            match outbox.push(message) {
                Ok(()) => return,
                Err(NotTaken::Closed(back)) => message = *back,
                Err(NotTaken::Full) => return self.dropped(kind.name()),
            }
        }
        if self.pipeline.try_send(message).is_err() {
            self.dropped("pipeline");
        }
    }

    /// Raft sends less to a follower that it knows to be unreachable.
    fn dropped(&self, by: &str) {
        tracing::debug!(
            "remote-peer-id" = %self.id,
            by,
            "dropped a raft message since the sending buffer is full"
        );
        self.metrics.sent_failures.inc();
        self.shared.raft.report_unreachable(self.id);
    }

    /// A new stream takes messages from now on, in place of the last one.
    pub(super) fn attach(&self, kind: StreamKind) -> Arc<Outbox> {
        let outbox = Arc::new(Outbox::default());
        if let Some(last) = self.stream(kind).lock().replace(outbox.clone()) {
            last.close();
            tracing::warn!(
                "stream-writer-type" = kind.name(),
                "remote-peer-id" = %self.id,
                "closed TCP streaming connection with remote peer"
            );
        }
        self.status.activate();
        tracing::info!(
            "stream-writer-type" = kind.name(),
            "remote-peer-id" = %self.id,
            "established TCP streaming connection with remote peer"
        );
        outbox
    }

    /// A stream has ended, with what was in it.
    pub(super) fn detach(&self, kind: StreamKind, outbox: &Arc<Outbox>) {
        outbox.close();
        let mut stream = self.stream(kind).lock();
        if !stream
            .as_ref()
            .is_some_and(|current| Arc::ptr_eq(current, outbox))
        {
            return;
        }
        *stream = None;
        drop(stream);
        tracing::warn!(
            "stream-writer-type" = kind.name(),
            "remote-peer-id" = %self.id,
            "lost TCP streaming connection with remote peer"
        );
        self.metrics.sent_failures.inc();
        self.shared.raft.report_unreachable(self.id);
    }

    /// One of its URLs: the one that worked last.
    pub(super) fn url(&self) -> Option<String> {
        self.urls.pick()
    }

    /// The URL did not work: the next one is tried.
    pub(super) fn unreachable(&self, url: &str) {
        self.urls.unreachable(url);
    }

    /// It has moved.
    pub(super) fn update(&self, urls: Vec<String>) {
        if self.urls.update(urls) {
            tracing::info!("remote-peer-id" = %self.id, "updated remote peer");
        }
    }

    pub(super) fn active_since(&self) -> Option<Instant> {
        self.status.since()
    }

    fn stream(&self, kind: StreamKind) -> &Mutex<Option<Arc<Outbox>>> {
        &self.streams[match kind {
            StreamKind::MsgApp => 0,
            StreamKind::Message => 1,
        }]
    }
}

/// The URLs of a peer, and which of them is in use.
struct Urls {
    all: RwLock<Vec<String>>,
    picked: AtomicUsize,
}

impl Urls {
    fn new(all: Vec<String>) -> Self {
        Self {
            all: RwLock::new(all),
            picked: AtomicUsize::new(0),
        }
    }

    fn pick(&self) -> Option<String> {
        let all = self.all.read();
        all.get(self.picked.load(Ordering::Relaxed)).cloned()
    }

    /// Goes on to the next one, unless another task has done so already.
    fn unreachable(&self, url: &str) {
        let all = self.all.read();
        let picked = self.picked.load(Ordering::Relaxed);
        if all.get(picked).is_some_and(|current| current == url) {
            let next = (picked + 1) % all.len();
            self.picked.store(next, Ordering::Relaxed);
        }
    }

    /// Tells whether they are others than before.
    fn update(&self, urls: Vec<String>) -> bool {
        let mut all = self.all.write();
        let is_new = *all != urls;
        if is_new {
            *all = urls;
            self.picked.store(0, Ordering::Relaxed);
        }
        is_new
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_that_fails_is_left_for_the_next_one() {
        let urls = Urls::new(vec!["a".into(), "b".into()]);
        assert_eq!(urls.pick().as_deref(), Some("a"));
        urls.unreachable("a");
        urls.unreachable("a");
        assert_eq!(urls.pick().as_deref(), Some("b"));
        urls.unreachable("b");
        assert_eq!(urls.pick().as_deref(), Some("a"));
        assert!(urls.update(vec!["c".into()]));
        assert!(!urls.update(vec!["c".into()]));
        assert_eq!(urls.pick().as_deref(), Some("c"));
        urls.update(vec![]);
        assert_eq!(urls.pick(), None);
    }
}
